//! hyper's pooled client as the inner service, over real connections.

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tower::{ServiceBuilder, ServiceExt};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Settlement, ThrottleLayer, inspect, usage,
};

use crate::{
    ledger::{Ledger, settled},
    provider::Provider,
    wire::{self, Answer, RESERVED, UntilServed, erased, inspector},
};

type Body = Full<Bytes>;

fn client() -> Client<HttpConnector, Body> {
    Client::builder(TokioExecutor::new()).build_http()
}

fn demand(_: &mut Request<Body>) -> Result<Demand, ExtractError> {
    Ok(Demand::new("api", usage! { tokens: RESERVED }))
}

async fn send(
    limiter: &Limiter,
    method: Method,
    url: String,
    body: &'static str,
) -> Result<Answer, BoxError> {
    let layer = ThrottleLayer::new(limiter.clone(), demand).inspector(inspector());
    let request = Request::builder().method(method).uri(url).body(Full::from(body))?;
    Ok(erased(ServiceBuilder::new().layer(layer).service(client()).oneshot(request).await?))
}

wire::on_the_wire!(send, unzips: false);

#[tokio::test]
async fn ten_megabytes_pass_an_inspector_that_wants_one() {
    let send = async |limiter: &Limiter, method: Method, url: String, _: &'static str| {
        let layer = ThrottleLayer::new(limiter.clone(), demand)
            .inspector(inspect::bytes(1 << 20, |_| Settlement::Release));
        let request = Request::builder().method(method).uri(url).body(Full::default())?;
        Ok(erased(ServiceBuilder::new().layer(layer).service(client()).oneshot(request).await?))
    };
    wire::a_big_body_is_not_kept(send).await;
}

#[tokio::test]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let layer = ThrottleLayer::new(limiter.clone(), demand).inspector(inspector());
    let policy = UntilServed {
        tries: 2,
        copy: |request: &Request<Body>| Some(request.clone()),
        status: Response::status,
    };
    let service = ServiceBuilder::new().retry(policy).layer(layer).service(client());
    let request =
        Request::get(provider.url("/third-time")).body(Full::default()).expect("a valid request");
    let response = service.oneshot(request).await.expect("an answer");
    assert_eq!(provider.hits(), 3);
    response.into_body().collect().await.expect("all of it");
    settled(&limiter, &ledger, (2 * RESERVED + 8, 3), "two that failed are kept").await;
}

/// One client whose calls share connections and limits.
#[tokio::test]
async fn many_calls_at_once_keep_to_the_limit() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let layer = ThrottleLayer::new(limiter.clone(), demand).inspector(inspector()).reject();
    let service = ServiceBuilder::new().layer(layer).service(client());
    let calls = (0..8).map(|_| {
        let request =
            Request::get(provider.url("/chunked")).body(Full::default()).expect("a valid request");
        service.clone().oneshot(request)
    });
    // Three times 30 of 100 fit at once.
    let answers = futures_util::future::join_all(calls).await;
    let passed: Vec<_> = answers.into_iter().filter_map(Result::ok).collect();
    assert_eq!((passed.len(), provider.hits()), (3, 3));
    for answer in passed {
        answer.into_body().collect().await.expect("all of it");
    }
    settled(&limiter, &ledger, (24, 3), "8 tokens each").await;
}
