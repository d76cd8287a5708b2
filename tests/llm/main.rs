//! LLM providers' clients that share their limits on Redis.
#![cfg(all(feature = "llm", feature = "redis"))]

#[cfg(feature = "timezone")]
mod days;
mod estimates;
mod headers;
mod names;
#[path = "../support/mod.rs"]
mod support;

use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tower::{Layer, service_fn};
use tower_throttle::{
    BoxError, Limiter, LimitsError, ThrottleLayer, Throttled,
    llm::{Rules, anthropic, compatible, openai},
    store::StoreError,
};

use support::RedisServer;

/// A call that uses 11 tokens of input and 42 of output.
async fn call(limiter: &Limiter, rules: &Rules, model: &str) -> Result<(), BoxError> {
    const ANSWER: &str = r#"{"usage":{"input_tokens":11,"output_tokens":42}}"#;
    let provider =
        service_fn(async |_: Request<String>| Ok::<_, BoxError>(Response::new(Full::from(ANSWER))));
    let layer = ThrottleLayer::openai_compatible(limiter.clone(), rules.clone()).reject();
    let request = format!(r#"{{"model":"{model}","max_tokens":1000,"messages":[]}}"#);
    layer.layer(provider).oneshot(Request::new(request)).await?.into_body().collect().await?;
    Ok(())
}

#[tokio::test]
async fn one_call_starts_a_limiter_that_processes_share() {
    let server = RedisServer::start();
    let url = server.url();
    let quotas = || openai::quotas().rpd(2).tpd(100_000);
    let one = openai::limiter(&url, [("gpt-4o-2024-11-20", quotas())]).await.unwrap();
    let other = openai::limiter(&url, [("gpt-4o", quotas())]).await.unwrap();

    call(&one, &openai::rules(), "gpt-4o").await.unwrap();
    call(&other, &openai::rules(), "gpt-4o-2024-08-06").await.unwrap();
    // What was settled is on its way.
    other.close().await;
    let refused = call(&one, &openai::rules(), "gpt-4o").await.unwrap_err();
    assert!(matches!(Throttled::find(refused.as_ref()), Some(Throttled::NotNow(_))), "{refused}");
    let tokens = one.status("gpt-4o").await.unwrap().quotas[1].charged;
    assert!((1_999.0..=2_000.0).contains(&tokens), "{tokens}: a little is refilled by now");
    let unknown = call(&one, &openai::rules(), "gpt-4o-mini").await.unwrap_err();
    assert!(unknown.to_string().contains("`gpt-4o-mini` is not declared"), "{unknown}");
}

#[tokio::test]
async fn every_provider_starts_alike() {
    let server = RedisServer::start();
    let url = server.url();
    let quotas = anthropic::quotas().rpm(50).otpm(8_000);
    let claude = anthropic::limiter(&url, [("claude-sonnet-4-5-20250929", quotas)]).await.unwrap();
    call(&claude, &anthropic::rules(), "claude-sonnet-4-6").await.unwrap();

    let groq = compatible::groq();
    let llama = [
        ("llama-3.3-70b", compatible::groq_quotas().rpm(30)),
        ("qwen", compatible::groq_quotas().rpm(60)),
    ];
    let llama = groq.limiter(&url, llama).await.unwrap();
    call(&llama, &groq, "llama-3.3-70b").await.unwrap();
    assert!(llama.status("qwen").await.is_ok());
}

#[tokio::test]
async fn a_start_that_cannot_be_tells_why() {
    let quotas = || openai::quotas().rpm(500);
    let error = openai::limiter("redis://127.0.0.1:1", [("gpt-4o", quotas())]).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StoreError::Unavailable { .. })), "{error}");
    let error = openai::limiter("rubbish", [("gpt-4o", quotas())]).await.unwrap_err();
    assert!(matches!(error.downcast_ref(), Some(StoreError::Rejected { .. })), "{error}");

    let server = RedisServer::start();
    let twice = [("gpt-4o", quotas()), ("gpt-4o-2024-11-20", quotas())];
    let error = openai::limiter(&server.url(), twice).await.unwrap_err();
    assert!(
        error.is::<LimitsError>() && error.to_string().contains("`gpt-4o`: it is declared twice"),
        "{error}"
    );
}
