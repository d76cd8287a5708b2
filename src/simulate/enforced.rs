//! What a provider enforces, and what to declare for it.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::Window,
    quota::{ChargeAt, Meter, Quota},
    usage::Usage,
};

/// Amounts are counted in millionths, so that weights need no rounding.
pub(super) const PARTS: u64 = 1_000_000;

/// Slots of the sliding windows that are declared for a provider: what is charged comes back up to
/// a slot late.
const SLOTS: u32 = 240;

/// No window is longer: ten years.
pub(super) const LONGEST: Duration = Duration::from_secs(10 * 366 * 86_400);

/// One limit, as a provider enforces it. A window of more than ten years is one of ten years.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::simulate::{Counting, EnforcedQuota};
///
/// let minute = Duration::from_secs(60);
/// let tokens = EnforcedQuota::token_bucket("tokens", 450_000, minute);
/// let tokens = tokens.counting(Counting::AsProduced);
/// assert_eq!(tokens.name(), "tokens per minute");
/// // What a client declares that is 50 ms late at most.
/// let quota = tokens.declared(Duration::from_millis(50));
/// assert_eq!(quota.to_string(), "450000 tokens per minute");
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct EnforcedQuota {
    name: Arc<str>,
    /// Metrics and what one of each counts, in parts.
    weights: Vec<(String, u64)>,
    limit: u64,
    /// What a token bucket holds.
    burst: u64,
    window: Duration,
    enforcement: Enforcement,
    counting: Counting,
}

/// How a provider looks at a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Enforcement {
    /// At most the limit in any window, to the nanosecond.
    SlidingWindow,
    /// Linear refill, up to a [burst](EnforcedQuota::burst).
    TokenBucket,
    /// At most the limit between two resets, one of which is this long after the start of the
    /// simulation.
    FixedWindow(Duration),
    /// At most a part of the limit in any part of the window that is this long: 350 requests a
    /// minute are 58 in any 10 s.
    SubWindows(Duration),
    /// At most the limit at a time.
    Concurrency,
}

/// When a provider counts the tokens of a call. The call itself counts when it arrives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Counting {
    /// All that the call will use, when it arrives: the strictest. A call that does not fit is
    /// refused.
    #[default]
    AtStart,
    /// All that the call used, when it ends. A call is refused while nothing is left.
    AtEnd,
    /// The input when the call arrives, and the output while it is written. A call is refused if
    /// its input does not fit, or while nothing is left.
    AsProduced,
}

impl EnforcedQuota {
    /// At most `limit` in any window of this length.
    pub fn sliding_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Enforcement::SlidingWindow)
    }

    /// A bucket of `limit` that refills linearly with `limit` per `period`.
    pub fn token_bucket(metric: impl Into<String>, limit: u64, period: Duration) -> Self {
        Self::new(metric, limit, period, Enforcement::TokenBucket)
    }

    /// At most `limit` between two resets, one window apart. The first window begins at `offset`
    /// before or after the start: a client does not know.
    pub fn fixed_window(
        metric: impl Into<String>,
        limit: u64,
        window: Duration,
        offset: Duration,
    ) -> Self {
        Self::new(metric, limit, window, Enforcement::FixedWindow(offset))
    }

    /// At most a part of `limit` in any part of `window` that is `length` long.
    pub fn sub_windows(
        metric: impl Into<String>,
        limit: u64,
        window: Duration,
        length: Duration,
    ) -> Self {
        Self::new(metric, limit, window, Enforcement::SubWindows(length))
    }

    /// At most `limit` calls at a time, from their arrival to their end.
    pub fn concurrency(limit: u64) -> Self {
        let mut quota = Self::new("", limit, Duration::ZERO, Enforcement::Concurrency);
        quota.weights.clear();
        quota.name = "calls in flight".into();
        quota
    }

    fn new(
        metric: impl Into<String>,
        limit: u64,
        window: Duration,
        enforcement: Enforcement,
    ) -> Self {
        let metric = metric.into();
        let mut quota = Self {
            name: "".into(),
            weights: vec![(metric, PARTS)],
            limit,
            burst: limit,
            window: window.min(LONGEST),
            enforcement,
            counting: Counting::default(),
        };
        quota.name = quota.default_name().into();
        quota
    }

    /// What a limiter's quota says, enforced exactly as it is declared, but for the guard.
    pub(super) fn as_declared(meter: &Meter) -> Self {
        let limit = meter.rule.limit;
        let (enforcement, burst) = match &meter.rule.window {
            Window::Sliding { .. } => (Enforcement::SlidingWindow, limit),
            Window::TokenBucket(bucket) => (Enforcement::TokenBucket, bucket.burst),
            Window::Fixed { .. } | Window::Calendar { .. } => {
                (Enforcement::FixedWindow(Duration::ZERO), limit)
            }
            Window::InFlight => (Enforcement::Concurrency, limit),
        };
        Self {
            name: meter.label.clone(),
            weights: meter.weights().map(|(metric, parts)| (metric.to_owned(), parts)).collect(),
            limit,
            burst,
            window: meter.window.unwrap_or_default(),
            enforcement,
            counting: if meter.rule.held { Counting::AtEnd } else { Counting::AtStart },
        }
    }

    /// Counts another metric too, at this weight, which is rounded to millionths.
    #[must_use]
    pub fn weight(mut self, metric: impl Into<String>, weight: f64) -> Self {
        // The cast saturates, and makes 0 of what is no number.
        self.weights.push((metric.into(), (weight * PARTS as f64).round() as u64));
        self.name = self.default_name().into();
        self
    }

    /// Sets what a full token bucket holds (default: its limit). Of another kind it changes
    /// nothing.
    #[must_use]
    pub fn burst(mut self, amount: u64) -> Self {
        self.burst = amount;
        self
    }

    /// Sets when tokens count (default: when the call arrives). A limit that counts no tokens stays
    /// as it is.
    #[must_use]
    pub fn counting(mut self, counting: Counting) -> Self {
        if self.counts_tokens() {
            self.counting = counting;
        }
        self
    }

    /// Enforces the limit in another way, with the limit as its burst.
    ///
    /// One on calls in flight stays as it is. A limit on tokens is not enforced in parts of a
    /// window: providers do that to requests only, since a part may be smaller than a call.
    #[must_use]
    pub fn enforced(mut self, enforcement: Enforcement) -> Self {
        if self.enforcement != Enforcement::Concurrency {
            self.enforcement = match enforcement {
                Enforcement::SubWindows(_) if self.counts_tokens() => Enforcement::SlidingWindow,
                other => other,
            };
            self.burst = self.limit;
        }
        self
    }

    /// Returns what to declare, so that no call is refused whose way to the provider takes up to
    /// `jitter` longer than another's.
    ///
    /// | enforced | declared |
    /// |---|---|
    /// | sliding or fixed window | a sliding window with a guard of `jitter`, cut into 240 slots |
    /// | parts of a window | a sliding window as long as a part, with such a guard |
    /// | token bucket | one whose burst is smaller by what refills in `jitter` |
    /// | calls in flight | the same number |
    ///
    /// Tokens that count at the end or as they are produced are declared with
    /// [`ChargeAt::End`].
    pub fn declared(&self, jitter: Duration) -> Quota {
        // Timers, those of a simulation too, are late by up to a millisecond.
        let jitter = jitter.saturating_add(Duration::from_millis(1));
        let metrics: Vec<_> = self.weights.iter().map(|(metric, _)| metric.as_str()).collect();
        let first = metrics.first().copied().unwrap_or_default();
        let guarded =
            |limit, window| Quota::sliding_window(first, limit, window).guard(jitter).slots(SLOTS);
        let quota = match self.enforcement {
            Enforcement::Concurrency => return Quota::concurrency(self.limit),
            Enforcement::SlidingWindow | Enforcement::FixedWindow(_) => {
                guarded(self.limit, self.window)
            }
            Enforcement::SubWindows(length) => guarded(self.capacity(), length),
            Enforcement::TokenBucket => {
                let late = self.limit as f64 * jitter.as_secs_f64() / self.window.as_secs_f64();
                let burst = self.burst.saturating_sub(late.ceil() as u64).max(1);
                Quota::token_bucket(first, self.limit, self.window).burst(burst)
            }
        };
        let weights = self.weights.iter();
        let quota = weights.fold(quota, |quota, (metric, parts)| {
            quota.weight(metric, *parts as f64 / PARTS as f64)
        });
        if self.counting != Counting::AtStart { quota.charge_at(ChargeAt::End) } else { quota }
    }

    /// Returns its name: `tokens per minute`, say.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Returns its limit.
    pub fn limit(&self) -> u64 {
        self.limit
    }

    /// Returns how it is enforced.
    pub fn enforcement(&self) -> Enforcement {
        self.enforcement
    }

    pub(super) fn shared_name(&self) -> Arc<str> {
        self.name.clone()
    }

    pub(super) fn counted(&self) -> Counting {
        self.counting
    }

    /// What can be counted at a time: in a window, a part of it, or a full bucket.
    pub(super) fn capacity(&self) -> u64 {
        match self.enforcement {
            Enforcement::TokenBucket => self.burst,
            Enforcement::SubWindows(length) => {
                let part = length.as_nanos().min(self.window.as_nanos());
                let share = u128::from(self.limit) * part / self.window.as_nanos().max(1);
                u64::try_from(share).unwrap_or(u64::MAX).max(1)
            }
            _ => self.limit,
        }
    }

    /// The window for which its capacity is counted.
    pub(super) fn length(&self) -> Duration {
        match self.enforcement {
            Enforcement::SubWindows(length) => length.min(self.window),
            _ => self.window,
        }
    }

    /// What its limit brings back in a second, in parts; of calls in flight, no number.
    pub(super) fn parts_per_second(&self) -> f64 {
        self.limit as f64 * PARTS as f64 / self.window.as_secs_f64()
    }

    /// What a usage counts, in parts.
    pub(super) fn cost(&self, usage: &Usage) -> u64 {
        let parts = self
            .weights
            .iter()
            .map(|(metric, parts)| u128::from(usage.get(metric).unwrap_or(0)) * u128::from(*parts));
        u64::try_from(parts.sum::<u128>()).unwrap_or(u64::MAX)
    }

    pub(super) fn counts(&self, metric: &str) -> bool {
        self.weights.iter().any(|(counted, _)| counted == metric)
    }

    /// With this multiple of its limit.
    pub(super) fn times(mut self, multiple: u64) -> Self {
        self.limit = self.limit.saturating_mul(multiple);
        self.burst = self.burst.saturating_mul(multiple);
        self
    }

    fn counts_tokens(&self) -> bool {
        self.weights.iter().any(|(metric, _)| metric != "requests")
    }

    fn default_name(&self) -> String {
        let metrics: Vec<_> = self.weights.iter().map(|(metric, _)| metric.as_str()).collect();
        // A quota of the limiter has words for it.
        let first = metrics.first().copied().unwrap_or_default();
        let quota = Quota::sliding_window(first, 1, self.length()).to_string();
        quota.trim_start_matches("1 ").replacen(first, &metrics.join(" + "), 1)
    }
}
