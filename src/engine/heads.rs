//! What waits in a bucket: of each session its first waiter on each quota, for each class and flow.
//! A demand is measured against those of other sessions that go before it.

use std::collections::{BTreeMap, btree_map::Entry};

use super::{
    Flow, Line, Micros,
    codec::{Coded, DecodeError, Decoder, Encoder, coded, ensure},
    exact::sum,
};

/// A head whose session does not come back within this long is passed over: it may have died.
pub(crate) const LATE: Micros = 200_000;

/// A session that did not name the bucket for this long is hinted by what its head holds up.
const UNHEARD: Micros = 300_000;

/// One that no hints reach looks at the first of all heads this often.
pub(crate) const UNHINTED: Micros = 500_000;

/// The tag of one that keeps none.
pub(crate) const NO_TAG: f64 = f64::MAX;

/// Of two that are level, the one goes first that caught up.
const NEARLY: f64 = 0.99;

/// The first waiter of a session on a quota, for one class and flow, and what waits behind it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Head {
    pub(crate) session: u64,
    pub(crate) quota: u64,
    pub(crate) headroom: u64,
    pub(crate) flow: u64,
    /// The bucket in which its flow takes turns.
    pub(crate) space: u64,
    /// Its number in its session.
    pub(crate) waiter: u64,
    pub(crate) arrival: Micros,
    pub(crate) cost: u64,
    /// How far it moves its flow on.
    pub(crate) part: f64,
    /// The start tag of the first one of a flow, which it keeps: what its flow is granted in other
    /// sessions meanwhile does not put it off. The others start where their flow does. In a bucket
    /// that is not its space it is one step of its own behind the first flow there at most, so that
    /// what its flow is granted in others does not put it off.
    pub(crate) tag: f64,
    /// When the last one arrived of those that take turns with it here and go before it, or itself:
    /// its place among those that take turns elsewhere.
    pub(crate) place: Micros,
    pub(crate) count: u64,
    pub(crate) sum: u64,
    /// When the last of them arrived.
    pub(crate) last: Micros,
    /// Its session comes back by then: that was told, or it was woken. 0 if that is not known.
    pub(crate) due: Micros,
    /// When its session last named the bucket; later where no hints reach it. 0 if that cannot die
    /// by itself.
    pub(crate) heard: Micros,
    /// Other quotas hold it back until then, as far as is known. 0 if it was not looked at.
    pub(crate) held_until: Micros,
    /// It would fit if nothing went before it, on all of its quotas, and has since its session last
    /// looked.
    pub(crate) is_behind: bool,
    /// As of the last look at the bucket, so its session knows or was hinted.
    pub(crate) outlook: Outlook,
}

/// What a head can expect on its quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outlook {
    /// Others go before it.
    #[default]
    Behind,
    /// It does not fit, though none goes before it.
    First,
    Fits,
}

/// A demand, as far as its place among heads goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// Its own session's heads do not count. 0 if they do.
    pub(crate) session: u64,
    /// Which of two goes first that arrived at the same time: the smaller one. A session's id for
    /// what is a head, the same in all buckets; the largest number for what does not wait.
    pub(crate) tie: u64,
    pub(crate) headroom: u64,
    pub(crate) flow: u64,
    pub(crate) space: u64,
    pub(crate) arrival: Micros,
    /// See [`Head::place`].
    pub(crate) place: Micros,
    /// It passes heads that arrived less than this before it.
    pub(crate) tolerance: Micros,
    /// Its start tag among the flows of its space.
    pub(crate) tag: f64,
}

/// What goes before a demand on a quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Before {
    pub(crate) amount: u64,
    pub(crate) demands: u64,
    pub(crate) heads: u64,
}

impl Outlook {
    /// The one of this number.
    pub(crate) fn of(number: u64) -> Self {
        match number {
            0 => Self::Behind,
            1 => Self::First,
            _ => Self::Fits,
        }
    }
}

impl Place {
    /// Whether a head may go before it. An older demand need not wait for a younger one that waits
    /// for others itself: the others may wait for the older one.
    fn waits_for(&self, head: &Head) -> bool {
        !head.is_behind || !self.is_older_than(head)
    }

    fn is_older_than(&self, head: &Head) -> bool {
        (self.arrival, self.tie) <= (head.arrival, head.session)
    }

    fn takes_turns_with(&self, head: &Head) -> bool {
        self.space == head.space && self.headroom == head.headroom && self.flow != head.flow
    }

    /// Inside a flow arrival decides: where it stands among others changes with each grant.
    fn is_in_flow_of(&self, head: &Head) -> bool {
        (self.space, self.headroom, self.flow) == (head.space, head.headroom, head.flow)
    }

    /// Whether the turn of a head comes first, whose flow starts at `start`.
    fn is_after(&self, head: &Head, start: f64) -> bool {
        start < self.tag || start == self.tag && !self.is_older_than(head)
    }
}

impl Head {
    /// Waiters of a session that are not in its batch.
    pub(crate) fn of_line(session: u64, quota: u64, line: &Line, now: Micros) -> Self {
        Self {
            session,
            quota,
            headroom: line.headroom,
            flow: line.flow.id,
            space: line.space,
            waiter: line.waiter,
            arrival: now.saturating_sub(line.age),
            cost: line.cost,
            part: line.part,
            tag: NO_TAG,
            place: 0,
            count: line.count,
            sum: line.sum,
            last: now.saturating_sub(line.last),
            // It was not looked at: its session is about to.
            due: now,
            heard: 0,
            held_until: 0,
            is_behind: false,
            outlook: Outlook::Behind,
        }
    }

    /// Whether both are of one group: the same quota, class and flow.
    pub(crate) fn is_of_group_of(&self, other: &Self) -> bool {
        (self.session, self.quota, self.headroom, self.flow)
            == (other.session, other.quota, other.headroom, other.flow)
    }

    /// Heads that take turns on a quota have these in common.
    fn turns(&self) -> (u64, u64, u64) {
        (self.quota, self.space, self.headroom)
    }

    /// By arrival; the rest makes the order the same everywhere.
    fn order(&self) -> (Micros, u64, u64, u64, u64) {
        (self.arrival, self.session, self.quota, self.headroom, self.flow)
    }

    /// Takes in waiters of its group that are behind it.
    pub(crate) fn extend(&mut self, behind: &Self) {
        self.count = sum(self.count, behind.count);
        self.sum = sum(self.sum, behind.sum);
        self.last = self.last.max(behind.last);
    }

    /// Whether it is a head since it was looked at, rather than for the place of another one.
    pub(crate) fn was_refused(&self) -> bool {
        self.held_until > 0
    }

    pub(crate) fn is_late(&self, now: Micros) -> bool {
        self.due > 0 && now > self.due + LATE
    }

    /// Whether its session may have died: it is not late, but was not heard of for a while.
    pub(crate) fn is_unheard(&self, now: Micros) -> bool {
        self.heard > 0 && now > self.heard + UNHEARD
    }

    /// Expects its session to come back at once. Returns whether it was not expected yet.
    pub(crate) fn expect(&mut self, now: Micros) -> bool {
        let is_news = self.due == 0 || self.due > now;
        if is_news {
            self.due = now;
        }
        is_news
    }

    /// Whether it blocks younger demands: not while it is held back elsewhere for longer than its
    /// quota's `horizon`.
    pub(crate) fn holds(&self, horizon: Micros, now: Micros) -> bool {
        self.held_until <= sum(now, horizon)
    }

    /// Whether it is this quota that it waits for, and not another one for longer.
    fn waits_here(&self, now: Micros) -> bool {
        !self.is_late(now) && (self.due == 0 || self.held_until < self.due)
    }

    /// Its place among the heads of all sessions.
    pub(crate) fn place(&self) -> Place {
        let Self { session, headroom, flow, space, arrival, place, tag, .. } = *self;
        Place { session: 0, tie: session, headroom, flow, space, arrival, place, tolerance: 0, tag }
    }

    /// How many of those that wait with it go before a demand, and what they ask.
    fn before(&self, place: &Place, start_of: &dyn Fn(&Self) -> f64) -> (u64, u64) {
        if !place.waits_for(self) {
            return (0, 0);
        }
        if place.takes_turns_with(self) {
            return self.before_by_tag(place, start_of(self));
        }
        let (own, its) = match place.is_in_flow_of(self) {
            true => (self.arrival, place.arrival),
            false => (self.place, place.place),
        };
        let tolerance = place.tolerance;
        if (sum(own, tolerance), self.session) >= (its, place.tie) {
            return (0, 0);
        }
        let passed = its.saturating_sub(sum(self.arrival, tolerance));
        let span = self.last.saturating_sub(self.arrival);
        if passed >= span {
            return (self.count, self.sum);
        }
        let share = passed as f64 / span as f64;
        let part_of = |amount: u64| (amount as f64 * share).floor() as u64;
        (
            1 + part_of(self.count.saturating_sub(1)),
            self.cost + part_of(self.sum.saturating_sub(self.cost)),
        )
    }

    fn before_by_tag(&self, place: &Place, start: f64) -> (u64, u64) {
        if !place.is_after(self, start) {
            return (0, 0);
        }
        let turns =
            if self.part > 0.0 { ((place.tag - start) / self.part).ceil().max(1.0) } else { 1.0 };
        if turns >= self.count as f64 {
            return (self.count, self.sum);
        }
        let behind = self.sum.saturating_sub(self.cost) / (self.count - 1);
        let turns = turns as u64;
        (turns, self.cost + (turns - 1) * behind)
    }
}

/// The heads of a bucket, by arrival.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Heads(Vec<Head>);

impl Heads {
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Head> {
        self.0.iter()
    }

    /// A session's head on a quota that is this waiter.
    pub(crate) fn find(&self, session: u64, quota: u64, waiter: u64) -> Option<&Head> {
        self.0
            .iter()
            .find(|head| (head.session, head.quota, head.waiter) == (session, quota, waiter))
    }

    /// The heads that are a waiter of a session.
    fn of_waiter(&self, session: u64, waiter: u64) -> impl Iterator<Item = &Head> {
        let is_it =
            move |head: &&Head| waiter > 0 && (head.session, head.waiter) == (session, waiter);
        self.0.iter().filter(is_it)
    }

    /// When a waiter arrived, if it is a head.
    pub(crate) fn arrival(&self, session: u64, waiter: u64) -> Option<Micros> {
        self.of_waiter(session, waiter).next().map(|head| head.arrival)
    }

    /// Whether a flow waits here that takes turns in `space`: in a session that is not late.
    pub(crate) fn waits(&self, flow: u64, space: u64, now: Micros) -> bool {
        self.0.iter().any(|head| (head.flow, head.space) == (flow, space) && !head.is_late(now))
    }

    /// The start tag that a waiter keeps.
    pub(crate) fn kept_tag(&self, session: u64, waiter: u64) -> f64 {
        self.of_waiter(session, waiter).map(|head| head.tag).fold(NO_TAG, f64::min)
    }

    /// Forgets a session's heads.
    pub(crate) fn remove(&mut self, session: u64) {
        self.0.retain(|head| head.session != session);
    }

    /// Replaces a session's heads.
    pub(crate) fn replace(&mut self, session: u64, heads: impl IntoIterator<Item = Head>) {
        self.remove(session);
        self.0.extend(heads);
        self.0.sort_by_key(Head::order);
    }

    /// The place on a quota of a demand that is no head there: that of the last one that goes
    /// before it by turns.
    pub(crate) fn placed(
        &self,
        place: Place,
        quota: u64,
        horizon: Micros,
        now: Micros,
        start_of: &dyn Fn(&Head) -> f64,
    ) -> Place {
        let before = self.live(place.session, quota, now).filter(|head| {
            let takes_turns = head.holds(horizon, now) && place.takes_turns_with(head);
            takes_turns && place.is_after(head, start_of(head))
        });
        let last = before.map(|head| head.arrival).fold(place.place, Micros::max);
        Place { place: last, ..place }
    }

    /// A demand that is no head on a quota of a bucket that is not its space starts one step of its
    /// own behind the first flow that waits there at most.
    pub(crate) fn caught_up(
        &self,
        place: Place,
        step: f64,
        quota: u64,
        horizon: Micros,
        now: Micros,
        start_of: &dyn Fn(&Head) -> f64,
    ) -> Place {
        let waiting = self.live(place.session, quota, now).filter(|head| {
            head.holds(horizon, now) && head.waits_here(now) && place.takes_turns_with(head)
        });
        let next = waiting.map(start_of).fold(NO_TAG, f64::min);
        Place { tag: catch_up(place.tag, step, next), ..place }
    }

    /// What goes before a demand on a quota, until that is more than `most`. `start_of` tells where
    /// the flow of a head starts that takes turns with the demand.
    pub(crate) fn before(
        &self,
        place: &Place,
        quota: u64,
        horizon: Micros,
        now: Micros,
        most: u64,
        start_of: &dyn Fn(&Head) -> f64,
    ) -> Before {
        let mut before = Before::default();
        for head in self.live(place.session, quota, now) {
            if head.headroom > place.headroom || !head.holds(horizon, now) {
                continue;
            }
            let (demands, amount) = head.before(place, start_of);
            before.amount = sum(before.amount, amount);
            before.demands = sum(before.demands, demands);
            before.heads += u64::from(demands > 0);
            if before.amount > most {
                break;
            }
        }
        before
    }

    /// The heads on a quota that are not late, those of one session left out.
    pub(crate) fn live(
        &self,
        session: u64,
        quota: u64,
        now: Micros,
    ) -> impl Iterator<Item = &Head> {
        self.0.iter().filter(move |head| {
            head.quota == quota && head.session != session && !head.is_late(now)
        })
    }

    /// How many demands wait, but those of a session, or of none if it is 0: of each session that
    /// is not late as many as on the quota for which most do.
    pub(crate) fn waiting(&self, session: u64, now: Micros) -> u64 {
        let counts_in = |head: &&Head| head.session != session && !head.is_late(now);
        let mut counts: Vec<(u64, u64, u64)> = Vec::new();
        for head in self.0.iter().filter(counts_in) {
            match counts
                .iter_mut()
                .find(|(session, quota, _)| (*session, *quota) == (head.session, head.quota))
            {
                Some((.., count)) => *count = sum(*count, head.count),
                None => counts.push((head.session, head.quota, head.count)),
            }
        }
        counts.sort_unstable();
        let most_of =
            |of: &[(u64, u64, u64)]| of.iter().map(|(.., count)| *count).max().unwrap_or(0);
        counts.chunk_by(|one, other| one.0 == other.0).map(most_of).fold(0, sum)
    }

    /// How many demands wait for a quota, of sessions that are not late.
    pub(crate) fn waiting_for(&self, quota: u64, now: Micros) -> u64 {
        self.live(0, quota, now).map(|head| head.count).fold(0, sum)
    }

    /// Finds the tag of each, and its place among those that take turns elsewhere, in the bucket
    /// `own`. `start_of` tells where the flow of a head starts now, if that is known. One flow goes
    /// by arrival.
    pub(crate) fn find_places(
        &mut self,
        own: u64,
        now: Micros,
        start_of: impl Fn(&Head) -> Option<f64>,
    ) {
        if self.0.iter().all(|head| head.flow == self.0[0].flow) {
            self.0.iter_mut().for_each(|head| (head.tag, head.place) = (NO_TAG, head.arrival));
            return;
        }
        let (mut firsts, mut next) = (BTreeMap::new(), BTreeMap::new());
        let mut starts = Vec::with_capacity(self.0.len());
        for (index, head) in self.0.iter_mut().enumerate() {
            let start = start_of(head);
            let kept = start.map_or(head.tag, |start| head.tag.min(start));
            let first = firsts.entry((head.turns(), head.flow));
            match first {
                Entry::Vacant(first) => (_, head.tag) = *first.insert((index, kept)),
                Entry::Occupied(first) => head.tag = start.map_or(first.get().1, |_| NO_TAG),
            }
            let start = start.map_or(head.tag, |start| head.tag.min(start));
            if head.waits_here(now) {
                let next = next.entry(head.turns()).or_insert((start, head.flow));
                if start < next.0 {
                    *next = (start, head.flow);
                }
            }
            starts.push(start);
        }
        for (index, _) in firsts.into_values() {
            let head = &mut self.0[index];
            match next.get(&head.turns()) {
                Some((next, flow)) if *flow != head.flow && head.space != own => {
                    starts[index] = catch_up(starts[index], head.part, *next);
                    head.tag = head.tag.min(starts[index]);
                }
                _ => {}
            }
        }
        let mut order: Vec<usize> = (0..self.0.len()).collect();
        // Those that arrived first are first already.
        order.sort_by(|&one, &other| {
            let turns = self.0[one].turns().cmp(&self.0[other].turns());
            turns.then(starts[one].total_cmp(&starts[other]))
        });
        let mut last = None;
        for index in order {
            let head = &mut self.0[index];
            let before = last.filter(|(turns, _)| *turns == head.turns());
            head.place = before.map_or(head.arrival, |(_, place)| head.arrival.max(place));
            last = Some((head.turns(), head.place));
        }
    }

    /// The heads, to be changed in place.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Head> {
        self.0.iter_mut()
    }
}

/// Where a demand starts that moves its flow on by `step`, if that is known, and waits where
/// another flow starts at `next`: one step behind it at most, and before it once that is level.
pub(crate) fn catch_up(start: f64, step: f64, next: f64) -> f64 {
    if step > 0.0 { start.min(next + NEARLY * step) } else { start }
}

impl Flow {
    /// How far a demand moves its flow on that takes this part of a limit.
    pub(crate) fn step(self, part: f64) -> f64 {
        part / f64::from(self.weight.max(1))
    }
}

coded!(Head {
    session,
    quota,
    headroom,
    flow,
    space,
    waiter,
    arrival,
    place,
    cost,
    count,
    sum,
    last,
    due,
    heard,
    held_until,
    part,
    tag,
    is_behind,
    outlook,
});

impl Coded for Outlook {
    fn write(&self, out: &mut Encoder) {
        out.byte(*self as u8);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        Ok(Self::of(from.byte()?.into()))
    }
}

impl Coded for Heads {
    fn write(&self, out: &mut Encoder) {
        out.list(&self.0);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let heads: Vec<Head> = from.list()?;
        ensure(heads.is_sorted_by_key(Head::order))?;
        Ok(Self(heads))
    }
}
