//! The layer as a middleware of reqwest-middleware: what is left of the chain is the service that
//! it throttles.

use std::{
    fmt,
    task::{Context, Poll},
};

use async_trait::async_trait;
use futures_util::future::{BoxFuture, FutureExt, ready};
use http::Extensions;
use reqwest::{Request, Response};
use reqwest_middleware::{Error, Middleware, Next, Result};
use tower_service::Service;

use super::{
    future::{Attempt, Failure},
    throttle_layer::ThrottleLayer,
};
use crate::{
    box_error::BoxError,
    extract::Extractor,
    inspect::{CallError, Inspector},
};

/// A request that is not sent is [`Error::Middleware`], in which
/// [`Throttled::find`](crate::Throttled::find) finds the reason; errors of the chain stay what they
/// are.
#[async_trait]
impl<E, I> Middleware for ThrottleLayer<E, I>
where
    E: Extractor<Request> + Send + Sync + 'static,
    I: Inspector<Response, Inspected = Response> + Send + Sync + 'static,
{
    async fn handle(
        &self,
        request: Request,
        extensions: &mut Extensions,
        next: Next<'_>,
    ) -> Result<Response> {
        let chain = Chain { rest: Some((next, extensions)) };
        // A chain is always ready, and holds nothing.
        let attempt = Attempt::new(self.config.clone(), chain, None, request);
        attempt.await.map_err(|failure| match failure {
            Failure::Demand(error) => Error::middleware(NotSent(error.into_inner())),
            Failure::Throttled(error) => Error::middleware(NotSent(error.into())),
            Failure::NotReady(error) => error,
            Failure::Call(error, mut dispatched) => {
                dispatched.conclude(self.config.inspector.failed(CallError::new(&error)));
                error
            }
        })
    }
}

/// What comes after this middleware, as a service for one request.
struct Chain<'a> {
    rest: Option<(Next<'a>, &'a mut Extensions)>,
}

impl<'a> Service<Request> for Chain<'a> {
    type Response = Response;
    type Error = Error;
    type Future = BoxFuture<'a, Result<Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match self.rest.take() {
            Some((next, extensions)) => next.run(request, extensions),
            None => ready(Err(Error::middleware(NotSent("it was sent before".into())))).boxed(),
        }
    }
}

/// Why a request was not sent. The text tells the reason, so that the reason's own source comes
/// next.
#[derive(Debug)]
struct NotSent(BoxError);

impl fmt::Display for NotSent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the request was not sent: {}", self.0)
    }
}

impl std::error::Error for NotSent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}
