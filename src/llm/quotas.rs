//! Quotas by the names that providers give them.

use std::time::Duration;

use crate::quota::Quota;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// Limits of a model, in the windows that its provider has. What is not given is not limited.
///
/// ```
/// use tower_throttle::{Limits, llm::{anthropic, openai}};
///
/// let limits = Limits::new()
///     .bucket("gpt-4o", openai::quotas().rpm(500).tpm(30_000))
///     .bucket("claude-sonnet-4-5", anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000));
/// # tower_throttle::Limiter::new(limits).unwrap();
/// ```
#[derive(Clone, Debug)]
#[must_use = "give it to `Limits::bucket`"]
pub struct Quotas {
    within: fn(&str, u64, Duration) -> Quota,
    /// Requests per minute are limited over shorter windows too.
    spreads_requests: bool,
    quotas: Vec<Quota>,
}

impl Quotas {
    /// Quotas of a provider whose limits refill linearly.
    pub(super) fn refilling() -> Self {
        Self::within(|metric, limit, period| Quota::token_bucket(metric, limit, period))
    }

    /// Quotas of a provider whose windows are fixed or unknown: at most so much in any window.
    pub(super) fn sliding() -> Self {
        Self::within(|metric, limit, window| Quota::sliding_window(metric, limit, window))
    }

    /// Quotas of a provider whose days begin at midnight UTC, and whose minutes are unknown.
    pub(super) fn daily_in_utc() -> Self {
        Self::within(|metric, limit, window| match window {
            DAY => Quota::fixed_window(metric, limit, window),
            _ => Quota::sliding_window(metric, limit, window),
        })
    }

    /// Quotas of a provider whose days begin at midnight Pacific time, and whose minutes are
    /// unknown.
    pub(super) fn daily_in_pacific_time() -> Self {
        Self::within(|metric, limit, window| match window {
            #[cfg(feature = "timezone")]
            DAY => Quota::fixed_window(metric, limit, window).in_time_zone("America/Los_Angeles"),
            _ => Quota::sliding_window(metric, limit, window),
        })
    }

    /// Quotas of a provider that checks requests per minute over 1 or 10 seconds.
    pub(super) fn spread() -> Self {
        Self { spreads_requests: true, ..Self::sliding() }
    }

    fn within(within: fn(&str, u64, Duration) -> Quota) -> Self {
        Self { within, spreads_requests: false, quotas: Vec::new() }
    }

    fn with(mut self, metric: &str, limit: u64, window: Duration) -> Self {
        self.quotas.push((self.within)(metric, limit, window));
        self
    }

    /// Limits requests per second.
    pub fn rps(self, limit: u64) -> Self {
        self.with("requests", limit, SECOND)
    }

    /// Limits requests per minute.
    pub fn rpm(self, limit: u64) -> Self {
        let quotas = self.with("requests", limit, MINUTE);
        if !quotas.spreads_requests {
            return quotas;
        }
        let part = |parts: u64| (limit / parts).max(1);
        quotas.with("requests", part(6), 10 * SECOND).with("requests", part(60), SECOND)
    }

    /// Limits requests per day.
    pub fn rpd(self, limit: u64) -> Self {
        self.with("requests", limit, DAY)
    }

    /// Limits tokens per minute, input and output together.
    pub fn tpm(self, limit: u64) -> Self {
        self.with("tokens", limit, MINUTE)
    }

    /// Limits tokens per day, input and output together.
    pub fn tpd(self, limit: u64) -> Self {
        self.with("tokens", limit, DAY)
    }

    /// Limits tokens per month of 30 days, input and output together.
    pub fn tokens_per_month(self, limit: u64) -> Self {
        self.with("tokens", limit, MONTH)
    }

    /// Limits input tokens per minute.
    pub fn itpm(self, limit: u64) -> Self {
        self.with("input_tokens", limit, MINUTE)
    }

    /// Limits output tokens per minute.
    pub fn otpm(self, limit: u64) -> Self {
        self.with("output_tokens", limit, MINUTE)
    }

    /// Limits texts to embed per minute, counted as `inputs`: see
    /// [`Rules::inputs`](super::Rules::inputs).
    pub fn inputs_per_minute(self, limit: u64) -> Self {
        self.with("inputs", limit, MINUTE)
    }

    /// Limits calls in flight.
    pub fn concurrency(self, limit: u64) -> Self {
        self.and(Quota::concurrency(limit))
    }

    /// Adds any other quota.
    pub fn and(mut self, quota: Quota) -> Self {
        self.quotas.push(quota);
        self
    }
}

impl IntoIterator for Quotas {
    type Item = Quota;
    type IntoIter = std::vec::IntoIter<Quota>;

    fn into_iter(self) -> Self::IntoIter {
        self.quotas.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use crate::{
        Quota,
        llm::{anthropic, azure, compatible, gemini, openai},
    };

    use super::Duration;

    fn all(quotas: super::Quotas) -> Vec<Quota> {
        quotas.into_iter().collect()
    }

    #[test]
    fn windows_are_the_provider_s() {
        let bucket = |metric, limit| Quota::token_bucket(metric, limit, super::MINUTE);
        assert_eq!(
            all(openai::quotas().rpm(500).tpm(30_000)),
            [bucket("requests", 500), bucket("tokens", 30_000)]
        );
        assert_eq!(all(openai::quotas().rpd(9)), [Quota::token_bucket("requests", 9, super::DAY)]);
        assert_eq!(
            all(anthropic::quotas().itpm(8).otpm(9)),
            [bucket("input_tokens", 8), bucket("output_tokens", 9)]
        );
        assert_eq!(
            all(compatible::openrouter_quotas().rpm(20).rpd(50)),
            [Quota::per_minute("requests", 20), Quota::fixed_window("requests", 50, super::DAY)]
        );
        assert_eq!(all(compatible::mistral_quotas().rps(1)), [Quota::per_second("requests", 1)]);
        assert_eq!(all(compatible::deepseek_quotas().concurrency(5)), [Quota::concurrency(5)]);
        assert_eq!(all(openai::quotas()), []);
        let windows = [(300, 60), (50, 10), (5, 1)];
        let spread = windows.map(|(limit, seconds)| {
            Quota::sliding_window("requests", limit, Duration::from_secs(seconds))
        });
        assert_eq!(all(azure::quotas().rpm(300)), spread);
        assert_eq!(all(gemini::quotas().rpm(5)), [Quota::per_minute("requests", 5)]);
        #[cfg(feature = "timezone")]
        assert_eq!(
            all(gemini::quotas().rpd(5)),
            [Quota::per_day("requests", 5).in_time_zone("America/Los_Angeles")]
        );
    }
}
