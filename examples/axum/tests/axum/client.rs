//! A throttled client inside handlers.

use std::{
    convert::Infallible,
    sync::Mutex,
    task::{Context, Poll},
};

use axum_examples::{
    Server,
    client::{client, router},
};
use bytes::Bytes;
use examples_common::{
    meter::{Meter, Totals},
    openai::{self, completion},
    provider::{self, Body, Provider, event, fed, json, status, whole},
};
use http::{Request, Response, StatusCode};
use tokio::{io::AsyncWriteExt, net::TcpStream};
use tower::{Layer, Service, ServiceBuilder};
use tower_throttle::{BoxError, Limiter, Limits, Quota, ThrottleLayer, Throttled};

/// What one question reserves: two tokens for itself, a hundred for the answer.
const RESERVED: u64 = 102;

/// 1,000 tokens a minute.
fn limiter() -> (Limiter, Meter) {
    let meter = Meter::default();
    let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 1_000)]);
    (Limiter::builder(limits).observer(meter.observer()).build().unwrap(), meter)
}

async fn ask(server: &Server) -> reqwest::Response {
    reqwest::Client::new().post(server.url("/questions")).body("May I?").send().await.unwrap()
}

/// What happened, once one reservation is settled and nothing more can happen.
async fn end(server: Server, limiter: &Limiter, meter: &Meter, reservations: u64) -> Totals {
    let totals = meter.settled(reservations).await.unwrap();
    server.stop().await.unwrap().unwrap();
    limiter.close().await;
    assert_eq!(meter.totals(), totals);
    totals
}

/// What a question comes to where the provider answers so.
async fn asked<F>(answer: F) -> (StatusCode, Totals)
where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let provider = Provider::start(answer).await.unwrap();
    let (limiter, meter) = limiter();
    let server = Server::start(router(client(limiter.clone()), &provider.url())).await.unwrap();
    let answered = ask(&server).await.status();
    (answered, end(server, &limiter, &meter, 1).await)
}

#[tokio::test]
async fn a_call_is_settled_on_its_answer() {
    let (answered, totals) = asked(|_| json(&completion(60))).await;
    assert_eq!((answered, totals.reserved, totals.charged), (StatusCode::OK, RESERVED, 60));
}

#[tokio::test]
async fn a_call_that_does_not_fit_is_told_to_whoever_asked() {
    let provider = Provider::start(|_| json(&completion(950))).await.unwrap();
    let (limiter, meter) = limiter();
    let rejecting =
        ThrottleLayer::new(limiter.clone(), openai::demand as fn(&mut reqwest::Request) -> _)
            .inspector(openai::inspect())
            .reject();
    let server = Server::start(router(rejecting.layer(reqwest::Client::new()), &provider.url()))
        .await
        .unwrap();
    assert_eq!(ask(&server).await.status(), StatusCode::OK);

    let refused = ask(&server).await;
    assert_eq!((refused.status(), provider.calls()), (StatusCode::SERVICE_UNAVAILABLE, 1));
    let retry_after: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((30..=62).contains(&retry_after), "{retry_after}");
    assert_eq!(end(server, &limiter, &meter, 1).await.refused, 1);
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
async fn s27_a_client_that_fails_before_dispatch_costs_nothing() {
    let (limiter, meter) = limiter();
    let layer =
        ThrottleLayer::new(limiter.clone(), openai::demand as fn(&mut reqwest::Request) -> _);
    let layer = layer.inspector(openai::inspect());
    let server = Server::start(router(layer.layer(NeverReady), "http://localhost")).await.unwrap();
    assert_eq!(ask(&server).await.status(), StatusCode::BAD_GATEWAY);
    let totals = end(server, &limiter, &meter, 1).await;
    assert_eq!((totals.reserved, totals.charged), (RESERVED, 0));
}

#[tokio::test]
async fn s27_a_provider_that_cannot_be_reached_costs_nothing() {
    let (limiter, meter) = limiter();
    let gone = provider::gone().await.unwrap();
    let server = Server::start(router(client(limiter.clone()), &gone)).await.unwrap();
    assert_eq!(ask(&server).await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(end(server, &limiter, &meter, 1).await.charged, 0);
}

#[tokio::test]
async fn s27_a_call_that_fails_is_kept_and_one_that_is_refused_is_not() {
    let (answered, totals) = asked(|_| status(StatusCode::INTERNAL_SERVER_ERROR)).await;
    assert_eq!((answered, totals.charged), (StatusCode::BAD_GATEWAY, RESERVED));
    let (answered, totals) = asked(|_| status(StatusCode::TOO_MANY_REQUESTS)).await;
    assert_eq!((answered, totals.charged), (StatusCode::BAD_GATEWAY, 0));
}

#[tokio::test]
async fn s28_an_answer_that_breaks_off_keeps_its_charge() {
    let (answered, totals) = asked(|_| {
        let (feed, answer) = fed();
        feed.send(Ok(event(&openai::piece()))).unwrap();
        feed.send(Err("reset".into())).unwrap();
        answer
    })
    .await;
    assert_eq!((answered, totals.charged), (StatusCode::BAD_GATEWAY, RESERVED));
}

/// The client of the handler has hung up, so the handler's call is dropped where it is.
#[tokio::test]
async fn s28_a_call_of_a_handler_that_is_dropped_keeps_its_charge() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let provider = Provider::start(move |_| {
        let (feed, answer) = fed();
        arrived.send(feed).unwrap();
        answer
    });
    let provider = provider.await.unwrap();
    let (limiter, meter) = limiter();
    let server = Server::start(router(client(limiter.clone()), &provider.url())).await.unwrap();
    let mut connection = TcpStream::connect(server.address()).await.unwrap();
    connection
        .write_all(b"POST /questions HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nMay I?")
        .await
        .unwrap();
    let feed = arrivals.recv().await.unwrap();
    drop(connection);
    feed.closed().await;
    assert_eq!(end(server, &limiter, &meter, 1).await.charged, RESERVED);
}

#[tokio::test]
async fn s29_answers_without_a_body_are_settled_once() {
    for code in [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED, StatusCode::OK] {
        let (answered, totals) = asked(move |_| status(code)).await;
        assert_eq!((answered, totals.charged), (StatusCode::BAD_GATEWAY, RESERVED), "no JSON");
    }
}

#[tokio::test]
async fn s29_an_answer_that_is_not_read_to_its_end_is_settled_when_it_is_dropped() {
    // A bad request has cost a request and no tokens, whatever its body tells.
    for (code, charged) in [(StatusCode::REQUEST_TIMEOUT, RESERVED), (StatusCode::NOT_FOUND, 0)] {
        let (answered, totals) = asked(move |_| {
            let mut refused = whole("no such model");
            *refused.status_mut() = code;
            refused
        })
        .await;
        assert_eq!((answered, totals.charged), (StatusCode::BAD_GATEWAY, charged), "{code}");
    }
}

/// Retries server errors, and nothing that the throttle refuses.
#[derive(Clone, Copy)]
struct Thrice(u32);

impl tower::retry::Policy<reqwest::Request, reqwest::Response, BoxError> for Thrice {
    type Future = std::future::Ready<()>;

    fn retry(
        &mut self,
        _: &mut reqwest::Request,
        result: &mut Result<reqwest::Response, BoxError>,
    ) -> Option<Self::Future> {
        let again = match result {
            Ok(response) => response.status().is_server_error(),
            Err(error) => Throttled::find(error.as_ref()).is_none(),
        };
        self.0 = self.0.checked_sub(1)?;
        again.then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &reqwest::Request) -> Option<reqwest::Request> {
        request.try_clone()
    }
}

#[tokio::test]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    let failures = Mutex::new(2);
    let provider = Provider::start(move |_| {
        let mut failures = failures.lock().unwrap();
        match u32::checked_sub(*failures, 1) {
            Some(fewer) => {
                *failures = fewer;
                status(StatusCode::SERVICE_UNAVAILABLE)
            }
            None => json(&completion(60)),
        }
    });
    let provider = provider.await.unwrap();
    let (limiter, meter) = limiter();
    let retrying = ServiceBuilder::new().retry(Thrice(2)).service(client(limiter.clone()));
    let server = Server::start(router(retrying, &provider.url())).await.unwrap();
    assert_eq!(ask(&server).await.status(), StatusCode::OK);

    let status = limiter.status("gpt-4o").await.unwrap();
    assert_eq!(status.quotas[0].charged as u64, 2 * RESERVED + 60);
    let totals = end(server, &limiter, &meter, 3).await;
    assert_eq!((totals.reservations, totals.reserved, provider.calls()), (3, 3 * RESERVED, 3));
}

/// The state of a router has to be so.
#[test]
fn a_throttled_client_can_be_shared_by_handlers() {
    fn shared<T: Clone + Send + Sync + 'static>(_: &T) {}
    let client = client(limiter().0);
    shared(&client);
    let layered = ThrottleLayer::new(limiter().0, openai::demand as fn(&mut reqwest::Request) -> _);
    shared(&layered.clone().respond());
    shared(&layered.layer(tower::service_fn(async |_: reqwest::Request| {
        Ok::<_, Infallible>(Response::new(()))
    })));
}
