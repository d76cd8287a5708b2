//! Where demands stand that wait, and when they are said to start.

use std::sync::Arc;

use tower_throttle::{
    Demand, Limiter, Limits, Quota, Throttled, limiter::Waiting, limits::Class, store::MemoryStore,
    usage,
};

use crate::fake::*;

fn positions(waiting: &[Waiting]) -> Vec<usize> {
    waiting.iter().map(|one| one.position).collect()
}

fn seconds(waiting: &[Waiting]) -> Vec<Option<u64>> {
    waiting.iter().map(|one| Some(one.predicted?.as_secs())).collect()
}

/// Starts waiters one after the other, so that their order is known.
async fn wait_in_order(limiter: &Limiter, demands: impl IntoIterator<Item = Demand>) {
    for demand in demands {
        drop(waiting(limiter, demand));
        quiet().await;
    }
}

#[tokio::test(start_paused = true)]
async fn each_waiter_says_where_it_stands_for_which_quota_and_about_when_it_starts() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let limits = Limits::new()
            .bucket(
                "a",
                [Quota::token_bucket("tokens", 60, secs(60)), Quota::per_day("requests", 99)],
            )
            .class("batch", Class::new());
        let builder = Limiter::builder(limits);
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        assert_eq!(limiter.waiting(), []);
        limiter.reserve(tokens(60)).await.unwrap().keep().await.unwrap();
        let front = waiting(&limiter, tokens(10).class("batch"));
        quiet().await;
        wait_in_order(&limiter, [tokens(20), tokens(30)]).await;

        let waiting = limiter.waiting();
        assert_eq!(positions(&waiting), [0, 1, 2], "shared: {is_shared}");
        assert_eq!(seconds(&waiting), [Some(10), Some(30), Some(60)]);
        let binding = waiting[2].binding.as_ref().unwrap();
        assert_eq!((&*binding.bucket, &*binding.quota), ("a", "tokens per minute"));
        assert_eq!((binding.requested, waiting[2].class.as_deref()), (30, None));
        assert_eq!(waiting[0].class.as_deref(), Some("batch"));

        // Time goes on, and the line moves up.
        tokio::time::sleep(ms(10_100)).await;
        let reservation = front.await.unwrap().unwrap();
        assert_eq!(reservation.id(), waiting[0].id);
        let waiting = limiter.waiting();
        assert_eq!(positions(&waiting), [0, 1]);
        assert_eq!(seconds(&waiting), [Some(19), Some(49)]);
        assert!((10..12).contains(&waiting[1].waited.as_secs()));
        tokio::time::sleep(secs(51)).await;
        assert_eq!(limiter.waiting(), [], "they started when they were said to");
        store.inner.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_prediction_follows_the_kind_of_quota() {
    // Seconds after the first start. Two fit at once; what comes later is spread evenly for a
    // sliding window, as if it had been used evenly.
    for (quota, expected) in [
        (Quota::fixed_window("tokens", 10, secs(60)), [0, 0, 60, 60, 120]),
        (Quota::sliding_window("tokens", 10, secs(60)).guard(secs(0)), [0, 0, 30, 60, 90]),
        (Quota::token_bucket("tokens", 10, secs(60)), [0, 30, 60, 90, 120]),
    ] {
        let told = quota.to_string();
        let limiter = Limiter::new(Limits::new().bucket("a", [quota])).unwrap();
        limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
        wait_in_order(&limiter, [5, 5, 5, 5, 5].map(tokens)).await;
        let starts: Vec<_> =
            limiter.waiting().iter().map(|one| one.predicted.unwrap().as_secs_f64()).collect();
        for (start, expected) in starts.iter().zip(expected) {
            let after = start - starts[0];
            assert!((after - f64::from(expected)).abs() <= 2.0, "{told}: {starts:?}");
        }
    }
    let limiter = Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).unwrap();
    let _call = limiter.reserve(tokens(1)).await.unwrap();
    wait_in_order(&limiter, [tokens(1)]).await;
    assert_eq!(seconds(&limiter.waiting()), [None], "it depends on calls in flight");
}

#[tokio::test(start_paused = true)]
async fn a_flow_that_is_next_stands_first_though_it_came_last() {
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::token_bucket("tokens", 60, secs(60))]))
            .unwrap();
    limiter.reserve(tokens(60)).await.unwrap().keep().await.unwrap();
    wait_in_order(&limiter, (0..10).map(|_| tokens(10).share("loud"))).await;
    wait_in_order(&limiter, [tokens(10).share("quiet")]).await;
    // The store has told the tags of both flows once each was the front of its own.
    tokio::time::sleep(secs(11)).await;
    let waiting = limiter.waiting();
    let last = waiting.last().unwrap();
    assert!(last.position <= 1, "{:?}", positions(&waiting));
    assert_eq!(last.share.as_deref(), Some("quiet"));
}

#[tokio::test(start_paused = true)]
async fn status_says_when_a_demand_would_start_that_comes_now() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let limits = Limits::new().bucket("a", [Quota::token_bucket("tokens", 60, secs(60))]);
        let builder = Limiter::builder(limits);
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        assert_eq!(limiter.status("a").await.unwrap().predicted, Some(secs(0)));
        limiter.reserve(tokens(60)).await.unwrap().keep().await.unwrap();
        wait_in_order(&limiter, [tokens(20), tokens(30)]).await;
        let status = limiter.status("a").await.unwrap();
        assert_eq!(status.waiting, 2, "shared: {is_shared}");
        assert_eq!(status.predicted.unwrap().as_secs(), 51);
        limiter.pause("a", secs(90)).await.unwrap();
        let paused = limiter.status("a").await.unwrap();
        assert!(paused.predicted.unwrap().as_secs() >= 89, "{paused:?}");
        store.inner.clear();
    }
}

#[tokio::test]
async fn buckets_lists_what_is_declared_and_what_a_resolver_knows() {
    let quotas = || [Quota::per_minute("tokens", 100), Quota::concurrency(2)];
    let limits = Limits::new()
        .bucket("b", quotas())
        .bucket("a", quotas())
        .resolver(move |name| name.starts_with("tenant").then(|| quotas().into()));
    let limiter = Limiter::new(limits).unwrap();
    let told = |limiter: &Limiter| -> Vec<_> {
        let buckets = limiter.buckets().into_iter();
        buckets.map(|one| (one.name.to_string(), one.is_declared, one.is_in_use)).collect()
    };
    assert_eq!(told(&limiter), [("a".into(), true, false), ("b".into(), true, false)]);
    let call = |name: &'static str| limiter.reserve(Demand::new(name, usage! { tokens: 1 }));
    let (_a, _tenant) = (call("a").await.unwrap(), call("tenant-7").await.unwrap());
    assert_eq!(
        told(&limiter),
        [("a".into(), true, true), ("b".into(), true, false), ("tenant-7".into(), false, true)]
    );
    let tenant = &limiter.buckets()[2];
    assert_eq!((&*tenant.partition, tenant.waiting), ("default", 0));
    assert_eq!(
        tenant.quotas.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        ["tokens per minute", "calls in flight"]
    );
}

/// All that wait before it are counted, however many there are.
#[tokio::test(start_paused = true)]
async fn what_is_told_to_come_again_is_told_for_how_long_the_queue_is() {
    for quota in [Quota::per_second("tokens", 10), Quota::token_bucket("tokens", 10, secs(1))] {
        let limits = Limits::new().bucket("a", [quota]);
        let store = Arc::new(MemoryStore::new());
        let [limiter, other] = [(); 2].map(|()| {
            Limiter::builder(limits.clone()).shared_store(store.clone()).build().unwrap()
        });
        let _queue: Vec<_> = (0..500).map(|_| waiting(&limiter, tokens(1))).collect();
        tokio::time::sleep(ms(100)).await;
        for limiter in [&limiter, &other] {
            let available = limiter.time_until_available(tokens(1)).await.unwrap().unwrap();
            let refused = limiter.try_reserve(tokens(1)).await.unwrap_err().retry_after().unwrap();
            for wait in [available, refused] {
                assert!((secs(45)..secs(60)).contains(&wait), "{wait:?}");
            }
        }
    }
}

/// One whose time is up is told when it would have started, not when the first one does.
#[tokio::test(start_paused = true)]
async fn one_whose_time_is_up_is_told_when_it_would_have_started() {
    let limits = Limits::new().bucket("a", [Quota::token_bucket("tokens", 600, secs(60))]);
    let limiter = Limiter::new(limits).unwrap();
    // It may come back at any time, so that it is worth a wait.
    let _held = limiter.reserve(tokens(600)).await.unwrap();
    let _queue: Vec<_> = (0..50).map(|_| waiting(&limiter, tokens(10))).collect();
    tokio::time::sleep(ms(10)).await;
    let error = limiter.reserve(tokens(10).max_wait(secs(20))).await.unwrap_err();
    assert!(matches!(error, Throttled::Deadline(_)), "{error:?}");
    let rest = error.retry_after().unwrap();
    assert!((secs(30)..secs(33)).contains(&rest), "{rest:?}");
}
