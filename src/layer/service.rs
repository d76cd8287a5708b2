//! The service: a limiter in front of another service.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use tower_service::Service;

use super::{
    config::Config,
    future::{Attempt, ResponseFuture, Spare},
};
use crate::{
    box_error::BoxError,
    extract::Extractor,
    inspect::{Inspector, KeepReserved},
    limiter::Limiter,
};

/// A throttled service: see [`ThrottleLayer`](crate::ThrottleLayer).
///
/// It is always ready, since what a request asks for is not known before it comes. The inner
/// service is cloned for each request and made ready after the grant. Errors of the limiter and of
/// the inner service come boxed: [`Throttled::find`](crate::Throttled::find) tells them apart.
///
/// ```
/// use tower::Layer;
/// use tower_throttle::{Demand, ExtractError, Limiter, ThrottleLayer, layer::Throttle, usage};
///
/// type Extract = fn(&mut String) -> Result<Demand, ExtractError>;
///
/// /// A client with a name for its type.
/// fn client<S>(limiter: Limiter, inner: S) -> Throttle<S, Extract> {
///     let demand: Extract = |_| Ok(Demand::new("api", usage! { requests: 1 }));
///     ThrottleLayer::new(limiter, demand).layer(inner)
/// }
/// ```
pub struct Throttle<S, E, I = KeepReserved> {
    inner: S,
    config: Arc<Config<E, I>>,
}

impl<S, E> Throttle<S, E> {
    /// Throttles `inner` by what `extractor` reads from a request. Calls keep what they reserved;
    /// an inspector and other settings come with a [`ThrottleLayer`](crate::ThrottleLayer).
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tower::service_fn;
    /// use tower_throttle::{Demand, ExtractError, Limiter, Limits, Quota, layer::Throttle, usage};
    ///
    /// fn demand(text: &mut String) -> Result<Demand, ExtractError> {
    ///     Ok(Demand::new("words", usage! { words: text.len() as u64 }))
    /// }
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("words", [Quota::per_minute("words", 1_000)]);
    /// let count = |text: String| async move { Ok::<_, Infallible>(text.split(' ').count()) };
    /// let service = Throttle::new(service_fn(count), Limiter::new(limits)?, demand);
    /// assert_eq!(service.clone().oneshot("one two three".into()).await?, 3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn new(inner: S, limiter: Limiter, extractor: E) -> Self {
        Self::from_config(inner, Arc::new(Config::new(limiter, extractor, KeepReserved)))
    }
}

impl<S, E, I> Throttle<S, E, I> {
    pub(super) fn from_config(inner: S, config: Arc<Config<E, I>>) -> Self {
        Self { inner, config }
    }

    pub(super) fn limiter(&self) -> &Limiter {
        &self.config.limiter
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, E, I> Throttle<S, E, I>
where
    S: Clone,
{
    /// Begins with a request: its service is set aside until the grant.
    pub(super) fn attempt<R>(&self, request: R) -> Attempt<S, R, E, I>
    where
        S: Service<R>,
        E: Extractor<R>,
    {
        let spare = Spare { service: self.inner.clone(), copy: S::clone };
        Attempt::new(self.config.clone(), self.inner.clone(), Some(spare), request)
    }
}

impl<S, R, E, I> Service<R> for Throttle<S, E, I>
where
    S: Service<R> + Clone,
    S::Error: Into<BoxError>,
    E: Extractor<R>,
    I: Inspector<S::Response>,
{
    type Response = I::Inspected;
    type Error = BoxError;
    type Future = ResponseFuture<S, R, E, I>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        ResponseFuture::new(self.attempt(request))
    }
}

impl<S, E, I> Throttle<S, E, I> {
    /// Sends one request: [`Service::call`] without the trait, since this service is always ready.
    ///
    /// It does what `tower::ServiceExt::oneshot` does, and where a bound is not met, the compiler
    /// names the bound: that the extractor does not read this kind of request, say.
    ///
    /// # Errors
    /// Those of the future: a boxed [`Throttled`](crate::Throttled) if nothing was reserved,
    /// otherwise the extractor's or the inner service's error.
    pub fn oneshot<R>(self, request: R) -> ResponseFuture<S, R, E, I>
    where
        S: Service<R> + Clone,
        S::Error: Into<BoxError>,
        E: Extractor<R>,
        I: Inspector<S::Response>,
    {
        ResponseFuture::new(self.attempt(request))
    }
}

impl<S: Clone, E, I> Clone for Throttle<S, E, I> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone(), config: self.config.clone() }
    }
}

impl<S: fmt::Debug, E, I> fmt::Debug for Throttle<S, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Throttle")
            .field("inner", &self.inner)
            .field("limiter", &self.config.limiter)
            .finish_non_exhaustive()
    }
}
