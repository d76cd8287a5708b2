//! A provider's refusal: a pause, a probe, and what follows it.

use std::collections::BTreeMap;

use super::{
    fleet::{Fleet, Running, on},
    *,
};

fn refusal(quota: Option<u64>, at: Micros, lasts: Micros) -> Op {
    Op::Refused { bucket: 0, quota, at, asked: lasts, lasts, longest: MINUTE }
}

/// Sessions that look when their refusals said so, and when they are hinted.
struct Clockwork {
    fleet: Fleet,
    due: BTreeMap<u64, Micros>,
    looks: usize,
}

impl Clockwork {
    /// So many sessions with so many waiters each, and a bucket that is paused until 2 s from now.
    fn paused(rules: Vec<Rule>, quota: Option<u64>, sessions: u64, each: usize) -> Self {
        let costs = vec![1; rules.len()];
        let mut fleet = Fleet::new(vec![rules]);
        let running = fleet.ask(9, demand(&costs)).unwrap();
        fleet.pass(MS);
        fleet.end_all(&running);
        fleet.world.one(9, refusal(quota, running.grant.at[0], 2 * SECOND));
        let mut this = Self { fleet, due: BTreeMap::new(), looks: 0 };
        for _ in 0..each {
            for session in 1..=sessions {
                this.fleet.pass(10);
                this.fleet.enter(session, demand(&costs));
            }
        }
        (1..=sessions).for_each(|session| assert!(this.look(session).is_empty()));
        this
    }

    fn look(&mut self, session: u64) -> Vec<Running> {
        self.looks += 1;
        let now = self.fleet.now();
        let look = self.fleet.look(session);
        let wait_of = |refused: &Refused| {
            let waits = refused.violations.iter().map(|violation| {
                violation.wait.unwrap_or(500 * MS * (1 + violation.rank)).min(30 * SECOND)
            });
            waits.max().unwrap()
        };
        match look.refused.first() {
            Some((_, refused)) => self.due.insert(session, now + wait_of(refused)),
            None => self.due.remove(&session),
        };
        self.hinted(look.woken);
        look.granted
    }

    fn hinted(&mut self, sessions: Vec<u64>) {
        for session in sessions {
            self.due.insert(session, 0);
        }
    }

    /// Until then, what is granted, and when.
    fn run_until(&mut self, end: Micros) -> Vec<Running> {
        let mut granted = Vec::new();
        while self.fleet.now() < end {
            let now = self.fleet.now();
            let due: Vec<_> = self
                .due
                .iter()
                .filter(|(_, at)| **at <= now)
                .map(|(session, _)| *session)
                .collect();
            due.into_iter().for_each(|session| granted.extend(self.look(session)));
            self.fleet.pass(MS);
        }
        granted
    }

    fn send(&mut self, op: Op) {
        let sent = self.fleet.world.send(9, &[op]);
        self.hinted(sent.wakes.iter().map(|wake| wake.session).collect());
    }
}

fn roomy() -> Vec<Rule> {
    vec![concurrency(1, 1_000), sliding(2, 10_000, MINUTE, 60)]
}

#[test]
fn scenario_39_a_probe_then_another_and_then_the_rest_within_a_second() {
    for quota in [None, Some(2)] {
        let mut fleet = Clockwork::paused(roomy(), quota, 4, 25);
        let pause_ends = START + MS + 2 * SECOND;
        assert!(fleet.run_until(pause_ends).is_empty());
        let probes = fleet.run_until(pause_ends + 50 * MS);
        let of = |probes: &[Running]| {
            probes.iter().map(|probe| (probe.waiter, probe.grant.probe)).collect::<Vec<_>>()
        };
        // The first waiter has taken the number 2.
        assert_eq!(of(&probes), [(2, true)], "the oldest");
        assert!(probes[0].since - pause_ends < 5 * MS);

        // Refused again: twice as long.
        fleet.send(refusal(quota, probes[0].grant.at[0], 2 * SECOND));
        fleet.fleet.end_all(&probes[0]);
        let again = pause_ends + 50 * MS + 4 * SECOND;
        assert!(fleet.run_until(again).is_empty());
        let probes = fleet.run_until(again + 500 * MS);
        assert_eq!(of(&probes), [(3, true)]);
        assert!(probes[0].since - again < 5 * MS);

        // Answered well.
        let answered = again + 500 * MS;
        fleet.send(Op::Answered { bucket: 0, at: probes[0].grant.at[0] });
        let rest = fleet.run_until(answered + SECOND + 100 * MS);
        assert_eq!(rest.len(), 98);
        assert!(rest.iter().all(|running| !running.grant.probe));
        let within = |from, to| {
            rest.iter().filter(|one| (from..to).contains(&(one.since - answered))).count()
        };
        for tenth in 0..10 {
            let count = within(tenth * 100 * MS, (tenth + 1) * 100 * MS);
            assert!((6..=14).contains(&count), "{count} in the {tenth}. tenth of a second");
        }
        assert!((0..1_000).all(|ms| within(ms * MS, ms * MS + MS) <= 2), "never at once");
        // First come, first served, within what a look takes.
        assert!(rest.iter().map(|one| one.waiter).is_sorted_by(|one, next| *one <= next + 4));
        assert!(fleet.looks < 1_000, "{} looks", fleet.looks);
        assert!(fleet.fleet.world.take(&[1, 1]).at[0] > answered, "and then it is open");
    }
}

#[test]
fn a_probe_that_is_not_refused_within_a_second_was_answered() {
    let mut fleet = Clockwork::paused(roomy(), None, 4, 25);
    let pause_ends = START + MS + 2 * SECOND;
    let first = fleet.run_until(pause_ends + SECOND);
    assert_eq!(first.len(), 1);
    let rest = fleet.run_until(pause_ends + 2 * SECOND + 200 * MS);
    assert_eq!(rest.len(), 99);
}

#[test]
fn a_call_from_before_the_pause_is_no_answer_of_the_probe_and_no_further_refusal() {
    let mut fleet = Clockwork::paused(roomy(), None, 2, 5);
    let pause_ends = START + MS + 2 * SECOND;
    let probe = fleet.run_until(pause_ends + 10 * MS).remove(0);
    fleet.send(Op::Answered { bucket: 0, at: START });
    assert!(fleet.run_until(pause_ends + 20 * MS).is_empty());
    // A late refusal pauses again, no longer than the first.
    fleet.send(refusal(None, START, 2 * SECOND));
    assert_eq!(fleet.fleet.world.status(0).paused_until, fleet.fleet.now() + 2 * SECOND);
    assert!(probe.grant.probe);
}

#[test]
fn repeated_refusals_double_the_pause_up_to_the_longest() {
    let mut world = World::new(roomy());
    let mut at = world.take(&[1, 1]).at[0];
    for pause in [5, 10, 20, 40, 60, 60] {
        world.one(SESSION, refusal(None, at, 5 * SECOND));
        assert_eq!(world.status(0).paused_until, world.wall + pause * SECOND);
        // Those that were refused with it do not count.
        for _ in 0..3 {
            world.one(SESSION, refusal(None, at, 5 * SECOND));
        }
        assert_eq!(world.status(0).paused_until, world.wall + pause * SECOND);
        world.pass(pause * SECOND);
        let probe = world.take(&[1, 1]);
        assert!(probe.probe);
        assert_eq!(world.refused(&[1, 1])[0].wait, Some(SECOND));
        at = probe.at[0];
        world.pass(100 * MS);
    }
    // One that asks for more gets it.
    world.one(SESSION, refusal(None, at, HOUR));
    assert_eq!(world.status(0).paused_until, world.wall + HOUR);
    // And it is over with the first good answer.
    world.pass(HOUR);
    let probe = world.take(&[1, 1]);
    world.one(SESSION, Op::Answered { bucket: 0, at: probe.at[0] });
    let at = world.take(&[1, 1]).at[0];
    world.one(SESSION, refusal(None, at, 5 * SECOND));
    assert_eq!(world.status(0).paused_until, world.wall + 5 * SECOND);
}

/// A provider whose window is shorter than what is declared refuses some of those that follow a
/// probe, each time.
#[test]
fn a_refusal_after_a_good_probe_is_a_first_one_again() {
    let mut fleet = Clockwork::paused(roomy(), None, 2, 50);
    for answers in [true, false, true] {
        let pause_ends = fleet.fleet.world.status(0).paused_until;
        let probe = fleet.run_until(pause_ends + 100 * MS).remove(0);
        assert!(probe.grant.probe);
        match answers {
            true => fleet.send(Op::Answered { bucket: 0, at: probe.grant.at[0] }),
            false => drop(fleet.run_until(pause_ends + SECOND + 100 * MS)),
        }
        let now = fleet.fleet.now();
        let followers = fleet.run_until(now + 100 * MS);
        let follower = followers.last().expect("some follow");
        assert!(!follower.grant.probe);
        fleet.send(refusal(None, follower.grant.at[0], 2 * SECOND));
        let paused_until = fleet.fleet.world.status(0).paused_until;
        assert_eq!(paused_until, fleet.fleet.now() + 2 * SECOND, "answered: {answers}");
    }
}

#[test]
fn a_pause_of_the_user_ends_without_a_probe() {
    let mut world = World::new(roomy());
    world.one(SESSION, Op::Pause { bucket: 0, lasts: SECOND });
    world.pass(SECOND);
    for _ in 0..100 {
        assert!(!world.take(&[1, 1]).probe);
    }
    // It ends a provider's too.
    let at = world.take(&[1, 1]).at[0];
    world.one(SESSION, refusal(None, at, HOUR));
    world.one(SESSION, refusal(Some(2), at, HOUR));
    world.one(SESSION, Op::Pause { bucket: 0, lasts: 0 });
    for _ in 0..100 {
        assert!(!world.take(&[1, 1]).probe);
    }
}

#[test]
fn a_pause_of_a_quota_probes_for_those_that_need_it() {
    let mut world = World::new(roomy());
    let at = world.take(&[1, 1]).at[0];
    world.one(SESSION, refusal(Some(2), at, SECOND));
    assert!(!world.take(&[1, 0]).probe);
    world.pass(SECOND);
    assert!(!world.take(&[1, 0]).probe, "it needs nothing of it");
    let probe = world.take(&[1, 1]);
    assert!(probe.probe);
    assert!(!world.take(&[1, 0]).probe);
    let refusal = world.refused(&[1, 1]);
    assert_eq!(
        (refusal.len(), refusal[0].by, refusal[0].wait),
        (1, RefusedBy::Rule(1), Some(SECOND))
    );
    world.one(SESSION, Op::Answered { bucket: 0, at: probe.at[0] });
    world.take(&[1, 1]);
    world.take(&[1, 1]);
}

/// The head that should probe does not come.
#[test]
fn the_next_head_probes_if_the_first_is_late() {
    let mut fleet = Clockwork::paused(roomy(), None, 3, 1);
    fleet.due.remove(&1);
    let pause_ends = START + MS + 2 * SECOND;
    let granted = fleet.run_until(pause_ends + SECOND);
    assert_eq!(
        granted.iter().map(|one| (one.grant.session, one.grant.probe)).collect::<Vec<_>>(),
        [(2, true)]
    );
    assert!(granted[0].since - pause_ends < 300 * MS);
}

#[test]
fn a_pause_of_a_child_holds_back_no_other_child() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)], vec![concurrency(2, 10)]]);
    let running = fleet.ask(9, on(&[0, 1], &[1, 1])).unwrap();
    fleet.world.one(9, refusal(None, running.grant.at[0], SECOND));
    fleet.ask(1, on(&[0, 1], &[1, 1])).unwrap_err();
    for _ in 0..9 {
        assert!(!fleet.ask(2, on(&[1], &[1])).unwrap().grant.probe);
    }
}

/// What a session learns of a pause that is not to be waited out, it learns at once.
#[test]
fn a_wait_that_is_longer_than_the_pause_refuses_what_waits() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)]]);
    let running = fleet.ask(9, demand(&[1])).unwrap();
    fleet.ask(1, demand(&[1])).unwrap_err();
    let at = running.grant.at[0];
    let refused =
        Op::Refused { bucket: 0, quota: None, at, asked: DAY, lasts: MINUTE, longest: HOUR };
    let sent = fleet.world.send(9, &[refused]);
    assert_eq!(sent.wakes.iter().map(|wake| wake.session).collect::<Vec<_>>(), [1]);
    let look = fleet.look(1);
    assert_eq!(look.refused[0].1.violations[0].asked, Some(DAY));
    assert_eq!(fleet.world.status(0).waiting, 0, "it is no head any more");
}

/// More wait than there are milliseconds, and their sessions look every 10 ms only.
#[test]
fn what_sessions_miss_between_their_looks_is_caught_up_with() {
    let mut fleet = Clockwork::paused(roomy(), None, 2, 500);
    fleet.fleet.pass(2 * SECOND);
    let probe = [1, 2].map(|session| fleet.look(session)).concat().remove(0);
    fleet.send(Op::Answered { bucket: 0, at: probe.grant.at[0] });
    let mut most = 0;
    let mut granted = 0;
    for _ in 0..50 {
        fleet.fleet.pass(10 * MS);
        let now = [1, 2].map(|session| fleet.look(session).len()).iter().sum::<usize>();
        (most, granted) = (most.max(now), granted + now);
    }
    assert!((400..=550).contains(&granted), "{granted} of 999 in half a second");
    assert!(most <= 25, "{most} at once");
}

#[test]
fn a_pause_that_no_demand_came_to_probe_is_forgotten_in_the_end() {
    let mut world = World::new(roomy());
    let at = world.take(&[1, 1]).at[0];
    world.one(SESSION, refusal(None, at, SECOND));
    world.pass(SECOND);
    world.beat(SESSION);
    // As long as the pause was, and two seconds for a probe and what follows it.
    world.pass(3 * SECOND);
    assert!(!world.take(&[1, 1]).probe);
    assert!(!world.take(&[1, 1]).probe);
}
