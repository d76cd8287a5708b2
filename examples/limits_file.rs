//! One limits file for everything that a shop buys and sells: `cargo run --example limits_file
//! --all-features`.
//!
//! The file says which requests go where; those to OpenAI and Anthropic tell it themselves, by the
//! model they name.

use std::convert::Infallible;

use http::{Request, Response};
use tower::{ServiceBuilder, service_fn};
use tower_throttle::{
    BoxError, ThrottleLayer,
    file::LimitsFile,
    llm::{anthropic, compatible, openai},
    routes::Route,
};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/limits.toml");

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let file = LimitsFile::read(FILE)?;
    let limiter = file.limiter().build()?;
    let routes = file
        .routes()
        .route("POST api.openai.com", Route::by(openai::rules().extractor()))
        .route("POST api.anthropic.com", Route::by(anthropic::rules().extractor()).class("batch"))
        .build()?;

    // Stands for all of them: each call uses 300 tokens of input and 40 of output.
    let answer = r#"{"usage":{"input_tokens":300,"output_tokens":40}}"#;
    let provider = service_fn(move |_: Request<String>| async move {
        Ok::<_, Infallible>(Response::new(answer.to_owned()))
    });
    let layer =
        ThrottleLayer::new(limiter.clone(), routes).inspector(compatible::rules().inspector());
    let client = ServiceBuilder::new().layer(layer).service(provider);

    for (url, body) in [
        (
            "https://api.openai.com/v1/chat/completions",
            r#"{"model":"gpt-4o-2024-11-20","messages":[]}"#,
        ),
        (
            "https://api.openai.com/v1/embeddings",
            r#"{"model":"text-embedding-3-large","input":"a text"}"#,
        ),
        ("https://api.openai.com/v1/chat/completions", r#"{"model":"brand-new","messages":[]}"#),
        ("https://api.anthropic.com/v1/messages", r#"{"model":"claude-sonnet-4-5","messages":[]}"#),
        ("http://shop/tenants/acme/orders", ""),
        ("http://shop/tenants/globex/orders", ""),
        ("http://shop/tenants/nobody/orders", ""),
    ] {
        let response = client.clone().oneshot(Request::post(url).body(body.to_owned())?).await?;
        http_body_util::BodyExt::collect(response.into_body()).await?;
    }

    for bucket in [
        "gpt-4o",
        "embeddings",
        "claude-sonnet-4-5",
        "tenant:acme",
        "tenant:globex",
        "all tenants",
        "others",
    ] {
        let status = limiter.status(bucket).await?;
        let quotas = status.quotas.iter();
        let quotas: Vec<_> = quotas
            .map(|quota| format!("{}: {:.0} of {}", quota.quota, quota.charged, quota.limit))
            .collect();
        println!("{bucket:18} {}", quotas.join(", "));
    }
    Ok(())
}
