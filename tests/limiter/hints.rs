//! Hints that say nothing of any bucket, and processes without hints.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::{sleep, timeout};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Usage,
    store::{Batch, Hint, Listening, Reply, Store},
};

use crate::fake::*;

/// A store whose hints get lost, though they seem to arrive.
#[derive(Clone, Debug)]
struct Hinted {
    store: FakeStore,
    works: Arc<AtomicBool>,
    hint: Arc<Mutex<Option<Hint>>>,
}

impl Store for Hinted {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        self.store.apply(batch)
    }

    fn listen(&self, _partition: &str, _session: u64, hint: Hint) -> Option<Listening> {
        *self.hint.lock().unwrap() = Some(hint);
        Some(Listening::new(self.works.clone(), ()))
    }
}

/// As after a connection that broke and was made again.
#[tokio::test(start_paused = true)]
async fn a_hint_for_no_bucket_has_everything_looked_at() {
    let store = FakeStore::new();
    store.delay(ms(2));
    let works = Arc::new(AtomicBool::new(true));
    let hinted = Hinted { store: store.clone(), works, hint: Arc::default() };
    let limiter = Limiter::with_store(limits(), hinted.clone()).unwrap();
    let other = on(&store);
    let call = other.reserve(tokens(100)).await.unwrap();
    let waits = waiting(&limiter, tokens(1));
    sleep(ms(50)).await;
    call.release().await.unwrap();
    assert!(hinted.works.load(Ordering::Relaxed) && !waits.is_finished(), "the hint is lost");

    hinted.hint.lock().unwrap().as_ref().expect("it listens").call("");
    let granted = timeout(ms(5), waits).await.expect("it looks at once").unwrap();
    granted.unwrap().release().await.unwrap();
}

/// Whenever the slot comes free between their looks.
#[tokio::test(start_paused = true)]
async fn without_hints_the_front_of_all_processes_is_not_passed() {
    for phase in 0..70 {
        let store = FakeStore::new();
        store.delay(ms(2));
        let build = || {
            let limits = Limits::new().bucket("a", [Quota::concurrency(1)]);
            Limiter::with_store(limits, store.clone()).unwrap()
        };
        let (holder, front, next) = (build(), build(), build());
        let slot = || Demand::new("a", Usage::new());
        let call = holder.reserve(slot()).await.unwrap();
        let first = waiting(&front, slot());
        sleep(ms(30)).await;
        let second = waiting(&next, slot());
        sleep(ms(1_000 + 10 * phase)).await;
        call.release().await.unwrap();
        let granted = timeout(secs(1), first).await;
        let granted = granted.unwrap_or_else(|_| panic!("passed, {phase}")).unwrap().unwrap();
        assert!(!second.is_finished());
        granted.release().await.unwrap();
        let granted = timeout(secs(2), second).await.expect("it is next").unwrap();
        granted.unwrap().release().await.unwrap();
    }
}

/// A large demand waits for what comes back with time; another process tries small ones meanwhile.
#[tokio::test(start_paused = true)]
async fn without_hints_small_demands_do_not_starve_a_large_one() {
    for delay in [2, 80, 120, 200] {
        let store = FakeStore::new();
        store.delay(ms(delay));
        let build = || {
            let limits = Limits::new().bucket("a", [Quota::token_bucket("tokens", 600, secs(60))]);
            Limiter::with_store(limits, store.clone()).unwrap()
        };
        let (large, small) = (build(), build());
        let of = |tokens: u64| Demand::new("a", Usage::new().with("tokens", tokens));
        small.reserve(of(600)).await.unwrap().keep().await.unwrap();
        let waits = waiting(&large, of(200));
        sleep(secs(1)).await;
        let tries: Vec<_> = (0..50)
            .map(|_| {
                let (small, demand) = (small.clone(), of(4));
                tokio::spawn(async move {
                    loop {
                        if let Ok(call) = small.try_reserve(demand.clone()).await {
                            drop(call.keep());
                        }
                        sleep(ms(10)).await;
                    }
                })
            })
            .collect();
        let granted = timeout(secs(300), waits).await;
        tries.iter().for_each(|tries| tries.abort());
        let granted = granted.unwrap_or_else(|_| panic!("it starves, {delay} ms"));
        granted.unwrap().unwrap().keep().await.unwrap();
    }
}
