//! What the limiter costs in one process: `cargo bench --bench memory`.
//!
//! Times are medians over many short rounds, in each of which every candidate gets its turn, so
//! that whatever else the machine does hits them alike. governor's keyed limiter, which does less
//! (one quota, no settling), is the reference.

mod support;

use std::{convert::Infallible, hint::black_box, num::NonZeroU32, time::Instant};

use futures_util::FutureExt;
use governor::RateLimiter;
use tower::{Layer, Service, service_fn};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Settlement, ThrottleLayer, Throttled, usage,
};

use self::support::{Report, median, resident_bytes};

/// Short, so that most end before the system runs another program.
const ROUNDS: usize = 10_000;
const PAIRS: usize = 10 * NAMES.len();
const LIMIT: u64 = 500_000_000_000;
/// Buckets, and keys of the reference.
const NAMES: [&str; 16] = [
    "gpt-4o",
    "gpt-4o-mini",
    "gpt-4.1",
    "gpt-4.1-mini",
    "o3",
    "o4-mini",
    "opus",
    "sonnet",
    "haiku",
    "flash",
    "pro",
    "large",
    "medium",
    "small",
    "r1",
    "v3",
];
const MANY_BUCKETS: usize = 100_000;

fn main() {
    let mut report = Report::default();
    // First, while the process is small and holds no memory for reuse.
    memory_of_many_buckets(&mut report);
    pairs(&mut report);
    layer(&mut report);
    report.publish();
}

fn one_quota() -> [Quota; 1] {
    [Quota::per_minute("tokens", LIMIT)]
}

fn three_quotas() -> [Quota; 3] {
    [
        Quota::per_minute("requests", LIMIT),
        Quota::per_minute("tokens", LIMIT),
        Quota::per_day("requests", LIMIT),
    ]
}

fn limiter<Q: IntoIterator<Item = Quota>>(
    names: impl IntoIterator<Item = String>,
    quotas: fn() -> Q,
) -> Limiter {
    let limits =
        names.into_iter().fold(Limits::new(), |limits, name| limits.bucket(name, quotas()));
    Limiter::new(limits).expect("the limits are valid")
}

/// The other half of a pair: settles on less than was reserved.
fn settle(granted: Result<Reservation, Throttled>) {
    drop(granted.expect("it fits").settle(usage! { tokens: 412 }));
}

fn pairs(report: &mut Report) {
    let names = || NAMES.into_iter().map(str::to_owned);
    let (one, three) = (limiter(names(), one_quota), limiter(names(), three_quotas));
    let often = governor::Quota::per_second(NonZeroU32::MAX);
    let reference = RateLimiter::keyed(often);

    let demand = |name| Demand::new(name, usage! { requests: 1, tokens: 1_500 });
    let mut samples: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        samples[0].push(ns_each(async |name| drop(black_box(reference.check_key(&name)))));
        samples[1].push(ns_each(async |name| settle(one.try_reserve(demand(name)).await)));
        samples[2].push(ns_each(async |name| settle(three.try_reserve(demand(name)).await)));
    }
    let [governor, one, three] = samples.map(median);
    report.add("governor.check_key_ns", governor, "the reference: one check, one quota");
    report.add(
        "memory.pair_ns_1q",
        one,
        format!("try_reserve + settle; {:.1} times the reference, at most 10", one / governor),
    );
    report.add("memory.pair_ns_3q", three, "the same on three quotas; at most 1000");
}

/// A service that is ready and answers at once, bare and through the layer, which does for a call
/// all it ever does: it reads the demand, reserves on one quota, calls and settles.
fn layer(report: &mut Report) {
    let limiter = limiter(NAMES.into_iter().map(str::to_owned), one_quota);
    let mut bare =
        service_fn(async |name: &'static str| Ok::<_, Infallible>(black_box(name.len())));
    let demand =
        |name: &mut &'static str| Ok(Demand::new(*name, usage! { requests: 1, tokens: 1_500 }));
    let layer = ThrottleLayer::new(limiter.clone(), demand)
        .inspector(|_: &usize| Settlement::Exact(usage! { tokens: 412 }));
    let mut throttled = layer.layer(bare);

    let mut samples: [Vec<f64>; 3] = Default::default();
    for _ in 0..ROUNDS {
        samples[0].push(ns_each(async |name| _ = bare.call(name).await));
        samples[1].push(ns_each(async |name| _ = throttled.call(name).await));
        samples[2].push(ns_each(async |mut name| {
            settle(limiter.try_reserve(demand(&mut name).expect("it is")).await);
        }));
    }
    let [bare, throttled, pair] = samples.map(median);
    let remark = format!("without the limiter's own {pair:.0}; at most 300");
    report.add("layer.overhead_ns", throttled - bare - pair, remark);
}

/// Nanoseconds that `work` takes on each of the names.
fn ns_each(mut work: impl AsyncFnMut(&'static str)) -> f64 {
    let all = async {
        for name in NAMES.into_iter().cycle().take(PAIRS) {
            work(name).await;
        }
    };
    let start = Instant::now();
    all.now_or_never().expect("memory answers at once");
    start.elapsed().as_secs_f64() * 1e9 / PAIRS as f64
}

/// Every bucket with its declaration and its state, used within the last minute.
fn memory_of_many_buckets(report: &mut Report) {
    let before = resident_bytes();
    let limiter = limiter((0..MANY_BUCKETS).map(|index| format!("tenant-{index}")), three_quotas);
    for index in 0..MANY_BUCKETS {
        let demand = Demand::new(format!("tenant-{index}"), usage! { requests: 1, tokens: 1_500 });
        settle(limiter.try_reserve(demand).now_or_never().expect("memory answers at once"));
    }
    let bytes = resident_bytes().saturating_sub(before) as f64;
    drop(limiter);
    report.add(
        "memory.bytes_per_bucket",
        bytes / MANY_BUCKETS as f64,
        "three quotas at default slots",
    );
    report.add("memory.mb_100k_buckets", bytes / 1e6, "at most 300");
}
