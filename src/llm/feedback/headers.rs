//! Headers that tell how limits stand.

use std::time::Duration;

use http::{HeaderMap, HeaderValue};

use super::time::Clock;
use crate::feedback::{Left, Named};

/// Headers that tell how one limit stands.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Told {
    metric: &'static str,
    limit: &'static str,
    remaining: &'static str,
    reset: Option<&'static str>,
    /// Where that is known; elsewhere it follows from how soon the limit is whole again.
    window: Option<Duration>,
    /// What is left may be this much more than is told.
    rounded_by: u64,
}

impl Told {
    pub(crate) const fn new(
        metric: &'static str,
        limit: &'static str,
        remaining: &'static str,
    ) -> Self {
        Self { metric, limit, remaining, reset: None, window: None, rounded_by: 0 }
    }

    pub(crate) const fn reset(self, reset: &'static str) -> Self {
        Self { reset: Some(reset), ..self }
    }

    pub(crate) const fn per(self, window: Duration) -> Self {
        Self { window: Some(window), ..self }
    }

    pub(crate) const fn rounded_by(self, amount: u64) -> Self {
        Self { rounded_by: amount, ..self }
    }

    #[cfg(test)]
    pub(in crate::llm) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        [self.limit, self.remaining].into_iter().chain(self.reset)
    }

    /// What a response tells of it; nothing where it holds something that means "unknown". Also whether that is nothing
    /// at all.
    pub(super) fn read(&self, headers: &HeaderMap, refused: bool) -> Option<(Left, bool)> {
        let remaining = amount(headers.get(self.remaining)?)?;
        let limit = match headers.get(self.limit) {
            // Azure says -1 or 0 of what it does not know, and then of what is left too.
            Some(limit) => Some(amount(limit).filter(|limit| *limit > 0)?),
            None if remaining == 0 && !refused => return None,
            None => None,
        };
        let reset = self.reset.and_then(|reset| headers.get(reset)).and_then(text);
        let reset = reset.and_then(|reset| Clock(headers).until(reset));
        let reset = reset.filter(|reset| !reset.is_zero());
        let window = self.window.or_else(|| window(limit?, remaining, reset?));
        let of = Named { metric: self.metric.into(), limit, window };
        let left = Left { of, amount: remaining.saturating_add(self.rounded_by), reset };
        Some((left, remaining == 0))
    }
}

/// The window of a limit that refills linearly and is whole again after `reset`.
fn window(limit: u64, remaining: u64, reset: Duration) -> Option<Duration> {
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
