//! The order of the operations of a batch: flows of one space and class take turns, and the waiters
//! of a session keep their order.

use std::collections::BTreeMap;

use super::{Micros, Mode, Op, Reserve, states::BatchStates};

/// What an operation that reserves is measured by.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    /// How long ago it arrived.
    pub(super) age: Micros,
    /// The start tag of its flow, where flows take turns.
    pub(super) tag: Option<f64>,
    /// It comes before an older one, since its flow is next.
    pub(super) overtakes: bool,
}

/// How long ago the waiting reserves so far arrived, as the session says and as it counts.
#[derive(Debug, Default)]
pub(super) struct Ages(Vec<(Micros, Micros)>);

impl Ages {
    pub(super) fn note(&mut self, told: Micros, age: Micros) {
        // One that is not older as its session says is behind the last one already.
        if self.0.last().is_none_or(|last| last.1 != age || last.0 < told) {
            self.0.push((told, age));
        }
    }

    /// How long ago a waiter arrived, no longer than those before it which are older as the session
    /// says.
    pub(super) fn behind_older(&self, told: Micros, age: Micros) -> Micros {
        let older = self.0.iter().filter(|(other, _)| *other >= told);
        older.map(|(_, age)| *age).fold(age, Micros::min)
    }

    /// What a reserve is measured by that comes in its own place.
    ///
    /// A head that comes back keeps its arrival, and has the same in all buckets: how long ago it
    /// came as its session says depends on how long a batch took.
    pub(super) fn turn(&self, states: &BatchStates<'_, '_>, reserve: &Reserve) -> Turn {
        let known = reserve.on.iter().filter_map(|&bucket| {
            let state = states.state(bucket.into());
            let arrival = state.heads().arrival(states.session(), reserve.waiter)?;
            Some(state.now().saturating_sub(arrival))
        });
        let mut age = known.max().unwrap_or(reserve.age);
        if reserve.mode == Mode::Wait {
            age = self.behind_older(reserve.age, age);
        }
        Turn { age, tag: None, overtakes: false }
    }
}

/// The operations by their indexes, in such an order that flows of one space and class take turns,
/// with what those that reserve are measured by. Nothing if that is as they come.
pub(super) fn in_turns(
    ops: &[Op],
    states: &BatchStates<'_, '_>,
    ages: &mut Ages,
) -> Option<Vec<(usize, Option<Turn>)>> {
    let is_of_flow = |reserve: &Reserve| {
        let state = states.state(states.space_of(reserve));
        reserve.mode == Mode::Wait && (reserve.flow.id != 0 || state.flows().is_some())
    };
    if !ops.iter().any(|op| matches!(op, Op::Reserve(reserve) if is_of_flow(reserve))) {
        return None;
    }
    let mut order = Vec::with_capacity(ops.len());
    // Of each flow where its next reserve starts and where the last one did, and of each space and
    // class its reserves.
    let (mut starts, mut groups) = (BTreeMap::new(), BTreeMap::<_, Vec<usize>>::new());
    for (index, op) in ops.iter().enumerate() {
        let Op::Reserve(reserve) = op else {
            order.push((index, None));
            continue;
        };
        let mut turn = ages.turn(states, reserve);
        if reserve.mode == Mode::Wait {
            ages.note(reserve.age, turn.age);
            let space = states.space_of(reserve);
            let of_flow = (space, reserve.flow.id);
            let (start, last) =
                starts.entry(of_flow).or_insert_with(|| (states.start_of(reserve), 0.0));
            // A first one keeps its tag, but goes before no older one of its flow.
            let heads = reserve.on.iter().map(|&bucket| states.state(bucket.into()).heads());
            let kept = heads.map(|heads| heads.kept_tag(states.session(), reserve.waiter));
            *last = kept.fold(*start, f64::min).max(*last);
            turn.tag = Some(*last);
            *start += states.step_of(reserve);
            groups.entry((space, reserve.headroom)).or_default().push(index);
        }
        order.push((index, Some(turn)));
    }
    let tag = |turn: &Option<Turn>| turn.and_then(|turn| turn.tag).unwrap_or(0.0);
    let mut places: Vec<usize> = groups.values().flatten().copied().collect();
    places.sort_unstable();
    let mut turns: Vec<_> = groups
        .into_values()
        .map(|places| {
            let mut members: Vec<_> = places.iter().map(|&place| order[place]).collect();
            members.sort_by(|(_, one), (_, other)| tag(one).total_cmp(&tag(other)));
            members.reverse();
            members
        })
        .collect();
    // Of the next ones of all that take turns, the oldest goes first.
    for place in places {
        let first = turns.iter_mut().min_by_key(|turns| match turns.last() {
            Some((index, Some(turn))) => (Micros::MAX - turn.age, *index),
            _ => (Micros::MAX, usize::MAX),
        });
        if let Some(member) = first.and_then(Vec::pop) {
            order[place] = member;
        }
    }
    // The session may have put them in such an order itself.
    let mut oldest_after = 0;
    for turn in order.iter_mut().rev().filter_map(|(_, turn)| turn.as_mut()) {
        if turn.tag.is_some() {
            turn.overtakes = oldest_after > turn.age;
            oldest_after = oldest_after.max(turn.age);
        }
    }
    Some(order)
}
