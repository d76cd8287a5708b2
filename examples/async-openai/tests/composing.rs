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
    assert!(code.lines().count() < 20);
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
