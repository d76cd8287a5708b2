//! What providers said, and what comes of it.

use std::time::Duration;

use tokio::time::Instant;
use tower_throttle::{
    Demand, Feedback, Limiter, Limits, Named, Quota, Throttled, limits::Undeclared, usage,
};

use crate::{
    fake::{FakeStore, Fate, limits, on, quiet, secs, tokens, waiting},
    observer::Recorder,
};

fn retry_after(time: Duration) -> Feedback {
    Feedback::new().with_retry_after(time)
}

#[tokio::test(start_paused = true)]
async fn a_wait_beyond_the_longest_is_told_and_ends_with_it() {
    let recorder = Recorder::default();
    let limiter =
        Limiter::builder(limits()).observer(recorder.clone()).longest_pause(secs(60)).build();
    let limiter = limiter.unwrap();
    limiter.feedback("a", &retry_after(Duration::MAX)).await.unwrap();
    assert_eq!(recorder.count("asked: 18446744073709551615.999999999s, applied: 60s"), 1);
    let refused = async || limiter.reserve(tokens(1)).await.unwrap_err();
    assert!(matches!(refused().await, Throttled::Paused(_)), "surfaced, not slept");
    tokio::time::advance(secs(59)).await;
    assert!(matches!(refused().await, Throttled::Paused(_)));
    tokio::time::advance(secs(1)).await;
    drop(limiter.try_reserve(tokens(1)).await.unwrap());

    // What is left is no wait that was asked for, however far its reset is.
    let nothing = Feedback::new().with_left(Named::metric("tokens"), 0, Some(secs(86_400)));
    limiter.feedback("a", &nothing).await.unwrap();
    assert_eq!(recorder.count(r#"quota: Some("tokens per hour"), asked: 86400s, applied: 60s"#), 1);
    let began = Instant::now();
    drop(limiter.reserve(tokens(1)).await.unwrap());
    assert_eq!(began.elapsed(), secs(60));

    // What a user asks for is not bounded.
    limiter.pause("a", secs(600)).await.unwrap();
    let Err(Throttled::NotNow(refusal)) = limiter.try_reserve(tokens(1)).await else {
        panic!("granted")
    };
    assert_eq!(refusal.retry_after(), Some(secs(600)));
    // Nor is it ended by what a provider says.
    limiter.feedback("a", &retry_after(secs(1))).await.unwrap();
    limiter.feedback("a", &retry_after(Duration::from_nanos(1))).await.unwrap();
    let Err(Throttled::NotNow(refusal)) = limiter.try_reserve(tokens(1)).await else {
        panic!("granted")
    };
    assert_eq!(refusal.retry_after(), Some(secs(600)));
}

#[tokio::test(start_paused = true)]
async fn a_wait_that_is_too_short_is_refused_at_once() {
    let limiter = Limiter::new(limits()).unwrap();
    limiter.feedback("a", &retry_after(secs(20))).await.unwrap();
    let began = Instant::now();
    let error = limiter.reserve(tokens(1).max_wait(secs(10))).await.unwrap_err();
    assert_eq!((began.elapsed(), error.retry_after()), (Duration::ZERO, Some(secs(20))));
}

#[tokio::test(start_paused = true)]
async fn it_delays_no_caller_and_travels_before_the_settle() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let front = waiting(&limiter, tokens(10));
    quiet().await;
    drop(call.feedback(&retry_after(secs(30))));
    drop(call.release());
    let began = Instant::now();
    drop(front.await.unwrap().unwrap());
    assert!(began.elapsed() >= secs(30), "what was given back is not taken during the pause");
}

#[tokio::test(start_paused = true)]
async fn without_a_store_it_is_lost_and_nothing_else_is() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    store.always(Fate::Unavailable);
    assert!(matches!(call.feedback(&retry_after(secs(30))).await, Err(Throttled::Store(_))));
    drop(call.release());
    store.heal();
    let began = Instant::now();
    let whole = loop {
        match limiter.reserve(tokens(100)).await {
            Ok(call) => break call,
            Err(_) => tokio::time::sleep(secs(1)).await,
        }
    };
    drop(whole);
    assert!(began.elapsed() < secs(60), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn it_is_about_the_last_bucket_of_several_unless_the_demand_names_another() {
    let limits = Limits::new()
        .bucket("model", [Quota::per_minute("tokens", 100)])
        .bucket("tenant", [Quota::per_minute("tokens", 100)]);
    let limiter = Limiter::new(limits).unwrap();
    let tokens =
        |bucket: &str| tower_throttle::Demand::new(bucket, tower_throttle::usage! { tokens: 10 });
    let said = |left| Feedback::new().with_left(Named::metric("tokens").limit(100), left, None);
    let available = async |bucket| limiter.status(bucket).await.unwrap().quotas[0].available;
    let call = limiter.reserve(tokens("tenant").and("model")).await.unwrap();
    call.feedback(&said(50)).await.unwrap();
    assert_eq!((available("model").await, available("tenant").await), (50.0, 90.0));
    let call = limiter.reserve(tokens("tenant").and("model").account("tenant")).await.unwrap();
    call.feedback(&said(5)).await.unwrap();
    assert_eq!((available("model").await, available("tenant").await), (40.0, 5.0));
    assert!(limiter.feedback("unknown", &retry_after(secs(1))).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_leaves_what_the_provider_said_and_nothing_besides() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let builder = Limiter::builder(limits());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let none_left = tower_throttle::Feedback::new().with_left(
            tower_throttle::Named::metric("tokens"),
            0,
            Some(secs(30)),
        );
        let call = limiter.reserve(tokens(60)).await.unwrap();
        call.refused(&none_left).await.unwrap();
        let quota = limiter.status("a").await.unwrap().quotas[0].clone();
        assert_eq!(
            (quota.available, quota.charged, quota.in_flight),
            (0.0, 0.0, 0),
            "shared: {is_shared}"
        );
        // Said before the release, what that gives back is left besides.
        limiter.resume("a").await.unwrap();
        tokio::time::sleep(secs(31)).await;
        let call = limiter.reserve(tokens(60)).await.unwrap();
        call.feedback(&none_left).await.unwrap();
        call.release().await.unwrap();
        assert_eq!(limiter.status("a").await.unwrap().quotas[0].available, 60.0);
        store.inner.clear();
    }
}

/// What a provider says of an account that nothing limits holds back nothing else.
#[tokio::test(start_paused = true)]
async fn what_is_said_of_an_unlimited_account_is_about_no_other_bucket() {
    let limits = Limits::new()
        .bucket("company", [Quota::per_hour("tokens", 100)])
        .undeclared(Undeclared::Unlimited);
    let limiter = Limiter::new(limits).unwrap();
    let demand = Demand::new("model", usage! { tokens: 1 }).and("company").account("model");
    let call = limiter.reserve(demand).await.unwrap();
    call.refused(&retry_after(secs(20))).await.unwrap();
    let company = Demand::new("company", usage! { tokens: 1 });
    drop(limiter.try_reserve(company).await.expect("it is not paused"));
}
