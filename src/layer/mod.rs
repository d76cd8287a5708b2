//! What a [`ThrottleLayer`](crate::ThrottleLayer) makes: its service, futures and bodies, and the
//! layer that responds to refusals.
//!
//! It knows the limiter's public methods, extractors and inspectors.

pub(crate) mod body;
mod config;
mod future;
#[cfg(feature = "reqwest-middleware")]
mod middleware;
#[cfg(feature = "reqwest")]
mod reqwest_response;
mod respond;
mod service;
#[cfg(feature = "smithy")]
mod smithy;
pub(crate) mod throttle_layer;

#[cfg(feature = "smithy")]
pub use self::smithy::SmithyClient;
pub use self::{
    body::MeteredBody,
    future::ResponseFuture,
    respond::{Respond, RespondFuture, RespondLayer},
    service::Throttle,
};
