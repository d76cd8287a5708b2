//! What a user writes to declare a limit.

mod meter;
mod note;

use std::time::Duration;

pub(crate) use self::meter::{Meter, micros};
#[cfg(feature = "redis")]
pub(crate) use self::{
    meter::MAX_SLOTS,
    note::{QuotaNote, Resets},
};
use crate::{
    calendar::{DAY, MONTH, WEEK},
    on_unavailable::OnUnavailable,
};

/// A limit on a weighted sum of metrics over a window, or on calls in flight.
///
/// | constructor | provider's rule | admits at most |
/// |---|---|---|
/// | [`per_minute`], [`sliding_window`] | unknown, fixed minutes, a log | `n` in any window |
/// | [`token_bucket`] | linear refill | a burst at once, then `n` per period |
/// | [`fixed_window`] | resets on the clock or at midnight | `n` between two resets |
/// | [`concurrency`] | calls in flight | `n` at a time |
///
/// [`per_minute`]: Self::per_minute
/// [`sliding_window`]: Self::sliding_window
/// [`token_bucket`]: Self::token_bucket
/// [`fixed_window`]: Self::fixed_window
/// [`concurrency`]: Self::concurrency
///
/// The sliding window is the safe choice: what it admits a provider with fixed windows or a token
/// bucket of `n` admits too.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::Quota;
///
/// let requests = Quota::per_minute("requests", 500);
/// let combined = Quota::per_minute("input_tokens", 100_000).weight("output_tokens", 5.0);
/// let refilled = Quota::token_bucket("tokens", 30_000, Duration::from_secs(60)).burst(10_000);
/// let spaced = Quota::per_second("requests", 10).paced();
/// assert_eq!(requests.to_string(), "500 requests per minute");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Quota {
    weights: Vec<(String, f64)>,
    limit: u64,
    window: Duration,
    base: Base,
    /// Settings that some kinds have. Which make sense together is checked when it is compiled, so
    /// that their order makes no difference.
    guard: Option<Duration>,
    burst: Option<Burst>,
    span: Option<Duration>,
    anchor: Option<Anchor>,
    /// Two settings of one thing.
    contradiction: Option<&'static str>,
    name: Option<String>,
    charge_at: Option<ChargeAt>,
    max_debt: Option<u64>,
    slots: Option<u32>,
    on_unavailable: Option<OnUnavailable>,
    /// It stands for a quota that is not counted, and is told to no one.
    stands_in: bool,
}

/// What a quota was declared as.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Base {
    Sliding,
    TokenBucket,
    Fixed,
    Concurrency,
}

/// What a quota comes to with its settings.
#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Sliding { guard: Option<Duration> },
    TokenBucket { burst: Burst, span: Option<Duration> },
    Fixed { anchor: Anchor },
    Concurrency,
}

impl Base {
    fn name(self) -> &'static str {
        match self {
            Self::Sliding => "a sliding window: for a burst, declare a token bucket",
            Self::TokenBucket => "a token bucket",
            Self::Fixed => "a fixed window",
            Self::Concurrency => "calls in flight",
        }
    }
}

impl Kind {
    fn name(&self) -> &'static str {
        match self {
            Self::Sliding { .. } => "sliding",
            Self::TokenBucket { .. } => "bucket",
            Self::Fixed { .. } => "fixed",
            Self::Concurrency => "in flight",
        }
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Burst {
    Limit,
    Amount(u64),
    Times(f64),
    Over(Duration),
    One,
}

impl Burst {
    /// Whether it turns a sliding window into a token bucket.
    fn paces(&self) -> bool {
        matches!(self, Self::Over(_) | Self::One)
    }
}

#[derive(Clone, Debug, PartialEq)]
enum Anchor {
    Offset(Duration),
    #[cfg(feature = "timezone")]
    TimeZone(String),
}

/// From when on a call counts.
///
/// ```
/// use tower_throttle::{Quota, quota::ChargeAt};
///
/// let produced = Quota::per_minute("output_tokens", 8_000).charge_at(ChargeAt::End);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum ChargeAt {
    /// From its grant: its reserved usage counts at once and is corrected later.
    #[default]
    Start,
    /// From its settling: until then the reserved usage is held, from then on the actual usage
    /// counts. Safe for a provider that counts tokens as they are produced.
    End,
}

impl Quota {
    fn new(metric: impl Into<String>, limit: u64, window: Duration, base: Base) -> Self {
        Self {
            weights: vec![(metric.into(), 1.0)],
            limit,
            window,
            base,
            guard: None,
            burst: None,
            span: None,
            anchor: None,
            contradiction: None,
            name: None,
            charge_at: None,
            max_debt: None,
            slots: None,
            on_unavailable: None,
            stands_in: false,
        }
    }

    /// At most `limit` in any window of this length, at any phase.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// let tokens = Quota::sliding_window("tokens", 5_000, Duration::from_secs(10));
    /// assert_eq!(tokens.to_string(), "5000 tokens per 10 seconds");
    /// ```
    pub fn sliding_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Base::Sliding)
    }

    /// At most `limit` in any second.
    pub fn per_second(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, Duration::from_secs(1))
    }

    /// At most `limit` in any minute.
    pub fn per_minute(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, Duration::from_secs(60))
    }

    /// At most `limit` in any hour.
    pub fn per_hour(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, Duration::from_secs(3_600))
    }

    /// At most `limit` in any 24 hours.
    pub fn per_day(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, DAY)
    }

    /// At most `limit` in any 7 days. `in_time_zone` makes it a week of the calendar, which begins
    /// on Monday.
    pub fn per_week(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, WEEK)
    }

    /// At most `limit` in any 31 days. `in_time_zone` makes it a month of the calendar, which may
    /// be shorter.
    pub fn per_month(metric: impl Into<String>, limit: u64) -> Self {
        Self::sliding_window(metric, limit, MONTH)
    }

    /// A bucket of `limit` tokens that refills linearly with `limit` per `period`.
    ///
    /// It admits its burst and then what refills, up to twice the limit in one period: right for a
    /// provider that refills linearly too. Against any other, lower [`burst`](Self::burst).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // 30,000 a minute, and at most 5,000 at once.
    /// let tokens = Quota::token_bucket("tokens", 30_000, Duration::from_secs(60)).burst(5_000);
    /// ```
    pub fn token_bucket(metric: impl Into<String>, limit: u64, period: Duration) -> Self {
        Self::new(metric, limit, period, Base::TokenBucket)
    }

    /// At most `limit` between two resets, one window apart; without an anchor windows start at the
    /// Unix epoch, so that minutes, hours and days are those of UTC.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // 50 a day, counted anew at midnight UTC.
    /// let day = Quota::fixed_window("requests", 50, Duration::from_secs(86_400));
    /// ```
    pub fn fixed_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Base::Fixed)
    }

    /// At most `limit` calls in flight. A call is in flight from its grant until it is settled,
    /// kept, released or dropped, or until the lease of its process ends.
    ///
    /// In a layer without an inspector of bodies that is when the head of the response arrives. For
    /// streams that are to count to their end use one, if only
    /// [`inspect::bytes(0, |_| Settlement::Keep)`](crate::inspect::bytes).
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("db", [Quota::concurrency(1)]);
    /// let limiter = Limiter::new(limits)?;
    /// let call = limiter.reserve(Demand::new("db", usage! {})).await?;
    /// assert!(limiter.try_reserve(Demand::new("db", usage! {})).await.is_err(), "one at a time");
    /// drop(call);
    /// assert!(limiter.try_reserve(Demand::new("db", usage! {})).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    pub fn concurrency(limit: u64) -> Self {
        let mut quota = Self::new("", limit, Duration::ZERO, Base::Concurrency);
        quota.weights.clear();
        quota
    }

    /// Counts another metric too, at this weight. The first metric weighs 1 unless it is named
    /// here.
    ///
    /// Weights are rounded to millionths, and a call's cost up to a whole. A metric of weight 0 is
    /// not counted.
    ///
    /// ```
    /// use tower_throttle::Quota;
    ///
    /// // Output counts five times as much as input.
    /// let combined = Quota::per_minute("input_tokens", 100_000).weight("output_tokens", 5.0);
    /// ```
    #[must_use]
    pub fn weight(mut self, metric: impl Into<String>, weight: f64) -> Self {
        let metric = metric.into();
        match self.weights.iter_mut().find(|(name, _)| *name == metric) {
            Some((_, present)) => *present = weight,
            None => self.weights.push((metric, weight)),
        }
        self
    }

    /// What an unused token bucket admits at once (default: its limit).
    ///
    /// It admits up to `amount` more than its limit in one window. Of another kind of quota it is
    /// an error when the limiter is built: declare a [`token_bucket`](Self::token_bucket).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // 600 a minute; after a rest, at most 20 at once.
    /// let requests = Quota::token_bucket("requests", 600, Duration::from_secs(60)).burst(20);
    /// ```
    #[must_use]
    pub fn burst(self, amount: u64) -> Self {
        self.with_burst(Burst::Amount(amount))
    }

    /// What an unused token bucket admits at once, as a multiple of its limit. Of another kind of
    /// quota it is an error when the limiter is built.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // Half of what a minute admits, so that no minute admits more than 1.5 times the limit.
    /// let minute = Duration::from_secs(60);
    /// let tokens = Quota::token_bucket("tokens", 30_000, minute).burst_times(0.5);
    /// ```
    #[must_use]
    pub fn burst_times(self, multiple: f64) -> Self {
        self.with_burst(Burst::Times(multiple))
    }

    /// This rate with next to nothing saved up: one at a time, evenly spaced.
    ///
    /// `Quota::per_minute("requests", 600).paced()` is a request every 100 ms: a token bucket that
    /// admits 1 at once. From 50 a second on it admits as many more as refill in 20 ms, since what
    /// a timer delays would be lost otherwise. It is for requests; of tokens calls ask for more at
    /// once, so pace them [over](Self::paced_over) an interval.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 6).paced()]);
    /// let limiter = Limiter::new(limits)?;
    /// let one = || Demand::new("api", usage! { requests: 1 });
    /// limiter.reserve(one()).await?.keep().await?;
    /// let wait = limiter.time_until_available(one()).await?;
    /// assert!(wait > Some(Duration::ZERO) && wait <= Some(Duration::from_secs(10)));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn paced(self) -> Self {
        self.with_burst(Burst::One)
    }

    /// This rate, evaluated over this interval: as much at once as refills in it, at least 1.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // 60,000 a minute, and no more than 1,000 in any second of it. Calls take 10 s at most.
    /// let tokens = Quota::per_minute("tokens", 60_000)
    ///     .paced_over(Duration::from_secs(1))
    ///     .longest_call(Duration::from_secs(10));
    /// ```
    #[must_use]
    pub fn paced_over(self, interval: Duration) -> Self {
        self.with_burst(Burst::Over(interval))
    }

    fn with_burst(mut self, burst: Burst) -> Self {
        if burst.paces() && self.base == Base::Sliding {
            self.base = Base::TokenBucket;
        }
        match (&self.burst, &burst) {
            (None, _) | (Some(Burst::One), Burst::Over(_)) => self.burst = Some(burst),
            // An interval says more.
            (Some(Burst::One | Burst::Over(_)), Burst::One) => {}
            _ => {
                self.contradiction = Some("its burst is set twice, or it is paced and has a burst");
            }
        }
        self
    }

    /// Makes the windows of this quota fixed ones, one of which starts this long after the Unix
    /// epoch.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // Days that begin at 06:00 UTC.
    /// let day = Quota::per_day("requests", 1_000).anchored(Duration::from_secs(6 * 3_600));
    /// ```
    #[must_use]
    pub fn anchored(self, offset: Duration) -> Self {
        self.with_anchor(Anchor::Offset(offset))
    }

    fn with_anchor(mut self, anchor: Anchor) -> Self {
        if self.base == Base::Sliding {
            self.base = Base::Fixed;
        }
        if self.anchor.replace(anchor).is_some() {
            self.contradiction = Some("it is said twice when its windows begin");
        }
        self
    }

    /// Makes the windows of this quota, which must be of a [day](Self::per_day), a
    /// [week](Self::per_week) or a [month](Self::per_month), begin at midnight in a time zone of
    /// the IANA database, such as `UTC` or `America/Los_Angeles`. A week begins on Monday.
    ///
    /// ```
    /// use tower_throttle::Quota;
    ///
    /// let budget = Quota::per_month("cost", 40_000_000).in_time_zone("Europe/Berlin");
    /// ```
    #[cfg(feature = "timezone")]
    #[must_use]
    pub fn in_time_zone(self, name: impl Into<String>) -> Self {
        self.with_anchor(Anchor::TimeZone(name.into()))
    }

    /// Lengthens a sliding window, since a request leaves here and arrives there later (default:
    /// 0.5 s, and at most a twentieth of the window).
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // Requests take up to two seconds to arrive.
    /// let slow = Quota::per_minute("requests", 500).guard(Duration::from_secs(2));
    /// ```
    #[must_use]
    pub fn guard(mut self, guard: Duration) -> Self {
        self.guard = Some(guard);
        self
    }

    /// How long the longest call takes whose refund a token bucket must still understand (default:
    /// four periods).
    ///
    /// That time is cut into [slots](Self::slots), and of what a call gives back up to what refills
    /// in one of them may be lost: by default 1/24 of the limit. Where the burst is small, as with
    /// [`paced_over`](Self::paced_over), that is much of it: say how long calls really take.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::Quota;
    ///
    /// // Answers that take up to twenty minutes still give back what they reserved too much.
    /// let minute = Duration::from_secs(60);
    /// let tokens = Quota::token_bucket("tokens", 30_000, minute).longest_call(20 * minute);
    /// ```
    #[must_use]
    pub fn longest_call(mut self, duration: Duration) -> Self {
        self.span = Some(duration);
        self
    }

    /// Into how many slots time is cut, 1 to 1,000 (default: 60 for a sliding window, 96 for a
    /// token bucket, over its [longest call](Self::longest_call)). More slots waste less and take 8
    /// bytes each.
    ///
    /// ```
    /// use tower_throttle::Quota;
    ///
    /// // What is charged leaves the window ten seconds at a time, rather than by the minute.
    /// let requests = Quota::per_hour("requests", 10_000).slots(360);
    /// ```
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// From when on a call counts.
    #[must_use]
    pub fn charge_at(mut self, charge_at: ChargeAt) -> Self {
        self.charge_at = Some(charge_at);
        self
    }

    /// How much more than its capacity one call can be charged when it is settled (default: four
    /// times its capacity). A bogus actual usage then cannot block a bucket for years.
    ///
    /// ```
    /// use tower_throttle::Quota;
    ///
    /// // A call that turns out to be huge costs the others one minute at most.
    /// let tokens = Quota::per_minute("tokens", 30_000).max_debt(30_000);
    /// ```
    #[must_use]
    pub fn max_debt(mut self, amount: u64) -> Self {
        self.max_debt = Some(amount);
        self
    }

    /// Names the quota in errors and events, and tells two otherwise equal ones apart.
    ///
    /// ```
    /// use tower_throttle::Quota;
    ///
    /// let budget = Quota::per_day("cents", 5_000).named("team");
    /// assert_eq!(budget.to_string(), "5000 in quota \"team\"");
    /// ```
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// What becomes of demands that ask something of this quota while the store cannot be reached
    /// (default: what [`LimiterBuilder::on_unavailable`] says). So may a limit on speed fail open,
    /// and a budget closed.
    ///
    /// A demand fails if one of the quotas that it asks something of says [`OnUnavailable::Fail`].
    /// Otherwise those that are [local](OnUnavailable::local) throttle it, each by its share, and
    /// those that allow it do not. Granted like this, a reservation is
    /// [degraded](crate::Reservation::degraded).
    ///
    /// ```
    /// use tower_throttle::{Limits, OnUnavailable, Quota};
    ///
    /// let speed = Quota::per_minute("requests", 500).on_unavailable(OnUnavailable::local(0.125));
    /// let budget = Quota::per_day("cents", 5_000).on_unavailable(OnUnavailable::Fail);
    /// let limits = Limits::new().bucket("gpt-4o", [speed, budget]);
    /// ```
    ///
    /// A local share that is not above 0 and at most 1 is an error when the limiter is built.
    ///
    /// [`LimiterBuilder::on_unavailable`]: crate::limiter::LimiterBuilder::on_unavailable
    #[must_use]
    pub fn on_unavailable(mut self, on_unavailable: OnUnavailable) -> Self {
        self.on_unavailable = Some(on_unavailable);
        self
    }

    /// This quota as it is counted in this process while the store cannot be reached.
    pub(crate) fn without_store(&self, default: OnUnavailable) -> Self {
        match self.on_unavailable.unwrap_or(default) {
            OnUnavailable::Local { share } => self.scaled(share),
            // Its metrics have to be known all the same.
            _ => self.unbounded(),
        }
    }

    /// Whether it is counted in this process while the store cannot be reached.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.on_unavailable, Some(OnUnavailable::Local { .. }))
    }

    /// A quota on the same metrics that limits nothing.
    fn unbounded(&self) -> Self {
        let length = Duration::from_millis(1);
        let mut quota = match self.base {
            Base::Concurrency => Self::concurrency(meter::MAX_LIMIT),
            _ => Self::fixed_window("", meter::MAX_LIMIT, length),
        };
        quota.weights = self.metrics().map(|metric| (metric.to_owned(), 1.0)).collect();
        quota.name = Some(self.label());
        quota.stands_in = true;
        quota
    }

    /// This quota with a share of its limit, at least 1; or with a multiple, no more than is
    /// supported.
    pub(crate) fn scaled(&self, share: f64) -> Self {
        let scale =
            |amount: u64, most: u64| ((amount as f64 * share) as u64).clamp(1, most.max(amount));
        let mut quota = self.clone();
        quota.limit = scale(self.limit, meter::MAX_LIMIT);
        quota.max_debt = self.max_debt.map(|debt| scale(debt, meter::MAX_DEBT));
        if let Some(Burst::Amount(burst)) = &mut quota.burst {
            *burst = scale(*burst, meter::MAX_LIMIT);
        }
        quota
    }

    /// What it comes to.
    ///
    /// # Errors
    /// Settings that mean nothing to it, or contradict each other.
    fn kind(&self) -> Result<Kind, String> {
        if let Some(reason) = self.contradiction {
            return Err(reason.into());
        }
        let paces = self.burst.as_ref().is_some_and(Burst::paces);
        let base = self.base;
        let is = |bases: &[Base]| bases.contains(&base);
        let settings = [
            ("a guard", self.guard.is_some(), is(&[Base::Sliding])),
            ("a burst", self.burst.is_some() && !paces, is(&[Base::TokenBucket])),
            ("pacing", paces, is(&[Base::TokenBucket])),
            ("`longest_call`", self.span.is_some(), is(&[Base::TokenBucket])),
            ("an anchor or time zone", self.anchor.is_some(), is(&[Base::Fixed])),
            ("slots", self.slots.is_some(), is(&[Base::Sliding, Base::TokenBucket])),
            ("`charge_at`", self.charge_at.is_some(), base != Base::Concurrency),
            ("`max_debt`", self.max_debt.is_some(), base != Base::Concurrency),
            ("a weight", !self.weights.is_empty(), base != Base::Concurrency),
        ];
        if let Some((setting, ..)) = settings.iter().find(|(_, is_set, fits)| *is_set && !fits) {
            return Err(format!("{setting} means nothing to {}", base.name()));
        }
        Ok(match base {
            Base::Sliding => Kind::Sliding { guard: self.guard },
            Base::TokenBucket => Kind::TokenBucket {
                burst: self.burst.clone().unwrap_or(Burst::Limit),
                span: self.span,
            },
            Base::Fixed => Kind::Fixed {
                anchor: self.anchor.clone().unwrap_or(Anchor::Offset(Duration::ZERO)),
            },
            Base::Concurrency => Kind::Concurrency,
        })
    }

    /// The metrics it counts.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.weights.iter().map(|(metric, _)| metric.as_str())
    }
}

#[cfg(test)]
mod tests;
