//! How a limiter is built.

use std::{fmt, sync::Arc, time::Duration};

pub use crate::on_unavailable::OnUnavailable;
use crate::{
    engine::SESSION_MEMORY,
    limits::{Limits, LimitsError},
    observe::{Observer, Observing},
    store::Store,
};

/// How often and how soon a batch that got no answer is sent again.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::limiter::Retries;
///
/// let retries = Retries::new().max(5).first_pause(Duration::from_millis(20)).jitter(0.2);
/// assert_eq!((retries.max, retries.longest_pause), (5, Duration::from_secs(5)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub struct Retries {
    /// How often at most (default: 3).
    pub max: u32,
    /// The pause before the first retry, doubled for each further one (default: 100 ms).
    pub first_pause: Duration,
    /// The longest pause (default: 5 s).
    pub longest_pause: Duration,
    /// The part of a pause that is random, from 0 to 1 (default: 0.1).
    pub jitter: f64,
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            max: 3,
            first_pause: Duration::from_millis(100),
            longest_pause: Duration::from_secs(5),
            jitter: 0.1,
        }
    }
}

impl Retries {
    /// Three retries, after about 100, 200 and 400 ms.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how often at most.
    #[must_use]
    pub fn max(mut self, max: u32) -> Self {
        self.max = max;
        self
    }

    /// Sets the pause before the first retry, which is doubled for each further one.
    #[must_use]
    pub fn first_pause(mut self, pause: Duration) -> Self {
        self.first_pause = pause;
        self
    }

    /// Sets the longest pause.
    #[must_use]
    pub fn longest_pause(mut self, pause: Duration) -> Self {
        self.longest_pause = pause;
        self
    }

    /// Sets the part of a pause that is random, from 0 to 1; anything else is an error when the
    /// limiter is built.
    #[must_use]
    pub fn jitter(mut self, part: f64) -> Self {
        self.jitter = part;
        self
    }

    /// No retries.
    pub fn none() -> Self {
        Self { max: 0, ..Self::default() }
    }

    /// The pause before the `n`-th retry, counted from 0.
    pub(crate) fn pause(&self, n: u32) -> Duration {
        let pause = self.first_pause.saturating_mul(1 << n.min(16)).min(self.longest_pause);
        let random = 1.0 + self.jitter * (fastrand::f64() - 0.5);
        Duration::try_from_secs_f64(pause.as_secs_f64() * random).unwrap_or(Duration::MAX)
    }
}

#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) attempt_timeout: Duration,
    pub(crate) retries: Retries,
    pub(crate) on_unavailable: OnUnavailable,
    pub(crate) max_waiting: usize,
    pub(crate) long_wait: Duration,
    pub(crate) lease: Duration,
    pub(crate) longest_pause: Duration,
    pub(crate) observing: Observing,
}

/// Builds a [`Limiter`](crate::Limiter) whose settings differ from the defaults.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{Limiter, Limits, Quota};
///
/// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 100)]);
/// let limiter = Limiter::builder(limits).max_waiting(1_000).build()?;
/// # Ok::<(), tower_throttle::LimitsError>(())
/// ```
#[must_use]
pub struct LimiterBuilder {
    pub(super) limits: Limits,
    /// Nothing, if the state is to live in this process.
    pub(super) store: Option<Arc<dyn Store>>,
    pub(super) options: Options,
}

impl LimiterBuilder {
    pub(crate) fn new(limits: Limits) -> Self {
        let options = Options {
            attempt_timeout: Duration::from_secs(1),
            retries: Retries::default(),
            on_unavailable: OnUnavailable::default(),
            max_waiting: 100_000,
            long_wait: Duration::from_secs(5),
            lease: Duration::from_secs(10),
            longest_pause: Duration::from_secs(300),
            observing: Observing::default(),
        };
        Self { limits, store: None, options }
    }

    /// Where the state of buckets lives (default: in this process).
    pub fn store(self, store: impl Store) -> Self {
        self.shared_store(Arc::new(store))
    }

    /// Where the state of buckets lives, for a store that several limiters use.
    ///
    /// ```
    /// use std::sync::Arc;
    /// use tower_throttle::{Limiter, Limits, Quota, store::MemoryStore};
    ///
    /// // Two limiters of one process count together.
    /// let store = Arc::new(MemoryStore::new());
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let one = Limiter::builder(limits.clone()).shared_store(store.clone()).build()?;
    /// let other = Limiter::builder(limits).shared_store(store).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn shared_store(mut self, store: Arc<dyn Store>) -> Self {
        self.store = Some(store);
        self
    }

    /// How long the store may take to answer one attempt (default: 1 s).
    pub fn attempt_timeout(mut self, timeout: Duration) -> Self {
        self.options.attempt_timeout = timeout;
        self
    }

    /// How often and how soon an unanswered batch is sent again.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, Quota, limiter::Retries};
    ///
    /// // Where a user waits, fail soon rather than try again.
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let limiter = Limiter::builder(limits).retries(Retries::none()).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn retries(mut self, retries: Retries) -> Self {
        self.options.retries = retries;
        self
    }

    /// What becomes of demands while the store cannot be reached (default: they fail), unless
    /// [`Quota::on_unavailable`](crate::Quota::on_unavailable) says otherwise of a quota.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, OnUnavailable, Quota};
    ///
    /// // One of four processes keeps to a quarter of each limit meanwhile.
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let limiter = Limiter::builder(limits).on_unavailable(OnUnavailable::local(0.25)).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn on_unavailable(mut self, on_unavailable: OnUnavailable) -> Self {
        self.options.on_unavailable = on_unavailable;
        self
    }

    /// How many demands of this limiter may wait for one bucket (default: 100,000). One more is
    /// refused with [`Throttled::QueueFull`](crate::Throttled::QueueFull) as soon as it is known
    /// that it has to wait; with 0, every demand is that does not fit at once. A demand that does,
    /// or that may not wait, is never refused for this.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, Throttled, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_hour("requests", 1)]);
    /// let limiter = Limiter::builder(limits).max_waiting(0).build()?;
    /// let one = || Demand::new("api", usage! { requests: 1 });
    /// limiter.reserve(one()).await?.keep().await?;
    /// assert!(matches!(limiter.reserve(one()).await, Err(Throttled::QueueFull { .. })));
    /// # Ok(())
    /// # }
    /// ```
    pub fn max_waiting(mut self, max_waiting: usize) -> Self {
        self.options.max_waiting = max_waiting;
        self
    }

    /// How long a demand waits before that is told, once, as an
    /// [`Event::LongWait`](crate::observe::Event::LongWait) (default: 5 s).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Limiter, Limits, Quota};
    ///
    /// // A batch waits for the next minute as a matter of course.
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let limiter = Limiter::builder(limits).long_wait(Duration::from_secs(120)).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn long_wait(mut self, long_wait: Duration) -> Self {
        self.options.long_wait = long_wait;
        self
    }

    /// After how much silence of this process the store takes its calls for ended (default: 10 s;
    /// from 100 ms to ten minutes): their concurrency is free then, and what they hold is charged.
    /// Has no effect on state in this process.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Limiter, Limits, Quota};
    ///
    /// // A worker that is killed frees its place after two seconds.
    /// let limits = Limits::new().bucket("gpu", [Quota::concurrency(4)]);
    /// let limiter = Limiter::builder(limits).lease(Duration::from_secs(2)).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn lease(mut self, lease: Duration) -> Self {
        self.options.lease = lease;
        self
    }

    /// For how long at most something is held back because a provider said so (default: 5 minutes),
    /// so that a broken or hostile header does no more harm than that.
    /// [`Limiter::pause`](crate::Limiter::pause) has no such bound.
    ///
    /// A wait that the provider asks for and that is longer is surfaced instead of slept: for this
    /// long, in every process that shares the bucket, demands that it holds back are refused at
    /// once with [`Throttled::Paused`](crate::Throttled::Paused), whose `retry_after` is what is
    /// left of what was asked; those that wait already are too. Then they go on, and the provider
    /// will say again. It is told as an [`Event::Paused`](crate::observe::Event::Paused).
    ///
    /// A reset that is far off where nothing is left of a quota is no wait that was asked for: what
    /// it withholds ends after this long, and is waited out.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Limiter, Limits, Quota};
    ///
    /// // A night's batch may as well wait for an hour, if the provider asks for one.
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
    /// let limiter = Limiter::builder(limits).longest_pause(Duration::from_secs(3_600)).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn longest_pause(mut self, longest: Duration) -> Self {
        self.options.longest_pause = longest;
        self
    }

    /// Tells this observer what happens, too: one after the other, there may be several.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, Quota, observe::Event};
    ///
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
    /// let observer = |event: &Event<'_>| eprintln!("{event:?}");
    /// let limiter = Limiter::builder(limits).observer(observer).build()?;
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn observer(mut self, observer: impl Observer + 'static) -> Self {
        self.options.observing.add(Arc::new(observer));
        self
    }

    /// # Errors
    /// An option that makes no sense: which one, and why.
    pub(super) fn validate(&self) -> Result<(), LimitsError> {
        let Options { attempt_timeout, retries, on_unavailable, lease, .. } = &self.options;
        if attempt_timeout.is_zero() {
            return Err(LimitsError::option(
                "attempt_timeout",
                "it is zero: no answer could be in time",
            ));
        }
        if !(0.0..=1.0).contains(&retries.jitter) {
            return Err(LimitsError::option("retries", "the jitter must be from 0 to 1"));
        }
        if !(Duration::from_millis(100)..=Duration::from_micros(SESSION_MEMORY)).contains(lease) {
            return Err(LimitsError::option("lease", "it must be between 100 ms and ten minutes"));
        }
        on_unavailable.check().map_err(|reason| LimitsError::option("on_unavailable", reason))
    }
}

impl fmt::Debug for LimiterBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LimiterBuilder")
            .field("limits", &self.limits)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
