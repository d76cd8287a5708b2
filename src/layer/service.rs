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
use crate::{box_error::BoxError, extract::Extractor, inspect::Inspector};

/// A throttled service: see [`ThrottleLayer`](crate::ThrottleLayer).
///
/// It is always ready, since what a request asks for is not known before it comes; the inner service is cloned for each
/// request and made ready after the grant. Errors of the limiter and of the inner service come boxed:
/// [`Throttled::find`](crate::Throttled::find) tells them apart.
pub struct Throttle<S, E, I> {
    inner: S,
    config: Arc<Config<E, I>>,
}

impl<S, E, I> Throttle<S, E, I> {
    pub(super) fn new(inner: S, config: Arc<Config<E, I>>) -> Self {
        Self { inner, config }
    }

    /// The inner service.
    pub fn get_ref(&self) -> &S {
        &self.inner
    }

    /// The inner service.
    pub fn get_mut(&mut self) -> &mut S {
        &mut self.inner
    }

    /// The inner service.
    pub fn into_inner(self) -> S {
        self.inner
    }
}

impl<S, E, I> Throttle<S, E, I>
where
    S: Clone,
{
    /// Begins with a request: its service is set aside.
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
