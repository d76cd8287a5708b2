//! A limit that changes while its bucket is in use, and processes that do not agree on it.

use proptest::prelude::*;

use super::{
    moves::{Move, Open, cases, choose, moves},
    oracle::{Drain, Log},
    *,
};

/// Scenario 10, in units where whole tokens would hide something.
mod scenario_10 {
    use super::*;

    #[test]
    fn raising_gives_the_difference_at_once() {
        let mut world = World::new([token_bucket(1, 10, MINUTE, 10)]);
        world.take(&[10]);
        world.pass(30 * SECOND);
        world.rules = vec![vec![token_bucket(1, 1_000, MINUTE, 1_000)]];
        assert_eq!(world.left(0), 995 * MINUTE as i64);
        world.take(&[995]);
        world.refused(&[1]);
    }

    #[test]
    fn lowering_makes_past_use_no_debt() {
        let mut world = World::new([token_bucket(1, 1_000, MINUTE, 1_000)]);
        world.take(&[1_000]);
        world.pass(30 * SECOND);
        world.rules = vec![vec![token_bucket(1, 10, MINUTE, 10)]];
        world.beat(SESSION);
        assert_eq!(world.left(0), 0);
        world.pass(6 * SECOND - 1);
        world.refused(&[1]);
        world.pass(1);
        world.take(&[1]);
        world.refused(&[1]);
    }

    #[test]
    fn a_debt_stays_a_debt_and_is_not_forgotten() {
        let mut world = World::new([token_bucket(1, 25, SECOND, 25)]);
        let grant = world.take(&[25]);
        world.settle(&grant, &[125]);
        assert_eq!(world.left(0), -100 * SECOND as i64);

        world.rules = vec![vec![token_bucket(1, 1, SECOND, 1)]];
        world.beat(SESSION);
        world.pass(2_250 * MS);
        assert_eq!(world.left(0), -97_750 * MS as i64);
        world.beat(SESSION);
        assert!(world.seen(0).expires >= world.wall + 97_750 * MS);
    }
}

/// Two processes that disagree, for as long as a deploy takes: what both together get is what the
/// larger limit alone allows.
fn admitted_by_turns(of: [Rule; 2], step: Micros, end: Micros) -> u64 {
    let mut world = World::new([of[0].clone()]);
    let mut admitted = 0;
    while world.wall < START + end {
        for (session, rule) in of.iter().enumerate() {
            world.rules = vec![vec![rule.clone()]];
            while world.reserve_by(session as u64 + 1, &[1]).is_ok() {
                admitted += 1;
            }
        }
        world.pass(step);
    }
    admitted
}

#[test]
fn processes_that_disagree_on_the_limit_do_not_forget_what_was_used() {
    let of = [token_bucket(1, 1_000, MINUTE, 1_000), token_bucket(1, 10, MINUTE, 10)];
    let admitted = admitted_by_turns(of, SECOND, 2 * MINUTE);
    assert!((2_900..=3_000).contains(&admitted), "{admitted}");
}

#[test]
fn processes_that_disagree_on_the_burst_do_not_forget_what_was_used() {
    let of = [token_bucket(1, 600, MINUTE, 600), token_bucket(1, 600, MINUTE, 10)];
    let admitted = admitted_by_turns(of, SECOND, 2 * MINUTE);
    assert!((1_780..=1_800).contains(&admitted), "{admitted}");
}

#[test]
fn a_limit_lowered_for_a_while_and_raised_again_is_all_there() {
    let mut world = World::new([token_bucket(1, 1_000, MINUTE, 1_000)]);
    world.take(&[1_000]);
    world.rules = vec![vec![token_bucket(1, 500, MINUTE, 500)]];
    world.beat(SESSION);
    world.pass(MINUTE);
    world.take(&[500]);
    world.rules = vec![vec![token_bucket(1, 1_000, MINUTE, 1_000)]];
    assert_eq!(world.available(0), 500);
}

/// A bucket with a single slot, in which everything is editable or nothing is.
fn of_one_slot(limit: u64) -> Rule {
    let shape = TokenBucket::new(1, MINUTE, 100, 400, 4 * MINUTE, 1);
    Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) }
}

/// A deliberate change: a changed limit closed the ring, so no earlier charge could be refunded.
/// Two processes whose limits differ by one lost nearly every refund.
#[test]
fn charges_from_before_a_change_stay_editable() {
    for limit in [99, 101, 200] {
        let mut world = World::new([of_one_slot(100)]);
        let first = world.take(&[80]);
        world.rules = vec![vec![of_one_slot(limit)]];
        world.settle(&first, &[2]);
        assert_eq!(world.available(0), 98, "{limit}");
        for other in [100, limit, 100] {
            world.rules = vec![vec![of_one_slot(other)]];
            world.beat(SESSION);
        }
        world.settle(&Grant { costs: [2].as_slice().into(), ..first }, &[0]);
        assert_eq!(world.available(0), 100, "{limit}");
    }
}

/// The bucket was full again before the change, with the refund or without.
#[test]
fn a_refund_from_before_a_change_gives_out_nothing_twice() {
    let mut world = World::new([of_one_slot(100)]);
    world.wall = START / HOUR * HOUR;
    let first = world.take(&[80]);
    world.pass(48 * SECOND);
    world.take(&[100]);
    world.rules = vec![vec![of_one_slot(101)]];
    world.settle(&first, &[2]);
    assert_eq!(world.left(0), 0);
}

fn ticking(tick: Micros, rule: Rule, window: Micros) -> Rule {
    let burst = rule.capacity(0);
    let shape = TokenBucket::new(tick, window, burst, 4 * burst, 4 * window, 96);
    Rule { window: Window::TokenBucket(shape), ..rule }
}

#[test]
fn processes_that_disagree_on_the_tick_let_no_time_count_twice() {
    let fine = token_bucket(1, 600, MINUTE, 600);
    let coarse = ticking(SECOND, fine.clone(), MINUTE);
    let mut world = World::new([fine.clone()]);
    world.wall = START / SECOND * SECOND;
    world.take(&[600]);
    for _ in 0..30 {
        world.pass(950 * MS);
        world.rules = vec![vec![coarse.clone()]];
        world.beat(SESSION);
        world.pass(50 * MS);
        world.rules = vec![vec![fine.clone()]];
        world.beat(SESSION);
    }
    assert_eq!(world.available(0), 300);
}

#[test]
fn a_finer_tick_takes_over_the_time_that_was_not_drained_yet() {
    let rule = token_bucket(1, 60, MINUTE, 60);
    let mut world = World::new([ticking(SECOND, rule.clone(), MINUTE)]);
    world.wall = START / SECOND * SECOND;
    world.take(&[60]);
    world.pass(900 * MS);
    world.beat(SESSION);
    world.rules = vec![vec![rule]];
    world.beat(SESSION);
    world.pass(100 * MS);
    world.take(&[1]);
}

#[test]
fn a_quota_that_others_know_is_kept_for_as_long_as_it_means_something() {
    let both = vec![token_bucket(1, 10, MINUTE, 10), sliding(2, 10, HOUR, 60)];
    let mut world = World::new(both.clone());
    world.take(&[10, 10]);
    world.rules = vec![vec![token_bucket(1, 10, MINUTE, 10)]];
    for _ in 0..59 {
        world.pass(MINUTE);
        world.beat(2);
    }
    world.rules = vec![both.clone()];
    world.refused(&[0, 1]);

    world.rules = vec![vec![token_bucket(1, 10, MINUTE, 10)]];
    for _ in 0..75 {
        world.pass(MINUTE);
        world.beat(2);
    }
    assert_eq!(world.states[0].all_quotas(), 1);
}

#[test]
fn the_order_of_the_quotas_may_differ_between_processes() {
    let (a, b) = (token_bucket(1, 10, MINUTE, 10), sliding(2, 20, MINUTE, 60));
    let mut world = World::new([a.clone(), b.clone()]);
    world.take(&[3, 5]);
    world.rules = vec![vec![b.clone(), a.clone()]];
    assert_eq!((world.available(0), world.available(1)), (15, 7));
    world.take(&[6, 1]);
    world.rules = vec![vec![b]];
    world.take(&[1]);
    assert_eq!(world.available(0), 8);
    world.rules = vec![vec![a]];
    assert_eq!(world.available(0), 6);
}

#[test]
fn past_use_that_is_no_debt_drains_once_where_ticks_change() {
    let rule = |limit, burst, tick| {
        let shape = TokenBucket::new(tick, MINUTE, burst, 4 * burst, 4 * MINUTE, 20);
        Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) }
    };
    let high = rule(180, 180, 1);
    let mut world = World::new([high.clone()]);
    world.take(&[180]);
    for _ in 0..40 {
        for low in [rule(1, 6, 1), rule(1, 4, SECOND)] {
            world.pass(450 * MS);
            world.rules = vec![vec![low]];
            world.available(0);
            world.beat(SESSION);
        }
    }
    world.rules = vec![vec![high]];
    // 36 s at 3 a second, and a tick of a second.
    assert!(world.available(0) <= 108 + 3, "{}", world.available(0));
}

/// The limit, burst and tick that a process believes in.
fn beliefs() -> impl Strategy<Value = Vec<(u64, u64, Micros)>> {
    let tick = prop_oneof![4 => Just(1), 2 => Just(1_000), 1 => Just(SECOND)];
    proptest::collection::vec((1..200u64, 1..200u64, tick), 2..4)
}

proptest! {
    #![proptest_config(cases(192))]

    /// What all get together is no more than the largest limit and burst allow, with what the calls
    /// really used.
    #[test]
    fn however_limits_change_nothing_is_given_out_twice(
        beliefs in beliefs(),
        moves in moves(MINUTE),
        turns in proptest::collection::vec(any::<proptest::sample::Index>(), 1..20),
    ) {
        let rules = beliefs.iter().map(|&(limit, burst, tick)| {
            let shape = TokenBucket::new(tick, MINUTE, burst, 4 * burst, 4 * MINUTE, 20);
            Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) }
        });
        let rules: Vec<_> = rules.collect();
        let burst = rules.iter().map(|rule| rule.capacity(0)).max().unwrap();
        let rate = rules.iter().map(|rule| rule.limit).max().unwrap();
        // Within a tick, time is that of its beginning.
        let blur = rate * beliefs.iter().map(|belief| belief.2).max().unwrap();
        let drain = Drain { rate, units: MINUTE, most: u64::MAX };

        let mut world = World::new([rules[0].clone()]);
        let (mut log, mut open) = (Log::default(), Vec::new());
        for (step, turn) in moves.iter().zip(turns.iter().cycle()) {
            let rule = turn.get(&rules);
            world.rules = vec![vec![rule.clone()]];
            match *step {
                Move::Pass(time) => world.pass(time),
                Move::Reserve(parts) => {
                    let cost = parts * rule.capacity(0) / 100;
                    if let Ok(grant) = world.reserve(&[cost]) {
                        open.push(Open { number: log.charge(grant.at[0], cost), grant });
                        let used = log.replay(drain, world.wall);
                        prop_assert!(used <= burst * MINUTE + blur, "{used} of {}", burst * MINUTE);
                    }
                }
                Move::Settle(which, parts) | Move::Adjust(which, parts) => {
                    if let Some(open) = choose(&mut open, which) {
                        let actual = parts.min(100) * open.grant.costs[0] / 100;
                        world.settle(&open.grant, &[actual]);
                        log.amend(open.number, actual);
                    }
                }
            }
        }
    }
}
