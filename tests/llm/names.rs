//! The limiter accepts the names that a layer around it does.

use std::time::Duration;

use tower_throttle::{
    Demand, Limiter, Limits, Quota, ThrottleLayer, Throttled,
    limits::Undeclared,
    llm::{anthropic, openai},
    usage,
};

use crate::call;

/// A limiter with these buckets, which refuses other names.
fn limiter(buckets: &[&str]) -> Limiter {
    let quota = || [Quota::per_hour("requests", 100)];
    let limits =
        buckets.iter().fold(Limits::new(), |limits, bucket| limits.bucket(*bucket, quota()));
    Limiter::new(limits).unwrap()
}

async fn charged(limiter: &Limiter, name: &str) -> f64 {
    limiter.status(name).await.unwrap().quotas[0].charged
}

#[tokio::test]
async fn a_model_s_status_is_that_of_the_bucket_which_the_layer_charges() {
    for (buckets, model, bucket) in [
        (&["gpt-4o"][..], "gpt-4o-2024-11-20", "gpt-4o"),
        (&["gpt-4o"], "openai/gpt-4o-2024-08-06", "gpt-4o"),
        (&["gpt-4o"], "openai/gpt-4o", "gpt-4o"),
        (&["openai/gpt-4o", "gpt-4o"], "openai/gpt-4o-2024-08-06", "openai/gpt-4o"),
        (&["openai/gpt-4o"], "openai/gpt-4o-2024-08-06", "openai/gpt-4o"),
        (&["gpt-4o", "gpt-4o-2024-08-06"], "gpt-4o-2024-08-06", "gpt-4o-2024-08-06"),
        (&["gpt-4o-mini"], "ft:gpt-4o-mini-2024-07-18:acme::x1", "gpt-4o-mini"),
    ] {
        let limiter = limiter(buckets);
        let before = limiter.status("openai/gpt-4o-2024-08-06").await;
        let _layer = ThrottleLayer::openai(limiter.clone());
        call(&limiter, &openai::rules(), model).await.unwrap();
        assert_eq!(charged(&limiter, bucket).await, 1.0, "{model} in {buckets:?}");
        assert_eq!(charged(&limiter, model).await, 1.0, "{model} in {buckets:?}");
        assert!(matches!(before, Err(Throttled::BadDemand(_))), "no layer has said what it is");
    }
}

#[tokio::test]
async fn a_model_is_a_name_wherever_a_bucket_is_one() {
    let limiter = limiter(&["gpt-4o"]);
    let _layer = ThrottleLayer::openai(limiter.clone());
    let model = "openai/gpt-4o-2024-08-06";
    let demand = || Demand::new(model, usage! { requests: 1 });
    limiter.reserve(demand()).await.unwrap().keep().await.unwrap();
    limiter.try_reserve_now(demand()).unwrap().keep().await.unwrap();
    assert_eq!(charged(&limiter, "gpt-4o").await, 2.0);
    limiter.pause(model, Duration::from_secs(60)).await.unwrap();
    assert!(limiter.status("gpt-4o").await.unwrap().paused_until.is_some());
    assert_eq!(limiter.buckets().len(), 1, "it is no bucket of its own");
    let twice = limiter.try_reserve(demand().and("gpt-4o")).await;
    assert!(matches!(twice, Err(Throttled::BadDemand(_))), "{twice:?}");
}

#[tokio::test]
async fn a_model_stays_known_when_limits_change_and_when_a_name_was_used_before() {
    let quota = || [Quota::per_hour("requests", 100)];
    let limits = || {
        let limits = Limits::new().bucket("others", quota());
        limits.undeclared(Undeclared::Bucket("others".into()))
    };
    let limiter = Limiter::new(limits().bucket("gpt-4o", quota())).unwrap();
    let model = "gpt-4o-2024-08-06";
    let demand = || Demand::new(model, usage! { requests: 1 });
    limiter.reserve(demand()).await.unwrap().keep().await.unwrap();
    assert_eq!(charged(&limiter, "others").await, 1.0);
    let _layer = ThrottleLayer::openai(limiter.clone());
    limiter.reserve(demand()).await.unwrap().keep().await.unwrap();
    assert_eq!((charged(&limiter, "others").await, charged(&limiter, "gpt-4o").await), (1.0, 1.0));

    limiter.update(limits()).unwrap();
    limiter.reserve(demand()).await.unwrap().keep().await.unwrap();
    assert_eq!(charged(&limiter, "others").await, 2.0);
    limiter.update(limits().bucket("gpt-4o", quota())).unwrap();
    assert_eq!(charged(&limiter, model).await, 1.0);
}

#[tokio::test]
async fn each_of_two_providers_layers_adds_its_names() {
    let limiter = limiter(&["gpt-4o", "claude-sonnet-4-5"]);
    let _openai = ThrottleLayer::openai(limiter.clone());
    let _anthropic = ThrottleLayer::anthropic(limiter.clone());
    call(&limiter, &openai::rules(), "gpt-4o-2024-08-06").await.unwrap();
    call(&limiter, &anthropic::rules(), "claude-sonnet-4-6").await.unwrap();
    assert_eq!(charged(&limiter, "gpt-4o-2024-05-13").await, 1.0);
    assert_eq!(charged(&limiter, "claude-sonnet-4-5-20250929").await, 1.0);
    let unknown = limiter.status("gpt-4o-mini-2024-07-18").await;
    assert!(matches!(unknown, Err(Throttled::BadDemand(_))), "{unknown:?}");
}

/// What a closure makes of its own answer says nothing: `small` is undeclared, and not `large`.
#[tokio::test]
async fn names_of_a_closure_are_not_asked_for_twice() {
    let quota = || [Quota::per_hour("requests", 100)];
    let limits = Limits::new().bucket("large", quota()).bucket("others", quota());
    let limiter = Limiter::new(limits.undeclared(Undeclared::Bucket("others".into()))).unwrap();
    let rules = openai::rules().bucket(|model| match model.contains("mini") {
        true => "small".into(),
        false => "large".into(),
    });
    call(&limiter, &rules, "gpt-4o-mini").await.unwrap();
    assert_eq!(charged(&limiter, "others").await, 1.0);
    assert_eq!(charged(&limiter, "large").await, 0.0);
}
