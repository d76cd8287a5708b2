//! Quotas by the names that providers give them.

use std::time::Duration;

use crate::quota::Quota;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);
const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// The limits of a model, with the windows that its provider has: what is not given is not limited.
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
    quotas: Vec<Quota>,
}

impl Quotas {
    /// Of a provider whose limits refill linearly.
    pub(super) fn refilling() -> Self {
        Self {
            within: |metric, limit, period| Quota::token_bucket(metric, limit, period),
            quotas: Vec::new(),
        }
    }

    /// Of a provider whose windows are fixed or unknown: at most so much in any window.
    pub(super) fn sliding() -> Self {
        Self {
            within: |metric, limit, window| Quota::sliding_window(metric, limit, window),
            quotas: Vec::new(),
        }
    }

    /// Of a provider whose days begin at midnight UTC, and whose minutes are unknown.
    pub(super) fn daily_in_utc() -> Self {
        Self {
            within: |metric, limit, window| match window {
                DAY => Quota::fixed_window(metric, limit, window),
                _ => Quota::sliding_window(metric, limit, window),
            },
            quotas: Vec::new(),
        }
    }

    fn with(mut self, metric: &str, limit: u64, window: Duration) -> Self {
        self.quotas.push((self.within)(metric, limit, window));
        self
    }

    /// Requests per second.
    pub fn rps(self, limit: u64) -> Self {
        self.with("requests", limit, SECOND)
    }

    /// Requests per minute.
    pub fn rpm(self, limit: u64) -> Self {
        self.with("requests", limit, MINUTE)
    }

    /// Requests per day.
    pub fn rpd(self, limit: u64) -> Self {
        self.with("requests", limit, DAY)
    }

    /// Tokens per minute, input and output together.
    pub fn tpm(self, limit: u64) -> Self {
        self.with("tokens", limit, MINUTE)
    }

    /// Tokens per day, input and output together.
    pub fn tpd(self, limit: u64) -> Self {
        self.with("tokens", limit, DAY)
    }

    /// Tokens per month of 30 days, input and output together.
    pub fn tokens_per_month(self, limit: u64) -> Self {
        self.with("tokens", limit, MONTH)
    }

    /// Input tokens per minute.
    pub fn itpm(self, limit: u64) -> Self {
        self.with("input_tokens", limit, MINUTE)
    }

    /// Output tokens per minute.
    pub fn otpm(self, limit: u64) -> Self {
        self.with("output_tokens", limit, MINUTE)
    }

    /// Texts to embed per minute, counted as `inputs`: see [`Rules::inputs`](super::Rules::inputs).
    pub fn inputs_per_minute(self, limit: u64) -> Self {
        self.with("inputs", limit, MINUTE)
    }

    /// Calls in flight.
    pub fn concurrency(self, limit: u64) -> Self {
        self.and(Quota::concurrency(limit))
    }

    /// Any other.
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
        llm::{anthropic, compatible, openai},
    };

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
    }
}
