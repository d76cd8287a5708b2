//! The layer as a middleware of reqwest-middleware, with and without retries.

use http::Method;
use reqwest::{Client, Request, StatusCode};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware, Error};
use reqwest_retry::{Jitter, RetryTransientMiddleware, policies::ExponentialBackoff};
use tower::ServiceBuilder;
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Settlement, ThrottleLayer, Throttled, inspect, usage,
};

use crate::{
    ledger::{Ledger, settled},
    provider::{Nowhere, Provider},
    wire::{self, Answer, Inspector, RESERVED, erased, inspector},
};

type Extract = fn(&mut Request) -> Result<Demand, ExtractError>;

fn layer(limiter: &Limiter) -> ThrottleLayer<Extract, Inspector> {
    let demand: Extract = |_| Ok(Demand::new("api", usage! { tokens: RESERVED }));
    ThrottleLayer::new(limiter.clone(), demand).inspector(inspector())
}

/// Tries three times in all, without much of a pause.
fn retry() -> RetryTransientMiddleware<ExponentialBackoff> {
    let moment = std::time::Duration::from_millis(1);
    let policy = ExponentialBackoff::builder().retry_bounds(moment, moment).jitter(Jitter::None);
    RetryTransientMiddleware::new_with_policy(policy.build_with_max_retries(2))
}

fn client(limiter: &Limiter) -> ClientWithMiddleware {
    ClientBuilder::new(Client::new()).with(layer(limiter)).build()
}

async fn send(
    limiter: &Limiter,
    method: Method,
    url: String,
    body: &'static str,
) -> Result<Answer, BoxError> {
    let response = client(limiter).request(method, url).body(body).send().await?;
    Ok(erased(http::Response::<reqwest::Body>::from(response)))
}

wire::on_the_wire!(send, unzips: true);

#[tokio::test]
async fn ten_megabytes_pass_an_inspector_that_wants_one() {
    let send = async |limiter: &Limiter, _: Method, url: String, _: &'static str| {
        let layer = layer(limiter).inspector(inspect::bytes(1 << 20, |_| Settlement::Release));
        let response =
            ClientBuilder::new(Client::new()).with(layer).build().get(url).send().await?;
        Ok(erased(http::Response::<reqwest::Body>::from(response)))
    };
    wire::a_big_body_is_not_kept(send).await;
}

#[tokio::test]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let client = ClientBuilder::new(Client::new()).with(retry()).with(layer(&limiter)).build();
    let response = client.get(provider.url("/third-time")).send().await.expect("an answer");
    assert_eq!((response.status(), provider.hits()), (StatusCode::OK, 3));
    assert_eq!(response.url().path(), "/third-time");
    response.text().await.expect("text");
    settled(&limiter, &ledger, (2 * RESERVED + 8, 3), "two that failed are kept").await;
}

#[tokio::test]
async fn a_retry_inside_is_one_reservation_whatever_it_does() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let client = ClientBuilder::new(Client::new()).with(layer(&limiter)).with(retry()).build();
    client
        .get(provider.url("/third-time"))
        .send()
        .await
        .expect("an answer")
        .text()
        .await
        .expect("text");
    assert_eq!(provider.hits(), 3);
    settled(&limiter, &ledger, (8, 1), "the wrong order").await;
}

#[tokio::test]
async fn s27_a_connection_that_is_refused_is_tried_again_and_costs_nothing() {
    let nowhere = Nowhere::new();
    let (limiter, ledger) = Ledger::limiter();
    let client = ClientBuilder::new(Client::new()).with(retry()).with(layer(&limiter)).build();
    let error = client.get(nowhere.url()).send().await.expect_err("nothing listens");
    assert_eq!(error.to_string(), "Request failed after 2 retries");
    assert_eq!(ledger.counts(), (3, 3), "one reservation for each attempt");
    settled(&limiter, &ledger, (0, 0), "none of them arrived").await;

    // Without retries the error is the client's own.
    let error =
        self::client(&limiter).get(nowhere.url()).send().await.expect_err("nothing listens");
    assert!(matches!(&error, Error::Reqwest(error) if error.is_connect()), "{error}");
}

#[tokio::test]
async fn a_refusal_is_not_tried_again_and_is_found() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let bare = ClientBuilder::new(Client::new()).with(layer(&limiter).reject()).build();
    let retrying =
        ClientBuilder::new(Client::new()).with(retry()).with(layer(&limiter).reject()).build();
    let twice = ClientBuilder::new(Client::new())
        .with(retry())
        .with(retry())
        .with(layer(&limiter).reject())
        .build();
    let held: Vec<_> =
        futures_util::future::join_all((0..3).map(|_| bare.get(provider.url("/answer")).send()))
            .await;
    assert!(held.iter().all(Result::is_ok));

    for client in [bare, retrying, twice] {
        let granted = ledger.counts().0;
        let error = client.get(provider.url("/answer")).send().await.expect_err("30 of 10 left");
        assert!(error.is_middleware(), "{error}");
        let throttled = Throttled::find(&error).expect("the throttle's");
        assert!(matches!(throttled, Throttled::NotNow(_)), "{throttled}");
        assert!(throttled.retry_after().is_some());
        let mut chain = String::new();
        let mut next: Option<&dyn std::error::Error> = Some(&error);
        while let Some(link) = next {
            chain += &format!("{link}\n");
            next = link.source();
        }
        let told = format!("the request was not sent: {throttled}");
        assert_eq!(chain.matches(&told).count(), 1, "{chain}");
        assert_eq!(chain.matches("throttled: bucket").count(), 1, "{chain}");
        assert!(Throttled::find(BoxError::from(error).as_ref()).is_some());
        assert_eq!(
            (ledger.counts().0, provider.hits()),
            (granted, 3),
            "nothing was granted, and nothing sent"
        );
    }
    drop(held);
    settled(&limiter, &ledger, (3 * RESERVED, 3), "dropped unread").await;
}

#[tokio::test]
async fn what_an_extractor_says_is_found_too() {
    let nowhere = Nowhere::new();
    let (limiter, ledger) = Ledger::limiter();
    let layer =
        ThrottleLayer::from_fn(limiter.clone(), |_: &mut Request| Err(Throttled::Closed.into()));
    let client = ClientBuilder::new(Client::new()).with(retry()).with(layer).build();
    let error = client.get(nowhere.url()).send().await.expect_err("not sent");
    assert!(matches!(Throttled::find(&error), Some(Throttled::Closed)));
    settled(&limiter, &ledger, (0, 0), "nothing was reserved").await;
}

/// The other way round: tower outside, a client with middleware as the inner service.
#[tokio::test]
async fn a_client_with_middleware_is_an_inner_service() {
    let nowhere = Nowhere::new();
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let inner = ClientBuilder::new(Client::new()).build();
    let service = ServiceBuilder::new().layer(layer(&limiter)).service(inner);
    let request = |url: String| Request::new(Method::GET, url.parse().expect("a URL"));
    let response =
        service.clone().oneshot(request(provider.url("/answer"))).await.expect("an answer");
    response.text().await.expect("text");
    settled(&limiter, &ledger, (8, 1), "settled on its body").await;
    service.oneshot(request(nowhere.url())).await.expect_err("nothing listens");
    settled(&limiter, &ledger, (8, 1), "it cannot have arrived").await;
}
