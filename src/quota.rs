//! What a user writes to declare a limit.

mod meter;

use std::time::Duration;

pub(crate) use self::meter::{Meter, micros};

/// A limit on a weighted sum of metrics over a window, or on calls in flight.
///
/// | constructor | provider's rule | admits |
/// |---|---|---|
/// | [`per_minute`](Self::per_minute) and its kin, [`sliding_window`](Self::sliding_window) | unknown, fixed minutes, or a log | at most `n` in any window |
/// | [`token_bucket`](Self::token_bucket) | linear refill | a burst at once, then `n` per period |
/// | [`fixed_window`](Self::fixed_window) | resets on the clock or at midnight | at most `n` between two resets |
/// | [`concurrency`](Self::concurrency) | calls in flight | at most `n` at a time |
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
    kind: Kind,
    name: Option<String>,
    charge_at: ChargeAt,
    max_debt: Option<u64>,
    slots: Option<u32>,
}

#[derive(Clone, Debug, PartialEq)]
enum Kind {
    Sliding { guard: Option<Duration> },
    TokenBucket { burst: Burst, span: Option<Duration> },
    Fixed { anchor: Anchor },
    Concurrency,
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
}

#[derive(Clone, Debug, PartialEq)]
enum Anchor {
    Offset(Duration),
    #[cfg(feature = "timezone")]
    TimeZone(String),
}

/// From when on a call counts.
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
    fn new(metric: impl Into<String>, limit: u64, window: Duration, kind: Kind) -> Self {
        Self {
            weights: vec![(metric.into(), 1.0)],
            limit,
            window,
            kind,
            name: None,
            charge_at: ChargeAt::Start,
            max_debt: None,
            slots: None,
        }
    }

    /// At most `limit` in any window of this length, at any phase.
    pub fn sliding_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Kind::Sliding { guard: None })
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
        Self::sliding_window(metric, limit, Duration::from_secs(86_400))
    }

    /// A bucket of `limit` tokens that refills linearly with `limit` per `period`.
    ///
    /// It admits its burst and then what refills, up to twice the limit in one period: right for a
    /// provider that refills linearly too. Against any other, lower [`burst`](Self::burst).
    pub fn token_bucket(metric: impl Into<String>, limit: u64, period: Duration) -> Self {
        Self::new(metric, limit, period, Kind::TokenBucket { burst: Burst::Limit, span: None })
    }

    /// At most `limit` between two resets, one window apart; without an anchor windows start at the
    /// Unix epoch, so that minutes, hours and days are those of UTC.
    pub fn fixed_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Kind::Fixed { anchor: Anchor::Offset(Duration::ZERO) })
    }

    /// At most `limit` calls in flight. A call is in flight from its grant until it is settled,
    /// kept, released or dropped, or until the lease of its process ends.
    pub fn concurrency(limit: u64) -> Self {
        let mut quota = Self::new("", limit, Duration::ZERO, Kind::Concurrency);
        quota.weights.clear();
        quota
    }

    /// Counts another metric too, at this weight. The first metric weighs 1 unless it is named
    /// here.
    ///
    /// Weights are rounded to millionths, and a call's cost up to a whole.
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
    /// Makes any other quota a token bucket: it admits up to `amount` more than its limit in one
    /// window then, and is not held to a window of any phase.
    #[must_use]
    pub fn burst(self, amount: u64) -> Self {
        self.with_burst(Burst::Amount(amount))
    }

    /// What an unused token bucket admits at once, as a multiple of its limit. Makes any other
    /// quota a token bucket.
    #[must_use]
    pub fn burst_times(self, multiple: f64) -> Self {
        self.with_burst(Burst::Times(multiple))
    }

    /// This rate with nothing saved up: one at a time, evenly spaced.
    ///
    /// `Quota::per_minute("requests", 600).paced()` is a request every 100 ms: a token bucket that
    /// admits 1 at once. It is for requests; of tokens no demand asks for as little as 1, so pace
    /// them [over](Self::paced_over) an interval.
    #[must_use]
    pub fn paced(self) -> Self {
        self.with_burst(Burst::Amount(1))
    }

    /// This rate, evaluated over this interval: as much at once as refills in it, at least 1.
    #[must_use]
    pub fn paced_over(self, interval: Duration) -> Self {
        self.with_burst(Burst::Over(interval))
    }

    fn with_burst(mut self, burst: Burst) -> Self {
        let span = match self.kind {
            Kind::TokenBucket { span, .. } => span,
            _ => None,
        };
        self.kind = Kind::TokenBucket { burst, span };
        self
    }

    /// Makes the windows of this quota fixed ones, one of which starts this long after the Unix
    /// epoch.
    #[must_use]
    pub fn anchored(mut self, offset: Duration) -> Self {
        self.kind = Kind::Fixed { anchor: Anchor::Offset(offset) };
        self
    }

    /// Makes the windows of this quota, which must be of a day, begin at midnight in a time zone of
    /// the IANA database, such as `America/Los_Angeles`.
    #[cfg(feature = "timezone")]
    #[must_use]
    pub fn in_time_zone(mut self, name: impl Into<String>) -> Self {
        self.kind = Kind::Fixed { anchor: Anchor::TimeZone(name.into()) };
        self
    }

    /// Lengthens a sliding window, since a request leaves here and arrives there later (default:
    /// 0.5 s, and at most a twentieth of the window).
    #[must_use]
    pub fn guard(mut self, guard: Duration) -> Self {
        if let Kind::Sliding { guard: present } = &mut self.kind {
            *present = Some(guard);
        }
        self
    }

    /// How long the longest call takes whose refund a token bucket must still understand (default:
    /// four periods).
    #[must_use]
    pub fn longest_call(mut self, duration: Duration) -> Self {
        if let Kind::TokenBucket { span, .. } = &mut self.kind {
            *span = Some(duration);
        }
        self
    }

    /// Into how many slots time is cut (default: 60 for a sliding window, 96 for a token bucket).
    /// More slots waste less and take 8 bytes each.
    #[must_use]
    pub fn slots(mut self, slots: u32) -> Self {
        self.slots = Some(slots);
        self
    }

    /// From when on a call counts.
    #[must_use]
    pub fn charge_at(mut self, charge_at: ChargeAt) -> Self {
        self.charge_at = charge_at;
        self
    }

    /// How much more than its capacity one call can be charged when it is settled (default: four
    /// times its capacity). A bogus actual usage then cannot block a bucket for years.
    #[must_use]
    pub fn max_debt(mut self, amount: u64) -> Self {
        self.max_debt = Some(amount);
        self
    }

    /// Names the quota in errors and events, and tells two otherwise equal ones apart.
    #[must_use]
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// This quota with a share of its limit, at least 1.
    pub(crate) fn scaled(&self, share: f64) -> Self {
        let scale = |amount: u64| ((amount as f64 * share) as u64).max(1);
        let mut quota = self.clone();
        quota.limit = scale(self.limit);
        quota.max_debt = self.max_debt.map(scale);
        if let Kind::TokenBucket { burst: Burst::Amount(burst), .. } = &mut quota.kind {
            *burst = scale(*burst);
        }
        quota
    }

    /// The metrics it counts.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.weights.iter().map(|(metric, _)| metric.as_str())
    }
}

#[cfg(test)]
mod tests;
