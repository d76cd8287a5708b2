//! Headers that tell how limits stand.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::time::{Clock, Time};
use crate::feedback::{Left, Named};

/// Windows that limits usually have.
const USUAL: &[Duration] = &[
    Duration::from_secs(1),
    Duration::from_secs(60),
    Duration::from_secs(3_600),
    Duration::from_secs(86_400),
    Duration::from_secs(30 * 86_400),
];
/// A reset that is longer than its window by this factor is not in seconds.
const TOO_LONG: f64 = 1.5;

/// Headers that tell how one limit stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeaderSpec {
    metric: &'static str,
    limit: &'static str,
    remaining: &'static str,
    reset: Option<&'static str>,
    /// The header that tells the window in seconds.
    period: Option<&'static str>,
    /// The window, where it is known; elsewhere it follows from what is told.
    window: Option<Duration>,
    /// What is left may be this much more than is told.
    rounded_by: u64,
    /// The limit refills linearly, and is whole again at its reset.
    linear: bool,
    /// A limit of 0 is one; elsewhere it means that the limit is not known.
    zero_is_limit: bool,
}

/// What a response tells of one limit.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) left: Option<Left>,
    /// The quota that has nothing left.
    pub(super) exhausted: Option<Named>,
    /// A reset alone, without what is left.
    pub(super) reset_alone: Option<(Named, Duration)>,
    /// The limit is 0: the model is not on the plan.
    pub(super) is_zero: bool,
}

impl HeaderSpec {
    pub(crate) const fn new(
        metric: &'static str,
        limit: &'static str,
        remaining: &'static str,
    ) -> Self {
        Self {
            metric,
            limit,
            remaining,
            reset: None,
            period: None,
            window: None,
            rounded_by: 0,
            linear: false,
            zero_is_limit: false,
        }
    }

    pub(crate) const fn reset(self, reset: &'static str) -> Self {
        Self { reset: Some(reset), ..self }
    }

    pub(crate) const fn period(self, period: &'static str) -> Self {
        Self { period: Some(period), ..self }
    }

    pub(crate) const fn per(self, window: Duration) -> Self {
        Self { window: Some(window), ..self }
    }

    pub(crate) const fn rounded_by(self, amount: u64) -> Self {
        Self { rounded_by: amount, ..self }
    }

    pub(crate) const fn linear(self) -> Self {
        Self { linear: true, ..self }
    }

    pub(crate) const fn zero_is_limit(self) -> Self {
        Self { zero_is_limit: true, ..self }
    }

    #[cfg(test)]
    pub(in crate::llm) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.limit, self.remaining].into_iter().chain(self.reset).chain(self.period)
    }

    /// Reads what a response tells of the limit.
    pub(super) fn read(&self, headers: &HeaderMap, clock: Clock, refused: bool) -> Reading {
        // Most responses tell of few limits, if any. To compare names is faster than to hash one.
        if !refused && !headers.keys().any(|name| *name == *self.remaining) {
            return Reading::default();
        }
        let value = |name: &str| headers.get(name).and_then(amount);
        let (limit, remaining) = (value(self.limit), value(self.remaining));
        let reset = self.reset.and_then(|reset| clock.read(text(headers.get(reset)?)?));
        let period =
            self.period.and_then(value).filter(|period| *period > 0).map(Duration::from_secs);
        if self.zero_is_limit && refused && limit == Some(0) {
            return Reading { is_zero: true, ..Reading::default() };
        }
        let Some(remaining) = remaining else {
            return if headers.contains_key(self.remaining) {
                Reading::default()
            } else {
                self.reset_alone(limit, reset, self.window.or(period))
            };
        };
        let is_unknown = match limit {
            // Azure says -1 or 0 of what it does not know, and then of what is left too.
            Some(limit) => limit == 0,
            None => headers.contains_key(self.limit) || remaining == 0 && !refused,
        };
        if is_unknown {
            return Reading::default();
        }
        let (window, reset) =
            self.window_and_reset(limit, Some(remaining), reset, self.window.or(period));
        let of = Named { metric: self.metric.into(), limit, window };
        let exhausted = (remaining == 0).then(|| of.clone());
        // What is whole again is not held back.
        let left = match reset {
            Some(Duration::ZERO) => None,
            reset => Some(Left { of, amount: remaining.saturating_add(self.rounded_by), reset }),
        };
        Reading { left, exhausted, ..Reading::default() }
    }

    fn reset_alone(
        &self,
        limit: Option<u64>,
        reset: Option<Time>,
        window: Option<Duration>,
    ) -> Reading {
        let (window, reset) = self.window_and_reset(limit, None, reset, window);
        let limit = limit.filter(|limit| *limit > 0);
        let named = Named { metric: self.metric.into(), limit, window };
        let reset_alone = reset.filter(|reset| !reset.is_zero()).map(|reset| (named, reset));
        Reading { reset_alone, ..Reading::default() }
    }

    /// The window of the limit and the time to its reset. A reset that has passed, or is now, is
    /// zero.
    fn window_and_reset(
        &self,
        limit: Option<u64>,
        remaining: Option<u64>,
        reset: Option<Time>,
        window: Option<Duration>,
    ) -> (Option<Duration>, Option<Duration>) {
        let has_unit = !matches!(reset, Some(Time::Number(_)));
        let reset = reset.and_then(|reset| match reset {
            Time::Number(number) => in_window(number, window),
            Time::In(time) => Some(time),
            Time::Passed => Some(Duration::ZERO),
        });
        let guessed = || {
            let reset = reset.filter(|reset| !reset.is_zero())?;
            let usual = USUAL.iter().copied().find(|usual| *usual >= reset);
            let linear =
                limit.zip(remaining).and_then(|(limit, left)| linear_window(limit, left, reset));
            // A limit that is whole again at a time may have any window that is not shorter.
            if self.linear && has_unit { linear } else { shorter(usual, linear) }
        };
        (window.or_else(guessed), reset)
    }
}

/// A number without a unit as a time within a window: seconds, or milliseconds if it were too many
/// seconds.
fn in_window(number: f64, window: Option<Duration>) -> Option<Duration> {
    let is_too_long = window.is_some_and(|window| number > window.as_secs_f64() * TOO_LONG);
    Duration::try_from_secs_f64(if is_too_long { number / 1_000.0 } else { number }).ok()
}

fn shorter(one: Option<Duration>, other: Option<Duration>) -> Option<Duration> {
    one.zip(other).map(|(one, other)| one.min(other)).or(one)
}

/// The window of a limit that refills linearly and is whole again after `reset`.
fn linear_window(limit: u64, remaining: u64, reset: Duration) -> Option<Duration> {
    let used = limit.checked_sub(remaining).filter(|used| *used > 0)?;
    Duration::try_from_secs_f64(reset.as_secs_f64() * limit as f64 / used as f64).ok()
}

pub(super) fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok().map(str::trim)
}

fn amount(value: &HeaderValue) -> Option<u64> {
    let text = text(value)?;
    let fraction =
        || text.parse::<f64>().ok().filter(|amount| amount.is_finite() && *amount >= 0.0);
    // The cast saturates.
    text.parse().ok().or_else(|| fraction().map(|amount| amount.ceil() as u64))
}
