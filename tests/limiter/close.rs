//! Closing a limiter.

use std::sync::{Arc, OnceLock};

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tower_throttle::{
    Demand, Limiter, Limits, OnUnavailable, Quota, Throttled, Usage, limiter::Retries, usage,
};

use crate::fake::*;

#[tokio::test(start_paused = true)]
async fn closing_refuses_all_and_lets_settles_through() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    let calls =
        [limiter.reserve(tokens(50)).await.unwrap(), limiter.reserve(tokens(50)).await.unwrap()];
    let waits: Vec<_> = (0..10).map(|_| waiting(&limiter, tokens(10))).collect();
    tokio::time::sleep(ms(100)).await;
    let [first, second] = calls;
    drop(first.settle(usage! { tokens: 5 }));
    limiter.close().await;
    assert!(store.sent().len() > 1);
    for wait in waits {
        assert!(wait.is_finished());
        // Those that the last settle made room for may have been granted before.
        if let Err(error) = wait.await.unwrap() {
            assert!(matches!(error, Throttled::Closed), "{error}");
        }
    }
    for bucket in ["a", "unheard of"] {
        let demand = Demand::new(bucket, Usage::new());
        assert!(matches!(limiter.reserve(demand.clone()).await, Err(Throttled::Closed)));
        assert!(matches!(limiter.try_reserve(demand).await, Err(Throttled::Closed)));
    }
    // What is in flight can still be settled.
    second.settle(usage! { tokens: 6 }).await.unwrap();
    tokio::time::sleep(ms(100)).await;
    assert_eq!(truth(&store).await, (11.0, 0));
}

#[tokio::test(start_paused = true)]
async fn closing_refuses_all_whatever_becomes_of_demands_without_the_store() {
    for on_unavailable in [OnUnavailable::Fail, OnUnavailable::Allow, OnUnavailable::local(0.5)] {
        let store = FakeStore::new();
        let builder = builder(&store).on_unavailable(on_unavailable).retries(Retries::none());
        let limiter = builder.build().unwrap();
        store.always(Fate::Unavailable);
        drop(limiter.reserve(tokens(1)).await);
        limiter.close().await;
        for error in [
            limiter.reserve(tokens(1)).await.unwrap_err(),
            limiter.try_reserve(tokens(1)).await.unwrap_err(),
        ] {
            assert!(matches!(error, Throttled::Closed), "{on_unavailable:?}: {error}");
        }
    }
}

#[tokio::test]
async fn closing_refuses_what_would_be_granted_at_once() {
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::per_hour("requests", 10)])).unwrap();
    let demand = || Demand::new("a", Usage::new());
    let call = limiter.try_reserve(demand()).await.unwrap();
    limiter.close().await;
    for error in [
        limiter.try_reserve(demand()).await.unwrap_err(),
        limiter.reserve(demand()).await.unwrap_err(),
    ] {
        assert!(matches!(error, Throttled::Closed), "{error}");
    }
    call.release().await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 0.0);
}

#[tokio::test(start_paused = true)]
async fn closing_reaches_those_on_their_way() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    let waits = waiting(&limiter, tokens(10));
    tokio::time::sleep(ms(5)).await;
    limiter.close().await;
    let error = timeout(secs(1), waits).await.expect("it is told").unwrap().unwrap_err();
    assert!(matches!(error, Throttled::Closed), "{error}");
}

#[tokio::test(start_paused = true)]
async fn closing_does_not_wait_for_a_store_that_is_down() {
    let store = FakeStore::new();
    let limiter = builder(&store).retries(Retries::none()).build().unwrap();
    let call = limiter.reserve(tokens(10)).await.unwrap();
    store.always(Fate::RequestLost);
    drop(call.release());
    let began = Instant::now();
    limiter.close().await;
    assert!(began.elapsed() <= ms(1_000), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn closing_closes_what_stands_in_too() {
    let store = FakeStore::new();
    let builder = builder(&store).on_unavailable(OnUnavailable::local(0.1));
    let limiter = builder.retries(Retries::none()).build().unwrap();
    store.always(Fate::Unavailable);
    let call = limiter.reserve(tokens(10)).await.unwrap();
    let waits = waiting(&limiter, tokens(10));
    quiet().await;
    limiter.close().await;
    let error = timeout(secs(1), waits).await.expect("it is told").unwrap().unwrap_err();
    assert!(matches!(error, Throttled::Closed), "{error}");
    drop(call);
}

#[tokio::test(start_paused = true)]
async fn closing_an_unused_limiter_is_nothing() {
    let store = FakeStore::new();
    let limiter = on(&store);
    limiter.close().await;
    limiter.close().await;
    assert!(matches!(limiter.reserve(tokens(1)).await, Err(Throttled::Closed)));
    assert!(store.sent().is_empty());
}

#[tokio::test(start_paused = true)]
async fn nothing_is_granted_to_those_whose_names_are_looked_up_meanwhile() {
    let closing: Arc<OnceLock<Limiter>> = Arc::default();
    let limits = Limits::new().resolver({
        let closing = closing.clone();
        move |_| {
            let limiter = closing.get()?;
            // Nothing is on its way, so that this is done at once.
            assert_eq!(limiter.close().now_or_never(), Some(()));
            Some(vec![Quota::per_minute("tokens", 100)])
        }
    });
    let limiter = closing.get_or_init(|| Limiter::new(limits).unwrap());
    for _ in 0..2 {
        let refused = limiter.reserve(tokens(10)).await;
        assert!(matches!(refused, Err(Throttled::Closed)), "{refused:?}");
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

/// A demand waited in a runtime that is there and is not polled.
#[test]
fn closing_does_not_wait_for_a_runtime_that_does_nothing() {
    let (first, second) = (runtime(), runtime());
    let limiter = Limiter::new(limits()).unwrap();
    let (call, waits) = first.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = waiting(&limiter, tokens(10));
        quiet().await;
        (call, waits)
    });
    second.block_on(async {
        tokio::time::timeout(secs(5), limiter.close()).await.expect("it ends");
    });
    drop((call, waits, first));
}

/// The runtime in which demands waited has ended, and there is no other: what ends then is sent by
/// the next call inside of one.
#[test]
fn closing_without_a_runtime_ends() {
    let first = runtime();
    let limiter = first.block_on(async { on(&FakeStore::new()) });
    let (call, waits) = first.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = waiting(&limiter, tokens(10));
        tokio::time::sleep(ms(300)).await;
        (call, waits)
    });
    drop(first);
    drop(call);
    let (ended, is_closed) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        block_on_here(limiter.close());
        ended.send(()).unwrap();
    });
    is_closed.recv_timeout(secs(5)).expect("it ends");
    drop(waits);
}

/// Polls a future on this thread, without a runtime.
fn block_on_here(future: impl Future<Output = ()>) {
    struct Unparks(std::thread::Thread);
    impl std::task::Wake for Unparks {
        fn wake(self: std::sync::Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = std::sync::Arc::new(Unparks(std::thread::current())).into();
    let mut context = std::task::Context::from_waker(&waker);
    let mut future = std::pin::pin!(future);
    while future.as_mut().poll(&mut context).is_pending() {
        std::thread::park();
    }
}
