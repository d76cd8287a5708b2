//! Answering refused requests instead of failing them, for servers.

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
    error::{Refusal, Throttled},
    extract::Extractor,
    inspect::Inspector,
};

/// A [`ThrottleLayer`](crate::ThrottleLayer) that answers refused requests itself: 429 when quotas refuse, 503 when the
/// store fails, 400 when the extractor or the limiter makes nothing of the request. `Retry-After` is given in whole
/// seconds, rounded up, where it is known.
///
/// The error type stays the inner service's, so that it mounts on an axum `Router` as it is.
pub struct RespondLayer<E, I> {
    config: Arc<Config<E, I>>,
    fields: bool,
}

impl<E, I> RespondLayer<E, I> {
    pub(super) fn new(config: Arc<Config<E, I>>) -> Self {
        Self { config, fields: false }
    }

    /// Adds the IETF's `RateLimit` and `RateLimit-Policy` fields to refusals (draft-ietf-httpapi-ratelimit-headers).
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

/// A throttled service that answers refused requests itself: see [`RespondLayer`].
pub struct Respond<S, E, I> {
    throttle: Throttle<S, E, I>,
    fields: bool,
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
    /// The response of a [`Respond`], of the inner service or its own.
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
            Err(Failure::Demand(error)) => Ok(answer(StatusCode::BAD_REQUEST, error.to_string())),
            Err(Failure::Throttled(error)) => Ok(refusal(&error, fields)),
            Err(Failure::NotReady(error) | Failure::Call(error, _)) => Err(error),
        })
    }
}

impl<S: Service<R>, R, E, I> fmt::Debug for RespondFuture<S, R, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondFuture").finish_non_exhaustive()
    }
}

fn answer<B: From<String>>(status: StatusCode, text: String) -> Response<B> {
    let mut response = Response::new(B::from(text));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// Says no more than a stranger may know: not which buckets there are.
fn refusal<B: From<String>>(error: &Throttled, fields: bool) -> Response<B> {
    let (status, text) = match error {
        Throttled::Store(_) | Throttled::Closed => {
            (StatusCode::SERVICE_UNAVAILABLE, "cannot take requests at the moment")
        }
        Throttled::BadDemand(_) => (StatusCode::BAD_REQUEST, "this request cannot be metered"),
        Throttled::ExceedsCapacity(_) => {
            (StatusCode::TOO_MANY_REQUESTS, "this request alone exceeds the limit: make it smaller")
        }
        _ => (StatusCode::TOO_MANY_REQUESTS, "too many requests"),
    };
    let mut response = answer(status, text.to_owned());
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
