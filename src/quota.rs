//! What a user writes to declare a limit, and the integers the engine runs on.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    calendar::Calendar,
    engine::{MAX_AMOUNT, Micros, Rule, TokenBucket, Window},
    usage::{Standard, Usage},
};

/// The largest limit: what times [`HEADROOM_PARTS`](crate::engine::HEADROOM_PARTS) is still exact in a double.
const MAX_LIMIT: u64 = 900_000_000_000;
const MAX_WINDOW: Duration = Duration::from_secs(400 * 86_400);
const DEFAULT_GUARD: Duration = Duration::from_millis(500);
const SLIDING_SLOTS: u32 = 60;
const BUCKET_SLOTS: u32 = 96;
/// A weight of one, in the parts that weights are rounded to.
const WEIGHT_ONE: u64 = 1_000_000;
/// Ticks of token buckets: the finest that keeps every step an exact integer is taken.
const TICKS: [Micros; 4] = [1, 1_000, 1_000_000, 60_000_000];

/// A limit on a weighted sum of metrics over a window, or on calls in flight.
///
/// | constructor | provider's rule | admits |
/// |---|---|---|
/// | [`per_minute`](Self::per_minute) and its kin, [`sliding_window`](Self::sliding_window) | unknown, fixed minutes, or a log | at most `n` in any window |
/// | [`token_bucket`](Self::token_bucket) | linear refill | a burst at once, then `n` per period |
/// | [`fixed_window`](Self::fixed_window) | resets on the clock or at midnight | at most `n` between two resets |
/// | [`concurrency`](Self::concurrency) | calls in flight | at most `n` at a time |
///
/// The sliding window is the safe choice: what it admits a provider with fixed windows or a token bucket of `n`
/// admits too.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::Quota;
///
/// let requests = Quota::per_minute("requests", 500);
/// let combined = Quota::per_minute("input_tokens", 100_000).weight("output_tokens", 5.0);
/// let refilled = Quota::token_bucket("tokens", 30_000, Duration::from_secs(60)).burst(10_000);
/// let spaced = Quota::per_second("requests", 10).paced();
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
    /// From its settling: until then the reserved usage is held, from then on the actual usage counts. Safe for
    /// a provider that counts tokens as they are produced.
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
    /// It admits its burst and then what refills, up to twice the limit in one period: right for a provider that
    /// refills linearly too. Against any other, lower [`burst`](Self::burst).
    pub fn token_bucket(metric: impl Into<String>, limit: u64, period: Duration) -> Self {
        Self::new(metric, limit, period, Kind::TokenBucket { burst: Burst::Limit, span: None })
    }

    /// At most `limit` between two resets, one window apart; without an anchor windows start at the Unix epoch, so
    /// that minutes, hours and days are those of UTC.
    pub fn fixed_window(metric: impl Into<String>, limit: u64, window: Duration) -> Self {
        Self::new(metric, limit, window, Kind::Fixed { anchor: Anchor::Offset(Duration::ZERO) })
    }

    /// At most `limit` calls in flight. A call is in flight from its grant until it is settled, kept, released or
    /// dropped, or until the lease of its process ends.
    pub fn concurrency(limit: u64) -> Self {
        let mut quota = Self::new("", limit, Duration::ZERO, Kind::Concurrency);
        quota.weights.clear();
        quota
    }

    /// Counts another metric too, at this weight. The first metric weighs 1 unless it is named here.
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
    #[must_use]
    pub fn burst(self, amount: u64) -> Self {
        self.with_burst(Burst::Amount(amount))
    }

    /// What an unused token bucket admits at once, as a multiple of its limit.
    #[must_use]
    pub fn burst_times(self, multiple: f64) -> Self {
        self.with_burst(Burst::Times(multiple))
    }

    /// The same rate with nothing saved up: one at a time, evenly spaced.
    ///
    /// `Quota::per_minute("requests", 600).paced()` is a request every 100 ms.
    #[must_use]
    pub fn paced(self) -> Self {
        self.with_burst(Burst::Amount(1))
    }

    /// The same rate, evaluated over this interval: as much at once as refills in it, at least 1.
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

    /// Makes the windows of this quota fixed ones, one of which starts this long after the Unix epoch.
    #[must_use]
    pub fn anchored(mut self, offset: Duration) -> Self {
        self.kind = Kind::Fixed { anchor: Anchor::Offset(offset) };
        self
    }

    /// Makes the windows of this quota, which must be of a day, begin at midnight in a time zone of the IANA
    /// database, such as `America/Los_Angeles`.
    #[cfg(feature = "timezone")]
    #[must_use]
    pub fn in_time_zone(mut self, name: impl Into<String>) -> Self {
        self.kind = Kind::Fixed { anchor: Anchor::TimeZone(name.into()) };
        self
    }

    /// Lengthens a sliding window, since a request leaves here and arrives there later (default: 0.5 s, and at most
    /// a twentieth of the window).
    #[must_use]
    pub fn guard(mut self, guard: Duration) -> Self {
        if let Kind::Sliding { guard: present } = &mut self.kind {
            *present = Some(guard);
        }
        self
    }

    /// How long the longest call takes whose refund a token bucket must still understand (default: four periods).
    #[must_use]
    pub fn longest_call(mut self, duration: Duration) -> Self {
        if let Kind::TokenBucket { span, .. } = &mut self.kind {
            *span = Some(duration);
        }
        self
    }

    /// Into how many slots time is cut (default: 60 for a sliding window, 96 for a token bucket). More slots waste
    /// less and take 8 bytes each.
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

    /// How much more than its capacity one call can be charged when it is settled (default: four times its capacity).
    /// A bogus actual usage then cannot block a bucket for years.
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

    /// The same quota with a share of its limit, at least 1.
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

    pub(crate) fn compile(&self) -> Result<Meter, String> {
        let label = self.label();
        self.validate()
            .and_then(|()| self.meter(&label))
            .map_err(|reason| format!("quota `{label}`: {reason}"))
    }

    fn validate(&self) -> Result<(), String> {
        if self.limit == 0 {
            return Err("its limit is 0, so that nothing could ever pass".into());
        }
        if self.limit > MAX_LIMIT || self.max_debt.is_some_and(|debt| debt > 8 * MAX_LIMIT) {
            return Err(format!("limits above {MAX_LIMIT} are not supported"));
        }
        if let Some((metric, weight)) = self.weights.iter().find(|(_, weight)| !(0.0..=1e6).contains(weight))
        {
            return Err(format!("the weight of `{metric}` is {weight}, and must be between 0 and 1000000"));
        }
        if self.weights.iter().any(|(metric, _)| metric.is_empty()) {
            return Err("a metric has an empty name".into());
        }
        if self.kind == Kind::Concurrency {
            return Ok(());
        }
        if self.window < Duration::from_millis(1) || self.window > MAX_WINDOW {
            return Err("a window must be between a millisecond and 400 days long".into());
        }
        if self.slots.is_some_and(|slots| !(1..=1_000).contains(&slots)) {
            return Err("slots must be between 1 and 1000".into());
        }
        Ok(())
    }

    fn meter(&self, label: &str) -> Result<Meter, String> {
        let window = micros(self.window);
        let (rule_window, calendar, layout) = match &self.kind {
            Kind::Sliding { guard } => {
                let guard = guard.unwrap_or_else(|| DEFAULT_GUARD.min(self.window / 20));
                let slots = u64::from(self.slots.unwrap_or(SLIDING_SLOTS));
                let slot = (window + micros(guard)).div_ceil(slots);
                (Window::Sliding { slot, slots }, None, format!("{slot}x{slots}"))
            }
            Kind::TokenBucket { burst, span } => {
                let bucket = self.token_bucket_of(window, burst, *span)?;
                let layout = format!("{}x{}", bucket.slot * bucket.tick, bucket.slots);
                (Window::TokenBucket(bucket), None, layout)
            }
            Kind::Fixed { anchor: Anchor::Offset(offset) } => {
                let anchor = micros(*offset) % window;
                (Window::Fixed { length: window, anchor }, None, format!("+{anchor}"))
            }
            #[cfg(feature = "timezone")]
            Kind::Fixed { anchor: Anchor::TimeZone(name) } => {
                let calendar = Calendar::days_in(name, self.window)?;
                (Window::Calendar { boundaries: Arc::new([]) }, Some(calendar), name.clone())
            }
            Kind::Concurrency => (Window::InFlight, None, String::new()),
        };
        let held = self.charge_at == ChargeAt::End && self.kind != Kind::Concurrency;
        let weights: Box<[Weight]> = self.weights.iter().map(Weight::new).collect();
        let name = self.name.as_deref().unwrap_or_default();
        let identity = format!("{}|{weights:?}|{window}|{layout}|{held}|{name}", self.kind.name());
        let rule = Rule { id: fingerprint(&identity), limit: self.limit, held, window: rule_window };
        let max_debt = self.max_debt.unwrap_or(4 * rule.capacity(0));
        Ok(Meter {
            label: label.into(),
            window: (self.kind != Kind::Concurrency).then_some(self.window),
            weights,
            max_debt,
            calendar,
            rule,
        })
    }

    fn token_bucket_of(
        &self,
        window: Micros,
        burst: &Burst,
        span: Option<Duration>,
    ) -> Result<TokenBucket, String> {
        let limit = self.limit;
        let burst = match *burst {
            Burst::Limit => limit,
            Burst::Amount(amount) => amount,
            Burst::Times(times) => (limit as f64 * times) as u64,
            Burst::Over(interval) => {
                (u128::from(limit) * u128::from(micros(interval)) / u128::from(window)).max(1) as u64
            }
        };
        if burst == 0 || burst > MAX_LIMIT {
            return Err(format!("its burst is {burst}, and must be between 1 and {MAX_LIMIT}"));
        }
        let max_debt = self.max_debt.unwrap_or(4 * burst);
        let span = span.map_or(4 * window, micros).min(micros(MAX_WINDOW));
        let slots = u64::from(self.slots.unwrap_or(BUCKET_SLOTS));
        let exact = |tick: &&Micros| {
            let units = u128::from(window / **tick);
            window.is_multiple_of(**tick)
                && u128::from(8 * burst + max_debt) * units <= u128::from(MAX_AMOUNT)
        };
        let tick =
            TICKS.iter().find(exact).ok_or("its burst is too large for its period: use a sliding window")?;
        Ok(TokenBucket::new(*tick, window, burst, max_debt, span, slots))
    }

    fn label(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let metrics: Vec<_> = self.metrics().collect();
        match self.kind {
            Kind::Concurrency => "calls in flight".into(),
            _ => format!("{} per {:?}", metrics.join(" + "), self.window),
        }
    }
}

/// A [`Quota`], validated and compiled.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) label: Arc<str>,
    /// `None` for calls in flight.
    pub(crate) window: Option<Duration>,
    weights: Box<[Weight]>,
    max_debt: u64,
    pub(crate) calendar: Option<Calendar>,
    /// Complete but for the boundaries of a calendar.
    pub(crate) rule: Rule,
}

#[derive(Clone)]
struct Weight {
    metric: Box<str>,
    standard: Option<Standard>,
    parts: u64,
}

impl Weight {
    fn new((metric, weight): &(String, f64)) -> Self {
        Self {
            metric: metric.as_str().into(),
            standard: Standard::named(metric),
            parts: (weight * WEIGHT_ONE as f64).round() as u64,
        }
    }
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.parts, self.metric)
    }
}

impl Meter {
    /// What a usage costs here, rounded up to a whole.
    pub(crate) fn cost(&self, usage: &Usage) -> u64 {
        if let Window::InFlight = self.rule.window {
            return 1;
        }
        let mut parts = 0_u128;
        let mut stood_for = false;
        for Weight { metric, standard, parts: weight } in &self.weights {
            let amount = match standard {
                Some(standard) => usage.standard(*standard),
                None => usage.get(metric),
            };
            match amount {
                Some(amount) => parts += u128::from(amount) * u128::from(*weight),
                None => stood_for |= matches!(standard, Some(Standard::Input | Standard::Output)),
            }
        }
        if stood_for && let Some(tokens) = usage.only_tokens() {
            parts += u128::from(tokens) * u128::from(WEIGHT_ONE);
        }
        // Wide numbers are slow to divide and hardly ever needed.
        match u64::try_from(parts) {
            Ok(parts) => parts.div_ceil(WEIGHT_ONE),
            Err(_) => u64::try_from(parts.div_ceil(u128::from(WEIGHT_ONE))).unwrap_or(u64::MAX),
        }
    }

    /// What an actual usage costs here: no more than is believed.
    pub(crate) fn actual_cost(&self, usage: &Usage) -> u64 {
        self.cost(usage).min(self.rule.capacity(0) + self.max_debt)
    }

    pub(crate) fn counts(&self, metric: &str) -> bool {
        self.weights.iter().any(|weight| &*weight.metric == metric)
    }
}

/// Meters are equal when a usage costs the same on both and the rule it is held against is the same.
impl PartialEq for Meter {
    fn eq(&self, other: &Self) -> bool {
        // The identity covers the weights and, with its zone, the calendar.
        (&self.rule, self.max_debt) == (&other.rule, other.max_debt)
    }
}

impl fmt::Display for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.label)
    }
}

pub(crate) fn micros(duration: Duration) -> Micros {
    u64::try_from(duration.as_micros()).unwrap_or(MAX_AMOUNT).min(MAX_AMOUNT)
}

/// FNV-1a, cut to what a double holds. It must never change: it names state that other versions have stored.
fn fingerprint(text: &str) -> u64 {
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 53)) & MAX_AMOUNT
}
