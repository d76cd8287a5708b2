//! LLM providers: what their requests ask for, and what their responses used.
//!
//! The rules of each provider are data (presets); requests and responses are read by code that
//! knows no provider.
//!
//! [`ThrottleLayer::openai`](crate::ThrottleLayer::openai),
//! [`anthropic`](crate::ThrottleLayer::anthropic) and
//! [`openai_compatible`](crate::ThrottleLayer::openai_compatible) throttle a client in one line. A
//! provider's [`Rules`] say what it counts when a call is admitted and when it ends: [`openai`],
//! [`anthropic`], [`gemini`], [`azure`], [`bedrock`], [`vertex`] and those in [`compatible`]. They
//! can be changed. The amounts are yours to bring, since they differ by account. All providers side
//! by side: [`providers`].
//!
//! What responses say of limits, in headers, errors and `Retry-After`, holds back all that share
//! the bucket, in every process: see [`Rules::feedback`].
//!
//! A request's bucket is the family of its model (`gpt-4o-2024-11-20` is a `gpt-4o`), whatever
//! model the response names. A family that is not declared goes where
//! [`Limits::undeclared`](crate::Limits::undeclared) says.
//!
//! ```
//! use http_body_util::Full;
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, service_fn};
//! use tower_throttle::{BoxError, Limiter, Limits, ThrottleLayer, llm::anthropic};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let quotas = anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000);
//! let limiter = Limiter::new(Limits::new().bucket("claude-sonnet-4-5", quotas))?;
//!
//! let answer = r#"{"usage": {"input_tokens": 11, "output_tokens": 42}}"#;
//! let client = service_fn(move |_| async move {
//!     Ok::<_, Infallible>(http::Response::new(Full::from(answer)))
//! });
//! let layer = ThrottleLayer::anthropic(limiter.clone());
//! let client = ServiceBuilder::new().layer(layer).service(client);
//!
//! let request = r#"{"model": "claude-sonnet-4-5-20250929", "max_tokens": 1024,
//!     "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#;
//! let response = client.oneshot(http::Request::new(request.to_owned())).await?;
//! assert_eq!(limiter.status("claude-sonnet-4-5").await?.quotas[2].in_flight, 1_024);
//!
//! http_body_util::BodyExt::collect(response.into_body()).await?;
//! // Some is refilled by now.
//! assert!(limiter.status("claude-sonnet-4-5").await?.quotas[2].charged <= 42.0);
//! # Ok(())
//! # }
//! ```

#[cfg(feature = "bedrock")]
mod amazon_events;
pub mod anthropic;
pub mod azure;
pub mod bedrock;
mod call_estimate;
pub mod compatible;
mod estimate;
mod extractor;
mod family;
mod feedback;
mod finishes;
mod format;
pub mod gemini;
mod inspector;
mod json;
mod layer;
mod learned;
mod media;
mod model_path;
pub mod openai;
mod policy;
mod presets;
mod price;
#[doc = include_str!("../../docs/providers.md")]
pub mod providers {}
mod quotas;
mod request;
mod response_fields;
mod responses;
mod rules;
mod sse;
mod stream_options;
#[cfg(test)]
mod tests;
#[cfg(feature = "tiktoken")]
mod tiktoken;
mod usage_json;
mod usage_reader;
pub mod vertex;

#[cfg(feature = "tiktoken")]
pub use self::tiktoken::Tiktoken;
pub use self::{
    estimate::{Estimator, HeuristicEstimator},
    extractor::{Extract, Peek},
    format::Format,
    inspector::Inspect,
    policy::{AtEnd, Charge, Output, Tokens},
    price::Price,
    quotas::Quotas,
    request::BadRequest,
    rules::Rules,
    usage_reader::UsageReader,
};
