//! The code that docs/composing.md shows.

#[path = "composing/client.rs"]
mod client;

use async_openai::{Client, config::OpenAIConfig};
use async_openai_examples::question;
use examples_common::{
    openai::completion,
    provider::{Provider, json, status},
};
use http::StatusCode;
use tower_throttle::{Limiter, Limits, Quota, Settlement, usage};

#[test]
fn the_document_shows_this_code() {
    let code = include_str!("composing/client.rs");
    assert!(
        include_str!("../../../docs/composing.md").contains(&code.replace("pub(crate) ", "")),
        "{code}"
    );
    assert!(code.lines().count() < 30);
}

#[tokio::test]
async fn the_client_that_it_shows_keeps_within_its_limit() {
    let tried = std::sync::atomic::AtomicBool::new(false);
    let provider = Provider::start(move |_| {
        let again = tried.swap(true, std::sync::atomic::Ordering::Relaxed);
        if again { json(&completion(60)) } else { status(StatusCode::SERVICE_UNAVAILABLE) }
    });
    let provider = provider.await.unwrap();
    let quotas = [Quota::per_minute("tokens", 5_000), Quota::per_minute("requests", 10)];
    let limiter = Limiter::new(Limits::new().bucket("gpt-4o", quotas)).unwrap();
    let config = OpenAIConfig::new().with_api_base(provider.url()).with_api_key("secret");
    let used = |_: &[u8]| Settlement::Exact(usage! { tokens: 60 });
    let client = client::throttled(Client::with_config(config), limiter.clone(), used);

    client.chat().create(question().unwrap()).await.unwrap();
    let status = limiter.status("gpt-4o").await.unwrap();
    assert_eq!((status.quotas[0].charged, status.quotas[1].charged), (1_560.0, 2.0));
}

/// In tasks and handlers, where the future of a call has to be `Send`.
#[tokio::test]
async fn the_client_that_it_shows_is_called_from_tasks_and_handlers() {
    let provider = Provider::start(|_| json(&completion(60))).await.unwrap();
    let quotas = [Quota::per_minute("tokens", 50_000), Quota::per_minute("requests", 10)];
    let limiter = Limiter::new(Limits::new().bucket("gpt-4o", quotas)).unwrap();
    let config = OpenAIConfig::new().with_api_base(provider.url()).with_api_key("secret");
    let used = |_: &[u8]| Settlement::Exact(usage! { tokens: 60 });
    let client = client::throttled(Client::with_config(config), limiter.clone(), used);

    let one = client.clone();
    let asked = async move { one.chat().create(question().unwrap()).await.map(drop) };
    tokio::spawn(asked).await.unwrap().unwrap();

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let one = client.clone();
        tasks.spawn(async move { one.chat().create(question().unwrap()).await.map(drop) });
    }
    while let Some(asked) = tasks.join_next().await {
        asked.unwrap().unwrap();
    }

    let handler = async move || match client.chat().create(question().unwrap()).await {
        Ok(_) => StatusCode::OK,
        Err(_) => StatusCode::BAD_GATEWAY,
    };
    let router = axum::Router::new().route("/", axum::routing::get(handler));
    let request = http::Request::get("/").body(axum::body::Body::empty()).unwrap();
    let Ok(answer) = tower::ServiceExt::oneshot(router, request).await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(limiter.status("gpt-4o").await.unwrap().quotas[1].charged, 4.0);
}
