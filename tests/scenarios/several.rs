//! Scenarios 15 to 19: several quotas, several buckets.

use tower_throttle::{Demand, Limits, Quota, Throttled, limiter::BadDemand, usage};

use crate::world::*;

on_every_store!(
    s15_a_refused_try_consumes_nothing,
    s16_a_combined_quota_with_weights,
    s17_split_quotas_settle_apart,
    s18_a_child_and_its_parent,
    s19_a_misspelt_metric_is_an_error,
);

async fn s15_a_refused_try_consumes_nothing(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 1), Quota::per_minute("requests", 1)]);
    spend(&limiter, tokens(1)).await;
    let both = Demand::new("a", usage! { requests: 1, tokens: 1 });
    assert_eq!(refusal(&limiter, both).await.0, ["a: tokens per minute"]);
    assert_eq!(left(&limiter, "a").await, [0.0, 1.0]);
    assert!(passes(&limiter, requests(1)).await);
}

async fn s16_a_combined_quota_with_weights(world: World) {
    let combined = Quota::per_minute("input_tokens", 100_000).weight("output_tokens", 5.0);
    let limiter = world.bucket([
        combined,
        Quota::per_minute("input_tokens", 50_000),
        Quota::per_minute("output_tokens", 4_000),
    ]);
    let call =
        take(&limiter, Demand::new("a", usage! { input_tokens: 3_000, output_tokens: 1_000 }))
            .await;
    assert_eq!(left(&limiter, "a").await, [92_000.0, 47_000.0, 3_000.0]);
    // The output quota alone refuses, though the combined one has room.
    let large = Demand::new("a", usage! { input_tokens: 0, output_tokens: 3_500 });
    assert_eq!(refusal(&limiter, large.clone()).await.0, ["a: output_tokens per minute"]);
    call.settle(usage! { output_tokens: 200 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [96_000.0, 47_000.0, 3_800.0]);
    assert!(passes(&limiter, large).await);

    // The combined one refuses what each of the others has room for.
    let limiter = world.limiter(Limits::new().partition("narrow").bucket(
        "a",
        [
            Quota::per_minute("input_tokens", 5_000).weight("output_tokens", 5.0),
            Quota::per_minute("input_tokens", 4_000),
            Quota::per_minute("output_tokens", 900),
        ],
    ));
    spend(&limiter, Demand::new("a", usage! { input_tokens: 1_000, output_tokens: 100 })).await;
    let large = Demand::new("a", usage! { input_tokens: 0, output_tokens: 800 });
    assert_eq!(refusal(&limiter, large).await.0, ["a: input_tokens + output_tokens per minute"]);
}

async fn s17_split_quotas_settle_apart(world: World) {
    let limiter = world.bucket([
        Quota::per_minute("input_tokens", 4_000_000),
        Quota::per_minute("output_tokens", 128_000),
    ]);
    let call = take(&limiter, Demand::new("a", usage! { output_tokens: 10_000 })).await;
    call.settle(usage! { output_tokens: 2_000 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [4_000_000.0, 126_000.0]);
}

async fn s18_a_child_and_its_parent(world: World) {
    let limiter = world.limiter(
        Limits::new()
            .bucket("child", [Quota::token_bucket("tokens", 800, MINUTE)])
            .bucket("parent", [Quota::token_bucket("tokens", 1_000, MINUTE)]),
    );
    let demand = |amount: u64| Demand::new("child", usage! { tokens: amount }).and("parent");
    take(&limiter, demand(600)).await.settle(usage! { tokens: 500 }).await.unwrap();
    let both = || async { (left(&limiter, "child").await, left(&limiter, "parent").await) };
    assert_eq!(both().await, (vec![300.0], vec![500.0]));

    spend(&limiter, Demand::new("parent", usage! { tokens: 400 })).await;
    let (named, retry_after) = refusal(&limiter, demand(200)).await;
    assert_eq!(named, ["parent: tokens per minute"]);
    assert_eq!(retry_after, Some(secs(6)));
    assert_eq!(both().await, (vec![300.0], vec![100.0]));
    world.advance(secs(6)).await;
    assert!(passes(&limiter, demand(200)).await);
}

async fn s19_a_misspelt_metric_is_an_error(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 10), Quota::per_minute("images", 2)]);
    let misspelt = Demand::new("a", usage! { tokns: 1 });
    for result in
        [limiter.try_reserve(misspelt.clone()).await, limiter.reserve(misspelt.clone()).await]
    {
        let error = result.unwrap_err();
        assert!(error.is_permanent() && error.to_string().contains("tokns"), "{error}");
        assert!(
            matches!(error, Throttled::BadDemand(BadDemand::UnknownMetric(metric)) if &*metric == "tokns")
        );
    }
    assert_eq!(left(&limiter, "a").await, [10.0, 2.0]);
    // Standard names are known without a quota, others by any quota of the limiter.
    spend(&limiter, Demand::new("a", usage! { requests: 1, output_tokens: 5, images: 1 })).await;

    let huge = Demand::new("a", usage! { tokens: u64::MAX });
    assert!(matches!(limiter.try_reserve(huge).await, Err(Throttled::ExceedsCapacity(_))));
    for weight in [f64::NAN, -1.0, f64::INFINITY] {
        let quota = Quota::per_minute("tokens", 10).weight("images", weight);
        let error = limiter.update(Limits::new().bucket("a", [quota])).unwrap_err();
        assert!(error.to_string().contains("images"), "{error}");
    }
}
