//! The retries that docs/composing.md shows around a `reqwest::Client`, over real connections.

use std::time::{Duration, Instant};

use reqwest::{Body, Method, Request};
use tower::ServiceExt;
use tower_throttle::{Limits, Quota};

use crate::{
    documented::reqwest_retries::client, ledger::Ledger, probe::charged, provider::Provider,
};

const MINUTE: Duration = Duration::from_secs(60);

/// What came of a call: its status, the requests that the provider saw, the reservations that were
/// granted and settled, and what is charged: tokens, requests, and what is in flight.
type Outcome = (u16, usize, (u64, u64), (u64, u64, u64));

async fn send(path: &str, each: Duration, body: impl Into<Body>) -> Outcome {
    let provider = Provider::start().await;
    let quotas = ["tokens", "requests"].map(|metric| Quota::per_minute(metric, 10_000));
    let (limiter, ledger) = Ledger::watching(Limits::new().bucket("api", quotas));
    let mut request = Request::new(Method::POST, provider.url(path).parse().expect("a URL"));
    *request.body_mut() = Some(body.into());
    let response = client(limiter.clone(), each).oneshot(request).await.expect("an answer");
    let status = response.status().as_u16();
    drop(response);
    (status, provider.hits(), ledger.counts(), charged(&limiter).await)
}

#[tokio::test]
async fn s30_what_may_pass_is_tried_again_and_each_attempt_is_a_reservation() {
    let start = Instant::now();
    assert_eq!(send("/third-time", MINUTE, "{}").await, (200, 3, (3, 3), (4_500, 3, 0)));
    assert!(start.elapsed() >= Duration::from_millis(600), "after pauses of 0.2 s and 0.4 s");
    let start = Instant::now();
    let given_back = (200, 2, (2, 2), (1_500, 1, 0));
    assert_eq!(send("/second-time", MINUTE, "{}").await, given_back, "429");
    assert!(start.elapsed() >= Duration::from_secs(1), "when it was told to come again");
}

#[tokio::test]
async fn a_time_out_is_of_one_attempt() {
    let outcome = send("/silent-once", Duration::from_secs(2), "{}").await;
    assert_eq!(outcome, (200, 2, (2, 2), (3_000, 2, 0)));
}

#[tokio::test]
async fn what_does_not_pass_is_not_tried_for_ever() {
    assert_eq!(send("/500", MINUTE, "{}").await, (500, 4, (4, 4), (6_000, 4, 0)));
    assert_eq!(send("/404", MINUTE, "{}").await, (404, 1, (1, 1), (0, 1, 0)));
}

/// It cannot be sent twice.
#[tokio::test]
async fn a_body_that_is_a_stream_is_one_attempt() {
    let pieces = futures_util::stream::iter([Ok::<_, std::io::Error>("{}")]);
    let outcome = send("/third-time", MINUTE, Body::wrap_stream(pieces)).await;
    assert_eq!(outcome, (500, 1, (1, 1), (1_500, 1, 0)));
}
