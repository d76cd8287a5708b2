//! A limit that changes while its bucket is in use, and processes that do not agree on it.

use super::*;

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
        world.beat(LANE);
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
        world.beat(LANE);
        world.pass(2_250 * MS);
        assert_eq!(world.left(0), -97_750 * MS as i64);
        world.beat(LANE);
        assert!(world.states[0].expires >= world.wall + 97_750 * MS);
    }
}

/// Two processes that disagree, for as long as a deploy takes: what both together get is what the larger limit
/// alone allows.
fn admitted_by_turns(of: [Rule; 2], step: Micros, end: Micros) -> u64 {
    let mut world = World::new([of[0].clone()]);
    let mut admitted = 0;
    while world.wall < START + end {
        for (lane, rule) in of.iter().enumerate() {
            world.rules = vec![vec![rule.clone()]];
            while world.reserve_by(lane as u64 + 1, &[1]).is_ok() {
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
    world.beat(LANE);
    world.pass(MINUTE);
    world.take(&[500]);
    world.rules = vec![vec![token_bucket(1, 1_000, MINUTE, 1_000)]];
    assert_eq!(world.available(0), 500);
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
        world.beat(LANE);
        world.pass(50 * MS);
        world.rules = vec![vec![fine.clone()]];
        world.beat(LANE);
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
    world.beat(LANE);
    world.rules = vec![vec![rule]];
    world.beat(LANE);
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
    assert_eq!(world.states[0].quotas.len(), 1);
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
