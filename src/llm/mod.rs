//! LLM providers: what their requests ask for, and what their responses used.
//!
//! [`ThrottleLayer::openai`](crate::ThrottleLayer::openai), [`anthropic`](crate::ThrottleLayer::anthropic) and
//! [`openai_compatible`](crate::ThrottleLayer::openai_compatible) throttle a client in one line. What a provider counts when a
//! call is admitted and at its end is told by its [`Rules`]: [`openai::rules`], [`anthropic::rules`] and those in
//! [`compatible`], which can be changed. The amounts are yours to bring, since they differ by account.
//!
//! What responses say of limits, in headers, errors and `Retry-After`, holds back all that share the bucket, in every process: see
//! [`Rules::feedback`].
//!
//! A request's bucket is the family of its model (`gpt-4o-2024-11-20` is a `gpt-4o`), whatever model the response names. Families nobody
//! declared go where [`Limits::undeclared`](crate::Limits::undeclared) says.
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
//! let client =
//!     service_fn(move |_| async move { Ok::<_, Infallible>(http::Response::new(Full::from(answer))) });
//! let client = ServiceBuilder::new().layer(ThrottleLayer::anthropic(limiter.clone())).service(client);
//!
//! let request = r#"{"model": "claude-sonnet-4-5-20250929", "max_tokens": 1024,
//!     "messages": [{"role": "user", "content": "Why is the sky blue?"}]}"#;
//! let response = client.oneshot(http::Request::new(request.to_owned())).await?;
//! assert_eq!(limiter.status("claude-sonnet-4-5").await?.quotas[2].in_flight, 1_024);
//!
//! http_body_util::BodyExt::collect(response.into_body()).await?;
//! assert!(limiter.status("claude-sonnet-4-5").await?.quotas[2].charged <= 42.0); // some is refilled by now
//! # Ok(())
//! # }
//! ```

mod alike;
pub mod anthropic;
pub mod compatible;
mod counts;
mod estimate;
mod extractor;
mod family;
mod feedback;
mod image;
mod inspector;
mod json;
mod layer;
mod learned;
pub mod openai;
mod quotas;
mod reader;
mod request;
mod rules;
mod sse;
mod stream_options;
mod table;
mod telling;
#[cfg(test)]
mod tests;
#[cfg(feature = "tiktoken")]
mod tiktoken;

#[cfg(feature = "tiktoken")]
pub use self::tiktoken::Tiktoken;
pub use self::{
    estimate::{ByScript, Estimator},
    extractor::{Extract, Peek},
    inspector::Inspect,
    quotas::Quotas,
    reader::{Format, Reader},
    request::BadRequest,
    rules::{AtEnd, Charge, Output, Rules, Tokens},
};
