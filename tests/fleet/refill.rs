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
    // A machine that is busy with other things makes single runs slower, never faster.
    for attempt in 1..=3 {
        workers[1].update(&limits(1_000));
        let equal = throughput(&workers);
        workers[1].update(&limits(1_001));
        let unequal = throughput(&workers);
        let told =
            format!("{equal} calls a second with equal limits, {unequal} with 1000 and 1001");
        eprintln!("{told}");
        if equal > 80.0 && unequal > 0.95 * equal {
            return;
        }
        assert!(attempt < 3, "about 100 are possible: {told}");
    }
}
