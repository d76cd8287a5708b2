//! What a provider said to one process holds back every other that shares the store.

use std::time::Duration;

use tower_throttle::{Demand, Feedback, Limiter, Limits, Named, Quota, Throttled, usage};

use crate::world::*;

on_every_store!(
    what_is_left_is_left_for_all_and_for_a_while,
    after_a_refusal_with_nothing_left_nothing_is_granted_until_the_reset,
    a_retry_after_pauses_the_bucket_or_just_the_quota_for_all,
    a_bucket_refills_at_the_provider_s_pace,
    a_wait_longer_than_the_longest_pause_surfaces_for_all,
    so_does_one_for_a_quota,
);

fn limits() -> Limits {
    Limits::new()
        .bucket("a", [Quota::per_minute("requests", 100), Quota::per_minute("tokens", 10_000)])
}

fn call(tokens: u64) -> Demand {
    Demand::new("a", usage! { requests: 1, tokens: tokens })
}

async fn what_is_left_is_left_for_all_and_for_a_while(world: World) {
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let reservation = take(&one, call(1_000)).await;
    // Another user has the key: of 9,000 believed to be left there are 600.
    let said =
        Feedback::new().with_left(Named::metric("tokens").limit(10_000), 600, Some(secs(20)));
    soon(reservation.feedback(&said)).await.unwrap();
    assert_eq!(left(&other, "a").await, [99.0, 600.0]);
    let status = soon(other.status("a")).await.unwrap();
    assert_eq!((status.quotas[1].withheld, status.quotas[1].withheld_for), (8_400.0, secs(20)));
    let (quotas, retry_after) = refusal(&other, call(601)).await;
    assert_eq!(
        (&quotas[..], retry_after),
        (&["a: tokens per minute".to_owned()][..], Some(secs(20)))
    );
    // What is said of more, or for less long, gives nothing.
    for (amount, reset) in [(9_999, 1), (u64::MAX, 0), (700, 1)] {
        let said = Feedback::new().with_left(Named::metric("tokens"), amount, Some(secs(reset)));
        soon(other.feedback("a", &said)).await.unwrap();
        assert_eq!(left(&other, "a").await, [99.0, 600.0]);
    }
    // A refund is left besides.
    soon(reservation.settle(usage! { tokens: 200 })).await.unwrap();
    assert_eq!(left(&other, "a").await, [99.0, 1_400.0]);
    world.advance(secs(20)).await;
    assert_eq!(left(&other, "a").await, [99.0, 9_800.0]);
}

async fn after_a_refusal_with_nothing_left_nothing_is_granted_until_the_reset(world: World) {
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let reservation = take(&one, call(1_000)).await;
    world.advance(Duration::from_millis(300)).await;
    let said = Feedback::new().with_left(Named::metric("tokens"), 0, Some(secs(20)));
    soon(reservation.refused(&said)).await.unwrap();
    for time in [0, 1, 10, 8] {
        world.advance(secs(time)).await;
        assert_eq!(left(&other, "a").await, [100.0, 0.0]);
        assert_eq!(refusal(&other, call(1)).await.0, ["a: tokens per minute"]);
    }
    world.advance(secs(1)).await;
    assert_eq!(left(&other, "a").await, [100.0, 10_000.0]);
}

async fn a_retry_after_pauses_the_bucket_or_just_the_quota_for_all(world: World) {
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let reservation = take(&one, call(1_000)).await;
    let said = Feedback::new().with_retry_after_of(Named::metric("tokens"), secs(7));
    soon(reservation.feedback(&said)).await.unwrap();
    assert_eq!(
        refusal(&other, call(1)).await,
        (vec!["a: tokens per minute".into()], Some(secs(7)))
    );
    assert!(passes(&other, requests(1)).await, "a demand for no tokens is not held up");

    // An undeclared quota: the refusal was one all the same.
    let said = Feedback::new().with_retry_after_of(Named::metric("images"), secs(9));
    soon(reservation.feedback(&said)).await.unwrap();
    assert_eq!(refusal(&other, requests(1)).await, (vec!["a: paused".into()], Some(secs(9))));
    // No time, or a reason that no waiting helps, changes nothing.
    for said in [
        Feedback::new().with_retry_after(Duration::ZERO),
        Feedback::new().with_retry_after(secs(100)).with_permanent_refusal(),
    ] {
        soon(reservation.feedback(&said)).await.unwrap();
        assert_eq!(refusal(&other, requests(1)).await.1, Some(secs(9)));
    }
    world.advance(secs(9)).await;
    assert!(passes(&other, call(1)).await);
}

async fn a_bucket_refills_at_the_provider_s_pace(world: World) {
    let limits = || Limits::new().bucket("a", [Quota::token_bucket("tokens", 6_000, secs(60))]);
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let reservation = take(&one, tokens(1_000)).await;
    world.advance(secs(2)).await;
    // 0 were left when the call was admitted; in the two seconds since then 200 came back.
    soon(reservation.feedback(&Feedback::new().with_left(Named::metric("tokens"), 0, None)))
        .await
        .unwrap();
    assert_eq!(left(&other, "a").await, [200.0]);
    world.advance(secs(10)).await;
    assert_eq!(left(&other, "a").await, [1_200.0]);
    world.advance(secs(49)).await;
    assert_eq!(left(&other, "a").await, [6_000.0]);
}

const HOUR: Duration = Duration::from_secs(3_600);

/// A refusal, at once, for what a provider asked for: the quotas named, and when to come back.
async fn surfaces(limiter: &Limiter, demand: Demand) -> (Vec<String>, Option<Duration>) {
    let Err(Throttled::Paused(refusal)) = soon(limiter.reserve(demand)).await else {
        panic!("it is surfaced")
    };
    let named = refusal.shortages().iter().map(|s| format!("{}: {}", s.bucket, s.quota)).collect();
    (named, refusal.retry_after())
}

async fn a_wait_longer_than_the_longest_pause_surfaces_for_all(world: World) {
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let reservation = take(&one, call(10_000)).await;
    let mut waiting = Vec::new();
    for limiter in [&one, &other] {
        for _ in 0..300 {
            let limiter = limiter.clone();
            waiting.push(tokio::spawn(async move { limiter.reserve(call(1)).await }));
        }
        settled(limiter).await;
    }
    soon(reservation.feedback(&Feedback::new().with_retry_after(HOUR))).await.unwrap();
    for waits in waiting {
        let error = soon(waits).await.unwrap().expect_err("granted");
        assert!(matches!(error, Throttled::Paused(_)), "{error}");
        assert!(error.retry_after().is_some_and(|left| left + secs(2) > HOUR), "{error}");
    }
    soon(reservation.release()).await.unwrap();

    let began = soon(other.status("a")).await.unwrap();
    let paused = began.asked_until.unwrap().duration_since(began.paused_until.unwrap()).unwrap();
    assert_eq!(paused, HOUR - secs(300));
    let (named, left) = surfaces(&other, requests(0)).await;
    assert_eq!(named, ["a: paused"]);
    world.advance(secs(60)).await;
    assert_eq!(surfaces(&other, call(1)).await.1.unwrap(), left.unwrap() - secs(60));
    assert_eq!(
        soon(other.time_until_available(call(1))).await.unwrap(),
        Some(left.unwrap() - secs(60))
    );

    // One of the user's that lasts as long makes it a wait like others.
    soon(one.pause("a", HOUR)).await.unwrap();
    assert_eq!(refusal(&other, call(1)).await, (vec!["a: paused".into()], Some(HOUR)));
    soon(one.resume("a")).await.unwrap();
    assert!(passes(&other, call(1)).await);

    soon(one.feedback("a", &Feedback::new().with_retry_after(HOUR))).await.unwrap();
    assert_eq!(surfaces(&other, call(1)).await.1, Some(HOUR));
    world.advance(secs(300)).await;
    assert!(passes(&other, call(1)).await, "the provider will say again");
}

async fn so_does_one_for_a_quota(world: World) {
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    let of_tokens = Feedback::new().with_retry_after_of(Named::metric("tokens"), HOUR);
    soon(one.feedback("a", &of_tokens)).await.unwrap();
    assert_eq!(surfaces(&other, call(1)).await, (vec!["a: tokens per minute".into()], Some(HOUR)));
    world.advance(secs(100)).await;
    assert_eq!(
        surfaces(&other, tokens(1)).await,
        (vec!["a: tokens per minute".into()], Some(HOUR - secs(100)))
    );
    assert!(passes(&other, requests(1)).await, "a demand for no tokens is not held up");
    let status = soon(other.status("a")).await.unwrap();
    assert_eq!((status.asked_until, status.quotas[0].asked), (None, None));
    let tokens_left = &status.quotas[1];
    assert_eq!((tokens_left.available, tokens_left.withheld_for), (0.0, secs(200)));
    assert_eq!(tokens_left.asked, Some(HOUR - secs(100)));
    world.advance(secs(200)).await;
    assert!(passes(&other, call(1)).await);
}
