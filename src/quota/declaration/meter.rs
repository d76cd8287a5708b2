//! A declared limit, compiled: the integers that the engine runs on, and what a usage costs.

use std::{fmt, sync::Arc, time::Duration};

use super::{Anchor, Base, Burst, ChargeAt, Kind, Quota, note::QuotaNote};
use crate::{
    calendar::Calendar,
    engine::{MAX_AMOUNT, Micros, Rule, TokenBucket, Window},
    fingerprint::fingerprint,
    on_unavailable::OnUnavailable,
    usage::{REQUESTS, Standard, Usage},
};

/// The largest limit: what times [`HEADROOM_PARTS`](crate::engine::HEADROOM_PARTS) is still exact
/// in a double.
pub(super) const MAX_LIMIT: u64 = 900_000_000_000;
pub(super) const MAX_DEBT: u64 = 8 * MAX_LIMIT;
const MAX_WINDOW: Duration = Duration::from_secs(400 * 86_400);
const DEFAULT_GUARD: Duration = Duration::from_millis(500);
/// How late timers and the network may be: as much as refills meanwhile a paced quota saves up.
const LATENESS: Micros = 20_000;
/// More slots than this a quota cannot have.
pub(crate) const MAX_SLOTS: u32 = 1_000;
const SLIDING_SLOTS: u32 = 60;
const BUCKET_SLOTS: u32 = 96;
/// A weight of one, in the parts that weights are rounded to.
const WEIGHT_ONE: u64 = 1_000_000;
/// Ticks of token buckets: the finest that keeps every step an exact integer is taken.
const TICKS: [Micros; 4] = [1, 1_000, 1_000_000, 60_000_000];

impl Quota {
    pub(crate) fn compile(&self) -> Result<Meter, String> {
        let label = self.label();
        self.validate()
            .and_then(|()| self.kind())
            .and_then(|kind| self.meter(&label, &kind))
            .and_then(|meter| self.admits_a_call(&meter).map(|()| meter))
            .map_err(|reason| format!("quota `{label}`: {reason}"))
    }

    fn validate(&self) -> Result<(), String> {
        if self.limit == 0 {
            return Err("its limit is 0, so that nothing could ever pass".into());
        }
        if self.limit > MAX_LIMIT || self.max_debt.is_some_and(|debt| debt > MAX_DEBT) {
            return Err(format!("limits above {MAX_LIMIT} are not supported"));
        }
        if let Some((metric, weight)) =
            self.weights.iter().find(|(_, weight)| !(0.0..=1e6).contains(weight))
        {
            return Err(format!(
                "the weight of `{metric}` is {weight:?}, and must be between 0 and 1000000"
            ));
        }
        if self.weights.iter().any(|(metric, _)| metric.is_empty()) {
            return Err("a metric has an empty name".into());
        }
        let misspelt =
            self.metrics().find_map(|metric| Some((metric, Standard::meant_by(metric)?)));
        if let Some((metric, meant)) = misspelt {
            return Err(format!(
                "it counts `{metric}`: do you mean `{meant}`? Anything else needs another name"
            ));
        }
        let rounds_to_0 = |(_, weight): &&(String, f64)| *weight > 0.0 && parts_of(*weight) == 0;
        if let Some((metric, weight)) = self.weights.iter().find(rounds_to_0) {
            return Err(format!(
                "the weight of `{metric}` is {weight}, which is 0 in millionths: make the limit \
                 and \
                 the weights larger"
            ));
        }
        if let Some(on_unavailable) = &self.on_unavailable {
            on_unavailable.check()?;
        }
        if self.base == Base::Concurrency {
            return Ok(());
        }
        if self.weights.iter().all(|(_, weight)| *weight == 0.0) {
            return Err("all its weights are 0, so that nothing would ever be charged".into());
        }
        if self.window < Duration::from_millis(1) || self.window > MAX_WINDOW {
            return Err("a window must be between a millisecond and 400 days long".into());
        }
        if self.guard.is_some_and(|guard| guard > MAX_WINDOW) {
            return Err("its guard is longer than the longest window".into());
        }
        if self.slots.is_some_and(|slots| !(1..=MAX_SLOTS).contains(&slots)) {
            return Err(format!("slots must be between 1 and {MAX_SLOTS}"));
        }
        Ok(())
    }

    /// # Errors
    /// No call could ever pass, since it is one request, or asks for more tokens than one.
    fn admits_a_call(&self, meter: &Meter) -> Result<(), String> {
        let (least, most) = (meter.cost(&usage_of_a_request()), meter.rule.capacity(0));
        if least > most {
            return Err(format!("one request costs {least}, and it admits {most} at once"));
        }
        let counts_tokens = meter
            .weights
            .iter()
            .all(|weight| weight.standard.is_some_and(|standard| standard != Standard::Requests));
        let is_too_even = match self.burst {
            Some(Burst::One) => true,
            Some(Burst::Over(_)) => most == 1,
            _ => false,
        };
        if is_too_even && counts_tokens {
            return Err(format!(
                "it admits {most} at once, and calls ask for more tokens: pace tokens over a \
                 longer \
                 interval, with `paced_over`"
            ));
        }
        Ok(())
    }

    fn meter(&self, label: &str, kind: &Kind) -> Result<Meter, String> {
        let window = micros(self.window);
        let (rule_window, calendar, layout) = match kind {
            Kind::Sliding { guard } => {
                let guard = guard.unwrap_or_else(|| DEFAULT_GUARD.min(self.window / 20));
                let slots = u64::from(self.slots.unwrap_or(SLIDING_SLOTS));
                let slot = (window + micros(guard)).div_ceil(slots);
                (Window::Sliding { slot, slots }, None, format!("{slot}x{slots}"))
            }
            Kind::TokenBucket { burst, span } => {
                let bucket = self.token_bucket_of(window, burst, *span)?;
                // Not its slot, which follows the tick and so the burst.
                let layout = format!("{span:?}x{}", bucket.slots);
                (Window::TokenBucket(bucket), None, layout)
            }
            Kind::Fixed { anchor: Anchor::Offset(offset) } => {
                let anchor = micros(*offset) % window;
                (Window::Fixed { length: window, anchor }, None, format!("+{anchor}"))
            }
            #[cfg(feature = "timezone")]
            Kind::Fixed { anchor: Anchor::TimeZone(name) } => {
                let calendar = Calendar::of(name, self.window)?;
                (Window::Calendar { boundaries: Arc::new([]) }, Some(calendar), name.clone())
            }
            Kind::Concurrency => (Window::InFlight, None, String::new()),
        };
        let held = self.charge_at == Some(ChargeAt::End);
        let weights: Box<[Weight]> = self.weights.iter().map(Weight::new).collect();
        let name = self.name.as_deref().unwrap_or_default();
        let identity = format!("{}|{weights:?}|{window}|{layout}|{held}|{name}", kind.name());
        let rule = Rule {
            id: fingerprint(identity.bytes()),
            limit: self.limit,
            held,
            window: rule_window,
        };
        let most = rule.capacity(0) + self.max_debt.unwrap_or(4 * rule.capacity(0));
        let plain = match (kind, &*weights) {
            (Kind::Concurrency, _) => None,
            (_, [Weight { standard, parts: WEIGHT_ONE, .. }]) => *standard,
            _ => None,
        };
        Ok(Meter {
            label: label.into(),
            window: (*kind != Kind::Concurrency).then_some(self.window),
            weights,
            plain,
            most,
            calendar,
            on_unavailable: self.on_unavailable,
            stands_in: self.stands_in,
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
        let refilled_in = |interval: Micros| {
            let amount = u128::from(limit) * u128::from(interval) / u128::from(window);
            u64::try_from(amount).unwrap_or(u64::MAX)
        };
        let burst = match *burst {
            Burst::Limit => limit,
            Burst::Amount(amount) => amount,
            Burst::Times(times) => (limit as f64 * times) as u64,
            Burst::One => refilled_in(LATENESS).saturating_add(1),
            Burst::Over(interval) => refilled_in(micros(interval)).max(1),
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
        let tick = TICKS
            .iter()
            .find(exact)
            .ok_or("its burst is too large for its period: use a sliding window")?;
        Ok(TokenBucket::new(*tick, window, burst, max_debt, span, slots))
    }

    pub(super) fn label(&self) -> String {
        if let Some(name) = &self.name {
            return name.clone();
        }
        let metrics: Vec<_> = self.metrics().collect();
        match self.base {
            Base::Concurrency => "calls in flight".into(),
            _ => format!("{} per {}", metrics.join(" + "), in_words(self.window)),
        }
    }
}

/// A length of time after "per": `minute`, `5 minutes`, `90 seconds`, `250ms`.
fn in_words(length: Duration) -> String {
    let seconds = length.as_secs();
    if seconds == 0 || length.subsec_nanos() > 0 {
        return format!("{length:?}");
    }
    let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
    let (unit, name) =
        units.into_iter().find(|(unit, _)| seconds.is_multiple_of(*unit)).unwrap_or((1, "second"));
    match seconds / unit {
        1 => name.to_owned(),
        count => format!("{count} {name}s"),
    }
}

/// As the quota is declared: `30000 tokens per minute`, `4 calls in flight`, or
/// `30000 in quota "tpm"` for one that is [named](Quota::named).
impl fmt::Display for Quota {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.name {
            Some(name) => write!(f, "{} in quota {name:?}", self.limit),
            None => write!(f, "{} {}", self.limit, self.label()),
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
    /// The metric whose amount is all there is to a cost, as for most quotas.
    plain: Option<Standard>,
    /// Beyond this an actual usage is not believed.
    most: u64,
    pub(crate) calendar: Option<Calendar>,
    /// What becomes of demands on it while the store cannot be reached, if that is not the
    /// limiter's choice.
    pub(crate) on_unavailable: Option<OnUnavailable>,
    /// It stands for a quota that is not counted, and is told to no one.
    pub(crate) stands_in: bool,
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
            parts: parts_of(*weight),
        }
    }
}

/// A weight in the parts that weights are rounded to.
fn parts_of(weight: f64) -> u64 {
    (weight * WEIGHT_ONE as f64).round() as u64
}

/// The least that a call uses.
fn usage_of_a_request() -> Usage {
    Usage::new().with(REQUESTS, 1)
}

impl fmt::Debug for Weight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}*{}", self.parts, self.metric)
    }
}

impl Meter {
    /// What a usage costs here, rounded up to a whole.
    #[inline]
    pub(crate) fn cost(&self, usage: &Usage) -> u64 {
        match self.plain.and_then(|metric| usage.given(metric)) {
            Some(amount) => amount,
            None => self.weighted_cost(usage),
        }
    }

    #[inline(never)]
    fn weighted_cost(&self, usage: &Usage) -> u64 {
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
                None => stood_for |= standard.is_some_and(Standard::is_part),
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
    #[inline]
    pub(crate) fn actual_cost(&self, usage: &Usage) -> u64 {
        self.cost(usage).min(self.most)
    }

    /// Whether a cost here is the amount of this metric.
    pub(crate) fn counts_only(&self, metric: &str) -> bool {
        matches!(&*self.weights, [only] if &*only.metric == metric && only.parts == WEIGHT_ONE)
    }

    /// The metrics it counts.
    pub(crate) fn metrics(&self) -> impl Iterator<Item = &str> {
        self.weights.iter().map(|weight| &*weight.metric)
    }

    /// The metrics it counts, each with its weight in millionths.
    pub(crate) fn weights(&self) -> impl Iterator<Item = (&str, u64)> {
        self.weights.iter().map(|weight| (&*weight.metric, weight.parts))
    }

    /// The time zone whose midnights its windows begin at.
    pub(super) fn zone(&self) -> Option<&str> {
        self.calendar.as_ref().and_then(Calendar::zone)
    }

    /// A line that tells what it is to those who do not know its declaration.
    pub(crate) fn note(&self) -> String {
        QuotaNote::of(self).line()
    }

    pub(crate) fn counts(&self, metric: &str) -> bool {
        self.weights.iter().any(|weight| &*weight.metric == metric)
    }
}

/// Meters are equal when a usage costs the same on both, the rule it is held against is the same,
/// and so is what becomes of demands without the store.
impl PartialEq for Meter {
    fn eq(&self, other: &Self) -> bool {
        // The identity covers the weights and, with its zone, the calendar.
        (&self.rule, self.most, self.on_unavailable)
            == (&other.rule, other.most, other.on_unavailable)
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
