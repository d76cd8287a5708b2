//! Heads: what waits is served first come, first served over all sessions, on every quota that
//! refused it.

use proptest::prelude::*;

use super::{
    fleet::{Fleet, Running, batch_class, on},
    moves::cases,
    *,
};
use crate::engine::heads::LATE;

/// A fleet on one quota, which is taken.
fn taken(rule: Rule) -> (Fleet, Running) {
    let capacity = rule.capacity(0);
    let mut fleet = Fleet::new(vec![vec![rule]]);
    let running = fleet.ask(9, demand(&[capacity])).unwrap();
    fleet.pass(MS);
    (fleet, running)
}

#[test]
fn the_oldest_waiter_of_all_sessions_is_next() {
    let (mut fleet, mut running) = taken(concurrency(1, 1));
    let sessions = [3, 1, 2, 1, 3, 2, 2, 1, 3];
    let waiters: Vec<_> = sessions
        .iter()
        .map(|&session| {
            fleet.pass(MS);
            let (waiter, _) = fleet.ask(session, demand(&[1])).unwrap_err();
            waiter
        })
        .collect();
    for (waiter, session) in waiters.into_iter().zip(sessions) {
        // A session that frees capacity looks by itself.
        let others: &[u64] = if running.grant.session == session { &[] } else { &[session] };
        assert_eq!(fleet.end_all(&running), others);
        let granted = fleet.settle_down();
        assert_eq!(granted.iter().map(|granted| granted.waiter).collect::<Vec<_>>(), [waiter]);
        running = granted[0].clone();
        fleet.pass(MS);
    }
}

#[test]
fn a_small_demand_passes_a_large_head_only_where_both_fit() {
    let (mut fleet, large) = taken(concurrency(1, 10));
    fleet.end(&large, &[0]);
    let six = fleet.ask(9, demand(&[6])).unwrap();
    let (waiter, _) = fleet.ask(1, demand(&[7])).unwrap_err();
    fleet.pass(MS);
    let (_, refused) = fleet.ask(2, demand(&[3])).unwrap_err();
    assert_eq!((refused.violations[0].rank, refused.violations[0].before), (1, 1));
    assert!(!fleet.try_by(2, demand(&[1])));
    fleet.end_all(&six);
    // Both fit now, in whatever order the sessions look.
    assert_eq!(fleet.clone().look(1).waiters(), [waiter]);
    assert_eq!(fleet.look(2).granted.len(), 1);
    assert_eq!(fleet.look(1).waiters(), [waiter]);
    assert_eq!(fleet.world.available(0), 0);
}

#[test]
fn a_head_blocks_only_the_quotas_that_refused_it() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10), sliding(2, 10, MINUTE, 60)]]);
    fleet.ask(9, demand(&[0, 10])).unwrap();
    fleet.ask(1, demand(&[6, 1])).unwrap_err();
    fleet.ask(2, demand(&[10, 0])).unwrap();
    fleet.ask(3, demand(&[0, 0])).unwrap();
    let (_, refused) = fleet.ask(3, demand(&[0, 1])).unwrap_err();
    assert_eq!(refused.violations[0].before, 1);
}

/// Waits of a known and of an unknown length.
#[test]
fn a_head_that_is_late_is_passed_over() {
    let mut fleet = Fleet::new(vec![vec![sliding(1, 10, MINUTE, 60)]]);
    fleet.ask(9, demand(&[10])).unwrap();
    let (_, refused) = fleet.ask(1, demand(&[10])).unwrap_err();
    fleet.pass(MS);
    let (waiter, _) = fleet.ask(2, demand(&[10])).unwrap_err();
    fleet.pass(refused.violations[0].wait.unwrap() - MS + 200 * MS);
    assert!(fleet.look(2).granted.is_empty());
    fleet.pass(1);
    assert_eq!(fleet.look(2).waiters(), [waiter]);

    let (mut fleet, running) = taken(concurrency(1, 1));
    fleet.ask(1, demand(&[1])).unwrap_err();
    let (waiter, _) = fleet.ask(2, demand(&[1])).unwrap_err();
    // While nothing is free it cannot be late.
    fleet.pass(MINUTE);
    assert!(fleet.look(2).granted.is_empty());
    assert_eq!(fleet.end_all(&running), [1]);
    fleet.pass(200 * MS);
    assert!(fleet.look(2).granted.is_empty());
    fleet.pass(1);
    assert_eq!(fleet.look(2).waiters(), [waiter]);
}

#[test]
fn a_head_that_comes_back_keeps_its_arrival() {
    for age in [0, SECOND, HOUR] {
        let (mut fleet, running) = taken(concurrency(1, 1));
        let (first, _) = fleet.ask(1, demand(&[1])).unwrap_err();
        fleet.pass(MS);
        fleet.ask(2, demand(&[1])).unwrap_err();
        fleet.end_all(&running);
        // Late, passed over, and with another idea of how long ago it came.
        fleet.pass(SECOND);
        let passed = fleet.look(2).granted.remove(0);
        let (third, _) = fleet.ask(3, demand(&[1])).unwrap_err();
        fleet.sessions.get_mut(&1).unwrap()[0].arrived = fleet.now() - age;
        assert!(fleet.look(1).granted.is_empty());
        fleet.end_all(&passed);
        assert!(fleet.look(3).granted.is_empty(), "{third} is younger");
        assert_eq!(fleet.look(1).waiters(), [first]);
    }
}

/// The second of a session is one of those behind its head, until it is the head.
#[test]
fn what_waits_behind_a_head_keeps_its_arrival_when_it_becomes_one() {
    for most_sent in [1, 2, 9] {
        let (mut fleet, mut running) = taken(concurrency(1, 1));
        fleet.most_sent = most_sent;
        let order = [1, 1, 2, 1, 2, 2, 1];
        for session in order {
            fleet.pass(MS);
            fleet.enter(session, demand(&[1]));
            fleet.look(session);
        }
        for session in order {
            fleet.end_all(&running);
            fleet.pass(MS);
            let granted = fleet.settle_down();
            assert_eq!(granted.len(), 1);
            assert_eq!(granted[0].grant.session, session, "{most_sent} sent");
            running = granted[0].clone();
        }
    }
}

#[test]
fn a_head_blocks_no_class_that_may_use_more() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)]]);
    fleet.ask(9, demand(&[5])).unwrap();
    fleet.ask(1, batch_class(&[5])).unwrap_err();
    assert!(!fleet.try_by(2, batch_class(&[1])), "the same class is behind it");
    fleet.ask(2, demand(&[5])).unwrap();
    // One of the whole limit blocks both.
    fleet.ask(3, demand(&[1])).unwrap_err();
    let (_, refused) = fleet.ask(4, batch_class(&[1])).unwrap_err();
    assert_eq!(refused.violations[0].before, 2);
}

#[test]
fn a_head_start_puts_a_class_before_another() {
    let (mut fleet, running) = taken(concurrency(1, 1));
    for session in 1..=3 {
        fleet.ask(session, demand(&[1])).unwrap_err();
    }
    fleet.pass(20 * SECOND);
    let urgent = fleet.enter_aged(4, demand(&[1]), 30 * SECOND);
    fleet.look(4);
    assert_eq!(fleet.end_all(&running), [4]);
    assert_eq!(fleet.settle_down()[0].waiter, urgent);
}

/// Of its own session as of others, whether the batch says what waits or not.
#[test]
fn a_try_passes_no_head_of_any_session() {
    for rule in [concurrency(1, 10), sliding(1, 10, MINUTE, 60), token_bucket(1, 10, MINUTE, 10)] {
        let mut fleet = Fleet::new(vec![vec![rule]]);
        let running = fleet.ask(9, demand(&[8])).unwrap();
        fleet.ask(1, demand(&[5])).unwrap_err();
        fleet.pass(MS);
        for session in [1, 2, 9] {
            assert!(!fleet.try_by(session, demand(&[1])), "{session}");
            fleet.world.send(2, &[Op::Waiting { bucket: 0, lines: [].into() }, reserve(&[1])]);
            let look = fleet.look_and(1, &[]);
            assert!(look.granted.is_empty());
        }
        fleet.end(&running, &[0]);
        assert!(!fleet.try_by(2, demand(&[6])));
        assert!(fleet.try_by(2, demand(&[5])), "both fit");
    }
}

/// The tolerance that avoids convoys is for waiters: where a token bucket is fast, a try would pass
/// heads all the time.
#[test]
fn a_try_passes_no_head_of_a_fast_bucket() {
    let mut fleet = Fleet::new(vec![vec![token_bucket(1, 1_000, SECOND, 10)]]);
    fleet.ask(9, demand(&[10])).unwrap();
    fleet.pass(5 * MS);
    fleet.ask(1, demand(&[10])).unwrap_err();
    for session in [1, 2] {
        let mut fleet = fleet.clone();
        fleet.pass(MS);
        assert!(!fleet.try_by(session, demand(&[1])), "{session}");
    }
    // A waiter may.
    fleet.pass(MS);
    assert!(fleet.ask(2, demand(&[1])).is_ok());
}

#[test]
fn the_tolerance_is_for_fast_buckets_only() {
    let mut fleet = Fleet::new(vec![vec![token_bucket(1, 10, SECOND, 10)]]);
    fleet.ask(9, demand(&[10])).unwrap();
    fleet.pass(500 * MS);
    fleet.ask(1, demand(&[10])).unwrap_err();
    fleet.pass(MS);
    fleet.ask(2, demand(&[1])).unwrap_err();
}

/// What short calls give back, their session may use for waiters that came about when the oldest
/// one did: passing it on would take longer than the calls.
#[test]
fn a_session_keeps_what_its_short_calls_give_back() {
    let kept = |length: Micros, is_one_batch: bool| {
        let (mut fleet, mut call) = taken(concurrency(1, 1));
        let (oldest, _) = fleet.ask(1, demand(&[1])).unwrap_err();
        for kept in 0.. {
            fleet.enter(9, demand(&[1]));
            fleet.pass(length);
            let ends = [settle(&call.grant, &[1])];
            if !is_one_batch {
                fleet.world.send(9, &ends);
            }
            let look = fleet.look_and(9, if is_one_batch { &ends } else { &[] });
            let Some(next) = look.granted.first() else {
                assert_eq!(fleet.look(1).waiters(), [oldest]);
                return kept;
            };
            call = next.clone();
        }
        unreachable!()
    };
    // Those that came before two such calls were over, and 20 ms.
    assert_eq!(kept(5 * MS, true), 2);
    assert_eq!(kept(18 * MS, true), 2);
    assert_eq!(kept(20 * MS, true), 0, "long calls");
    assert_eq!(kept(5 * MS, false), 0, "the session gives back nothing");
}

/// Two demands on two buckets, whose batches took different times to arrive: each came first to one
/// of the buckets.
#[test]
fn two_demands_on_two_buckets_do_not_block_each_other() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)], vec![concurrency(2, 1)]]);
    let first = fleet.ask(9, on(&[0], &[1])).unwrap();
    fleet.enter(1, on(&[0, 1], &[1, 1]));
    fleet.look(1);
    fleet.pass(MS);
    fleet.enter(2, on(&[0, 1], &[1, 1]));
    fleet.look(2);
    let second = fleet.ask(8, on(&[1], &[1])).unwrap();
    fleet.end_all(&first);
    fleet.pass(10 * MS);
    for (session, latency) in [(1, 5 * MS), (2, 0)] {
        fleet.latency = latency;
        fleet.look(session);
    }
    fleet.end_all(&second);
    let granted = fleet.settle_down();
    assert_eq!(granted.iter().map(|granted| granted.waiter).collect::<Vec<_>>(), [2], "the oldest");
}

/// Two flows take turns in one bucket, and a demand that takes turns elsewhere came between them:
/// each is behind another one.
#[test]
fn flows_and_arrival_do_not_block_each_other() {
    for order in [[1, 2, 3], [3, 2, 1], [2, 1, 3], [2, 3, 1]] {
        let mut fleet = Fleet::new(vec![
            vec![concurrency(1, 1)],
            vec![concurrency(2, 10)],
            vec![concurrency(3, 10)],
        ]);
        let flow =
            |id, parent: u16| Reserve { flow: Flow { id, weight: 1 }, ..on(&[0, parent], &[1, 1]) };
        // The first flow has been served.
        let mut running = fleet.ask(1, flow(7, 1)).unwrap();
        let (next, _) = fleet.ask(1, flow(7, 1)).unwrap_err();
        fleet.end_all(&running);
        running = fleet.look(1).granted.remove(0);
        assert_eq!(running.waiter, next);
        for (session, demand) in [(1, flow(7, 1)), (2, flow(0, 2)), (3, flow(8, 1))] {
            fleet.pass(MS);
            fleet.ask(session, demand).unwrap_err();
        }
        fleet.end_all(&running);
        for round in 0..3 {
            let looks: Vec<_> = (0..2)
                .flat_map(|_| order)
                .flat_map(|session| fleet.look(session).granted)
                .collect();
            assert_eq!(looks.len(), 1, "round {round} of {order:?}");
            fleet.end_all(&looks[0]);
        }
    }
}

/// What a class that may use less waits for is not ahead of one that may use more, though others of
/// its session wait too.
#[test]
fn a_class_is_behind_those_of_its_batch_that_may_use_as_much() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10), concurrency(2, 1)]]);
    let large = fleet.ask(9, demand(&[8, 0])).unwrap();
    fleet.ask(9, demand(&[2, 1])).unwrap();
    fleet.enter(1, batch_class(&[8, 0]));
    fleet.pass(MS);
    fleet.enter(1, demand(&[3, 1]));
    assert_eq!(fleet.look(1).granted.len(), 0);
    fleet.end_all(&large);
    // 2 in use, 8 of the other class, 3 that keep their place.
    fleet.enter(1, demand(&[5, 0]));
    assert_eq!(fleet.clone().look(1).granted.len(), 1);
    fleet.enter_aged(1, demand(&[1, 0]), 0);
    assert_eq!(fleet.look(1).granted.len(), 1);
}

/// Grants of 20 rounds, in which calls of streams on A alone and on B alone end in turns.
fn rounds_until_both(first: &[u16], second: &[u16]) -> usize {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)], vec![concurrency(2, 1)]]);
    let ones = |buckets: &[u16]| on(buckets, &vec![1; buckets.len()]);
    let mut running = vec![fleet.ask(1, ones(first)).unwrap(), fleet.ask(2, ones(second)).unwrap()];
    fleet.pass(MS);
    let (both, _) = fleet.ask(3, ones(&[0, 1])).unwrap_err();
    for round in 0..20 {
        for (session, buckets) in [(1, first), (2, second)] {
            fleet.pass(MS);
            fleet.enter(session, ones(buckets));
            fleet.look(session);
            // Never both at once.
            if let Some(index) = running.iter().position(|running| running.grant.session == session)
            {
                let ended = running.swap_remove(index);
                fleet.end_all(&ended);
            }
            for looks in [3, 1, 2] {
                let look = fleet.look(looks);
                if look.waiters().contains(&both) {
                    return round;
                }
                running.extend(look.granted);
            }
        }
    }
    usize::MAX
}

#[test]
fn two_streams_on_one_bucket_each_do_not_starve_a_demand_on_both() {
    assert!(rounds_until_both(&[0], &[1]) <= 1);
    assert!(rounds_until_both(&[1], &[0]) <= 1);
}

#[test]
fn a_head_that_its_own_bucket_holds_back_for_hours_does_not_block_a_parent() {
    for parent in [concurrency(2, 10), sliding(2, 10, MINUTE, 60), token_bucket(2, 10, MINUTE, 10)]
    {
        let mut fleet =
            Fleet::new(vec![vec![fixed(1, 10, DAY, START % DAY)], vec![parent.clone()]]);
        fleet.ask(9, on(&[0, 1], &[10, 8])).unwrap();
        let (_, refused) = fleet.ask(1, on(&[0, 1], &[1, 5])).unwrap_err();
        let holds: Vec<_> = refused.violations.iter().map(|violation| violation.holds).collect();
        assert_eq!(holds, [true, false], "it is a head where it waits longest");
        fleet.pass(MS);
        assert!(fleet.ask(2, on(&[1], &[2])).is_ok(), "{parent:?}");
        // Nor does it when the day is nearly over and another session asks.
        fleet.pass(DAY - 10 * MINUTE);
        fleet.look(1);
        assert!(fleet.try_by(2, on(&[1], &[1])) || parent == concurrency(2, 10), "{parent:?}");
    }
}

#[test]
fn a_head_that_is_held_back_elsewhere_blocks_a_parent_again_shortly_before() {
    let mut fleet =
        Fleet::new(vec![vec![fixed(1, 10, HOUR, START % HOUR)], vec![sliding(2, 10, MINUTE, 60)]]);
    fleet.ask(9, on(&[0], &[10])).unwrap();
    fleet.pass(HOUR - 30 * SECOND);
    fleet.ask(9, on(&[1], &[6])).unwrap();
    let (waiter, _) = fleet.ask(1, on(&[0, 1], &[1, 6])).unwrap_err();
    fleet.pass(MS);
    fleet.ask(2, on(&[1], &[4])).unwrap_err();
    // Its own bucket is free again, the parent not yet.
    fleet.pass(30 * SECOND);
    assert!(fleet.look(1).granted.is_empty());
    assert!(fleet.look(2).granted.is_empty());
    fleet.pass(31 * SECOND);
    assert_eq!(fleet.look(1).waiters(), [waiter]);
    assert_eq!(fleet.look(2).granted.len(), 1);
}

#[test]
fn a_session_that_died_waits_no_more() {
    let (mut fleet, running) = taken(concurrency(1, 1));
    fleet.ask(1, demand(&[1])).unwrap_err();
    fleet.ask(2, demand(&[1])).unwrap_err();
    assert_eq!(fleet.world.status(0).waiting, 2);
    assert_eq!(fleet.end_all(&running), [1]);
    fleet.pass(201 * MS);
    assert_eq!(fleet.world.status(0).waiting, 1, "a head that is late is not counted");
    let next = fleet.look(2).granted.remove(0);
    fleet.end_all(&next);
    // The end of its lease takes its heads along.
    for _ in 0..61 {
        fleet.pass(MINUTE);
        fleet.world.beat(2);
    }
    assert!(fleet.world.states[0].heads().is_empty());
}

/// A pause and a quota may refuse the same waiter: it waits once.
#[test]
fn a_waiter_is_counted_once_whatever_refuses_it() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1), sliding(2, 5, MINUTE, 60)]]);
    fleet.ask(9, demand(&[1, 5])).unwrap();
    fleet.world.one(9, Op::Pause { bucket: 0, lasts: SECOND });
    let (_, refused) = fleet.ask(1, demand(&[1, 1])).unwrap_err();
    assert_eq!(refused.violations.len(), 3);
    assert_eq!(fleet.world.status(0).waiting, 1);
    let (_, refused) = fleet.ask(1, demand(&[1, 1])).unwrap_err();
    assert!(
        refused.violations.iter().all(|violation| violation.rank == 0),
        "both are of one session"
    );
    assert_eq!(fleet.world.status(0).waiting, 2);
    let (_, refused) = fleet.ask(2, demand(&[1, 1])).unwrap_err();
    let before =
        |by| refused.violations.iter().find(|violation| violation.by == by).unwrap().before;
    // What the second quota holds back for a minute does not block the first.
    assert_eq!([RefusedBy::Rule(0), RefusedBy::Rule(1)].map(before), [0, 2]);
    assert_eq!(fleet.world.status(0).waiting, 3);
}

/// What happens on one quota of calls in flight.
#[derive(Clone, Debug)]
enum Act {
    Pass(Micros),
    Enter(u64, u64),
    Look(u64),
    End(usize),
    Cancel(usize),
    Try(u64, u64),
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let session = || 1..5u64;
    let one = prop_oneof![
        2 => (0..150 * MS).prop_map(Act::Pass),
        4 => (session(), 1..10u64).prop_map(|(session, cost)| Act::Enter(session, cost)),
        4 => session().prop_map(Act::Look),
        3 => any::<usize>().prop_map(Act::End),
        1 => any::<usize>().prop_map(Act::Cancel),
        1 => (session(), 1..10u64).prop_map(|(session, cost)| Act::Try(session, cost)),
    ];
    proptest::collection::vec(one, 1..120)
}

const LIMIT: u64 = 10;

/// A plain list of the calls in flight and of what waits, as far as the store was told.
struct Life {
    fleet: Fleet,
    running: Vec<Running>,
    /// Arrival, session and cost of the first waiter of each session, when it was last refused.
    heads: Vec<(Micros, u64, u64)>,
}

impl Life {
    fn room(&self) -> u64 {
        LIMIT - self.running.iter().map(|running| running.demand.costs[0]).sum::<u64>()
    }

    /// What heads of other sessions ask that go before a demand. All of them look whenever
    /// something ends, so none is late.
    fn ahead(&self, session: u64, arrived: (Micros, u64)) -> u64 {
        let others = self.heads.iter().filter(|(.., head)| *head > 0);
        others
            .filter(|(at, of, _)| *of != session && (*at, *of) < arrived)
            .map(|(.., cost)| cost)
            .sum()
    }

    /// A session looks, and then all that are hinted.
    fn look(&mut self, session: u64) -> Result<(), TestCaseError> {
        let mut hinted = vec![session];
        while let Some(session) = hinted.pop() {
            hinted.extend(self.look_once(session)?);
        }
        Ok(())
    }

    /// Returns what is hinted.
    fn look_once(&mut self, session: u64) -> Result<Vec<u64>, TestCaseError> {
        let waiting = self.fleet.sessions.get(&session).cloned().unwrap_or_default();
        let (mut room, mut own) = (self.room(), 0);
        let look = self.fleet.look(session);
        for waiting in &waiting {
            let (cost, arrived) = (waiting.demand.costs[0], (waiting.arrived, session));
            let ahead = own + self.ahead(session, arrived);
            let is_granted = look.waiters().contains(&waiting.waiter);
            if is_granted {
                prop_assert!(ahead + cost <= room, "{cost} of {room} granted, {ahead} ahead");
                room -= cost;
            } else {
                own += cost;
            }
        }
        if let Some(first) = waiting.first().filter(|first| !look.waiters().contains(&first.waiter))
        {
            let others: u64 = self
                .fleet
                .sessions
                .iter()
                .filter(|(of, _)| **of != session)
                .flat_map(|(of, all)| {
                    all.iter().map(move |waiting| (waiting.arrived, *of, waiting))
                })
                .filter(|(at, of, _)| (*at, *of) < (first.arrived, session))
                .map(|(.., waiting)| waiting.demand.costs[0])
                .sum();
            prop_assert!(
                others + first.demand.costs[0] > self.room(),
                "the first fits beside all older ones"
            );
        }
        self.heads.retain(|(_, of, _)| *of != session);
        if let Some(first) = self.fleet.sessions[&session].first() {
            self.heads.push((first.arrived, session, first.demand.costs[0]));
        }
        self.running.extend(look.granted);
        Ok(look.woken)
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match *act {
            Act::Pass(time) => self.fleet.pass(time),
            Act::Enter(session, cost) => {
                // One at a time: those behind a head are only known by their number and sum.
                if self.fleet.sessions.get(&session).is_none_or(Vec::is_empty) {
                    self.fleet.enter(session, demand(&[cost]));
                    self.look(session)?;
                }
            }
            Act::Look(session) => self.look(session)?,
            Act::End(which) => {
                if let Some(running) = super::moves::choose(&mut self.running, which) {
                    let hinted = self.fleet.end_all(&running);
                    self.hints_the_front(running.grant.session, &hinted)?;
                    hinted.into_iter().try_for_each(|session| self.look(session))?;
                    // The one that settled is not hinted.
                    self.look(running.grant.session)?;
                }
            }
            Act::Cancel(which) => {
                let all = self
                    .fleet
                    .sessions
                    .iter()
                    .flat_map(|(of, all)| all.iter().map(|one| (*of, one.waiter)));
                if let Some((session, waiter)) = super::moves::choose(&mut all.collect(), which) {
                    self.fleet.cancel(session, waiter);
                    self.look(session)?;
                }
            }
            Act::Try(session, cost) => {
                let (room, now) = (self.room(), self.fleet.now());
                let ahead: u64 = self.heads.iter().map(|(.., cost)| cost).sum();
                let (granted, hinted) = self.fleet.try_and_hint(session, demand(&[cost]));
                prop_assert_eq!(granted, cost + ahead <= room);
                if granted {
                    let at = [now].as_slice().into();
                    let (on, costs) = ([0].as_slice().into(), [cost].as_slice().into());
                    let grant = Grant { session, on, at, costs, probe: false };
                    let demand = demand(&[cost]);
                    self.running.push(Running { waiter: 0, demand, grant, since: now });
                }
                hinted.into_iter().try_for_each(|session| self.look(session))?;
            }
        }
        Ok(())
    }

    /// Exactly the heads at the front that fit together, but for those of the session that settled.
    /// All that were hinted before have looked since.
    fn hints_the_front(&self, settled: u64, hinted: &[u64]) -> Result<(), TestCaseError> {
        let mut heads = self.heads.clone();
        heads.sort_unstable();
        let (mut ahead, mut front) = (0, Vec::new());
        for (_, session, cost) in heads {
            ahead += cost;
            if ahead > self.room() {
                break;
            }
            front.push(session);
        }
        front.retain(|session| *session != settled);
        prop_assert_eq!(hinted, front);
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn one_order_over_all_sessions(acts in acts()) {
        let fleet = Fleet::new(vec![vec![concurrency(1, LIMIT)]]);
        let mut life = Life { fleet, running: Vec::new(), heads: Vec::new() };
        for act in &acts {
            life.apply(act)?;
        }
    }
}

#[test]
fn a_head_that_fits_and_is_not_sent_is_passed_over() {
    let mut world = World::new([concurrency(1, 1)]);
    let call = world.take(&[1]);
    let waits = Reserve { mode: Mode::Wait, waiter: 5, age: MS, ..demand(&[1]) };
    let heads = |lines: &[Line]| Op::Waiting { bucket: 0, lines: lines.into() };
    world.send(SESSION, &[Op::Reserve(waits), heads(&[])]);
    let (flow, space) = (Flow::default(), World::id(0));
    let (rule, headroom, waiter, age, last, part) = (0, 0, 5, MS, MS, 0.0);
    let (cost, count, sum) = (1, 1, 1);
    let line = Line { rule, headroom, flow, space, waiter, age, cost, part, count, sum, last };
    // Its session frees what it waits for, and says that it still waits.
    world.send(SESSION, &[settle(&call, &[1]), heads(&[line])]);
    let other = Reserve { mode: Mode::Try, ..demand(&[1]) };
    for (passed, passes) in [(0, false), (LATE, false), (1, true)] {
        world.pass(passed);
        let verdict = world.one(SESSION + 1, Op::Reserve(other.clone()));
        assert_eq!(is_granted(&verdict), passes, "after {passed}");
        if passed == 0 {
            world.send(SESSION, &[heads(&[line])]);
        }
    }
}

/// A large demand holds up small ones for an hour; its session dies.
#[test]
fn a_session_that_does_not_come_when_it_is_hinted_is_passed_over() {
    let mut world = World::new([sliding(1, 100, HOUR, 60)]);
    world.take(&[60]);
    let (one, other) = (SESSION + 1, SESSION + 2);
    let heads = |lines: &[Line]| Op::Waiting { bucket: 0, lines: lines.into() };
    let waits = |waiter, cost| Reserve { mode: Mode::Wait, waiter, ..demand(&[cost]) };
    let large = [Op::Reserve(waits(5, 90)), heads(&[])];
    world.send(one, &large);
    let small = Op::Reserve(waits(6, 10));
    let looks = |world: &mut World, passed| {
        world.pass(passed);
        let Sent { verdicts, wakes, .. } = world.send(other, &[small.clone(), heads(&[])]);
        let hinted: Vec<u64> = wakes.iter().map(|wake| wake.session).collect();
        (is_granted(&verdicts[0]), hinted)
    };
    assert_eq!(looks(&mut world, 300 * MS), (false, vec![]), "it was heard of just now");
    assert_eq!(looks(&mut world, 1), (false, vec![one]));
    world.send(one, &large);
    assert_eq!(looks(&mut world, 300 * MS), (false, vec![]), "it is alive");
    assert_eq!(looks(&mut world, 1), (false, vec![one]));
    assert_eq!(looks(&mut world, LATE), (false, vec![]), "it is expected");
    assert_eq!(looks(&mut world, 1), (true, vec![]));
}
