//! Scenario 42: processes whose limits differ.

use crate::{
    fleet::Fleet,
    harness::{Ask, Runs, Worker, ms, now, secs},
};

fn limits(limit: u64) -> String {
    format!("bucket a token_bucket tokens {limit} 1000")
}

/// The calls per second of two saturated workers: reserve 100, use 10.
fn throughput(workers: &[Worker; 2]) -> f64 {
    let from = now() + 1_500_000;
    let until = Some(from + 6_000_000);
    // Long before the time that counts: the burst is gone by then.
    let runs = Runs { tasks: 8, hold: ms(20), used: Some(10), from, until, ..Runs::default() };
    let warm_up = Runs { from: 0, until: Some(from), ..runs };
    let ask = Ask::of("a").tokens(100);
    let runs = workers.each_ref().map(|worker| (worker.run(&ask, warm_up), worker.run(&ask, runs)));
    let ran = runs.map(|(_, run)| run.ran(secs(12)));
    eprintln!("{ran:?}");
    ran.iter().map(|ran| ran.grants).sum::<usize>() as f64 / 6.0
}

#[test]
fn s42_limits_that_differ_by_one_cost_no_throughput() {
    let fleet = Fleet::start(&limits(1_000));
    let workers: [Worker; 2] = fleet.workers();
    let equal = throughput(&workers);
    workers[1].update(&limits(1_001));
    let unequal = throughput(&workers);
    eprintln!("calls per second: {equal} with equal limits, {unequal} with 1000 and 1001");
    assert!(equal > 80.0, "not saturated: {equal} calls a second of about 100");
    assert!(unequal > 0.95 * equal, "{unequal} calls a second, {equal} with equal limits");
}
