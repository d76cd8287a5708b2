//! What `tokens`, `input_tokens` and `output_tokens` mean to each other.

use tower_throttle::{
    Demand, Limiter, Limits, Quota, Settlement, Throttled, Usage, limiter::BadDemand, usage,
};

use crate::fake::{FakeStore, Fate};

/// Charged on quotas over `tokens`, input, output, and input + 5 x output, after a reserve and a
/// settle.
async fn charged(reserved: Usage, settlement: Settlement) -> [f64; 4] {
    let quotas = [
        Quota::per_hour("tokens", 1_000_000),
        Quota::per_hour("input_tokens", 1_000_000),
        Quota::per_hour("output_tokens", 1_000_000),
        Quota::per_hour("input_tokens", 1_000_000).weight("output_tokens", 5.0),
    ];
    let limiter = Limiter::new(Limits::new().bucket("a", quotas)).unwrap();
    let call = limiter.reserve(Demand::new("a", reserved)).await.unwrap();
    call.conclude(settlement).await.unwrap();
    let status = limiter.status("a").await.unwrap();
    assert!(status.quotas.iter().all(|quota| quota.in_flight == 0));
    [0, 1, 2, 3].map(|index| status.quotas[index].charged)
}

#[tokio::test]
async fn only_tokens_count_at_weight_one_everywhere() {
    assert_eq!(charged(usage! { tokens: 100 }, Settlement::Keep).await, [100.0; 4]);
    let exact = Settlement::Exact(usage! { tokens: 40 });
    assert_eq!(charged(usage! { tokens: 100 }, exact).await, [40.0; 4]);
}

#[tokio::test]
async fn input_and_output_are_tokens_together() {
    let split = || usage! { input_tokens: 100, output_tokens: 20 };
    assert_eq!(charged(split(), Settlement::Keep).await, [120.0, 100.0, 20.0, 200.0]);
    let exact = Settlement::Exact(usage! { output_tokens: 5 });
    assert_eq!(charged(split(), exact).await, [105.0, 100.0, 5.0, 125.0]);
    // Reserved as a whole, settled in parts.
    let exact = Settlement::Exact(usage! { input_tokens: 30, output_tokens: 5 });
    assert_eq!(charged(usage! { tokens: 200 }, exact).await, [35.0, 30.0, 5.0, 55.0]);
    // And the other way round.
    let exact = Settlement::Exact(usage! { tokens: 50 });
    assert_eq!(charged(split(), exact).await, [50.0; 4]);
}

#[tokio::test]
async fn what_was_seen_is_a_lower_bound_of_each() {
    let split = || usage! { input_tokens: 100, output_tokens: 20 };
    let seen = Settlement::AtLeast(usage! { output_tokens: 50 });
    assert_eq!(charged(split(), seen).await, [150.0, 100.0, 50.0, 350.0]);
    let seen = Settlement::AtLeast(usage! { input_tokens: 3, output_tokens: 5 });
    assert_eq!(charged(split(), seen).await, [120.0, 100.0, 20.0, 200.0]);
    for seen in
        [usage! { input_tokens: 3, output_tokens: 5 }, usage! { output_tokens: 5 }, usage! {}]
    {
        let charged = charged(usage! { tokens: 200 }, Settlement::AtLeast(seen.clone())).await;
        assert!(charged[0] >= 200.0, "{charged:?} having seen {seen:?}");
    }
    // More than was reserved in all says nothing of where less was seen.
    let seen = Settlement::AtLeast(usage! { input_tokens: 3, output_tokens: 500 });
    assert_eq!(charged(usage! { tokens: 200 }, seen).await, [503.0, 200.0, 500.0, 2_503.0]);
    assert_eq!(charged(split(), Settlement::Release).await, [0.0; 4]);
}

#[tokio::test]
async fn a_call_is_a_request_unless_it_says_otherwise() {
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::per_hour("requests", 10)])).unwrap();
    for (usage, charged) in
        [(usage! {}, 1.0), (usage! { tokens: 7 }, 2.0), (usage! { requests: 3 }, 5.0)]
    {
        limiter.reserve(Demand::new("a", usage)).await.unwrap().keep().await.unwrap();
        assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, charged);
    }
    // An actual usage that says nothing of requests leaves them.
    let call = limiter.reserve(Demand::new("a", usage! { tokens: 7 })).await.unwrap();
    call.settle(usage! { tokens: 0 }).await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 6.0);
}

#[tokio::test]
async fn weights_round_a_cost_up_once() {
    let quota = Quota::per_hour("input_tokens", 1_000).weight("cached", 0.1).weight("free", 0.0);
    let limiter = Limiter::new(Limits::new().bucket("a", [quota])).unwrap();
    for (usage, charged) in [
        (usage! { input_tokens: 0, cached: 1 }, 1.0),
        (usage! { input_tokens: 0, cached: 10 }, 2.0),
        (usage! { input_tokens: 1, cached: 11 }, 5.0),
        (usage! { input_tokens: 0, free: 1_000_000 }, 5.0),
    ] {
        limiter.reserve(Demand::new("a", usage)).await.unwrap().keep().await.unwrap();
        assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, charged);
    }
    let call =
        limiter.reserve(Demand::new("a", usage! { input_tokens: 9, cached: 5 })).await.unwrap();
    call.settle(usage! { cached: 0 }).await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 14.0);
}

#[tokio::test(start_paused = true)]
async fn a_note_comes_along_whether_the_demand_waits_or_not() {
    let limiter = Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).unwrap();
    let demand = |note: &'static str| Demand::new("a", usage! {}).note(note);

    let first = limiter.reserve(demand("at once")).await.unwrap();
    assert_eq!(first.note(), Some(&"at once"));
    let second = limiter.reserve(demand("later"));
    let (second, _) = tokio::join!(second, async {
        tokio::task::yield_now().await;
        first.release().await
    });
    let second = second.unwrap();
    assert_eq!((second.note(), second.position()), (Some(&"later"), 0));
    assert_eq!(second.note::<String>(), None);
}

fn is_unknown(result: Result<(), Throttled>) -> bool {
    matches!(result, Err(Throttled::BadDemand(BadDemand::UnknownMetric(name))) if &*name == "tokns")
}

#[tokio::test(start_paused = true)]
async fn a_metric_that_no_quota_counts_is_an_error_wherever_it_is_said() {
    let store = FakeStore::new();
    store.always(Fate::Answered);
    for is_shared in [false, true] {
        let limits = Limits::new()
            .bucket("a", [Quota::per_hour("tokens", 100)])
            .bucket("b", [Quota::per_hour("cents", 100)]);
        let builder = Limiter::builder(limits);
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let reserve = || limiter.reserve(Demand::new("a", usage! { tokens: 50 }));
        let charged = async || limiter.status("a").await.unwrap().quotas[0].charged;

        // What is known is charged all the same, since the reservation is used up.
        let call = reserve().await.unwrap();
        let actual = usage! { tokns: 3, tokens: 7 };
        assert!(is_unknown(call.settle(actual.clone()).await), "shared: {is_shared}");
        assert_eq!(charged().await, 7.0);
        let call = reserve().await.unwrap();
        assert!(is_unknown(call.conclude(Settlement::AtLeast(actual.clone())).await));
        assert_eq!(charged().await, 57.0);

        // Nothing changes where it can be said again.
        let mut call = limiter.reserve(Demand::new("a", usage! { tokens: 1 })).await.unwrap();
        assert!(is_unknown(call.adjust(actual.clone()).await));
        assert_eq!(charged().await, 58.0);
        // Some quota of the limiter counts it.
        call.adjust(usage! { cents: 3, tokens: 2 }).await.unwrap();
        let id = call.detach(std::time::Duration::from_secs(60)).await.unwrap();
        assert!(is_unknown(limiter.settle(&id, actual).await.map(drop)));
        assert!(limiter.settle(&id, usage! { tokens: 0 }).await.unwrap());
        assert_eq!(charged().await, 57.0);

        // What an update brings is known.
        let limits = Limits::new()
            .bucket("a", [Quota::per_hour("tokens", 100), Quota::per_hour("pages", 100)]);
        let call = limiter.reserve(Demand::new("a", usage! { tokens: 1 })).await.unwrap();
        limiter.update(limits).unwrap();
        call.settle(usage! { pages: 1 }).await.unwrap();
        store.inner.clear();
    }
}

/// Each bucket is asked for its own usage, in whatever order they were named.
#[tokio::test]
async fn a_narrower_bucket_may_be_named_last() {
    let limits = Limits::new()
        .bucket("model", [Quota::per_hour("tokens", 100)])
        .bucket("tenant", [Quota::per_hour("tokens", 100)])
        .bucket("budget", [Quota::per_hour("cents", 100)]);
    let limiter = Limiter::new(limits).unwrap();
    let demand = Demand::new("model", usage! { tokens: 5 }).and_with("budget", usage! { cents: 3 });
    limiter.reserve(demand.and_first("tenant")).await.unwrap().keep().await.unwrap();
    for (bucket, charged) in [("tenant", 5.0), ("model", 5.0), ("budget", 3.0)] {
        assert_eq!(limiter.status(bucket).await.unwrap().quotas[0].charged, charged, "{bucket}");
    }
}
