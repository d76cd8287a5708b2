//! What a large state costs: many tenants known, many reservations open.

use std::{
    fs,
    ops::Range,
    thread,
    time::{Duration, Instant},
};

use tokio::{
    runtime::{self, Runtime},
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};
use tower_throttle::{Demand, Limiter, Reservation, Throttled, usage};

use crate::{
    bed::Bed,
    harness::{ms, secs},
    support::{Report, median},
};

const LIMITS: &str = "bucket everyone per_minute tokens 500000000000; \
                      bucket everyone concurrency 1000000; \
                      resolve tenant- per_minute tokens 500000000000";
/// Between two new ones: twenty a second.
const APART: Duration = Duration::from_millis(50);
/// Those of ten minutes.
const KNOWN: usize = 12_000;
const MEASURED: usize = 100;
/// Of the same rate, so that what ends of earlier ones is part of what is measured.
const BEFORE: usize = 100;
/// How long a call takes: long enough for heartbeats.
const CALL: Duration = Duration::from_secs(5);
/// Longer than it takes to make them known where a reserve costs what it should.
const PRELOAD: Duration = Duration::from_secs(25);
const AT_ONCE: usize = 32;

/// Everything fits. Where the store does not answer in time it is asked again.
async fn reserve(limiter: &Limiter, tenant: usize) -> Reservation {
    loop {
        let demand = Demand::new(format!("tenant-{tenant}"), usage! { tokens: 1_500 });
        match limiter.reserve(demand.and("everyone")).await {
            Ok(call) => return call,
            Err(Throttled::Store(_)) => sleep(ms(100)).await,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Does this for the tenants from 0 on, many at once, until the time is over.
async fn for_many<T>(count: usize, each: impl Fn(usize) -> T) -> Vec<T::Output>
where
    T: Future<Output: Send + 'static> + Send + 'static,
{
    let (start, mut running, mut done) = (Instant::now(), JoinSet::new(), Vec::new());
    for tenant in 0..count {
        if start.elapsed() > PRELOAD {
            break;
        }
        running.spawn(each(tenant));
        if running.len() >= AT_ONCE {
            done.extend(running.join_next().await.map(|output| output.expect("it does not panic")));
        }
    }
    done.extend(running.join_all().await);
    done
}

/// Reserves by 20 new tenants a second, over an empty state and over one that knows 12,000.
pub(crate) fn new_tenants(report: &mut Report) {
    let bed = Bed::new();
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let (empty, known, full) = runtime.expect("a runtime").block_on(async {
        let limiter = bed.limiter_ahead(LIMITS).await;
        let empty = reserves(&limiter, 0..MEASURED).await;
        let known = make_known(&bed, &limiter, MEASURED..KNOWN).await;
        let full = reserves(&limiter, KNOWN..KNOWN + BEFORE + MEASURED).await;
        (empty, known, full)
    });
    let remark =
        format!("below 1.5; p50 {full:.0} us with {known} tenants known, {empty:.0} us with none");
    report.add("fleet.tenants_p50_ratio", full / empty, remark);
}

/// Ten minutes of new tenants on the store's clock, which moves by 50 ms after each.
async fn make_known(bed: &Bed, limiter: &Limiter, tenants: Range<usize>) -> usize {
    let (start, mut connection, mut known) = (Instant::now(), bed.connection(), tenants.start);
    while known < tenants.end && start.elapsed() < PRELOAD {
        let call = reserve(limiter, known).await;
        drop(call.settle(usage! { tokens: 412 }));
        bed.advance(&mut connection, APART);
        known += 1;
    }
    known
}

/// The median time of a reserve in microseconds, of the last hundred tenants.
async fn reserves(limiter: &Limiter, tenants: Range<usize>) -> f64 {
    let mut times = Vec::new();
    let mut ticks = interval(APART);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let start = Instant::now();
    for tenant in tenants {
        if start.elapsed() > secs(30) {
            break;
        }
        ticks.tick().await;
        let start = Instant::now();
        let call = reserve(limiter, tenant).await;
        times.push(start.elapsed().as_secs_f64() * 1e6);
        tokio::spawn(async move {
            sleep(CALL).await;
            let _ = call.settle(usage! { tokens: 412 }).await;
        });
    }
    median(times.split_off(times.len().saturating_sub(MEASURED)))
}

const OPEN: usize = 10_000;
const SETTLES: usize = 300;

/// The CPU time of this process for a settle, with ten reservations open and with 10,000.
pub(crate) fn settle(report: &mut Report) {
    let bed = Bed::new();
    let runtime = one_thread();
    let (few, many) = runtime.block_on(async {
        let limiter = bed.limiter(LIMITS).await;
        (settles(&bed, &limiter, 10).await, settles(&bed, &limiter, OPEN).await)
    });
    let remark = format!(
        "at most 1.5; {:.1} us of CPU with {} open and {:.1} us with {}; a script {:.1} us and {:.1} us; \
         {} settles failed",
        many.cpu, many.open, few.cpu, few.open, many.script, few.script, many.failed
    );
    report.add("fleet.settle_us_10k", many.cpu / few.cpu, remark);
}

struct Settled {
    open: usize,
    failed: usize,
    /// Microseconds of this process for one settle.
    cpu: f64,
    /// Microseconds of the server for one script.
    script: f64,
}

async fn settles(bed: &Bed, limiter: &Limiter, open: usize) -> Settled {
    let held = for_many(open, |tenant| {
        let limiter = limiter.clone();
        async move { reserve(&limiter, tenant).await }
    });
    let held = held.await;
    sleep(ms(200)).await;
    let (mut failed, mut times) = (0, Vec::new());
    let (scripts, commands) = (bed.script_time(), bed.commands());
    let start = Instant::now();
    for index in 0..SETTLES {
        if start.elapsed() > secs(15) {
            break;
        }
        let call = reserve(limiter, index % 10).await;
        let before = cpu_time();
        let settled = call.settle(usage! { tokens: 412 }).await;
        failed += usize::from(settled.is_err());
        times.push((cpu_time() - before).as_secs_f64() * 1e6);
    }
    let script = (bed.script_time() - scripts).as_secs_f64() * 1e6;
    let script = script / (bed.commands() - commands).max(1) as f64;
    let settled = Settled { open: held.len(), failed, cpu: median(times), script };
    held.into_iter().for_each(|call| drop(call.settle(usage! { tokens: 412 })));
    // They have reached the store when this is answered, or it does not answer.
    let _ = limiter.status("everyone").await;
    settled
}

/// A runtime whose tasks all run on this thread, so that its CPU time is theirs.
pub(crate) fn one_thread() -> Runtime {
    runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// CPU time of this thread.
pub(crate) fn cpu_time() -> Duration {
    // The system brings its count up to date when a thread may have to make room for another.
    thread::yield_now();
    let statistics = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    let nanoseconds = statistics.split(' ').next().and_then(|time| time.parse().ok());
    Duration::from_nanos(nanoseconds.unwrap_or_default())
}
