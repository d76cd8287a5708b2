//! Bodies that take their reservation along.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use tower::{Layer, service_fn};
use tower_throttle::{
    BoxError, Inspector, Limiter, Settlement, ThrottleLayer, inspect,
    inspect::{BodyEnd, BodyObserver},
    layer::MeteredBody,
    usage,
};

use crate::{
    frames::Frames,
    probe::{Extract, charged, limiter, tokens},
};

/// As many tokens as bytes.
fn by_length(bytes: &[u8]) -> Settlement {
    Settlement::Exact(usage! { tokens: bytes.len() as u64 })
}

/// What becomes of `body` behind the layer, 80 tokens being reserved.
async fn through<I, B>(limiter: &Limiter, inspector: I, body: B) -> Response<MeteredBody<B>>
where
    I: Inspector<Response<B>, Inspected = Response<MeteredBody<B>>>,
    B: Send + 'static,
{
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(inspector);
    let body = Arc::new(Mutex::new(Some(body)));
    let service = service_fn(move |_: u64| {
        let body = body.lock().expect("no panic").take();
        std::future::ready(body.map(Response::new).ok_or_else(|| BoxError::from("called twice")))
    });
    layer.layer(service).oneshot(80).await.expect("the body is there")
}

#[tokio::test(start_paused = true)]
async fn a_body_passes_unchanged_and_is_settled_at_its_end() {
    let limiter = limiter();
    let body = Frames::of(&["one ", "two", " three"]).with_trailers("x-end", "yes");
    let mut body = through(&limiter, inspect::bytes(100, by_length), body).await.into_body();

    for piece in ["one ", "two", " three"] {
        assert_eq!(charged(&limiter).await, (80, 1, 80), "not before its end");
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), piece);
    }
    assert_eq!(body.frame().await.unwrap().unwrap().into_trailers().unwrap()["x-end"], "yes");
    assert!(body.frame().await.is_none());
    assert_eq!(charged(&limiter).await, (13, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn s29_a_body_of_known_length_is_settled_though_its_end_is_never_polled() {
    let limiter = limiter();
    let body = Frames::of(&["12345", "678"]).announced();
    let mut body = through(&limiter, inspect::bytes(100, by_length), body).await.into_body();
    assert_eq!(body.size_hint().exact(), Some(8));

    body.frame().await.unwrap().unwrap();
    assert_eq!(charged(&limiter).await, (80, 1, 80));
    body.frame().await.unwrap().unwrap();
    assert_eq!(charged(&limiter).await, (8, 1, 0));
    drop(body);
    assert_eq!(charged(&limiter).await, (8, 1, 0), "once");
}

#[tokio::test(start_paused = true)]
async fn s29_a_body_that_says_it_is_at_its_end_is_settled() {
    let limiter = limiter();
    let body = Full::new(Bytes::from_static(b"12345"));
    let mut body = through(&limiter, inspect::bytes(100, by_length), body).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.is_end_stream());
    assert_eq!(charged(&limiter).await, (5, 1, 0));
}

/// As after HEAD, or with 204: it is not polled at all.
#[tokio::test(start_paused = true)]
async fn s29_an_empty_body_is_settled_at_once() {
    let limiter = limiter();
    let body = Full::new(Bytes::new());
    let response = through(&limiter, inspect::bytes(100, by_length), body).await;
    assert_eq!(charged(&limiter).await, (0, 1, 0));
    drop(response);
}

#[tokio::test(start_paused = true)]
async fn s28_a_body_dropped_in_the_middle_keeps_its_charge() {
    let limiter = limiter();
    let body = Frames::of(&["12345", "678"]);
    let mut body = through(&limiter, inspect::bytes(100, by_length), body).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(charged(&limiter).await, (80, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_that_breaks_off_keeps_its_charge() {
    let limiter = limiter();
    let body = Frames::of(&["12345"]).failing();
    let body = through(&limiter, inspect::bytes(100, by_length), body).await.into_body();
    assert_eq!(body.collect().await.unwrap_err().to_string(), "reset");
    assert_eq!(charged(&limiter).await, (80, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_past_the_bound_passes_and_keeps_its_charge() {
    let limiter = limiter();
    let body = Frames::of(&["12345", "678", "9"]);
    let body = through(&limiter, inspect::bytes(7, by_length), body).await.into_body();
    assert_eq!(body.collect().await.unwrap().to_bytes(), "123456789");
    assert_eq!(charged(&limiter).await, (80, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_body_of_just_the_bound_is_seen() {
    let limiter = limiter();
    let body =
        through(&limiter, inspect::bytes(7, by_length), Frames::of(&["1234567"])).await.into_body();
    body.collect().await.unwrap();
    assert_eq!(charged(&limiter).await, (7, 1, 0));
}

/// What a body that is no JSON, or is cut short, makes of a real inspector.
#[tokio::test(start_paused = true)]
async fn a_body_that_is_not_json_keeps_its_charge() {
    let of_json = |bytes: &[u8]| match serde_json::from_slice::<serde_json::Value>(bytes) {
        Ok(body) => match body["usage"]["total_tokens"].as_u64() {
            Some(tokens) => Settlement::Exact(usage! { tokens: tokens }),
            None => Settlement::Keep,
        },
        Err(_) => Settlement::Keep,
    };
    for (text, tokens) in [
        (r#"{"usage":{"total_tokens":9}}"#, 9),
        (r#"{"usage":{"total_to"#, 80),
        ("<html>", 80),
        ("", 80),
        (r#"{"usage":null}"#, 80),
        (r#"{"usage":{"total_tokens":-1}}"#, 80),
        // More than a call can have used is not believed: the limit, and four times the limit of
        // debt.
        (r#"{"usage":{"total_tokens":18446744073709551615}}"#, 500),
    ] {
        let limiter = limiter();
        let body = through(&limiter, inspect::bytes(1_000, of_json), Frames::of(&[text]))
            .await
            .into_body();
        assert_eq!(body.collect().await.unwrap().to_bytes(), text);
        assert_eq!(charged(&limiter).await, (tokens, 1, 0), "{text}");
    }
}

/// Counts what it is told.
#[derive(Default)]
struct Words {
    seen: u64,
    trailers: u64,
}

impl BodyObserver for Words {
    fn data(&mut self, piece: &[u8]) {
        self.seen += piece.len() as u64;
    }

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.trailers += trailers.len() as u64;
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        let usage = usage! { tokens: self.seen, requests: 1 + self.trailers };
        if end == BodyEnd::Complete { Settlement::Exact(usage) } else { Settlement::AtLeast(usage) }
    }
}

#[tokio::test(start_paused = true)]
async fn an_observer_sees_trailers_and_how_a_body_ends() {
    let limiter = limiter();
    let inspector = || inspect::body(|_: &http::response::Parts| Words::default());
    let body = Frames::of(&["12345"]).with_trailers("grpc-status", "0");
    let body = through(&limiter, inspector(), body).await.into_body();
    body.collect().await.unwrap();
    assert_eq!(charged(&limiter).await, (5, 2, 0));

    let mut body = through(&limiter, inspector(), Frames::of(&["12345", "6"])).await.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    assert_eq!(charged(&limiter).await, (85, 3, 0), "at least what was reserved");
}

/// A gRPC client reads the trailers and nothing after them.
#[tokio::test(start_paused = true)]
async fn s29_a_body_ends_with_its_trailers() {
    let limiter = limiter();
    let body = Frames::of(&["12345"]).with_trailers("grpc-status", "0");
    let inspector = inspect::body(|_: &http::response::Parts| Words::default());
    let mut body = through(&limiter, inspector, body).await.into_body();
    body.frame().await.unwrap().unwrap();
    assert_eq!(charged(&limiter).await, (80, 1, 80));
    assert!(body.frame().await.unwrap().unwrap().is_trailers());
    assert_eq!(charged(&limiter).await, (5, 2, 0));
    drop(body);
    assert_eq!(charged(&limiter).await, (5, 2, 0), "once");
}

#[test]
fn a_metered_body_goes_wherever_its_inner_body_goes() {
    fn everywhere<T: Send + Sync + 'static>() {}
    everywhere::<MeteredBody<Full<Bytes>>>();
}
