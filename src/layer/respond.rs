//! Turns refusals into responses, for servers. What a response says is written for strangers.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
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
    limiter::{Limiter, Status},
};

/// A [`ThrottleLayer`](crate::ThrottleLayer) that turns refusals into responses:
///
/// | status | when |
/// |---|---|
/// | 429 | quotas refuse, or the queue is full |
/// | 413 | the request alone is more than a quota ever admits: it must not be sent again as it is |
/// | 400 | the extractor fails, or the demand names a bucket that is not declared, or one twice |
/// | 500 | the demand is wrong otherwise (a class, a metric): a mistake of the server's own |
/// | 503 | the store fails, or the limiter was closed |
///
/// `Retry-After` is given in whole seconds, rounded up, where it is known. Bodies are one generic
/// sentence: neither names of buckets nor the extractor's error are shown to strangers. With
/// feature `tracing` the extractor's error is an event at level `debug`; an
/// [`Observer`](crate::observe::Observer) hears of refusals as ever. [`shape`](Self::shape) makes
/// other responses of them, [`openai_errors`](Self::openai_errors) those that OpenAI's clients
/// understand. The [`Throttled`] itself is an extension of the response, for layers outside of this
/// one.
///
/// An extractor that fails is a 400, so keys are better checked in a layer outside. Requests wait
/// for quota unless the layer is to [`reject`](crate::ThrottleLayer::reject), for as long as their
/// demand may ([`Demand::max_wait`](crate::Demand::max_wait)).
///
/// The error type stays the inner service's, so that the layer mounts on an axum `Router` as it is.
/// It may be any type, so [`Inspector::failed`] is not asked of it: a call that ends in an error is
/// settled by [`Inspector::dropped`], which keeps the charge. Where an error means that the call
/// was never made, answer it inside of this layer with a response from which the inspector tells.
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
    shape: Shape,
}

/// How responses look.
#[derive(Clone, Default)]
struct Shape {
    fields: Fields,
    change: Option<Arc<Change>>,
}

type Change = dyn Fn(Option<&Throttled>, &mut Response<String>) + Send + Sync;

/// Which responses have the IETF's fields.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Fields {
    #[default]
    None,
    OnRefusals,
    Always,
}

impl<E, I> RespondLayer<E, I> {
    pub(super) fn new(config: Arc<Config<E, I>>) -> Self {
        Self { config, shape: Shape::default() }
    }

    /// Adds the IETF's `RateLimit` and `RateLimit-Policy` fields to refusals, with the window of
    /// each quota that refused (draft-ietf-httpapi-ratelimit-headers).
    #[must_use]
    pub fn rate_limit_fields(mut self) -> Self {
        self.shape.fields = Fields::OnRefusals;
        self
    }

    /// Adds the IETF's `RateLimit` and `RateLimit-Policy` fields to every response: on one that was
    /// served, those of all quotas of the demand's first bucket.
    ///
    /// Each response then asks the store how the bucket stands, which for a store elsewhere is a
    /// round trip more. They are left out if it does not answer.
    #[must_use]
    pub fn rate_limit_fields_always(mut self) -> Self {
        self.shape.fields = Fields::Always;
        self
    }

    /// Lets `change` make another response of a refusal: another status, headers, body or
    /// extensions. It is given the error, or nothing where the extractor failed, and the response
    /// as it is without it. Its body goes to strangers: an error's text names buckets.
    ///
    /// ```
    /// use http::{Request, Response, StatusCode};
    /// use tower_throttle::{Demand, Limiter, ThrottleLayer, Throttled, usage};
    ///
    /// fn busy(error: Option<&Throttled>, response: &mut Response<String>) {
    ///     if let Some(Throttled::QueueFull { .. }) = error {
    ///         *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    ///     }
    ///     *response.body_mut() = format!("{{\"status\":{}}}", response.status().as_u16());
    ///     let json = http::HeaderValue::from_static("application/json");
    ///     response.headers_mut().insert("content-type", json);
    /// }
    ///
    /// # fn layer(limiter: Limiter) {
    /// let layer = ThrottleLayer::from_fn(limiter, |_: &mut Request<()>| {
    ///     Ok(Demand::new("everyone", usage! { requests: 1 }))
    /// })
    /// .respond()
    /// .shape(busy);
    /// # }
    /// ```
    #[must_use]
    pub fn shape(
        mut self,
        change: impl Fn(Option<&Throttled>, &mut Response<String>) + Send + Sync + 'static,
    ) -> Self {
        self.shape.change = Some(Arc::new(change));
        self
    }

    /// Responds with the JSON that OpenAI's API has for errors, for a gateway whose clients are
    /// made for that: they then try again, or do not, as they would there.
    #[must_use]
    pub fn openai_errors(self) -> Self {
        self.shape(|_, response| {
            let (kind, code) = match response.status() {
                StatusCode::TOO_MANY_REQUESTS => ("rate_limit_error", "\"rate_limit_exceeded\""),
                status if status.is_server_error() => ("server_error", "null"),
                _ => ("invalid_request_error", "null"),
            };
            let rest = format!(r#""param":null,"code":{code}"#);
            // It is one of the sentences below, which need no escapes.
            let message = response.body();
            *response.body_mut() =
                format!(r#"{{"error":{{"message":"{message}","type":"{kind}",{rest}}}}}"#);
            let json = HeaderValue::from_static("application/json");
            response.headers_mut().insert(CONTENT_TYPE, json);
        })
    }
}

impl<S, E, I> Layer<S> for RespondLayer<E, I> {
    type Service = Respond<S, E, I>;

    fn layer(&self, inner: S) -> Self::Service {
        let throttle = Throttle::from_config(inner, self.config.clone());
        Respond { throttle, shape: self.shape.clone() }
    }
}

impl<E, I> Clone for RespondLayer<E, I> {
    fn clone(&self) -> Self {
        Self { config: self.config.clone(), shape: self.shape.clone() }
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
    shape: Shape,
}

impl<S, E, I> Respond<S, E, I> {
    /// Turns the refusals of `throttle` into responses. A [`RespondLayer`] does so itself.
    pub fn new(throttle: Throttle<S, E, I>) -> Self {
        Self { throttle, shape: Shape::default() }
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
        let (attempt, shape) = (self.throttle.attempt(request), self.shape.clone());
        let bucket = match shape.fields {
            Fields::Always => attempt.first_bucket().map(str::to_owned),
            _ => None,
        };
        let limiter = bucket.map(|bucket| (self.throttle.limiter().clone(), bucket));
        RespondFuture { attempt, shape, limiter, served: None }
    }
}

impl<S: Clone, E, I> Clone for Respond<S, E, I> {
    fn clone(&self) -> Self {
        Self { throttle: self.throttle.clone(), shape: self.shape.clone() }
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
    pub struct RespondFuture<S: Service<R>, R, E, I: Inspector<S::Response>> {
        #[pin]
        attempt: Attempt<S, R, E, I>,
        shape: Shape,
        // What tells how the first bucket stands, if a response is to say so.
        limiter: Option<(Limiter, String)>,
        // What was served, while that is asked.
        served: Option<(I::Inspected, Standing)>,
    }
}

type Standing = Pin<Box<dyn Future<Output = Result<Status, Throttled>> + Send>>;

impl<S, R, E, I, B> Future for RespondFuture<S, R, E, I>
where
    S: Service<R>,
    I: Inspector<S::Response, Inspected = Response<B>>,
    B: From<String>,
{
    type Output = Result<Response<B>, S::Error>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if this.served.is_none() {
            let response = match ready!(this.attempt.poll(context)) {
                Ok(response) => response,
                Err(Failure::Demand(error)) => {
                    return Poll::Ready(Ok(this.shape.finished(None, unread(&error))));
                }
                Err(Failure::Throttled(error)) => {
                    let response = refused(&error, this.shape.fields != Fields::None);
                    return Poll::Ready(Ok(this.shape.finished(Some(error), response)));
                }
                Err(Failure::NotReady(error) | Failure::Call(error, _)) => {
                    return Poll::Ready(Err(error));
                }
            };
            let Some((limiter, bucket)) = this.limiter.take() else {
                return Poll::Ready(Ok(response));
            };
            let standing = Box::pin(async move { limiter.status(&bucket).await });
            *this.served = Some((response, standing));
        }
        let Some((_, standing)) = this.served else { return Poll::Pending };
        let standing = ready!(standing.as_mut().poll(context));
        let Some((mut response, _)) = this.served.take() else { return Poll::Pending };
        if let Ok(status) = standing {
            add_status(response.headers_mut(), &status);
        }
        Poll::Ready(Ok(response))
    }
}

impl<S: Service<R>, R, E, I: Inspector<S::Response>> fmt::Debug for RespondFuture<S, R, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RespondFuture").finish_non_exhaustive()
    }
}

impl Shape {
    fn finished<B: From<String>>(
        &self,
        error: Option<Throttled>,
        mut response: Response<String>,
    ) -> Response<B> {
        if let Some(change) = &self.change {
            change(error.as_ref(), &mut response);
        }
        if let Some(error) = error {
            response.extensions_mut().insert(error);
        }
        response.map(B::from)
    }
}

fn answer(status: StatusCode, text: &str) -> Response<String> {
    let mut response = Response::new(text.to_owned());
    *response.status_mut() = status;
    let content_type = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// The response to a request of which the extractor makes nothing. The error may tell of the
/// server's inside, so it is not shown.
fn unread(error: &ExtractError) -> Response<String> {
    #[cfg(feature = "tracing")]
    tracing::debug!(%error, "no demand could be read from the request");
    #[cfg(not(feature = "tracing"))]
    let _ = error;
    answer(StatusCode::BAD_REQUEST, "this request cannot be metered")
}

/// The response to a request that is refused.
fn refused(error: &Throttled, fields: bool) -> Response<String> {
    let (status, text) = match error {
        Throttled::Store(_) | Throttled::Closed => {
            (StatusCode::SERVICE_UNAVAILABLE, "cannot take requests at the moment")
        }
        // What a request can name.
        Throttled::BadDemand(BadDemand::UnknownBucket(_) | BadDemand::SameBucketTwice(_)) => {
            (StatusCode::BAD_REQUEST, "this request cannot be metered")
        }
        Throttled::BadDemand(_) | Throttled::NoRuntime | Throttled::NotInProcess => {
            (StatusCode::INTERNAL_SERVER_ERROR, "requests cannot be metered")
        }
        Throttled::ExceedsCapacity(_) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "this request alone exceeds the limit: make it smaller")
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
    let quotas = refusal.shortages().iter().map(|shortage| QuotaFields {
        name: &shortage.quota,
        limit: shortage.limit,
        window: shortage.window,
        // What the limiter refuses by itself says nothing of what is left.
        left: (shortage.requested <= shortage.limit).then(|| shortage.available.max(0) as u64),
        reset: shortage.retry_after,
    });
    add_quotas(headers, quotas);
}

fn add_status(headers: &mut HeaderMap, status: &Status) {
    let quotas = status.quotas.iter().map(|quota| QuotaFields {
        name: &quota.quota,
        limit: quota.limit,
        window: quota.window,
        left: Some(quota.available.max(0.0) as u64),
        reset: quota.window.map(|_| quota.reset),
    });
    add_quotas(headers, quotas);
}

/// What the fields say of a quota.
struct QuotaFields<'a> {
    name: &'a str,
    limit: u64,
    window: Option<Duration>,
    left: Option<u64>,
    /// Time until more is left.
    reset: Option<Duration>,
}

fn add_quotas<'a>(headers: &mut HeaderMap, quotas: impl Iterator<Item = QuotaFields<'a>>) {
    let parameter = |name: &str, time: Option<Duration>| {
        time.map_or(String::new(), |time| format!(";{name}={}", seconds(time)))
    };
    let (mut policies, mut limits) = (Vec::new(), Vec::new());
    for QuotaFields { name, limit, window, left, reset } in quotas {
        let name = quoted(name);
        policies.push(format!("{name};q={limit}{}", parameter("w", window)));
        if let Some(left) = left {
            limits.push(format!("{name};r={left}{}", parameter("t", reset)));
        }
    }
    for (name, items) in [("ratelimit-policy", policies), ("ratelimit", limits)] {
        if let Ok(value) = HeaderValue::try_from(items.join(", "))
            && !items.is_empty()
        {
            headers.insert(http::HeaderName::from_static(name), value);
        }
    }
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
