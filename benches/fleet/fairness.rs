//! Who gets the capacity.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{runtime, task::JoinSet, time::sleep};
use tower_throttle::{Demand, Limiter, usage};

use crate::{
    bed::{Bed, ran, start_time},
    harness::{Ask, Runs, api, limits, ms, secs},
    support::{Report, median},
};

const PROCESSES: usize = 8;

/// Tasks of each process.
const EQUAL: [usize; PROCESSES] = [8; PROCESSES];
const UNEQUAL: [usize; PROCESSES] = [1, 2, 4, 8, 16, 32, 4, 8];

/// 1 where all have the same, and down to 1 / n where one has all.
fn index(values: &[f64]) -> f64 {
    let sum: f64 = values.iter().sum();
    let squares: f64 = values.iter().map(|value| value * value).sum();
    if squares > 0.0 { sum * sum / (values.len() as f64 * squares) } else { 0.0 }
}

/// Grants of each over its tasks, as an index.
pub(crate) fn index_of(grants: &[usize], tasks: &[usize]) -> f64 {
    let shares = grants.iter().zip(tasks).map(|(grants, tasks)| *grants as f64 / *tasks as f64);
    index(&shares.collect::<Vec<_>>())
}

/// Eight processes on one bucket.
pub(crate) fn jain(report: &mut Report) {
    let tokens = || Ask::of("a").tokens(1_500);
    let concurrency = ("concurrency(4)", "bucket a concurrency 4", Ask::of("a"), ms(50), None);
    let bucket = "bucket a token_bucket tokens 300000 4000";
    let bucket = ("token bucket", bucket, tokens(), ms(100), Some(405));
    let sliding = "bucket a sliding tokens 300000 4000";
    let sliding = ("sliding window", sliding, tokens(), ms(100), Some(405));
    let mut lowest: (f64, String) = (f64::INFINITY, String::new());
    for (name, limits, ask, hold, used) in [concurrency, bucket, sliding] {
        for (backlog, tasks) in [("equal", EQUAL), ("unequal", UNEQUAL)] {
            let grants = grants(limits, &ask, tasks, Runs { hold, used, ..Runs::default() });
            let index = index_of(&grants, &tasks);
            println!("jain {name}, {backlog}: {index:.3}, grants {grants:?} of tasks {tasks:?}");
            if index < lowest.0 {
                lowest = (index, format!("{name}, {backlog} backlogs: {grants:?}"));
            }
        }
    }
    let (index, case) = lowest;
    report.add("fleet.jain", index, format!("at least 0.99; lowest: {case}"));
}

/// What each of the processes gets in nine seconds.
fn grants(limits: &str, ask: &Ask, tasks: [usize; PROCESSES], runs: Runs) -> Vec<usize> {
    let bed = Bed::new();
    let workers = bed.workers(PROCESSES, limits);
    let from = start_time();
    let until = from + 9_000_000;
    let runs: Vec<_> = std::iter::zip(&workers, tasks)
        .map(|(worker, tasks)| worker.run(ask, Runs { tasks, from, until: Some(until), ..runs }))
        .collect();
    ran(&runs, until).iter().map(|ran| ran.grants).collect()
}

const TENANTS: usize = 4;
const SIBLINGS: &str = "bucket parent concurrency 1; bucket 0 concurrency 100; bucket 1 concurrency 100; \
                        bucket 2 concurrency 100; bucket 3 concurrency 100";

/// Four tenants under one parent, one process, both stores.
pub(crate) fn siblings(report: &mut Report) {
    let bed = Bed::new();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.expect("a runtime");
    let mut lowest: (f64, String) = (f64::INFINITY, String::new());
    for (backlog, tasks) in [("equal", [2; TENANTS]), ("unequal", [1, 2, 4, 8])] {
        for store in ["memory", "redis"] {
            let grants = runtime.block_on(async {
                let limiter = match store {
                    "memory" => Limiter::new(limits(SIBLINGS)).expect("the limits are valid"),
                    _ => bed.limiter(SIBLINGS).await,
                };
                of_tenants(&limiter, tasks).await
            });
            let index = index_of(&grants, &tasks);
            println!(
                "siblings {store}, {backlog}: {index:.3}, grants {grants:?} of tasks {tasks:?}"
            );
            if index < lowest.0 {
                lowest = (index, format!("{store}, {backlog} backlogs: {grants:?}"));
            }
        }
    }
    let (index, case) = lowest;
    report.add("fleet.jain_siblings", index, format!("at least 0.99; lowest: {case}"));
}

/// What each tenant gets in 2.5 seconds.
async fn of_tenants(limiter: &Limiter, tasks: [usize; TENANTS]) -> Vec<usize> {
    let grants: Arc<[AtomicUsize; TENANTS]> = Arc::default();
    let mut running = JoinSet::new();
    for (tenant, tasks) in tasks.into_iter().enumerate() {
        for _ in 0..tasks {
            let (limiter, grants) = (limiter.clone(), grants.clone());
            running.spawn(async move {
                loop {
                    let demand = Demand::new(tenant.to_string(), usage! {}).and("parent");
                    let call = limiter.reserve(demand).await.expect("it is granted in the end");
                    grants[tenant].fetch_add(1, Ordering::Relaxed);
                    sleep(ms(5)).await;
                    drop(call.release());
                }
            });
        }
    }
    sleep(ms(2_500)).await;
    running.shutdown().await;
    grants.iter().map(|grants| grants.load(Ordering::Relaxed)).collect()
}

const LARGE: &str = "bucket a token_bucket tokens 1000 1000";
const LARGE_TIME: Duration = Duration::from_secs(13);
const SMALL_TASKS: usize = 20;

/// A demand of 60 % of the limit among small ones from seven other processes. The reference is one
/// process with the same demands, which serves them first come, first served.
pub(crate) fn large_wait(report: &mut Report) {
    let (fleet, grants) = large(PROCESSES);
    let (reference, _) = large(1);
    // All small ones and itself, at 1,000 a second.
    let computed = ((PROCESSES - 1) * SMALL_TASKS * 5 + 600) as f64 / 1_000.0;
    let remark = format!(
        "below 1.1; p50 {fleet:.2} s of {grants} grants, first come, first served {reference:.2} s \
         (about {computed:.2} s)"
    );
    report.add("fleet.large_wait", fleet / reference, remark);
}

/// The median wait of the large demand in seconds, and how often it was granted.
/// Without a grant that had to wait it is the whole time.
fn large(processes: usize) -> (f64, usize) {
    let bed = Bed::new();
    let workers = bed.workers(processes, LARGE);
    let from = start_time();
    let until = from + LARGE_TIME.as_micros() as u64;
    let runs = Runs { hold: ms(50), from, until: Some(until), ..Runs::default() };
    let large = Runs { tasks: 1, told: true, ..runs };
    let large = workers[0].run(&Ask::of("a").tokens(600), large);
    let small = Ask::of("a").tokens(5);
    let small: Vec<_> = (1..PROCESSES)
        .map(|process| {
            let worker = &workers[process % processes];
            worker.run(&small, Runs { tasks: SMALL_TASKS, ..runs })
        })
        .collect();
    ran(&small, until);
    large.ran(secs(10));
    let grants = large.grants();
    // The first finds the bucket full.
    let waits = grants.iter().skip(1).map(|grant| (grant.returned - grant.called) as f64 / 1e6);
    let waits: Vec<_> = waits.collect();
    let wait = if waits.is_empty() { LARGE_TIME.as_secs_f64() } else { median(waits) };
    (wait, grants.len())
}

const WEIGHTS: [(&str, f64); 3] = [("one", 1.0), ("two", 2.0), ("five", 5.0)];

/// Three flows with weights, mixed in four processes, all with a backlog.
pub(crate) fn weighted(report: &mut Report) {
    let bed = Bed::new();
    let limits = "bucket a concurrency 4; weight one 1; weight two 2; weight five 5";
    let workers = bed.workers(4, limits);
    let from = start_time();
    let (counted_from, until) = (from + 1_000_000, from + 9_000_000);
    let runs =
        Runs { tasks: 10, hold: ms(10), from, counted_from, until: Some(until), ..Runs::default() };
    let grants = WEIGHTS.map(|(flow, _)| {
        let ask = Ask::of("a").share(flow);
        workers.iter().map(|worker| worker.run(&ask, runs)).collect::<Vec<_>>()
    });
    let grants = grants.map(|runs| ran(&runs, until).iter().map(|ran| ran.grants).sum::<usize>());
    let all = grants.iter().sum::<usize>().max(1) as f64;
    let weights: f64 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
    let errors = std::iter::zip(grants, WEIGHTS)
        .map(|(grants, (_, weight))| (grants as f64 / all / (weight / weights) - 1.0).abs());
    let shares = if api::HAS_SHARES { "" } else { "; THE CRATE HAS NO FLOWS YET" };
    let remark = format!("below 0.02, of the own share; grants {grants:?} for 1 : 2 : 5{shares}");
    report.add("fleet.weighted_error", errors.fold(0.0, f64::max), remark);
}
