//! Processes whose limits differ by one, as in a rolling deploy (scenario 42).

use super::{
    fleet::{Fleet, Running},
    oracle::{Drain, Log},
    *,
};

const RESERVE: u64 = 100;
const USE: u64 = 10;

/// Tokens that calls of two sessions used in so long, each believing in a limit per second, and the
/// log of them. A call takes 50 ms; both sessions always have waiters.
fn saturated(limits: [u64; 2], lasts: Micros) -> (u64, Log, Micros) {
    let rule = |limit| token_bucket(1, limit, SECOND, limit);
    let mut fleet = Fleet::new(vec![vec![rule(limits[0])]]);
    let (mut running, mut log): (Vec<(Running, usize)>, _) = (Vec::new(), Log::default());
    let mut used = 0;
    while fleet.now() < START + lasts {
        for (session, limit) in [(1, limits[0]), (2, limits[1])] {
            fleet.world.rules = vec![vec![rule(limit)]];
            let is_over = |(one, _): &(Running, usize), now| {
                one.grant.session == session && now >= one.since + 50 * MS
            };
            let now = fleet.now();
            let (over, others): (Vec<_>, Vec<_>) =
                running.into_iter().partition(|one| is_over(one, now));
            running = others;
            let settles: Vec<_> = over.iter().map(|(one, _)| settle(&one.grant, &[USE])).collect();
            over.iter().for_each(|(_, number)| log.amend(*number, USE));
            used += USE * over.len() as u64;
            let waiting = fleet.sessions.entry(session).or_default().len();
            for _ in waiting..8 {
                fleet.enter(session, demand(&[RESERVE]));
            }
            for granted in fleet.look_and(session, &settles).granted {
                let number = log.charge(now, RESERVE);
                running.push((granted, number));
            }
        }
        fleet.pass(MS);
    }
    let end = fleet.now();
    running.iter().for_each(|(_, number)| log.amend(*number, USE));
    (used, log, end)
}

#[test]
fn scenario_42_limits_that_differ_by_one_cost_little() {
    let (equal, ..) = saturated([1_000, 1_000], 10 * SECOND);
    for limits in [[1_000, 1_001], [1_001, 1_000], [1_000, 999]] {
        let (used, log, end) = saturated(limits, 10 * SECOND);
        assert!(used * 100 >= equal * 95, "{used} of {equal} with {limits:?}");
        // With what the calls really used, no more than the larger limit allows at any time.
        let rate = limits.into_iter().max().unwrap();
        let drain = Drain { rate, units: SECOND, most: u64::MAX };
        let mut at = START;
        while at <= end {
            assert!(log.replay(drain, at) <= rate * SECOND, "{limits:?}");
            at += 10 * MS;
        }
    }
    // The limit itself is used up: a burst, and then its rate.
    assert!(equal >= 9 * 1_000, "{equal} in 10 s");
}
