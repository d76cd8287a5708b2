//! How soon a refund reaches another process, and how many grants a contended fleet makes.

use std::time::Instant;

use crate::{
    bed::{Bed, ran, start_time},
    fairness::index_of,
    harness::{Ask, Runs, now, secs},
    support::{Report, percentile},
};

const ROUNDS: usize = 200;

/// From the order to refund in one process to the grant in another.
pub(crate) fn wake(report: &mut Report) {
    let bed = Bed::new();
    let workers = bed.workers(2, "bucket a per_hour tokens 10");
    let (one, other) = (&workers[0], &workers[1]);
    let (start, mut times) = (Instant::now(), Vec::new());
    while times.len() < ROUNDS && start.elapsed() < secs(15) {
        let call = one.take(&Ask::of("a").tokens(10));
        let waiting = other.queue(&Ask::of("a").tokens(5));
        let refunded = now();
        call.settle(0);
        let started = waiting.granted(secs(5)).returned;
        times.push(started.saturating_sub(refunded) as f64 / 1e3);
        waiting.release();
    }
    let (rounds, p50) = (times.len(), percentile(&mut times, 0.5));
    let p99 = percentile(&mut times, 0.99);
    let remark =
        format!("below 2; p99 {p99:.1} ms of {rounds} rounds, pipes to the workers included");
    report.add("fleet.wake_p50_ms", p50, remark);
}

const PROCESSES: usize = 8;
const TASKS: usize = 32;
const SECONDS: u64 = 4;

/// Eight processes that reserve and settle at once, four times as many tasks as may be in flight.
pub(crate) fn grants(report: &mut Report) {
    let (contended, of_each, of_batch) = rate("bucket a concurrency 64");
    let (free, _, of_free_batch) = rate("bucket a per_minute requests 500000000");
    let index = index_of(&of_each, &[TASKS; PROCESSES]);
    let remark = format!(
        "at least 20000; 256 tasks on concurrency(64), {of_batch:.1} of each batch, Jain {index:.3}; \
         where all fit {free:.0}, {of_free_batch:.1} of each batch"
    );
    report.add("fleet.grants_per_s_8p", contended, remark);
}

/// How much of a paced quota of 100 calls a second four processes use that always have demands.
pub(crate) fn paced(report: &mut Report) {
    const LIMIT: u64 = 100;
    let bed = Bed::new();
    let workers = bed.workers(4, &format!("bucket a paced requests {LIMIT} 1000"));
    let from = start_time();
    let (counted_from, seconds) = (from + 500_000, 5);
    let until = counted_from + seconds * 1_000_000;
    let runs = Runs { tasks: 4, from, counted_from, until: Some(until), ..Runs::default() };
    let runs: Vec<_> = workers.iter().map(|worker| worker.run(&Ask::of("a"), runs)).collect();
    let grants: usize = ran(&runs, until).iter().map(|ran| ran.grants).sum();
    let used = grants as f64 / (LIMIT * seconds) as f64;
    let remark = "near 1; 16 tasks of 4 processes, 100 calls a second";
    report.add("fleet.paced_use", used, remark);
}

/// Grants a second, those of each process, and how many there are for each batch.
fn rate(limits: &str) -> (f64, Vec<usize>, f64) {
    let bed = Bed::new();
    let workers = bed.workers(PROCESSES, limits);
    let from = start_time();
    let (counted_from, before) = (from + 500_000, bed.commands());
    let until = counted_from + SECONDS * 1_000_000;
    let runs = Runs { tasks: TASKS, from, counted_from, until: Some(until), ..Runs::default() };
    let runs: Vec<_> = workers.iter().map(|worker| worker.run(&Ask::of("a"), runs)).collect();
    let grants: Vec<_> = ran(&runs, until).iter().map(|ran| ran.grants).collect();
    let rate = grants.iter().sum::<usize>() as f64 / SECONDS as f64;
    // Batches are also sent before the grants are counted.
    let seconds = (until - from) as f64 / 1e6;
    let batches = (bed.commands() - before) as f64;
    (rate, grants, rate * seconds / batches)
}
