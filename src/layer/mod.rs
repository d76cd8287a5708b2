//! The layer: what to throttle, by what.

pub(crate) mod body;
mod config;
mod future;
#[cfg(feature = "reqwest-middleware")]
mod middleware;
#[cfg(feature = "reqwest")]
mod reqwest_response;
mod respond;
mod service;

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use self::config::Config;
pub use self::{
    body::MeteredBody,
    future::ResponseFuture,
    respond::{Respond, RespondFuture, RespondLayer},
    service::Throttle,
};
use crate::{inspect::KeepReserved, limiter::Limiter};

/// Throttles a service: reserves what each request may use, waits until that fits, calls, and settles on what was used.
///
/// The extractor reads the demand from the request, the inspector the actual usage from the response. Nothing inside is
/// held while a request waits: the inner service is made ready after the grant.
///
/// ```
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_throttle::{BoxError, Demand, Limiter, Limits, Quota, Settlement, ThrottleLayer, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let limiter = Limiter::new(Limits::new().bucket("words", [Quota::per_minute("words", 1_000)]))?;
/// let layer = ThrottleLayer::new(limiter.clone(), |text: &mut String| {
///     Ok(Demand::new("words", usage! { words: text.len() as u64 }))
/// });
/// let layer = layer.inspector(|words: &usize| Settlement::Exact(usage! { words: *words as u64 }));
/// let service = ServiceBuilder::new()
///     .layer(layer)
///     .service(service_fn(async |text: String| Ok::<_, BoxError>(text.split(' ').count())));
///
/// assert_eq!(service.oneshot("one two three".into()).await?, 3);
/// assert_eq!(limiter.status("words").await?.quotas[0].available, 997.0);
/// # Ok(())
/// # }
/// ```
pub struct ThrottleLayer<E, I = KeepReserved> {
    config: Arc<Config<E, I>>,
}

impl<E> ThrottleLayer<E> {
    /// Throttles by what `extractor` reads from a request. Without an inspector, calls keep what they reserved.
    pub fn new(limiter: Limiter, extractor: E) -> Self {
        Self { config: Arc::new(Config::new(limiter, extractor, KeepReserved)) }
    }
}

impl<E, I> ThrottleLayer<E, I> {
    /// Settles on what `inspector` reads from a response.
    #[must_use]
    pub fn inspector<J>(self, inspector: J) -> ThrottleLayer<E, J> {
        ThrottleLayer { config: Arc::new(self.config.with_inspector(Arc::new(inspector))) }
    }

    /// Refuses what does not fit at once, instead of waiting.
    #[must_use]
    pub fn reject(self) -> Self {
        self.with(|config| config.waits = false)
    }

    /// The longest that a demand may wait which does not say so itself (default: for ever). One that cannot make it is
    /// refused at once.
    #[must_use]
    pub fn max_wait(self, max_wait: Duration) -> Self {
        self.with(|config| config.max_wait = Some(max_wait))
    }

    /// How old a grant may be when its call is made; an older one is given back and made anew (default: 0.5 s).
    #[must_use]
    pub fn dispatch_within(self, duration: Duration) -> Self {
        self.with(|config| config.dispatch_within = duration)
    }

    fn with(self, set: impl FnOnce(&mut Config<E, I>)) -> Self {
        let mut config = self.config.with_inspector(self.config.inspector.clone());
        set(&mut config);
        Self { config: Arc::new(config) }
    }

    /// Answers refused requests itself, with 429 or 503, so that the error type stays that of the inner service.
    #[must_use]
    pub fn respond(self) -> RespondLayer<E, I> {
        RespondLayer::new(self.config)
    }
}

impl<S, E, I> Layer<S> for ThrottleLayer<E, I> {
    type Service = Throttle<S, E, I>;

    fn layer(&self, inner: S) -> Self::Service {
        Throttle::new(inner, self.config.clone())
    }
}

impl<E, I> Clone for ThrottleLayer<E, I> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone() }
    }
}

impl<E, I> fmt::Debug for ThrottleLayer<E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ThrottleLayer")
            .field("limiter", &self.config.limiter)
            .finish_non_exhaustive()
    }
}
