//! Share an API's rate limits between tasks, processes and machines: reserve what a call may use,
//! wait in a fair queue until that fits, call, and settle on what was really used.
//!
//! * [`Limits`] declares buckets and their [`Quota`]s; a [`Limiter`] grants [`Demand`]s within
//!   them, as [`Reservation`]s.
//! * [`ThrottleLayer`] does so around any tower service: an [`Extractor`] reads the demand from a
//!   request, an [`Inspector`] the actual usage from the response.
//! * State lives in a [`store`]: in memory, in Redis for any number of processes, or in a file for
//!   those of one host.
//!
//! ```
//! use std::convert::Infallible;
//! use tower::{ServiceBuilder, ServiceExt, service_fn};
//! use tower_throttle::{
//!     BoxError, Demand, Limiter, Limits, Quota, Settlement, ThrottleLayer, usage,
//! };
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let limits = Limits::new()
//!     .bucket("api", [Quota::per_minute("requests", 500), Quota::per_minute("tokens", 30_000)]);
//! let limiter = Limiter::new(limits)?;
//! let layer = ThrottleLayer::from_fn(limiter.clone(), |prompt: &mut String| {
//!     Ok(Demand::new("api", usage! { requests: 1, tokens: prompt.len() as u64 + 1_000 }))
//! })
//! .inspector(|answer: &String| Settlement::Exact(usage! { tokens: answer.len() as u64 }));
//!
//! let client = service_fn(|prompt: String| async move { Ok::<_, Infallible>(prompt + "?") });
//! let client = ServiceBuilder::new().layer(layer).service(client);
//! assert_eq!(client.oneshot("why".into()).await?, "why?");
//! assert_eq!(limiter.status("api").await?.quotas[1].charged, 4.0);
//! # Ok(())
//! # }
//! ```
//!
//! # Guide
//! The module [`guide`] says which quotas to declare, what to put around the layer and inside, what
//! to do when it does not compile, and what happens while it runs.
//!
//! # Modules
//! What every program uses is at the root. The rest is in modules:
//!
//! | module | holds |
//! |---|---|
//! | [`limits`], [`quota`] | classes, what becomes of undeclared names, when a call counts |
//! | [`limiter`] | its builder, its status, what a refusal says, ids of reservations |
//! | [`layer`] | the service that the layer makes, its futures and bodies, `Respond` |
//! | [`inspect`] | inspectors: of bodies, by status, of failures |
//! | `routes`, `llm`, `file`, `metrics`, `simulate`, `test_util` | by feature |
//! | [`observe`] | events, and what listens to them |
//! | [`store`], [`engine`] | where state lives, and what a store of one's own needs |
//!
//! # Features
//! None is on by default.
//!
//! | feature | brings |
//! |---|---|
//! | `redis` | `store::RedisStore`: shared state in Redis >= 6.2 or Valkey |
//! | `redis-tls` | `rediss://` URLs, by rustls |
//! | `redis-cluster` | Redis Cluster connections as a store |
//! | `redis-connection-manager` | redis-rs's `ConnectionManager` as a store |
//! | `sqlite` | `store::SqliteStore`: a file that the processes of one host share |
//! | `reqwest` | requests of reqwest 0.13 are read, and bodies of its responses followed |
//! | `reqwest-middleware` | the layer is a middleware of reqwest-middleware 0.5 |
//! | `routes` | `routes::Routes`: buckets by host, method and path of a request |
//! | `llm` | OpenAI, Anthropic and compatible providers, in one line |
//! | `bedrock` | event streams of AWS Bedrock |
//! | `smithy` | the HTTP client of an AWS SDK, throttled below the SDK's retries |
//! | `tiktoken` | input counted with OpenAI's vocabularies: several megabytes of them |
//! | `file` | limits from a TOML or JSON file |
//! | `timezone` | fixed windows that reset at midnight of a time zone |
//! | `metrics` | what happens, as metrics: for Prometheus or OpenTelemetry |
//! | `tracing` | what happens, as `tracing` events, and a span for each reservation |
//! | `simulate` | a simulated provider, and what strategies make of its limits |
//! | `test-util` | for tests: a fake clock, a scripted store, a record of what was reserved |
#![cfg_attr(docsrs, feature(doc_cfg))]

mod box_error;
mod bucket;
mod calendar;
mod call_span;
mod demand;
mod drawn;
pub mod engine;
mod error;
mod extract;
mod feedback;
#[cfg(feature = "file")]
pub mod file;
mod fingerprint;
#[cfg(any(doc, doctest))]
pub mod guide;
pub mod inspect;
pub mod layer;
pub mod limiter;
pub mod limits;
#[cfg(feature = "llm")]
pub mod llm;
#[cfg(feature = "metrics")]
pub mod metrics;
mod name;
pub mod observe;
mod on_unavailable;
pub mod quota;
#[cfg(feature = "routes")]
pub mod routes;
#[cfg(feature = "simulate")]
pub mod simulate;
pub mod store;
mod sync;
#[cfg(feature = "test-util")]
pub mod test_util;
mod usage;

pub use box_error::BoxError;
pub use demand::Demand;
pub use error::Throttled;
pub use extract::{ExtractError, Extractor};
pub use feedback::{Feedback, Named};
pub use inspect::inspector::Inspector;
pub use layer::throttle_layer::ThrottleLayer;
pub use limiter::{
    builder::OnUnavailable,
    handle::Limiter,
    reservation::{Reservation, Settlement},
};
pub use limits::declaration::{Limits, LimitsError};
pub use quota::declaration::Quota;
pub use usage::Usage;

#[cfg(feature = "redis")]
pub use redis;

/// What callers keep and share is `Send` and `Sync`.
#[cfg(test)]
const _: () = {
    const fn shared<T: Send + Sync + 'static>() {}

    type Extract = fn(&mut ()) -> Result<Demand, ExtractError>;

    shared::<Demand>();
    shared::<Usage>();
    shared::<Quota>();
    shared::<Limits>();
    shared::<LimitsError>();
    shared::<Limiter>();
    shared::<limiter::LimiterBuilder>();
    shared::<Reservation>();
    shared::<limiter::ReservationId>();
    shared::<limiter::Settling>();
    shared::<Settlement>();
    shared::<limiter::Status>();
    shared::<limiter::Waiting>();
    shared::<limiter::BucketInfo>();
    shared::<limiter::Update>();
    shared::<Throttled>();
    shared::<limiter::Refusal>();
    shared::<Feedback>();
    shared::<ExtractError>();
    shared::<observe::Event<'static>>();
    shared::<store::MemoryStore>();
    shared::<std::sync::Arc<dyn store::Store>>();
    shared::<store::StoreError>();
    shared::<ThrottleLayer<Extract>>();
    shared::<layer::RespondLayer<Extract, inspect::KeepReserved>>();
    shared::<layer::Throttle<(), Extract>>();
    shared::<layer::MeteredBody<()>>();
    #[cfg(feature = "redis")]
    shared::<store::RedisStore>();
    #[cfg(feature = "sqlite")]
    shared::<store::SqliteStore>();
    #[cfg(feature = "routes")]
    shared::<routes::Routes<()>>();
};

/// What macros need. No part of the API.
#[doc(hidden)]
pub mod __private {
    pub use crate::usage::Amount;
}

/// The examples of the README are compiled and run.
#[cfg(all(doctest, feature = "llm", feature = "redis", feature = "reqwest"))]
#[doc = include_str!("../README.md")]
struct Readme;
