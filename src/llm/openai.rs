//! OpenAI: chat completions, responses and embeddings.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1; refused and failed requests count
//! * `tokens`: when a call is admitted: the larger of the output's bound (times `n`) and the
//!   estimated input; at its end: the same: OpenAI does not correct it
//! * `input_tokens`, `output_tokens`: when a call is admitted: the estimate, the bound; at its end:
//!   those used
//!
//! Limits are per organisation and project, refill linearly, and count cached tokens in full
//! (<https://platform.openai.com/docs/guides/rate-limits>). Long contexts and some families have
//! limits of their own: check yours under *Settings, Limits*. If yours are corrected by what was
//! used, say [`tokens_at_end(AtEnd::Actual)`](super::Rules::tokens_at_end).
//!
//! Its `x-ratelimit-*` headers tell what is left, of requests often per day
//! (<https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>); Azure's mean
//! "unknown" by `-1` and `0`.
//!
//! A stream tells its usage only if it is asked to
//! ([`Rules::include_usage`](super::Rules::include_usage)); without it, what was reserved stays.

use super::{Quotas, Rules, presets};

/// OpenAI's rules, as far as they are known. A model shares its bucket with its dated versions, and
/// with what was fine-tuned from it.
///
/// ```
/// use tower_throttle::llm::openai;
///
/// assert_eq!(openai::rules().bucket_of("gpt-4o-2024-11-20"), "gpt-4o");
/// assert_eq!(openai::rules().bucket_of("gpt-4o-mini"), "gpt-4o-mini");
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::OPENAI)
}

/// Limits that refill linearly: `openai::quotas().rpm(500).tpm(30_000)`.
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
