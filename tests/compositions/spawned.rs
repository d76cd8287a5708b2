//! Every stack of README.md and docs/composing.md inside `tokio::spawn` and a `JoinSet`. The
//! example of axum has them in handlers. The stacks are named here by their concrete types: behind
//! a generic function, the compiler would not check what a caller's task needs.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use tokio::task::JoinSet;
use tower::{Layer, ServiceBuilder, ServiceExt, service_fn};
use tower_throttle::{Demand, Settlement, ThrottleLayer, inspect, usage};

use crate::{
    documented::{self, chat, limiter},
    provider::Provider,
};

/// Sends requests through clones of a service, one in a task and two in a set of tasks.
macro_rules! spawned {
    ($service:expr, $request:expr) => {{
        let service = $service;
        let one = service.clone();
        let request = $request;
        let answer = tokio::spawn(async move { one.oneshot(request).await }).await;
        let answer = answer.expect("the task ends").expect("the call is served");
        let mut tasks = JoinSet::new();
        for request in [$request, $request] {
            let one = service.clone();
            tasks.spawn(async move { one.oneshot(request).await.map(drop) });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("the task ends").expect("the call is served");
        }
        answer
    }};
}

fn question() -> String {
    "Why is the sky blue?".to_owned()
}

fn upper() -> impl tower::Service<String, Response = String, Error = Infallible, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    service_fn(|text: String| async move { Ok::<_, Infallible>(text.to_uppercase()) })
}

#[tokio::test]
async fn the_order_of_tower_s_layers() {
    let stack = documented::order::stack(limiter(), upper());
    assert_eq!(spawned!(stack, question()), question().to_uppercase());
}

#[tokio::test]
async fn the_order_written_where_it_is_used() {
    let throttle = ThrottleLayer::from_fn(limiter(), |text: &mut String| {
        Ok(Demand::new("api", usage! { tokens: text.len() as u64 }))
    })
    .inspector(|answer: &String| Settlement::Exact(usage! { tokens: answer.len() as u64 }));
    let minute = std::time::Duration::from_secs(60);
    let stack = ServiceBuilder::new()
        .timeout(minute)
        .retry(documented::retries::Attempts(3))
        .layer(throttle)
        .timeout(minute)
        .concurrency_limit(64)
        .service_fn(|text: String| async move { Ok::<_, Infallible>(text.to_uppercase()) });
    assert_eq!(spawned!(stack, question()), question().to_uppercase());
}

#[tokio::test]
async fn extractors_that_use_question_marks() {
    let throttle = ThrottleLayer::from_fn(limiter(), |text: &mut String| {
        let words: u64 = text.parse()?;
        let bucket = (words > 0).then_some("api").ok_or("no words are asked for")?;
        std::str::from_utf8(text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(Demand::new(bucket, usage! { tokens: words }))
    });
    assert_eq!(spawned!(throttle.layer(upper()), "12".to_owned()), "12");
    let refused = throttle.layer(upper()).oneshot("0".to_owned());
    let error = tokio::spawn(refused).await.expect("the task ends").unwrap_err();
    assert_eq!(error.to_string(), "no words are asked for");
}

#[tokio::test]
async fn layers_inside_that_never_made_the_call() {
    let stack = documented::never_made::shedding(limiter(), upper());
    assert_eq!(spawned!(stack, question()), question().to_uppercase());
    let inspector = inspect::on_failure(inspect::KeepReserved, |error| {
        error.is::<std::io::Error>().then_some(Settlement::Release)
    });
    let layer = ThrottleLayer::from_fn(limiter(), |_: &mut String| Ok(Demand::unlimited()));
    assert_eq!(spawned!(layer.inspector(inspector).layer(upper()), "a".to_owned()), "A");
}

#[tokio::test]
async fn any_service() {
    let stack = documented::any_service::database(limiter());
    assert_eq!(spawned!(stack, question()), question().into_bytes());
}

#[tokio::test]
async fn refusals_as_responses() {
    let layer = ThrottleLayer::from_fn(limiter(), |request: &mut Request<String>| {
        Ok(Demand::new("api", usage! { tokens: request.body().len() as u64 }))
    })
    .inspector(inspect::by_status(inspect::bytes(1 << 20, |_| Settlement::Keep)))
    .respond()
    .rate_limit_fields();
    let server = service_fn(|request: Request<String>| async move {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(request.into_body()))))
    });
    let service = layer.layer(server);
    let answer = spawned!(service, Request::new(question()));
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), question());
}

#[tokio::test]
async fn hyper() {
    let provider = Provider::start().await;
    let request =
        || Request::get(provider.url("/")).body(Full::default()).expect("a valid request");
    let answer = spawned!(documented::hyper_client::client(limiter()), request());
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn reqwest_with_routes() {
    let provider = Provider::start().await;
    let client = documented::reqwest_client::client(limiter()).expect("the routes are valid");
    let answer = spawned!(client, chat(&provider.url("/")));
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn reqwest_by_a_provider_s_rules() {
    let provider = Provider::start().await;
    let layers = ThrottleLayer::openai(limiter()).layer(reqwest::Client::new());
    let answer = spawned!(layers, chat(&provider.url("/")));
    assert_eq!(answer.status(), StatusCode::OK);
    let client = documented::provider_rules::client(limiter());
    let answer = spawned!(client, chat(&provider.url("/")));
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn reqwest_in_a_struct() {
    let at = Provider::start().await;
    let provider = documented::in_a_struct::Provider::new(limiter());
    let (one, request) = (provider.clone(), chat(&at.url("/")));
    let answer = tokio::spawn(async move { one.chat(request).await }).await;
    assert_eq!(answer.expect("the task ends").expect("it is served").status(), StatusCode::OK);
    // Behind a reference that other tasks share.
    let (shared, request) = (std::sync::Arc::new(provider), chat(&at.url("/")));
    let answer = tokio::spawn(async move { shared.chat(request).await }).await;
    assert_eq!(answer.expect("the task ends").expect("it is served").status(), StatusCode::OK);
}

#[tokio::test]
async fn reqwest_with_what_comes_with_a_call() {
    let provider = Provider::start().await;
    let client = documented::reqwest_jobs::client(limiter());
    let answer = spawned!(client, documented::job(&provider.url("/")));
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn reqwest_with_retries() {
    let provider = Provider::start().await;
    let client = documented::reqwest_retries::client(limiter(), std::time::Duration::from_secs(60));
    let answer = spawned!(client, chat(&provider.url("/third-time")));
    assert_eq!((answer.status(), provider.hits()), (StatusCode::OK, 5), "two failed");
}

#[tokio::test]
async fn reqwest_middleware() {
    let provider = Provider::start().await;
    let client = documented::reqwest_middleware::client(limiter());
    let url = provider.url("/");
    let (one, at) = (client.clone(), url.clone());
    let answer = tokio::spawn(async move { one.get(at).send().await }).await;
    assert_eq!(answer.expect("the task ends").expect("it is served").status(), StatusCode::OK);
    let mut tasks = JoinSet::new();
    for _ in 0..2 {
        let (one, at) = (client.clone(), url.clone());
        tasks.spawn(async move { one.get(at).send().await.map(drop) });
    }
    while let Some(ended) = tasks.join_next().await {
        ended.expect("the task ends").expect("it is served");
    }
}

/// What the documents show is what is tested here.
#[test]
fn the_documents_show_these_stacks() {
    let documents = [include_str!("../../README.md"), include_str!("../../docs/composing.md")];
    for stack in [
        include_str!("documented/any_service.rs"),
        include_str!("documented/hyper_client.rs"),
        include_str!("documented/in_a_struct.rs"),
        include_str!("documented/never_made.rs"),
        include_str!("documented/order.rs"),
        include_str!("documented/provider_rules.rs"),
        include_str!("documented/reqwest_client.rs"),
        include_str!("documented/reqwest_jobs.rs"),
        include_str!("documented/reqwest_middleware.rs"),
        include_str!("documented/reqwest_retries.rs"),
        include_str!("documented/retries.rs"),
    ] {
        let stack = stack.replace("pub(crate) ", "");
        assert!(documents.iter().any(|document| document.contains(&stack)), "{stack}");
    }
}
