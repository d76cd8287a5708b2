//! The state machine alone, with answers that are made up.

use smallvec::smallvec;
use tokio::sync::oneshot;

use super::*;
use crate::{
    engine::{self, Flow, Refused, RefusedBy, Verdicts, Violation},
    limiter::bucket_handle::{BucketHandle, declaration},
    limits::{Limits, Resolved, Standing},
    quota::Quota,
    usage,
};

mod fleet;
mod liveness;

const START: Micros = 1_000_000_000;
const SECOND: Micros = 1_000_000;
/// When the front of all sessions is looked at that gets no hints.
const UNHINTED: Micros = 150_000;

fn state(in_process: bool) -> State {
    State::new(Setup { in_process, lease: 10 * SECOND, max_waiting: 100_000 })
}

/// Sets of these buckets, by their indexes, with one quota of 100 tokens an hour each.
fn sets(names: &[&str], sets: &[&[usize]]) -> Vec<Arc<BucketSet>> {
    sets_of(names, |_| vec![Quota::per_hour("tokens", 100)], sets)
}

/// Sets of these buckets, by their indexes, with these quotas each.
fn sets_of(
    names: &[&str],
    quotas: impl Fn(usize) -> Vec<Quota>,
    sets: &[&[usize]],
) -> Vec<Arc<BucketSet>> {
    let declare =
        |limits: Limits, (index, name): (usize, &&str)| limits.bucket(*name, quotas(index));
    let limits = names.iter().enumerate().fold(Limits::new(), declare);
    let table = limits.compile().expect("they are valid");
    let handle = |name: &&str| {
        let Ok(Resolved::Bucket(spec)) = table.resolve(name) else { panic!("it is declared") };
        Arc::new(BucketHandle::new(spec.key.clone(), declaration(spec, 0)))
    };
    let handles: Vec<_> = names.iter().map(handle).collect();
    let set = |indexes: &&[usize]| {
        let handles = (0..).zip(indexes.iter().map(|index| handles[*index].clone()));
        Arc::new(BucketSet::new(handles).expect("they are declared"))
    };
    sets.iter().map(set).collect()
}

/// A session's state, and what its callers see.
struct World {
    state: State,
    set: Arc<BucketSet>,
    now: Micros,
    hinting: Hinting,
}

type Answer = oneshot::Receiver<Box<Outcome>>;

impl World {
    fn new(in_process: bool) -> Self {
        let hinting = if in_process { Hinting::Reliable } else { Hinting::None };
        Self { state: state(in_process), set: sets(&["a"], &[&[0]]).remove(0), now: START, hinting }
    }

    fn conditions(&self) -> Conditions {
        Conditions { now: self.now, hinting: self.hinting, resumes_at: None }
    }

    fn ask(&self, tokens: u64, mode: Mode, flow: u64) -> Ask {
        let flow = Flow { id: flow, weight: 1 };
        let usage = usage! { tokens: tokens };
        Ask::new(self.set.clone(), usage, Box::default(), Standing::default(), flow, mode)
            .expect("it fits")
    }

    fn enter(&mut self, ask: Ask, deadline: Option<Micros>) -> (Rank, Answer, Option<usize>) {
        let (sender, answer) = oneshot::channel();
        self.now += 1;
        let rank = self.state.enter(ask, self.now, deadline, sender, None);
        let effects = self.state.take_effects();
        let position = effects.told.first().map(|told| match told {
            Told::HasToWait { position, .. } => *position,
            Told::Outcome(_, outcome) => panic!("{outcome:?}"),
        });
        (rank, answer, position)
    }

    fn wait(&mut self, tokens: u64) -> (Rank, Answer) {
        let ask = self.ask(tokens, Mode::Wait, 0);
        let (rank, answer, _) = self.enter(ask, None);
        (rank, answer)
    }

    fn turn(&mut self) -> Turn {
        let turn = self.state.turn(self.conditions());
        deliver(&mut self.state);
        turn
    }

    /// The batch that is sent now.
    fn sent(&mut self) -> Batch {
        match self.turn() {
            Turn::Send(batch) => batch,
            turn => panic!("{turn:?}"),
        }
    }

    fn sleeps(&mut self) -> Option<Micros> {
        match self.turn() {
            Turn::Sleep(until) => until.map(|until| until.saturating_sub(self.now)),
            turn => panic!("{turn:?}"),
        }
    }

    /// How long it sleeps before it sends something, unless it would do that for longer than this.
    fn sleeps_at_most(&self, most: Micros) -> Option<Micros> {
        let due = self.state.due().expect("it waits").saturating_sub(self.now);
        assert!(due <= most, "it sleeps for {due} us");
        (due > 0).then_some(due)
    }

    fn applied(&mut self, batch: Batch, verdicts: impl IntoIterator<Item = Verdict>) {
        let seen = vec![Seen { now: 5, born: 1, was: 4, expires: 9 }; batch.buckets().ids().len()];
        let verdicts: Verdicts = verdicts.into_iter().collect();
        assert_eq!(verdicts.len(), batch.ops().len(), "{:?}", batch.ops());
        self.state.applied(batch, &seen, verdicts, self.conditions());
        deliver(&mut self.state);
    }

    /// Refuses every waiting demand of the batch at hand.
    fn refuse_all(&mut self, wait: Option<Micros>) {
        let batch = self.sent();
        let verdicts: Vec<_> = batch
            .ops()
            .iter()
            .map(|op| match op {
                Op::Reserve(_) => refused(wait),
                _ => Verdict::Done,
            })
            .collect();
        self.applied(batch, verdicts);
    }
}

fn deliver(state: &mut State) {
    let effects = state.take_effects();
    for told in effects.told {
        if let Told::Outcome(to, outcome) = told {
            drop(to.send(Box::new(outcome)));
        }
    }
    effects.reports.into_iter().for_each(|(to, verdict)| drop(to.send(verdict)));
}

const GRANTED: Verdict = Verdict::Granted { probe: false };

fn refused(wait: Option<Micros>) -> Verdict {
    let by = RefusedBy::Rule(0);
    let violation = Violation {
        by,
        available: 0,
        wait,
        alone: wait,
        at_best: 0,
        asked: None,
        holds: true,
        rank: 0,
        before: 0,
    };
    Verdict::Refused(Box::new(Refused { violations: smallvec![violation], tag: 0.0, part: 0.1 }))
}

/// What the waiting demands of a batch cost.
fn costs(batch: &Batch) -> Vec<u64> {
    let reserve =
        |op: &Op| if let Op::Reserve(reserve) = op { Some(reserve.costs[0]) } else { None };
    batch.ops().iter().filter_map(reserve).collect()
}

/// How many the batch says to wait besides.
fn told(batch: &Batch) -> Option<u64> {
    batch.ops().iter().find_map(|op| match op {
        Op::Waiting { lines, .. } => Some(lines.iter().map(|line| line.count).sum()),
        _ => None,
    })
}

fn outcome(answer: &mut Answer) -> Option<Outcome> {
    answer.try_recv().ok().map(|outcome| *outcome)
}

#[test]
fn a_lone_demand_is_one_operation_and_is_registered_once_refused() {
    let mut world = World::new(false);
    let (_, mut answer) = world.wait(10);
    let batch = world.sent();
    assert_eq!((batch.seq(), costs(&batch), told(&batch)), (1, vec![10], None));
    world.applied(batch, [refused(None)]);
    assert!(outcome(&mut answer).is_none());

    // The store does not know that it waits: it is told at once.
    let batch = world.sent();
    assert_eq!((batch.seq(), costs(&batch), told(&batch)), (2, vec![10], Some(0)));
    world.applied(batch, [refused(None), Verdict::Done]);
    assert_eq!(world.sleeps(), Some(UNHINTED));

    world.now += UNHINTED;
    let batch = world.sent();
    world.applied(batch, [GRANTED, Verdict::Done]);
    assert!(matches!(outcome(&mut answer), Some(Outcome::Granted(_))));
}

#[test]
fn a_head_is_named_again_before_its_lease_ends() {
    for hinting in [Hinting::Works, Hinting::None] {
        let mut world = World { hinting, ..World::new(false) };
        let _waits = world.wait(10);
        world.refuse_all(Some(3_600 * SECOND));
        world.refuse_all(Some(3_600 * SECOND));
        // The store forgets the heads of a session that is silent for longer than its lease.
        let mut silent = 0;
        while let Turn::Sleep(Some(until)) = world.turn() {
            silent += until - world.now;
            assert!(silent < 9 * SECOND, "{hinting:?}");
            world.now = until;
        }
    }
}

#[test]
fn a_line_is_looked_at_from_its_front_and_further_while_all_is_granted() {
    let mut world = World::new(false);
    let mut answers = vec![world.wait(1)];
    world.refuse_all(None);
    world.refuse_all(None);
    answers.extend((2..=20).map(|tokens| world.wait(tokens)));
    assert_eq!(world.sleeps(), Some(UNHINTED - 19), "they stand behind the first");

    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    let mut looks = Vec::new();
    for _ in 0..3 {
        let batch = world.sent();
        looks.push((costs(&batch), told(&batch)));
        let verdicts: Vec<_> = batch
            .ops()
            .iter()
            .map(|op| if matches!(op, Op::Reserve(_)) { GRANTED } else { Verdict::Done })
            .collect();
        world.applied(batch, verdicts);
    }
    let expected = [(1..=4, 16), (5..=12, 8), (13..=20, 0)];
    assert_eq!(looks, expected.map(|(costs, behind)| (costs.collect::<Vec<_>>(), Some(behind))));
    assert!(answers.iter_mut().all(|(_, answer)| outcome(answer).is_some()));
}

/// What was refused behind others is looked at once they are granted. Meanwhile `happens` does.
fn looked_at_once_those_before_are_granted(happens: impl Fn(&mut World)) {
    let mut world = World::new(true);
    // The store says when each of them fits if nothing is refunded.
    let refuse = |world: &mut World| {
        while let Turn::Send(batch) = world.turn() {
            let verdict = |op: &Op| match op {
                Op::Reserve(_) => refused(Some(SECOND)),
                _ => Verdict::Done,
            };
            let verdicts: Vec<_> = batch.ops().iter().map(verdict).collect();
            world.applied(batch, verdicts);
        }
    };
    let mut answers: Vec<_> = (1..=4).map(|tokens| world.wait(tokens).1).collect();
    refuse(&mut world);
    let ask = world.ask(5, Mode::Wait, 0);
    let deadline = world.now + 60 * SECOND;
    answers.push(world.enter(ask, Some(deadline)).1);
    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    refuse(&mut world);
    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    for expected in [vec![1, 2, 3, 4], vec![5]] {
        let batch = world.sent();
        assert_eq!(costs(&batch), expected, "at once");
        happens(&mut world);
        let mut verdicts = vec![GRANTED; expected.len()];
        verdicts.push(Verdict::Done);
        world.applied(batch, verdicts);
    }
    assert!(answers.iter_mut().all(|answer| outcome(answer).is_some()));
}

#[test]
fn what_was_refused_behind_others_is_looked_at_once_they_are_granted() {
    looked_at_once_those_before_are_granted(|_| ());
}

#[test]
fn a_change_of_limits_during_a_batch_loses_nothing() {
    looked_at_once_those_before_are_granted(|world| {
        world.state.queue.follow_limits();
        deliver(&mut world.state);
    });
}

#[test]
fn a_demand_that_fits_though_others_are_before_it_has_these_looked_at_and_asks_no_more() {
    let mut world = World::new(false);
    let _front = world.wait(50);
    world.refuse_all(Some(SECOND));
    world.refuse_all(Some(SECOND));
    let ask = world.ask(10, Mode::Wait, 0);
    let (_, mut answer, _) = world.enter(ask, Some(world.now + 60 * SECOND));
    let batch = world.sent();
    assert_eq!(costs(&batch), [10], "it asks whether it can be granted in time");
    world.applied(batch, vec![Verdict::Fits]);

    let batch = world.sent();
    assert_eq!(costs(&batch), [50, 10], "what is before it is looked at as well");
    world.applied(batch, [refused(Some(SECOND)), refused(Some(SECOND)), Verdict::Done]);
    assert!(world.sleeps().is_some_and(|time| time > 0), "it waits");
    assert!(outcome(&mut answer).is_none());
}

#[test]
fn what_is_freed_during_a_batch_of_another_bucket_is_looked_at_once() {
    let mut world = World::new(false);
    let all = sets(&["a", "b"], &[&[0], &[1]]);
    let mut waits = Vec::new();
    for set in &all {
        world.set = set.clone();
        waits.push(world.wait(10));
        world.refuse_all(Some(5 * SECOND));
        world.refuse_all(Some(5 * SECOND));
    }
    world.state.queue.look(only(&all[0]));
    let batch = world.sent();
    assert_eq!(batch.buckets().ids(), [only(&all[0])]);
    world.state.queue.look(only(&all[1]));
    world.applied(batch, [refused(Some(5 * SECOND)), Verdict::Done]);
    world.refuse_all(Some(5 * SECOND));
    assert!(world.sleeps().is_some_and(|time| time > 0));
}

#[test]
fn a_demand_that_only_asks_is_refused_once_the_limiter_is_closed() {
    let mut world = World::new(false);
    let _front = world.wait(50);
    world.refuse_all(Some(SECOND));
    world.refuse_all(Some(SECOND));
    let ask = world.ask(10, Mode::Wait, 0);
    let (_, mut answer, _) = world.enter(ask, Some(world.now + 60 * SECOND));
    let batch = world.sent();
    world.state.close();
    deliver(&mut world.state);
    world.applied(batch, vec![Verdict::Fits]);
    assert!(matches!(outcome(&mut answer), Some(Outcome::Refused(Throttled::Closed))));
}

#[test]
fn the_store_keeps_no_head_of_a_demand_that_is_refused_once_the_limiter_is_closed() {
    for in_process in [true, false] {
        let mut world = World::new(in_process);
        let (rank, mut answer) = world.wait(50);
        world.refuse_all(Some(0));
        let batch = world.sent();
        assert_eq!((costs(&batch), told(&batch)), (vec![50], Some(0)), "a head if it is refused");
        let is_abandoned = !in_process;
        if is_abandoned {
            world.state.queue.drop_waiter(rank);
            answer.close();
        }
        world.state.close();
        deliver(&mut world.state);
        world.applied(batch, [refused(Some(SECOND)), Verdict::Done]);
        let is_told = matches!(outcome(&mut answer), Some(Outcome::Refused(Throttled::Closed)));
        assert_eq!(is_told, !is_abandoned);
        let batch = world.sent();
        assert_eq!((costs(&batch), told(&batch)), (vec![], Some(0)));
        world.applied(batch, [Verdict::Done]);
    }
}

#[test]
fn a_waiter_that_leaves_lets_the_next_one_be_looked_at() {
    let mut world = World::new(true);
    let (front, _answer) = world.wait(50);
    world.refuse_all(None);
    world.refuse_all(None);
    let (_, mut behind) = world.wait(10);
    let looks_in = world.sleeps();
    assert_eq!(looks_in, Some(5 * SECOND - 1), "a hint, or its front, can change that before");
    world.state.queue.drop_waiter(front).expect("it is there");
    let batch = world.sent();
    assert_eq!((costs(&batch), told(&batch)), (vec![10], Some(0)));
    world.applied(batch, [GRANTED, Verdict::Done]);
    assert!(outcome(&mut behind).is_some());

    // The store learns that none waits any more.
    assert!(matches!(world.turn(), Turn::Stop));
}

#[test]
fn what_is_freed_during_a_batch_is_looked_at_after_it() {
    let mut world = World::new(true);
    let _answer = world.wait(50);
    world.refuse_all(None);
    let batch = world.sent();
    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    world.applied(batch, [refused(None), Verdict::Done]);
    assert_eq!(costs(&world.sent()), [50]);
}

#[test]
fn a_demand_with_a_deadline_asks_once_and_then_stands_behind() {
    let mut world = World::new(false);
    let _front = world.wait(50);
    world.refuse_all(Some(SECOND));
    world.refuse_all(Some(SECOND));
    let ask = world.ask(10, Mode::Wait, 0);
    let (_, mut answer, position) = world.enter(ask, Some(world.now + 9 * SECOND));
    assert_eq!(position, None);
    let batch = world.sent();
    let modes: Vec<_> = batch
        .ops()
        .iter()
        .map(|op| if let Op::Reserve(reserve) = op { Some(reserve.mode) } else { None })
        .collect();
    assert_eq!(modes, [Some(Mode::Dry)]);
    world.applied(batch, [refused(Some(2 * SECOND))]);
    assert!(outcome(&mut answer).is_none());
    assert!(world.sleeps().is_some(), "it waits with the one before it");

    // One that cannot make it is refused.
    let ask = world.ask(10, Mode::Wait, 0);
    let (_, mut hopeless, _) = world.enter(ask, Some(world.now + SECOND));
    let batch = world.sent();
    let Verdict::Refused(mut refused) = refused(Some(2 * SECOND)) else { panic!("it is refused") };
    refused.violations[0].at_best = 2 * SECOND;
    world.applied(batch, [Verdict::Refused(refused)]);
    assert!(matches!(outcome(&mut hopeless), Some(Outcome::Refused(Throttled::Deadline(_)))));
}

#[test]
fn a_try_goes_after_the_demands_that_arrived_before_it() {
    let mut world = World::new(false);
    let before = world.ask(1, Mode::Try, 0);
    let _before = world.enter(before, None);
    let _waits = world.wait(2);
    let after = world.ask(3, Mode::Try, 0);
    let _after = world.enter(after, None);
    assert_eq!(costs(&world.sent()), [1, 2, 3]);
}

/// The modes of the demands of a batch, and what they cost.
fn modes(batch: &Batch) -> Vec<(Mode, u64)> {
    let of = |op: &Op| match op {
        Op::Reserve(reserve) => Some((reserve.mode, reserve.costs[0])),
        _ => None,
    };
    batch.ops().iter().filter_map(of).collect()
}

#[test]
fn a_try_is_passed_by_no_demand_that_arrived_after_it() {
    let mut world = World::new(false);
    let _older = world.wait(1);
    let tries = world.ask(2, Mode::Try, 0);
    let _try = world.enter(tries, None);
    let _younger = world.wait(3);
    let expected = [(Mode::Wait, 1), (Mode::Try, 2), (Mode::Wait, 3)];
    assert_eq!(modes(&world.sent()), expected);

    // Nor where flows take turns, and what waits is sent first.
    let mut world = World::new(true);
    let _first = world.wait(1);
    world.refuse_all(None);
    world.refuse_all(None);
    let (older, tries, younger) =
        (world.ask(2, Mode::Wait, 7), world.ask(3, Mode::Try, 7), world.ask(4, Mode::Wait, 7));
    let _answers = [older, tries, younger].map(|ask| world.enter(ask, None));
    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    let sent = modes(&world.sent());
    let place = |cost| sent.iter().position(|(_, other)| *other == cost).expect("it is sent");
    assert!(place(2) < place(3) && place(3) < place(4), "{sent:?}");
}

#[test]
fn a_demand_with_a_deadline_is_passed_by_no_younger_one_once_nothing_blocks_it() {
    let mut world = World::new(false);
    let (front, _answer) = world.wait(50);
    world.refuse_all(Some(SECOND));
    world.refuse_all(Some(SECOND));
    let ask = world.ask(2, Mode::Wait, 0);
    let _deadline = world.enter(ask, Some(world.now + 60 * SECOND));
    // Its caller gives up.
    world.state.queue.drop_waiter(front);
    let _younger = world.wait(3);
    assert_eq!(modes(&world.sent()), [(Mode::Wait, 2), (Mode::Wait, 3)]);
}

#[test]
fn a_batch_without_an_answer_is_asked_about_again_before_anything_else() {
    let mut world = World::new(false);
    let (_, mut answer) = world.wait(10);
    let batch = world.sent();
    let seq = batch.seq();
    world.state.failed(batch, Some(&Throttled::Closed), world.now);
    deliver(&mut world.state);
    assert!(matches!(outcome(&mut answer), Some(Outcome::Refused(_))));

    let _other = world.wait(20);
    let again = world.sent();
    assert_eq!((again.seq(), costs(&again)), (seq, vec![10]));
    assert!(matches!(&again.ops()[0], Op::Reserve(reserve) if reserve.mode == Mode::Dry));
    // It was applied: what it granted is given back, before the other demand.
    world.applied(again, [GRANTED]);
    let next = world.sent();
    assert_eq!(next.seq(), seq + 1);
    let Op::Settle(settle) = &next.ops()[0] else { panic!("{:?}", next.ops()) };
    assert_eq!(
        (&settle.reserved[..], &settle.actual[..], &settle.at[..]),
        (&[10][..], &[0][..], &[5][..])
    );
    assert_eq!(costs(&next), [20]);
}

#[test]
fn a_doubt_ends_before_the_store_forgets_the_batch() {
    let mut world = World::new(false);
    let _answer = world.wait(10);
    let batch = world.sent();
    world.state.failed(batch, Some(&Throttled::Closed), world.now);
    deliver(&mut world.state);
    for _ in 0..3 {
        let again = world.sent();
        world.state.failed(again, Some(&Throttled::Closed), world.now);
        deliver(&mut world.state);
        world.now += DOUBT_ENDS / 3;
    }
    world.now += SECOND;
    let turn = world.state.turn(world.conditions());
    let effects = world.state.take_effects();
    assert!(effects.rename && matches!(turn, Turn::Stop), "{turn:?}");
}

#[test]
fn what_is_in_flight_is_kept_alive() {
    let mut world = World::new(false);
    let (_, mut answer) = world.wait(10);
    let batch = world.sent();
    world.applied(batch, [GRANTED]);
    let Some(Outcome::Granted(grant)) = outcome(&mut answer) else { panic!("it is granted") };
    for _ in 0..3 {
        world.now += world.sleeps().expect("a heartbeat is due");
        let batch = world.sent();
        assert!(batch.ops().is_empty() && batch.buckets().ids().len() == 1);
        world.applied(batch, []);
    }
    let settle = Settle::release(&grant.set, grant.costs, &grant.at);
    world.state.push(Outgoing::lasting(settle, grant.set, 0), true);
    let batch = world.sent();
    world.applied(batch, [Verdict::Done]);
    world.now += 2 * SECOND;
    assert!(matches!(world.turn(), Turn::Stop));
}

#[test]
fn adjustments_that_were_not_sent_merge() {
    let mut world = World::new(false);
    let op = |reserved: u64, actual: u64, close| {
        Op::Settle(Settle {
            on: world.set.all(),
            at: smallvec![5],
            reserved: smallvec![reserved],
            actual: smallvec![actual],
            close,
            claim: None,
        })
    };
    let ops = [op(10, 20, false), op(20, 30, false), op(30, 7, true)];
    for op in ops {
        world.state.push(Outgoing::lasting(op, world.set.clone(), 17), false);
    }
    let batch = world.sent();
    let [Op::Settle(settle)] = batch.ops() else { panic!("{:?}", batch.ops()) };
    assert_eq!((settle.reserved[0], settle.actual[0], settle.close), (10, 7, true));
}

#[test]
fn flows_take_turns() {
    let mut world = World::new(true);
    for flow in [1, 1, 1, 1, 1, 1, 2, 2, 2] {
        let ask = world.ask(10, Mode::Wait, flow);
        // They are looked up by their order alone.
        let _answer = Box::leak(Box::new(world.enter(ask, None)));
    }
    world.refuse_all(None);
    world.refuse_all(None);
    world.state.queue.look(world.set.handles().next().expect("there is one").id());
    let batch = world.sent();
    let flow = |op: &Op| if let Op::Reserve(reserve) = op { Some(reserve.flow.id) } else { None };
    let flows: Vec<_> = batch.ops().iter().filter_map(flow).collect();
    assert_eq!(flows, [1, 1, 2, 2], "two of each, which the store has take turns");
}

#[test]
fn hints_of_which_nothing_comes_are_obeyed_less_and_less_often() {
    let mut world = World { hinting: Hinting::Works, ..World::new(false) };
    let _waits = world.wait(10);
    world.refuse_all(Some(3_600 * SECOND));
    world.refuse_all(Some(3_600 * SECOND));
    let bucket = world.set.handles().next().expect("there is one").id();
    let mut looks = Vec::new();
    for _ in 0..14 {
        world.state.queue.hinted(bucket, world.now);
        let hinted = world.now;
        while let Some(wait) = world.sleeps_at_most(SECOND) {
            world.now += wait;
        }
        looks.push(world.now - hinted);
        world.refuse_all(Some(3_600 * SECOND));
    }
    assert_eq!(looks[..4], [0; 4]);
    assert_eq!(looks[4..7], [1_000, 2_000, 4_000]);
    assert_eq!(looks[10..], [64_000; 4]);
    // Once something comes of one, the next is obeyed at once.
    let _behind = world.wait(10);
    world.state.queue.look(bucket);
    let batch = world.sent();
    let verdicts: Vec<_> = batch
        .ops()
        .iter()
        .map(|op| if matches!(op, Op::Reserve(_)) { GRANTED } else { Verdict::Done })
        .collect();
    world.applied(batch, verdicts);
    let _waits = world.wait(10);
    world.refuse_all(Some(3_600 * SECOND));
    world.refuse_all(Some(3_600 * SECOND));
    world.state.queue.hinted(bucket, world.now);
    assert_eq!(world.sleeps_at_most(SECOND), None);
}

#[test]
fn cancelling_one_of_many_leaves_no_trace() {
    let mut world = World::new(true);
    let mut ranks: Vec<_> = (0..10_000).map(|_| world.wait(1)).collect();
    world.refuse_all(None);
    world.refuse_all(None);
    for (rank, answer) in ranks.drain(..).rev() {
        drop(answer);
        world.state.queue.drop_waiter(rank);
    }
    let batch = world.sent();
    assert_eq!((costs(&batch), told(&batch)), (vec![], Some(0)));
    world.applied(batch, [Verdict::Done]);
    assert!(!world.state.is_occupied());
    assert!(matches!(world.turn(), Turn::Stop));
}

/// A batch on two buckets that the store refuses, in halves.
fn world_of_two() -> (World, Vec<Arc<BucketSet>>) {
    (World { hinting: Hinting::Works, ..World::new(false) }, sets(&["a", "b"], &[&[0], &[1]]))
}

fn rejected() -> Throttled {
    Throttled::Store(Arc::new(crate::store::StoreError::Rejected("WRONGTYPE".into())))
}

fn only(set: &Arc<BucketSet>) -> u64 {
    set.handles().next().expect("there is one").id()
}

#[test]
fn what_is_freed_while_a_part_of_a_refused_batch_is_on_its_way_is_looked_at_after_it() {
    let (mut world, all) = world_of_two();
    world.set = all[0].clone();
    let _good = world.wait(10);
    world.refuse_all(Some(20 * SECOND));
    world.refuse_all(Some(20 * SECOND));
    // Both in one batch, which the store refuses.
    world.state.queue.look(only(&all[0]));
    world.set = all[1].clone();
    let _bad = world.wait(10);
    let batch = world.sent();
    assert_eq!(costs(&batch).len(), 2);
    let is_over = world.state.refused(batch, &rejected(), world.now);
    assert!(!is_over);
    deliver(&mut world.state);
    for _ in 0..2 {
        let batch = world.sent();
        if batch.buckets().ids().contains(&only(&all[1])) {
            world.state.refused(batch, &rejected(), world.now);
            deliver(&mut world.state);
            continue;
        }
        // The store hints, after it has answered.
        world.state.queue.hinted(only(&all[0]), world.now);
        let verdicts: Vec<_> = batch
            .ops()
            .iter()
            .map(|op| match op {
                Op::Reserve(_) => refused(Some(20 * SECOND)),
                _ => Verdict::Done,
            })
            .collect();
        world.applied(batch, verdicts);
    }
    assert_eq!(world.sleeps_at_most(SECOND), None, "it is looked at again at once");
}

#[test]
fn the_store_hears_that_none_waits_of_a_part_that_did_not_reach_it() {
    let (mut world, all) = world_of_two();
    world.set = all[1].clone();
    let _bad = world.wait(10);
    world.refuse_all(Some(20 * SECOND));
    world.refuse_all(Some(20 * SECOND));
    world.set = all[0].clone();
    let _good = world.wait(10);
    world.refuse_all(Some(20 * SECOND));
    world.refuse_all(Some(20 * SECOND));
    // Both are heads, and are looked at in one batch.
    world.state.queue.look_everywhere();
    let batch = world.sent();
    assert_eq!(costs(&batch).len(), 2);
    world.state.refused(batch, &rejected(), world.now);
    deliver(&mut world.state);
    // The first of several parts goes without an answer.
    let batch = world.sent();
    let first: Vec<u64> = batch.buckets().ids().to_vec();
    let unavailable =
        Throttled::Store(Arc::new(crate::store::StoreError::Unavailable("gone".into())));
    world.state.failed(batch, Some(&unavailable), world.now);
    deliver(&mut world.state);
    // Back again: the store still has a head on `a` that is none.
    let mut told_of = false;
    for _ in 0..6 {
        let turn = world.turn();
        let Turn::Send(batch) = turn else { break };
        let is_good = |index: u16| batch.buckets().ids()[usize::from(index)] == only(&all[0]);
        told_of |= batch.ops().iter().any(|op| match op {
            Op::Waiting { bucket, lines } => is_good(*bucket) && lines.is_empty(),
            _ => false,
        });
        let verdicts: Vec<_> = batch
            .ops()
            .iter()
            .map(|op| match op {
                Op::Reserve(_) => Verdict::Fits,
                _ => Verdict::Done,
            })
            .collect();
        world.applied(batch, verdicts);
    }
    assert!(told_of, "the first part was on {first:?}, `a` is {}", only(&all[0]));
}

#[test]
fn a_session_is_occupied_while_the_last_part_of_a_refused_batch_is_on_its_way() {
    let (mut world, all) = world_of_two();
    let mut answers = Vec::new();
    for set in &all {
        world.set = set.clone();
        answers.push(world.wait(10));
    }
    let batch = world.sent();
    world.state.refused(batch, &rejected(), world.now);
    deliver(&mut world.state);
    for _ in 0..2 {
        let batch = world.sent();
        assert!(!costs(&batch).is_empty());
        assert!(world.state.is_occupied(), "a demand is pending");
        world.applied(batch, [GRANTED]);
    }
}
