//! Every stack of README.md and docs/composing.md inside a handler. The stacks are named here by
//! their concrete types: behind a generic function, the compiler would not check what axum needs.

use std::{convert::Infallible, time::Duration};

use axum::{Router, http::StatusCode, routing::get};
use bytes::Bytes;
use examples_common::provider::{Provider, whole};
use http::{Request, Response};
use http_body_util::Full;
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_throttle::{Demand, Settlement, ThrottleLayer, inspect, usage};

use crate::documented::{self, chat, limiter};

/// Sends a request through a clone of a service in a handler, which answers 200 if it is served.
macro_rules! handled {
    ($service:expr, $request:expr) => {{
        let service = $service;
        let request = $request;
        let handler = async move || match service.clone().oneshot(request()).await {
            Ok(_) => StatusCode::OK,
            Err(_) => StatusCode::BAD_GATEWAY,
        };
        served(Router::new().route("/", get(handler))).await;
    }};
}

async fn served(router: Router) {
    let request = Request::get("/").body(axum::body::Body::empty()).expect("a valid request");
    let Ok(answer) = router.oneshot(request).await;
    assert_eq!(answer.status(), StatusCode::OK);
}

fn question() -> String {
    "Why is the sky blue?".to_owned()
}

fn upper() -> impl Service<String, Response = String, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(|text: String| async move { Ok::<_, Infallible>(text.to_uppercase()) })
}

async fn provider() -> Provider {
    Provider::start(|_| whole("It depends.")).await.expect("a free port")
}

#[tokio::test]
async fn services_that_are_closures() {
    handled!(documented::order::stack(limiter(), upper()), question);
    handled!(documented::never_made::shedding(limiter(), upper()), question);
    handled!(documented::any_service::database(limiter()), question);
}

#[tokio::test]
async fn the_order_written_where_it_is_used() {
    let throttle = ThrottleLayer::from_fn(limiter(), |text: &mut String| {
        let tokens = u64::try_from(text.len())?;
        Ok(Demand::new("api", usage! { tokens: tokens }))
    })
    .inspector(inspect::on_failure(
        |answer: &String| Settlement::Exact(usage! { tokens: answer.len() as u64 }),
        |error| error.is::<std::io::Error>().then_some(Settlement::Release),
    ));
    let minute = Duration::from_secs(60);
    let stack = ServiceBuilder::new()
        .timeout(minute)
        .retry(documented::retries::Attempts(3))
        .layer(throttle)
        .timeout(minute)
        .concurrency_limit(64)
        .service_fn(|text: String| async move { Ok::<_, Infallible>(text.to_uppercase()) });
    handled!(stack, question);
}

#[tokio::test]
async fn refusals_as_responses() {
    let layer = ThrottleLayer::from_fn(limiter(), |request: &mut Request<String>| {
        Ok(Demand::new("api", usage! { tokens: request.body().len() as u64 }))
    })
    .inspector(inspect::by_status(inspect::bytes(1 << 20, |_| Settlement::Keep)))
    .respond();
    let server = service_fn(|request: Request<String>| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(request.into_body()))))
    });
    handled!(layer.layer(server), || Request::new(question()));
}

#[tokio::test]
async fn clients_over_the_wire() {
    let provider = provider().await;
    let url = provider.url();
    let at = url.clone();
    let empty = move || Request::get(&at).body(Full::default()).expect("a valid request");
    handled!(documented::hyper_client::client(limiter()), empty);
    let at = url.clone();
    let routed = documented::reqwest_client::client(limiter()).expect("the routes are valid");
    handled!(routed, move || chat(&at));
    let at = url.clone();
    handled!(ThrottleLayer::openai(limiter()).layer(reqwest::Client::new()), move || chat(&at));
    let at = url.clone();
    handled!(documented::provider_rules::client(limiter()), move || chat(&at));
    let at = url.clone();
    handled!(documented::reqwest_jobs::client(limiter()), move || documented::job(&at));

    let at = url.clone();
    let retried = documented::reqwest_retries::client(limiter(), Duration::from_secs(60));
    handled!(retried, move || chat(&at));

    let client = documented::in_a_struct::Provider::new(limiter());
    let at = url.clone();
    let handler = async move || match client.chat(chat(&at)).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    served(Router::new().route("/", get(handler))).await;
    let client = documented::reqwest_middleware::client(limiter());
    let handler = async move || match client.get(&url).send().await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    served(Router::new().route("/", get(handler))).await;
}
