//! Turns refusals into responses, for servers. What a response says is written for strangers.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{
    HeaderMap, HeaderValue, Response, StatusCode,
    header::{CONTENT_TYPE, RETRY_AFTER},
};
use pin_project_lite::pin_project;
use tower_layer::Layer;
use tower_service::Service;

use super::{
    config::Config,
    future::{Attempt, Failure},
    service::Throttle,
};
use crate::{
    error::{BadDemand, Refusal, Throttled},
    extract::{ExtractError, Extractor},
    inspect::Inspector,
};

/// A [`ThrottleLayer`](crate::ThrottleLayer) that turns refusals into responses:
///
/// | status | when |
/// |---|---|
/// | 429 | quotas refuse, or the queue is full |
/// | 400 | the extractor fails, or the demand names a bucket that is not declared, or one twice |
/// | 500 | the demand is wrong otherwise (a class, a metric): a mistake of the server's own |
/// | 503 | the store fails, or the limiter was closed |
///
/// `Retry-After` is given in whole seconds, rounded up, where it is known. Bodies are one generic
/// sentence: neither names of buckets nor the extractor's error are shown to strangers. With
/// feature `tracing` the extractor's error is an event at level `debug`; an
/// [`Observer`](crate::Observer) hears of refusals as ever.
///
/// The error type stays the inner service's, so that the layer mounts on an axum `Router` as it is.
///
/// ```
/// use std::convert::Infallible;
/// use http::{Request, Response};
/// use tower::{Layer, ServiceExt, service_fn};
/// use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let limits = Limits::new().bucket("everyone", [Quota::per_minute("requests", 1)]);
/// let layer = ThrottleLayer::from_fn(Limiter::new(limits)?, |_: &mut Request<()>| {
///     Ok(Demand::new("everyone", usage! { requests: 1 }))
/// })
/// .reject()
/// .respond();
/// let server = |_: Request<()>| async { Ok::<_, Infallible>(Response::new("served".to_owned())) };
/// let service = layer.layer(service_fn(server));
///
/// let Ok(served) = service.clone().oneshot(Request::new(())).await;
/// let Ok(refused) = service.oneshot(Request::new(())).await;
/// assert_eq!((served.status().as_u16(), refused.status().as_u16()), (200, 429));
/// assert!(refused.headers().contains_key("retry-after"));
/// # Ok(())
/// # }
/// ```
pub struct RespondLayer<E, I> {
    config: Arc<Config<E, I>>,
    fields: bool,
}

impl<E, I> RespondLayer<E, I> {
    pub(super) fn new(config: Arc<Config<E, I>>) -> Self {
        Self { config, fields: false }
    }

    /// Adds the IETF's `RateLimit` and `RateLimit-Policy` fields to refusals
    /// (draft-ietf-httpapi-ratelimit-headers).
    #[must_use]
    pub fn rate_limit_fields(mut self) -> Self {
        self.fields = true;
        self
    }
}

impl<S, E, I> Layer<S> for RespondLayer<E, I> {
    type Service = Respond<S, E, I>;

    fn layer(&self, inner: S) -> Self::Service {
        Respond { throttle: Throttle::from_config(inner, self.config.clone()), fields: self.fields }
    }
}

impl<E, I> Clone for RespondLayer<E, I> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), fields: self.fields }
    }
}

impl<E, I> fmt::Debug for RespondLayer<E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondLayer")
            .field("limiter", &self.config.limiter)
            .finish_non_exhaustive()
    }
}

/// A throttled service that turns refusals into responses: see [`RespondLayer`].
pub struct Respond<S, E, I> {
    throttle: Throttle<S, E, I>,
    fields: bool,
}

impl<S, E, I> Respond<S, E, I> {
    /// Turns the refusals of `throttle` into responses. A [`RespondLayer`] does so itself.
    pub fn new(throttle: Throttle<S, E, I>) -> Self {
        Self { throttle, fields: false }
    }

    /// Returns a reference to the inner service.
    pub fn get_ref(&self) -> &S {
        self.throttle.get_ref()
    }

    /// Returns a mutable reference to the inner service.
    pub fn get_mut(&mut self) -> &mut S {
        self.throttle.get_mut()
    }

    /// Returns the inner service.
    pub fn into_inner(self) -> S {
        self.throttle.into_inner()
    }
}

impl<S, R, E, I, B> Service<R> for Respond<S, E, I>
where
    S: Service<R> + Clone,
    E: Extractor<R>,
    I: Inspector<S::Response, Inspected = Response<B>>,
    B: From<String>,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = RespondFuture<S, R, E, I>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Self::Future {
        RespondFuture { attempt: self.throttle.attempt(request), fields: self.fields }
    }
}

impl<S: Clone, E, I> Clone for Respond<S, E, I> {
    fn clone(&self) -> Self {
        Self { throttle: self.throttle.clone(), fields: self.fields }
    }
}

impl<S: fmt::Debug, E, I> fmt::Debug for Respond<S, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Respond").field("throttle", &self.throttle).finish_non_exhaustive()
    }
}

pin_project! {
    /// The response of a [`Respond`]: the inner service's, or its own.
    #[must_use = "futures do nothing unless polled"]
    pub struct RespondFuture<S: Service<R>, R, E, I> {
        #[pin]
        attempt: Attempt<S, R, E, I>,
        fields: bool,
    }
}

impl<S, R, E, I, B> Future for RespondFuture<S, R, E, I>
where
    S: Service<R>,
    I: Inspector<S::Response, Inspected = Response<B>>,
    B: From<String>,
{
    type Output = Result<Response<B>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let fields = *this.fields;
        this.attempt.poll(context).map(|result| match result {
            Ok(response) => Ok(response),
            Err(Failure::Demand(error)) => Ok(unread(&error)),
            Err(Failure::Throttled(error)) => Ok(refused(&error, fields)),
            Err(Failure::NotReady(error) | Failure::Call(error, _)) => Err(error),
        })
    }
}

impl<S: Service<R>, R, E, I> fmt::Debug for RespondFuture<S, R, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondFuture").finish_non_exhaustive()
    }
}

fn answer<B: From<String>>(status: StatusCode, text: &str) -> Response<B> {
    let mut response = Response::new(B::from(text.to_owned()));
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The response to a request of which the extractor makes nothing. The error may tell of the
/// server's inside, so it is not shown.
fn unread<B: From<String>>(error: &ExtractError) -> Response<B> {
    #[cfg(feature = "tracing")]
    tracing::debug!(%error, "no demand could be read from the request");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
    answer(StatusCode::BAD_REQUEST, "this request cannot be metered")
}

/// The response to a request that is refused.
fn refused<B: From<String>>(error: &Throttled, fields: bool) -> Response<B> {
    let (status, text) = match error {
        Throttled::Store(_) | Throttled::Closed => {
            (StatusCode::SERVICE_UNAVAILABLE, "cannot take requests at the moment")
        }
        // What a request can name.
        Throttled::BadDemand(BadDemand::UnknownBucket(_) | BadDemand::SameBucketTwice(_)) => {
            (StatusCode::BAD_REQUEST, "this request cannot be metered")
        }
        Throttled::BadDemand(_) | Throttled::NoRuntime => {
            (StatusCode::INTERNAL_SERVER_ERROR, "requests cannot be metered")
        }
        Throttled::ExceedsCapacity(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "this request alone exceeds the limit: make it smaller")
        }
        _ => (StatusCode::TOO_MANY_REQUESTS, "too many requests"),
    };
    let mut response = answer(status, text);
    let headers = response.headers_mut();
    if let Some(wait) = error.retry_after() {
        headers.insert(RETRY_AFTER, HeaderValue::from(seconds(wait)));
    }
    if let (true, Some(refusal)) = (fields, error.refusal()) {
        add_fields(headers, refusal);
    }
    response
}

fn seconds(duration: Duration) -> u64 {
    duration.as_secs() + u64::from(duration.subsec_nanos() > 0)
}

fn add_fields(headers: &mut HeaderMap, refusal: &Refusal) {
    let list = |item: &dyn Fn(&crate::Shortage) -> String| {
        let items: Vec<_> = refusal.shortages().iter().map(item).collect();
        HeaderValue::try_from(items.join(", ")).ok()
    };
    let policy = list(&|shortage| format!("{};q={}", quoted(&shortage.quota), shortage.limit));
    let limit = list(&|shortage| {
        let left = format!("{};r={}", quoted(&shortage.quota), shortage.available.max(0));
        shortage.retry_after.map_or(left.clone(), |wait| format!("{left};t={}", seconds(wait)))
    });
    headers.extend(
        [("ratelimit-policy", policy), ("ratelimit", limit)]
            .into_iter()
            .filter_map(|(name, value)| Some((http::HeaderName::from_static(name), value?))),
    );
}

/// A string of a structured field (RFC 9651), which holds printable ASCII only.
fn quoted(text: &str) -> String {
    let escaped: String = text
        .chars()
        .filter(|c| matches!(c, ' '..='~'))
        .flat_map(|c| matches!(c, '"' | '\\').then_some('\\').into_iter().chain([c]))
        .collect();
    format!("\"{escaped}\"")
}
