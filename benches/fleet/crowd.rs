//! What a waiter takes, and what it costs to cancel one of many.

use std::{
    env,
    pin::Pin,
    process::Command,
    task::{Context, Waker},
    time::Instant,
};

use tokio::task::yield_now;
use tower_throttle::{Demand, Limiter, Reservation, Throttled, usage};

use crate::{
    bed::Bed,
    harness::{ms, secs},
    support::{Report, median, resident_bytes},
    tenants::{cpu_time, one_thread},
};

/// Makes a process of this binary one that measures its own memory.
const MEASURES: &str = "FLEET_MEASURES_BYTES";

const LIMITS: &str = "bucket a per_hour tokens 1000";
const WAITERS: usize = 20_000;

type Waiter = Pin<Box<dyn Future<Output = Result<Reservation, Throttled>>>>;

/// Adds waiters until there are this many, and returns how many the limiter knows after a while.
async fn fill(limiter: &Limiter, waiters: &mut Vec<Option<Waiter>>, count: usize) -> usize {
    let before = waiters.len();
    for index in before..count {
        let demand = Demand::new("a", usage! { tokens: 10 });
        let mut waiter: Waiter = Box::pin(limiter.reserve(demand));
        let mut context = Context::from_waker(Waker::noop());
        assert!(waiter.as_mut().poll(&mut context).is_pending());
        waiters.push(Some(waiter));
        if index % 256 == 0 {
            yield_now().await;
        }
    }
    let start = Instant::now();
    loop {
        let waiting = limiter.status("a").await.expect("the store answers").waiting;
        if waiting >= count || start.elapsed() > secs(15) {
            return waiting;
        }
        tokio::time::sleep(ms(20)).await;
    }
}

async fn drained(bed: &Bed) -> Limiter {
    let limiter = bed.limiter(LIMITS).await;
    let all = limiter.reserve(Demand::new("a", usage! { tokens: 1_000 })).await.expect("it fits");
    all.keep().await.expect("the store answers");
    limiter
}

pub(crate) fn is_measured() -> bool {
    env::var_os(MEASURES).is_some()
}

/// The memory that waiters take, in a process of its own: nothing there was freed before.
pub(crate) fn bytes(report: &mut Report) {
    let program = env::current_exe().expect("this binary");
    let output = Command::new(program).env(MEASURES, "1").output().expect("a process of its own");
    let output = String::from_utf8_lossy(&output.stdout);
    let numbers = output.lines().find_map(|line| line.strip_prefix("bytes ")?.split_once(' '));
    let (bytes, waiting) = numbers.expect("the process has measured");
    let remark = format!("at most 1024; resident, {waiting} waiters with their futures");
    report.add("fleet.bytes_per_waiter", bytes.parse().expect("a number"), remark);
}

/// The program of that process.
pub(crate) fn measure_bytes() {
    let bed = Bed::new();
    one_thread().block_on(async {
        let limiter = drained(&bed).await;
        let mut waiters = Vec::with_capacity(WAITERS + 100);
        fill(&limiter, &mut waiters, 100).await;
        let before = resident_bytes();
        let waiting = fill(&limiter, &mut waiters, WAITERS + 100).await;
        let bytes = resident_bytes().saturating_sub(before);
        println!("bytes {} {waiting}", bytes as f64 / WAITERS as f64);
    });
}

const MANY: usize = 10_000;
const FEW: usize = 100;
const CANCELLED: usize = 50;

/// The CPU time of cancelling any of 10,000 waiters over that with 100.
pub(crate) fn cancel(report: &mut Report) {
    let (few, _) = cancels(FEW);
    let (many, waiting) = cancels(MANY);
    let remark = format!(
        "near 1, or O(log n); {many:.1} us of CPU with {waiting} waiters and {few:.1} us with {FEW}"
    );
    report.add("fleet.cancel_10k", many / few, remark);
}

/// The median of one cancel in microseconds of this process.
fn cancels(count: usize) -> (f64, usize) {
    let bed = Bed::new();
    one_thread().block_on(async {
        let limiter = drained(&bed).await;
        let mut waiters = Vec::with_capacity(count);
        let waiting = fill(&limiter, &mut waiters, count).await;
        let (mut times, step) = (Vec::new(), count / CANCELLED);
        // From the front to the end; 7 and 50 have no common factor.
        for index in (0..CANCELLED).map(|index| index * 7 % CANCELLED * step) {
            let before = cpu_time();
            waiters[index] = None;
            for _ in 0..10 {
                yield_now().await;
            }
            times.push((cpu_time() - before).as_secs_f64() * 1e6);
            // What the store is told is not part of the next.
            limiter.status("a").await.expect("the store answers");
        }
        (median(times), waiting)
    })
}
