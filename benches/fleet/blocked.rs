//! What demands cost that only wait.

use std::{fmt::Write, thread};

use tokio::{runtime, task::JoinSet, time::sleep};
use tower_throttle::{Demand, usage};

use crate::{
    bed::Bed,
    harness::{Ask, Runs, secs},
    support::Report,
};

const SECONDS: u64 = 10;

/// 1,000 waiters of 8 processes, while nothing happens.
pub(crate) fn waiters(report: &mut Report) {
    let bed = Bed::new();
    let workers = bed.workers(8, "bucket a per_minute tokens 1000");
    workers[0].take(&Ask::of("a").tokens(1_000)).keep();
    let runs = Runs { tasks: 125, once: true, ..Runs::default() };
    for worker in &workers {
        worker.run(&Ask::of("a").tokens(10), runs);
    }
    let all = workers.iter().all(|worker| worker.has_waits(runs.tasks, secs(10)));
    let waiting: usize = workers.iter().map(|worker| worker.waits()).sum();
    thread::sleep(secs(3));
    let before = bed.commands();
    thread::sleep(secs(SECONDS));
    let rate = (bed.commands() - before) as f64 / SECONDS as f64;
    let note = if all { "" } else { ", not all that were to" };
    report.add("fleet.blocked_commands_per_s", rate, format!("below 50; {waiting} waiters{note}"));
}

const TENANTS: usize = 2_000;

/// Tenants of one process that are blocked by their parent.
pub(crate) fn tenants(report: &mut Report) {
    let bed = Bed::new();
    let mut limits = String::from("bucket everyone per_minute tokens 1000;");
    for tenant in 0..TENANTS {
        let _ = write!(limits, "bucket tenant-{tenant} per_minute tokens 1000;");
    }
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let commands = runtime.expect("a runtime").block_on(async {
        let limiter = bed.limiter(&limits).await;
        let all = Demand::new("everyone", usage! { tokens: 1_000 });
        let all = limiter.reserve(all).await.expect("it fits");
        all.keep().await.expect("the store answers");
        let mut waiting = JoinSet::new();
        for tenant in 0..TENANTS {
            let demand = Demand::new(format!("tenant-{tenant}"), usage! { tokens: 10 });
            let limiter = limiter.clone();
            waiting.spawn(async move { limiter.reserve(demand.and("everyone")).await });
        }
        sleep(secs(5)).await;
        let before = bed.commands();
        sleep(secs(SECONDS)).await;
        let commands = bed.commands() - before;
        waiting.shutdown().await;
        commands
    });
    let rate = commands as f64 / SECONDS as f64;
    let remark = format!("below 50; {TENANTS} tenants of one process, blocked by their parent");
    report.add("fleet.blocked_tenants_commands_per_s", rate, remark);
}
