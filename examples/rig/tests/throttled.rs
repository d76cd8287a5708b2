//! rig's OpenAI provider against a server on the loopback.

use std::{error::Error, time::Duration};

use examples_common::provider::{self, Provider};
use http::{HeaderValue, Request, StatusCode};
use rig_core::{
    completion::CompletionRequest,
    http_client::{HttpClientExt, MultipartForm},
    providers::openai::OpenAIConfig,
};
use rig_example::{ThrottledClient, refusal};
use rig_reqwest::ReqwestClient;
use serde_json::{Value, json};
use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, llm, usage};

const MODEL: &str = "gpt-4o";

fn limiter() -> Limiter {
    let quotas = [Quota::per_minute("requests", 2), Quota::per_minute("tokens", 10_000)];
    Limiter::new(Limits::new().bucket(MODEL, quotas)).expect("valid limits")
}

/// Settles on what was used, whatever OpenAI does.
fn layer(limiter: &Limiter) -> ThrottleLayer<llm::Extract, llm::Inspect> {
    let forms = Demand::new(MODEL, usage! { requests: 1, tokens: 500 });
    let rules = llm::openai::rules().tokens_at_end(llm::AtEnd::Actual).unreadable(forms);
    ThrottleLayer::openai_compatible(limiter.clone(), rules).max_wait(Duration::ZERO)
}

fn usage() -> Value {
    json!({"prompt_tokens": 9, "completion_tokens": 3, "total_tokens": 12})
}

fn answer() -> Value {
    let message = json!({"role": "assistant", "content": "Hi"});
    json!({"id": "c1", "object": "chat.completion", "created": 1, "model": MODEL, "usage": usage(),
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}]})
}

fn chunks() -> Vec<Value> {
    let chunk = |choices: Value, usage: Value| {
        json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": MODEL,
            "choices": choices, "usage": usage})
    };
    let text = json!([{"index": 0, "delta": {"content": "Hi"}, "finish_reason": null}]);
    let end = json!([{"index": 0, "delta": {}, "finish_reason": "stop"}]);
    let last = chunk(json!([]), usage());
    vec![chunk(text, Value::Null), chunk(end, Value::Null), last, json!("[DONE]")]
}

/// Streams what is asked for as a stream.
async fn start() -> Provider {
    let provider = Provider::start(|request: Request<_>| {
        let request: Value = serde_json::from_slice(request.body()).unwrap_or_default();
        let streams = request["stream"].as_bool().unwrap_or(false);
        if streams { provider::events(&chunks()) } else { provider::json(&answer()) }
    });
    provider.await.expect("a port")
}

async fn charged(limiter: &Limiter) -> Vec<f64> {
    let status = limiter.status(MODEL).await.expect("its status");
    status.quotas.iter().map(|quota| quota.charged).collect()
}

fn request() -> CompletionRequest {
    let mut request = CompletionRequest::new("Hello");
    request.max_tokens = Some(64);
    request
}

#[tokio::test]
async fn calls_and_streams_are_settled_on_what_they_used_and_more_are_refused() {
    let (server, limiter) = (start().await, limiter());
    let client = ThrottledClient::new(ReqwestClient::default(), layer(&limiter));
    let openai = OpenAIConfig::new("key").with_base_url(server.url()).connect(client);
    let model = openai.chat(MODEL);
    let reply = model.call(request()).await.expect("an answer");
    assert_eq!(reply.text(), "Hi");
    assert_eq!(charged(&limiter).await, [1.0, 12.0]);

    let streamed = model.stream(request()).expect("a stream").finish().await.expect("its end");
    assert_eq!(streamed.text(), "Hi");
    assert_eq!(charged(&limiter).await, [2.0, 24.0]);

    let error = model.call(request()).await.expect_err("no request is left");
    let refused = refusal(&error).expect("found through rig's errors");
    assert!(refused.retry_after().is_some(), "{refused}");
    assert_eq!(server.calls(), 2);
}

#[tokio::test]
async fn a_refusal_of_the_provider_s_holds_the_bucket_and_reaches_the_caller() {
    let server = Provider::start(|_| {
        let error = json!({"error": {"code": "rate_limit_exceeded", "message": "slow down"}});
        let mut refusal = provider::json(&error);
        *refusal.status_mut() = StatusCode::TOO_MANY_REQUESTS;
        refusal.headers_mut().insert("retry-after", HeaderValue::from_static("20"));
        refusal
    });
    let (server, limiter) = (server.await.expect("a port"), limiter());
    let client = ThrottledClient::new(ReqwestClient::default(), layer(&limiter));
    let openai = OpenAIConfig::new("key").with_base_url(server.url()).connect(client);
    let model = openai.chat(MODEL);
    let error = model.call(request()).await.expect_err("refused by the provider");
    assert!(refusal(&error).is_none() && error.to_string().contains("slow down"), "{error}");
    let status = limiter.status(MODEL).await.expect("its status");
    assert!(status.paused_until.is_some());
    let error = model.call(request()).await.expect_err("held back");
    assert!(refusal(&error).is_some(), "{error}");
    assert_eq!(server.calls(), 1);
}

#[tokio::test]
async fn a_form_is_charged_what_the_rules_say_of_what_cannot_be_read() -> Result<(), Box<dyn Error>>
{
    let (server, limiter) = (start().await, limiter());
    let client = ThrottledClient::new(ReqwestClient::default(), layer(&limiter));
    let form = MultipartForm::new().text("model", "whisper-1");
    let request = Request::post(server.url()).body(form)?;
    let answered = client.send_multipart::<Vec<u8>>(request).await?.into_body().await?;
    assert!(answered.starts_with(b"{"));
    assert_eq!(charged(&limiter).await[0], 1.0);
    Ok(())
}
