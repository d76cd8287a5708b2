//! Anthropic: messages.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1
//! * `input_tokens`: when a call is admitted: the input, by estimates that earlier calls corrected;
//!   at its end: input and cache writes; cache reads are free, except for Haiku 3.5
//! * `output_tokens`: when a call is admitted: what most of the latest answers stayed within,
//!   `max_tokens` at most; at its end: those used
//!
//! Its `anthropic-ratelimit-*` headers tell what is left, of tokens to the nearest thousand, and
//! when the limit is whole again
//! (<https://docs.anthropic.com/en/api/rate-limits#response-headers>).
//!
//! Limits are per class of models and refill continuously; the models of Opus 4 share one limit, as
//! do Sonnet 4.5 and 4.6 (<https://docs.anthropic.com/en/api/rate-limits>): check yours in the
//! Console under *Limits*. Anthropic does not count `max_tokens` itself, so
//! [`Output::Learned`](super::Output::Learned) reserves less; what comes beyond it becomes a debt.
//! If your limits count it, reserve [`Output::Bound`](super::Output::Bound).

use super::{Quotas, Rules, presets};

/// Anthropic's rules, as far as they are known. A model shares its bucket with all whose limits it
/// shares.
///
/// ```
/// use tower_throttle::llm::anthropic;
///
/// assert_eq!(anthropic::rules().bucket_of("claude-sonnet-4-5-20250929"), "claude-sonnet-4-5");
/// assert_eq!(anthropic::rules().bucket_of("claude-opus-4-1-20250805"), "claude-opus-4");
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::ANTHROPIC)
}

/// Limits that refill linearly: `anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000)`.
pub fn quotas() -> Quotas {
    Quotas::refilling()
}

/// Limits these models on Redis at `url`: see [`Rules::limiter`].
///
/// # Errors
/// As [`Rules::limiter`] says.
#[cfg(feature = "redis")]
pub async fn limiter<M, Q>(
    url: &str,
    models: impl IntoIterator<Item = (M, Q)>,
) -> Result<crate::Limiter, crate::BoxError>
where
    M: AsRef<str>,
    Q: IntoIterator<Item = crate::Quota>,
{
    rules().limiter(url, models).await
}
