//! What a provider said of its limits in a response.

use std::{borrow::Cow, time::Duration};

/// What a provider said of its limits in a response: how much is left of some, how long to wait,
/// and whether waiting helps at all.
///
/// [`Reservation::feedback`](crate::Reservation::feedback) and
/// [`Limiter::feedback`](crate::Limiter::feedback) hold the whole fleet to it. It only ever takes:
/// whatever it says, a limit is never raised, and nothing is held back for longer than
/// [`LimiterBuilder::longest_pause`](crate::limiter::LimiterBuilder::longest_pause). A time to wait
/// that is longer is not slept: demands are refused at once meanwhile, with
/// [`Throttled::Paused`](crate::Throttled::Paused). With feature `llm`, `llm::Rules::feedback`
/// reads it from a response.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{Feedback, Limiter, Limits, Named, Quota};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let quotas = [Quota::per_minute("requests", 100), Quota::per_day("requests", 5_000)];
/// let limits = Limits::new().bucket("api", quotas);
/// let limiter = Limiter::new(limits)?;
///
/// // "x-ratelimit-limit: 5000, x-ratelimit-remaining: 3, x-ratelimit-reset: 60"
/// let day = Named::metric("requests").limit(5_000);
/// let feedback = Feedback::new().with_left(day, 3, Some(Duration::from_secs(60)));
/// limiter.feedback("api", &feedback).await?;
/// assert_eq!(limiter.status("api").await?.quotas[1].available, 3.0);
///
/// // "retry-after: 20"
/// limiter.feedback("api", &Feedback::new().with_retry_after(Duration::from_secs(20))).await?;
/// assert!(limiter.status("api").await?.paused_until.is_some());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Feedback {
    pub(crate) left: Vec<Left>,
    pub(crate) wait: Option<Wait>,
    pub(crate) permanent: bool,
}

/// What is left of one quota.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) of: Named,
    pub(crate) amount: u64,
    /// Time until it is whole again.
    pub(crate) reset: Option<Duration>,
}

/// How long to wait.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// For what; for everything if nothing is named.
    pub(crate) of: Option<Named>,
    pub(crate) time: Duration,
}

impl Feedback {
    /// Says nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds what is left of a quota, in what it counts. After `reset` the quota is whole again.
    /// This is no wait, even if nothing is left and `reset` is far off.
    #[must_use]
    pub fn with_left(mut self, of: Named, amount: u64, reset: Option<Duration>) -> Self {
        self.left.push(Left { of, amount, reset });
        self
    }

    /// Asks for a wait: nothing is to be sent for this long.
    #[must_use]
    pub fn with_retry_after(mut self, time: Duration) -> Self {
        self.wait = Some(Wait { of: None, time });
        self
    }

    /// Asks for a wait of what needs a quota. Where no quota is known by that name, nothing at all
    /// is to be sent.
    #[must_use]
    pub fn with_retry_after_of(mut self, of: Named, time: Duration) -> Self {
        self.wait = Some(Wait { of: Some(of), time });
        self
    }

    /// Says that the call was refused for a reason that no waiting helps. Then nothing waits for
    /// it.
    #[must_use]
    pub fn with_permanent_refusal(mut self) -> Self {
        self.permanent = true;
        self
    }

    /// Returns how long to wait before the next call, if that was said and waiting helps.
    pub fn retry_after(&self) -> Option<Duration> {
        self.wait.as_ref().filter(|_| !self.permanent).map(|wait| wait.time)
    }

    /// True if the call was refused for a reason that no waiting helps, such as credit that is used
    /// up or a request larger than the limit: do not repeat it.
    pub fn is_permanent(&self) -> bool {
        self.permanent
    }
}

/// Names a quota by what providers tell of it: its metric, and its limit or its window where there
/// are several.
///
/// A quota is meant if it counts this metric alone. Of several, it is the one with this limit, or
/// else with about this window; if neither is told, the only one. What fits none or more than one
/// of them is ignored, and not guessed.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::Named;
///
/// let minute = Named::metric("tokens").window(Duration::from_secs(60));
/// let day = Named::metric("requests").limit(10_000);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    pub(crate) metric: Cow<'static, str>,
    pub(crate) limit: Option<u64>,
    pub(crate) window: Option<Duration>,
}

impl Named {
    /// Names a quota on this metric.
    pub fn metric(metric: impl Into<Cow<'static, str>>) -> Self {
        Self { metric: metric.into(), limit: None, window: None }
    }

    /// Adds the limit of the quota.
    #[must_use]
    pub fn limit(self, limit: u64) -> Self {
        Self { limit: Some(limit), ..self }
    }

    /// Adds the window of the quota, of about this length.
    #[must_use]
    pub fn window(self, window: Duration) -> Self {
        Self { window: Some(window), ..self }
    }
}
