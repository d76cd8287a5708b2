//! [`ThrottleLayer`]: what to throttle, by what.

use std::{fmt, sync::Arc, time::Duration};

use tower_layer::Layer;

use super::{config::Config, respond::RespondLayer, service::Throttle};
use crate::{demand::Demand, extract::ExtractError, inspect::KeepReserved, limiter::Limiter};

/// Throttles a service: reserves what each request may use, waits until that fits, calls, and
/// settles on what was used.
///
/// The extractor reads the demand from the request, the inspector the actual usage from the
/// response. Nothing inside is held while a request waits: the inner service is made ready after
/// the grant.
///
/// ```
/// use std::convert::Infallible;
/// use tower::{ServiceBuilder, ServiceExt, service_fn};
/// use tower_throttle::{
///     BoxError, Demand, Limiter, Limits, Quota, Settlement, ThrottleLayer, usage,
/// };
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// let limits = Limits::new().bucket("words", [Quota::per_minute("words", 1_000)]);
/// let limiter = Limiter::new(limits)?;
/// let layer = ThrottleLayer::from_fn(limiter.clone(), |text: &mut String| {
///     Ok(Demand::new("words", usage! { words: text.len() as u64 }))
/// })
/// .inspector(|words: &usize| Settlement::Exact(usage! { words: *words as u64 }));
///
/// let count = |text: String| async move { Ok::<_, Infallible>(text.split(' ').count()) };
/// let service = ServiceBuilder::new().layer(layer).service(service_fn(count));
///
/// let task = tokio::spawn(service.oneshot("one two three".into()));
/// assert_eq!(task.await??, 3);
/// assert_eq!(limiter.status("words").await?.quotas[0].available, 997.0);
/// # Ok(())
/// # }
/// ```
///
/// # In a function
/// A function that returns a throttled service names what callers need of it, its future included:
///
/// ```
/// use tower::{Layer, Service};
/// use tower_throttle::{BoxError, Demand, Limiter, ThrottleLayer, usage};
///
/// fn throttled<S>(
///     limiter: Limiter,
///     inner: S,
/// ) -> impl Service<String, Response = S::Response, Error = BoxError, Future: Send>
/// + Clone
/// + Send
/// + Sync
/// + 'static
/// where
///     S: Service<String, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
/// {
///     let layer = ThrottleLayer::from_fn(limiter, |text: &mut String| {
///         Ok(Demand::new("words", usage! { words: text.len() as u64 }))
///     });
///     layer.layer(inner)
/// }
/// ```
pub struct ThrottleLayer<E, I = KeepReserved> {
    pub(super) config: Arc<Config<E, I>>,
}

impl<E> ThrottleLayer<E> {
    /// Throttles by what `extractor` reads from a request. Without an inspector, calls keep what
    /// they reserved.
    ///
    /// For a closure use [`from_fn`](Self::from_fn): here nothing is known of it yet, so that a
    /// mistake in it shows only where the service is called.
    pub fn new(limiter: Limiter, extractor: E) -> Self {
        Self { config: Arc::new(Config::new(limiter, extractor, KeepReserved)) }
    }

    /// Throttles by what a closure reads from a request. Without an inspector, calls keep what they
    /// reserved.
    ///
    /// The parameter needs its type; `Ok(..)` and `?` need none. The closure must not be `async`:
    /// what it needs to know is in the request, or put there (as an extension, say) by a layer
    /// outside.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, usage};
    ///
    /// let limits = Limits::new().bucket("uploads", [Quota::per_hour("bytes", 1 << 30)]);
    /// let layer = ThrottleLayer::from_fn(
    ///     Limiter::new(limits)?,
    ///     |request: &mut http::Request<bytes::Bytes>| {
    ///         let bytes: u64 = match request.headers().get("content-length") {
    ///             Some(length) => length.to_str()?.parse()?,
    ///             None => return Err("how long is it?".into()),
    ///         };
    ///         Ok(Demand::new("uploads", usage! { bytes: bytes }))
    ///     },
    /// );
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    pub fn from_fn<Request>(limiter: Limiter, extract: E) -> Self
    where
        E: Fn(&mut Request) -> Result<Demand, ExtractError>,
    {
        Self::new(limiter, extract)
    }
}

impl<E, I> ThrottleLayer<E, I> {
    /// Settles on what `inspector` reads from a response.
    ///
    /// ```
    /// use http::Response;
    /// use tower_throttle::{
    ///     Demand, ExtractError, Limiter, Settlement, ThrottleLayer, inspect, usage,
    /// };
    ///
    /// fn layered(limiter: Limiter) {
    ///     let demand = |_: &mut http::Request<String>| -> Result<Demand, ExtractError> {
    ///         Ok(Demand::new("api", usage! { bytes: 100_000 }))
    ///     };
    ///     // Refusals by their status, and else by the size of the answer.
    ///     let layer = ThrottleLayer::from_fn(limiter, demand).inspector(inspect::by_status(
    ///         |response: &Response<String>| {
    ///             Settlement::Exact(usage! { bytes: response.body().len() as u64 })
    ///         },
    ///     ));
    /// }
    /// ```
    #[must_use]
    pub fn inspector<J>(self, inspector: J) -> ThrottleLayer<E, J> {
        ThrottleLayer { config: Arc::new(self.config.with_inspector(Arc::new(inspector))) }
    }

    /// Refuses what does not fit at once, instead of waiting.
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use tower::{Layer, service_fn};
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, Throttled, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 1)]);
    /// let limiter = Limiter::new(limits)?;
    /// let layer = ThrottleLayer::from_fn(limiter, |_: &mut u8| Ok(Demand::new("api", usage! {})));
    /// let service = layer.reject().layer(service_fn(async |n: u8| Ok::<_, Infallible>(n)));
    /// assert_eq!(service.clone().oneshot(7).await?, 7);
    /// let error = service.oneshot(8).await.unwrap_err();
    /// assert!(matches!(Throttled::find(error.as_ref()), Some(Throttled::NotNow(_))));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn reject(self) -> Self {
        self.with(|config| config.waits = false)
    }

    /// Sets the longest wait of demands that do not set one (default: 10 minutes).
    ///
    /// A demand that cannot make it is refused at once, any other when it is over, with
    /// [`Throttled::Deadline`](crate::Throttled::Deadline): the error names the quota and says when
    /// to come again. [`Limiter::reserve`] alone has no such default.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Limiter, ThrottleLayer, usage};
    ///
    /// fn layered(limiter: Limiter) {
    ///     let demand = |_: &mut String| Ok(Demand::new("api", usage! {}));
    ///     let layer = ThrottleLayer::from_fn(limiter, demand).max_wait(Duration::from_secs(30));
    /// }
    /// ```
    #[must_use]
    pub fn max_wait(self, max_wait: Duration) -> Self {
        self.with(|config| config.max_wait = Some(max_wait))
    }

    /// Lets demands that set no longest wait themselves wait for ever. A daily quota that is used
    /// up is then a silence of hours, which only an [`Observer`](crate::observe::Observer) hears
    /// of.
    #[must_use]
    pub fn wait_forever(self) -> Self {
        self.with(|config| config.max_wait = None)
    }

    /// Sets how old a grant may be when its call is made; an older one is given back and made anew
    /// (default: 0.5 s).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Limiter, ThrottleLayer, usage};
    ///
    /// fn layered(limiter: Limiter) {
    ///     let demand = |_: &mut String| Ok(Demand::new("api", usage! {}));
    ///     // Connections are slow to come, and the window is a day.
    ///     let layer = ThrottleLayer::from_fn(limiter, demand);
    ///     let layer = layer.dispatch_within(Duration::from_secs(20));
    /// }
    /// ```
    #[must_use]
    pub fn dispatch_within(self, duration: Duration) -> Self {
        self.with(|config| config.dispatch_within = duration)
    }

    /// Measures and reports what it would have done, and delays and refuses nothing.
    ///
    /// Each call is charged as by [`Limiter::shadow`]: a demand that does not fit is told as an
    /// [`Event::Shadowed`](crate::observe::Event::Shadowed), with how long it would have waited or
    /// why it would have been refused, and becomes a debt. The call does not wait for the store
    /// either: where the response comes first, or the store fails, it is not charged. A request
    /// from which no demand can be read is sent.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, usage};
    ///
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let layer = ThrottleLayer::from_fn(Limiter::new(limits)?, |_: &mut String| {
    ///     Ok(Demand::new("api", usage! { requests: 1 }))
    /// })
    /// .shadow();
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    #[must_use]
    pub fn shadow(self) -> Self {
        self.with(|config| config.is_shadow = true)
    }

    fn with(self, set: impl FnOnce(&mut Config<E, I>)) -> Self {
        let mut config = self.config.with_inspector(self.config.inspector.clone());
        set(&mut config);
        Self { config: Arc::new(config) }
    }

    /// Turns refusals into responses, such as 429 or 503, so that the error type stays the inner
    /// service's: see [`RespondLayer`].
    ///
    /// ```
    /// use std::convert::Infallible;
    /// use http::{Request, Response, StatusCode};
    /// use tower::{Layer, ServiceExt, service_fn};
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, ThrottleLayer, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_hour("requests", 1)]);
    /// let layer = ThrottleLayer::from_fn(Limiter::new(limits)?, |_: &mut Request<()>| {
    ///     Ok(Demand::new("api", usage! { requests: 1 }))
    /// });
    /// let answer = async |_: Request<()>| Ok::<_, Infallible>(Response::new(String::new()));
    /// let service = layer.reject().respond().layer(service_fn(answer));
    /// assert_eq!(service.clone().oneshot(Request::new(())).await?.status(), StatusCode::OK);
    /// let refused = service.oneshot(Request::new(())).await?;
    /// assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    /// assert!(refused.headers().contains_key("retry-after"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn respond(self) -> RespondLayer<E, I> {
        RespondLayer::new(self.config)
    }
}

impl<S, E, I> Layer<S> for ThrottleLayer<E, I> {
    type Service = Throttle<S, E, I>;

    fn layer(&self, inner: S) -> Self::Service {
        Throttle::from_config(inner, self.config.clone())
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
