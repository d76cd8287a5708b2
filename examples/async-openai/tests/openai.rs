//! async-openai's retry layer outside, the throttle inside, a provider on loopback.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use async_openai::{Client, config::OpenAIConfig, error::OpenAIError};
use async_openai_examples::{client, client_through, question, streamed_question};
use examples_common::{
    meter::{Meter, Totals},
    openai::{self, completion, last_piece, piece},
    provider::{self, Body, Provider, event, events, fed, json, status},
};
use futures_util::StreamExt;
use http::{HeaderValue, Response, StatusCode};
use serde_json::json as value;
use tower::{Layer, Service, ServiceBuilder};
use tower_throttle::{BoxError, Limiter, Limits, Quota, ThrottleLayer, Throttled};

/// What a question reserves: two tokens for itself, 300 for the answer.
const RESERVED: u64 = 302;

fn limiter(tokens: u64) -> (Limiter, Meter) {
    let meter = Meter::default();
    let quotas = [Quota::per_minute("tokens", tokens), Quota::per_minute("requests", 100)];
    let limits = Limits::new().bucket("gpt-4o", quotas);
    (Limiter::builder(limits).observer(meter.observer()).build().unwrap(), meter)
}

struct Stand {
    provider: Provider,
    client: Client<OpenAIConfig>,
    limiter: Limiter,
    meter: Meter,
}

/// A client that may use 10,000 tokens a minute of a provider that answers so, one after the other.
async fn stand(answers: impl IntoIterator<Item = Response<Body>>) -> Stand {
    let answers: Vec<_> = answers.into_iter().collect();
    let answers = Mutex::new(answers.into_iter());
    let next = move || answers.lock().unwrap().next();
    let provider =
        Provider::start(move |_| next().unwrap_or_else(|| status(StatusCode::GONE))).await.unwrap();
    let (limiter, meter) = limiter(10_000);
    let client = client(limiter.clone(), &provider.url());
    Stand { provider, client, limiter, meter }
}

impl Stand {
    /// What happened, once as many reservations are settled and nothing more can happen.
    async fn end(self, reservations: u64) -> Totals {
        let totals = self.meter.settled(reservations).await.unwrap();
        let status = self.limiter.status("gpt-4o").await.unwrap();
        assert_eq!(
            (status.quotas[0].charged as u64, status.quotas[0].in_flight),
            (totals.charged, 0)
        );
        drop((self.client, self.provider));
        self.limiter.close().await;
        assert_eq!(self.meter.totals(), totals, "each once");
        assert_eq!((totals.reservations, totals.reserved), (reservations, reservations * RESERVED));
        totals
    }
}

/// An error as the provider tells it; a client is to come again at once.
fn refused(kind: &str) -> Response<Body> {
    let mut answer = json(&value!({ "error": { "message": "slow down", "type": kind } }));
    *answer.status_mut() = StatusCode::TOO_MANY_REQUESTS;
    answer.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
    answer
}

fn unavailable() -> Response<Body> {
    let mut answer = status(StatusCode::SERVICE_UNAVAILABLE);
    answer.headers_mut().insert("retry-after", HeaderValue::from_static("0"));
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_comes_out_as_it_says() {
    async_openai_examples::demo().await.expect("it does");
}

#[tokio::test]
async fn a_completion_is_settled_on_its_usage() {
    let stand = stand([json(&completion(60))]).await;
    let answer = stand.client.chat().create(question().unwrap()).await.unwrap();
    assert_eq!(answer.usage.unwrap().total_tokens, 60);
    assert_eq!(stand.end(1).await.charged, 60);
}

/// The client stops at `[DONE]` and never sees the end of the body.
#[tokio::test]
async fn s29_a_stream_is_settled_on_its_usage_though_its_end_is_never_read() {
    let (feed, answer) = fed();
    for piece in [piece(), last_piece(40), "[DONE]".into()] {
        feed.send(Ok(event(&piece))).unwrap();
    }
    let stand = stand([answer]).await;
    let stream = stand.client.chat().create_stream(streamed_question().unwrap()).await.unwrap();
    let pieces: Vec<_> = stream.collect().await;
    assert_eq!(pieces.len(), 2);
    assert!(pieces.iter().all(Result::is_ok), "{pieces:?}");
    assert_eq!(stand.end(1).await.charged, 40);
    drop(feed);
}

#[tokio::test]
async fn s29_an_answer_without_a_body_is_settled_once() {
    let stand = stand([status(StatusCode::NO_CONTENT)]).await;
    stand.client.chat().create(question().unwrap()).await.unwrap_err();
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_stream_that_its_reader_drops_keeps_its_charge() {
    let (feed, answer) = fed();
    feed.send(Ok(event(&piece()))).unwrap();
    let stand = stand([answer]).await;
    let mut stream = stand.client.chat().create_stream(streamed_question().unwrap()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    assert_eq!(stand.meter.totals().settled, 0);
    drop(stream);
    assert_eq!(stand.end(1).await.charged, RESERVED);
    feed.closed().await;
}

#[tokio::test]
async fn s28_a_stream_that_nobody_asked_to_tell_its_usage_keeps_its_charge() {
    let stand = stand([events(&[piece(), piece(), "[DONE]".into()])]).await;
    let stream = stand.client.chat().create_stream(question().unwrap()).await.unwrap();
    assert_eq!(stream.collect::<Vec<_>>().await.len(), 2);
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_stream_that_breaks_off_keeps_its_charge() {
    let (feed, answer) = fed();
    feed.send(Ok(event(&piece()))).unwrap();
    let stand = stand([answer]).await;
    let mut stream = stand.client.chat().create_stream(streamed_question().unwrap()).await.unwrap();
    stream.next().await.unwrap().unwrap();
    feed.send(Err("reset".into())).unwrap();
    stream.next().await.unwrap().unwrap_err();
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_call_that_is_given_up_keeps_its_charge() {
    let (feed, answer) = fed();
    let stand = stand([provider::typed("application/json", answer)]).await;
    let chat = stand.client.chat();
    tokio::select! {
        answer = chat.create(question().unwrap()) => panic!("{answer:?}"),
        // The answer is never finished, and its reader has come to read it.
        () = async {
            while stand.provider.calls() == 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(stand.end(1).await.charged, RESERVED);
    drop(feed);
}

#[tokio::test]
async fn s27_s30_each_attempt_at_a_connection_that_is_refused_reserves_and_is_released() {
    let gone = provider::gone().await.unwrap();
    let (limiter, meter) = limiter(10_000);
    let attempts = Arc::new(AtomicUsize::new(0));
    let counted = attempts.clone();
    let layer =
        ThrottleLayer::new(limiter.clone(), openai::demand as fn(&mut reqwest::Request) -> _);
    let throttled = ServiceBuilder::new()
        .layer(layer.inspector(openai::inspect()))
        .map_request(move |request: reqwest::Request| {
            counted.fetch_add(1, Ordering::Relaxed);
            request
        })
        .service(reqwest::Client::new());

    let client = client_through(throttled, &gone);
    let error = client.chat().create(question().unwrap()).await.unwrap_err();
    assert!(matches!(&error, OpenAIError::Reqwest(error) if error.is_connect()), "{error:?}");
    // One, and the three retries of the layer.
    let totals = meter.settled(4).await.unwrap();
    assert_eq!((attempts.load(Ordering::Relaxed), totals.reservations), (4, 4));
    assert_eq!(
        (totals.reserved, totals.charged, totals.refunded()),
        (4 * RESERVED, 0, 4 * RESERVED)
    );
    let status = limiter.status("gpt-4o").await.unwrap();
    assert!(
        status.quotas.iter().all(|quota| quota.charged == 0.0 && quota.in_flight == 0),
        "{status:?}"
    );
}

#[derive(Clone, Copy, Debug)]
struct NeverReady;

impl Service<reqwest::Request> for NeverReady {
    type Response = reqwest::Response;
    type Error = BoxError;
    type Future = std::future::Ready<Result<reqwest::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("not ready, never".into()))
    }

    fn call(&mut self, _: reqwest::Request) -> Self::Future {
        panic!("it was not ready")
    }
}

#[tokio::test]
async fn s27_a_service_that_fails_before_dispatch_costs_nothing() {
    let (limiter, meter) = limiter(10_000);
    let layer = ThrottleLayer::new(limiter, openai::demand as fn(&mut reqwest::Request) -> _);
    let client =
        client_through(layer.inspector(openai::inspect()).layer(NeverReady), "http://localhost");
    let error = client.chat().create(question().unwrap()).await.unwrap_err();
    assert_eq!(error.to_string(), "not ready, never");
    let totals = meter.settled(1).await.unwrap();
    assert_eq!((totals.reservations, totals.charged), (1, 0));
}

#[tokio::test]
async fn s30_each_attempt_reserves_and_is_settled_by_what_became_of_it() {
    let answers = [unavailable(), refused("requests"), unavailable(), json(&completion(60))];
    let stand = stand(answers).await;
    stand.client.chat().create(question().unwrap()).await.unwrap();
    assert_eq!(stand.provider.calls(), 4);
    let status = stand.limiter.status("gpt-4o").await.unwrap();
    assert_eq!(status.quotas[1].charged, 3.0, "requests, without the one that was refused");
    // Failed calls are kept, the one that was refused costs nothing.
    assert_eq!(stand.end(4).await.charged, 2 * RESERVED + 60);
}

#[tokio::test]
async fn s27_calls_that_fail_to_the_last_are_kept() {
    let stand =
        stand([unavailable(), unavailable(), unavailable(), unavailable(), json(&completion(60))])
            .await;
    let error = stand.client.chat().create(question().unwrap()).await.unwrap_err();
    assert!(matches!(error, OpenAIError::ApiError(_)), "{error:?}");
    assert_eq!(stand.end(4).await.charged, 4 * RESERVED);
}

#[tokio::test]
async fn a_quota_that_is_used_up_for_good_is_not_tried_again() {
    let stand = stand([refused("insufficient_quota"), json(&completion(60))]).await;
    stand.client.chat().create(question().unwrap()).await.unwrap_err();
    assert_eq!(stand.provider.calls(), 1);
    assert_eq!(stand.end(1).await.charged, 0);
}

#[tokio::test]
async fn a_refusal_of_the_throttle_is_found_and_not_tried_again() {
    let provider = Provider::start(|_| json(&completion(60))).await.unwrap();
    let (limiter, meter) = limiter(400);
    let layer =
        ThrottleLayer::new(limiter, openai::demand as fn(&mut reqwest::Request) -> _).reject();
    let client = client_through(layer.layer(reqwest::Client::new()), &provider.url());
    client.chat().create(question().unwrap()).await.unwrap();

    let error = client.chat().create(question().unwrap()).await.unwrap_err();
    let throttled = Throttled::find(&error).expect("it is ours");
    let retry_after = throttled.retry_after().expect("it fits later");
    assert!(
        (Duration::from_secs(30)..Duration::from_secs(62)).contains(&retry_after),
        "{retry_after:?}"
    );
    assert_eq!(error.to_string(), throttled.to_string());
    assert_eq!((provider.calls(), meter.totals().refused), (1, 1));
}

#[tokio::test]
async fn a_client_may_be_shared_and_its_calls_wait_for_each_other() {
    let provider = Provider::start(|_| json(&completion(60))).await.unwrap();
    let (limiter, meter) = limiter(500);
    let client = client(limiter.clone(), &provider.url());
    let calls = (0..4).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.chat().create(question().unwrap()).await })
    });
    // One fits at a time, and the next as soon as it is refunded.
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap().unwrap();
    }
    let totals = meter.settled(4).await.unwrap();
    assert_eq!(totals.charged, 4 * 60);
    assert!(!totals.waited.is_zero());
}
