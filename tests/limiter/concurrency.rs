//! Many threads on one limiter: nothing is lost, and no demand waits for ever.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures_util::FutureExt;
use tokio::time::timeout;
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Usage, limiter::Status, store::MemoryStore, usage,
};

use crate::fake::{FakeStore, tokens};

/// Longer than all of it takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);

/// Calls that may be in flight: fewer than there are tasks.
const SLOTS: i64 = 40;

/// Small numbers that differ from task to task.
fn random(state: &mut u64, below: u64) -> u64 {
    *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) % below
}

async fn all<T: Send + 'static>(tasks: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
    let mut results = Vec::new();
    for task in tasks {
        results.push(timeout(HANGS, task).await.expect("a task hangs").expect("no task panics"));
    }
    results
}

/// Runs 64 tasks that each make `pairs` pairs of a reserve and a settle, some of them cancelled,
/// and compares what is charged with what was used.
async fn hammer(limiter: Limiter, pairs: u64, is_shared: bool) {
    let used = Arc::new(AtomicU64::new(0));
    let in_flight = Arc::new(AtomicI64::new(0));
    let tasks = (0..64).map(|seed| {
        let (limiter, used, in_flight) = (limiter.clone(), used.clone(), in_flight.clone());
        tokio::spawn(async move {
            let mut state = seed;
            for _ in 0..pairs {
                let demand = Demand::new("a", Usage::new().with("tokens", random(&mut state, 9)));
                let patience = Duration::from_micros(random(&mut state, 200));
                let reserved = match random(&mut state, 8) {
                    0 => limiter.try_reserve(demand).await.ok(),
                    1 => timeout(patience, limiter.reserve(demand)).await.ok().and_then(Result::ok),
                    _ => Some(limiter.reserve(demand).await.unwrap()),
                };
                let Some(call) = reserved else { continue };
                assert!(
                    in_flight.fetch_add(1, Ordering::SeqCst) < SLOTS,
                    "more in flight than may be"
                );
                if random(&mut state, 4) == 0 {
                    tokio::task::yield_now().await;
                }
                let actual = random(&mut state, 9);
                used.fetch_add(actual, Ordering::Relaxed);
                in_flight.fetch_sub(1, Ordering::SeqCst);
                drop(call.settle(usage! { tokens: actual }));
            }
        })
    });
    all(tasks.collect()).await;
    // What was cancelled last may still be on its way back.
    if is_shared {
        limiter.status("a").await.unwrap();
    }
    let status = limiter.status("a").await.unwrap();
    assert_eq!(status.waiting, 0);
    assert_eq!(
        (status.quotas[0].charged, status.quotas[0].in_flight),
        (used.load(Ordering::Relaxed) as f64, 0)
    );
    assert_eq!(status.quotas[1].in_flight, 0);
}

fn limits() -> Limits {
    Limits::new()
        .bucket("a", [Quota::per_day("tokens", 100_000_000), Quota::concurrency(SLOTS as u64)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_hundred_thousand_pairs_in_memory() {
    hammer(Limiter::new(limits()).unwrap(), 1_600, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_pairs_across_a_network() {
    let store = FakeStore::new();
    let limiter = Limiter::builder(limits()).store(store.clone()).build().unwrap();
    hammer(limiter, 160, true).await;
    assert_eq!(store.most_open(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn no_wake_up_is_lost() {
    // The one slot is given back at once: a lost wake-up would cost half a second each
    // time.
    for limiter in [
        Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).unwrap(),
        Limiter::builder(Limits::new().bucket("a", [Quota::concurrency(1)]))
            .store(FakeStore::new())
            .build()
            .unwrap(),
    ] {
        let began = std::time::Instant::now();
        let tasks = (0..16).map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                for _ in 0..200 {
                    drop(limiter.reserve(tokens(1)).await.unwrap());
                }
            })
        });
        all(tasks.collect()).await;
        assert!(
            began.elapsed() < Duration::from_secs(20),
            "{:?}: a wake-up was lost",
            began.elapsed()
        );
    }
}

/// How a bucket stands once nothing is in flight there: what was dropped last may still be on its
/// way.
async fn nothing_in_flight(limiter: &Limiter, bucket: &str) -> Status {
    let settled = async {
        loop {
            let status = limiter.status(bucket).await.unwrap();
            if status.quotas.iter().all(|quota| quota.in_flight == 0) {
                return status;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(HANGS, settled).await.expect("something stays in flight")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn demands_that_share_buckets_lose_no_wake_up_either() {
    let limits = Limits::new()
        .bucket("parent", [Quota::concurrency(2)])
        .resolver(|_| Some(vec![Quota::concurrency(2), Quota::per_day("requests", 1_000_000)]));
    let limiter = Limiter::new(limits).unwrap();
    let began = std::time::Instant::now();
    let tasks = (0..16_u64).map(|task| {
        let limiter = limiter.clone();
        tokio::spawn(async move {
            for n in 0..200 {
                let child = format!("child {}", (task + n) % 5);
                drop(
                    limiter.reserve(Demand::new(child, Usage::new()).and("parent")).await.unwrap(),
                );
            }
        })
    });
    all(tasks.collect()).await;
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}: a wake-up was lost", began.elapsed());
    let mut requests = 0.0;
    for child in 0..5 {
        requests += nothing_in_flight(&limiter, &format!("child {child}")).await.quotas[1].charged;
    }
    assert_eq!(requests, 3_200.0);
    nothing_in_flight(&limiter, "parent").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn limits_that_change_under_load_leak_nothing() {
    let limits = |n| {
        Limits::new().bucket("a", [Quota::concurrency(n), Quota::per_day("tokens", 1_000_000 + n)])
    };
    let limiter = Limiter::new(limits(4)).unwrap();
    let tasks = (0..16_u64).map(|task| {
        let limiter = limiter.clone();
        tokio::spawn(async move {
            for n in 0..300 {
                if task == 0 {
                    limiter.update(limits(2 + n % 5)).unwrap();
                }
                let call = limiter.reserve(tokens(3)).await.unwrap();
                call.settle(usage! { tokens: 1 }).await.unwrap();
            }
        })
    });
    all(tasks.collect()).await;
    let status = limiter.status("a").await.unwrap();
    assert_eq!(status.quotas[1].charged, 4_800.0);
    assert!(status.quotas.iter().all(|quota| quota.in_flight == 0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn s24_of_many_tries_exactly_those_that_fit_pass() {
    for _ in 0..50 {
        let store = Arc::new(MemoryStore::new());
        let tries = (0..8).flat_map(|_| {
            let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 33)]);
            let limiter = Limiter::builder(limits).shared_store(store.clone()).build().unwrap();
            (0..6).map(move |_| {
                let limiter = limiter.clone();
                tokio::spawn(async move {
                    limiter.try_reserve(tokens(1)).await.map(std::mem::forget).is_ok()
                })
            })
        });
        let passed = all(tries.collect()).await.into_iter().filter(|passed| *passed).count();
        assert_eq!(passed, 33);
    }
}

#[test]
fn updates_meanwhile_confuse_no_quotas() {
    let limits = |requests_first: bool| {
        let mut quotas =
            [Quota::per_day("tokens", 90_000_000), Quota::per_day("requests", 90_000_000)];
        if requests_first {
            quotas.reverse();
        }
        Limits::new().bucket("a", quotas)
    };
    let limiter = Limiter::new(limits(false)).unwrap();
    let calls = 20_000;
    std::thread::scope(|scope| {
        let callers = [(); 2].map(|()| {
            scope.spawn(|| {
                for _ in 0..calls {
                    let demand = Demand::new("a", usage! { requests: 1, tokens: 7 });
                    let call =
                        limiter.try_reserve(demand).now_or_never().expect("memory answers at once");
                    drop(call.unwrap().keep());
                }
            })
        });
        let mut requests_first = false;
        while !callers.iter().all(|caller| caller.is_finished()) {
            requests_first = !requests_first;
            limiter.update(limits(requests_first)).unwrap();
        }
    });
    limiter.update(limits(false)).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let quotas = runtime.block_on(limiter.status("a")).unwrap().quotas;
    let counts: Vec<_> = quotas.iter().map(|quota| (quota.charged, quota.in_flight)).collect();
    assert_eq!(counts, [(14.0 * f64::from(calls), 0), (2.0 * f64::from(calls), 0)]);
}

/// Buckets are locked one by one, in whatever order they are asked for.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn demands_of_the_same_buckets_in_another_order_do_not_wait_for_each_other() {
    let quota = || [Quota::per_minute("tokens", 1_000_000_000)];
    let store = Arc::new(MemoryStore::new());
    let limits = ["a", "b", "c"]
        .into_iter()
        .fold(Limits::new(), |limits, name| limits.bucket(name, quota()));
    let limiter = Limiter::builder(limits).shared_store(store.clone()).build().unwrap();
    let orders = [["a", "b", "c"], ["c", "b", "a"], ["b", "c", "a"], ["a", "c", "b"]];
    let tasks = orders.map(|[first, second, third]| {
        let (limiter, store) = (limiter.clone(), store.clone());
        tokio::spawn(async move {
            for turn in 0..2_000 {
                let demand = Demand::new(first, usage! { tokens: 2 }).and(second).and(third);
                drop(limiter.try_reserve(demand).await.unwrap().settle(usage! { tokens: 1 }));
                let alone = Demand::new(third, usage! { tokens: 1 });
                drop(limiter.try_reserve(alone).await.unwrap().keep());
                if turn % 100 == 0 {
                    assert_eq!(store.len(), 3);
                    tokio::task::yield_now().await;
                }
            }
        })
    });
    all(tasks.into()).await;
    for (bucket, alone) in [("a", 4_000.0), ("b", 2_000.0), ("c", 2_000.0)] {
        let status = limiter.status(bucket).await.unwrap();
        assert_eq!(status.quotas[0].charged, 8_000.0 + alone, "{bucket}");
    }
    store.clear();
    assert!(store.is_empty());
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 0.0);
}
