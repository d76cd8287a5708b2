//! Gemini API: generated content, streams and embeddings.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1; refused and failed requests count
//! * `input_tokens`: when a call is admitted: the estimated input, which earlier calls corrected;
//!   at its end: input, with that of the API's own tools
//! * `output_tokens`: when a call is admitted: what most of the latest answers stayed within,
//!   `maxOutputTokens` at most; at its end: the answer and its thoughts; nothing limits them
//!
//! Limits are per project and model: requests per minute and day, and input tokens per minute. Days
//! begin at midnight Pacific time (<https://ai.google.dev/gemini-api/docs/rate-limits>).
//!
//! The model is in the path (`/models/gemini-2.5-pro:generateContent`). Usage comes with every
//! chunk of a stream, with `alt=sse` or as a JSON array; the last one counts. Refusals tell their
//! time (`RetryInfo`) and their quota (`QuotaFailure`) in the body. Nothing tells how much is left.

use super::{Quotas, Rules, presets};

/// The Gemini API's rules, as far as they are known.
///
/// ```
/// use tower_throttle::llm::gemini;
///
/// let body = br#"{"contents":[],"generationConfig":{"maxOutputTokens":9}}"#;
/// let demand = gemini::rules().demand_at("/v1beta/models/gemini-2.5-pro:generateContent", body)?;
/// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["gemini-2.5-pro"]);
/// assert_eq!(demand.usage().get("output_tokens"), Some(9));
/// # Ok::<_, tower_throttle::BoxError>(())
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::GEMINI)
}

/// Limits per minute and day: `gemini::quotas().rpm(150).itpm(2_000_000).rpd(1_000)`.
///
/// With feature `timezone` days begin at midnight Pacific time; without it, at most so much fits
/// into any 24 hours.
///
/// ```
/// use tower_throttle::{Limits, llm::gemini};
///
/// let quotas = gemini::quotas().rpm(150).itpm(2_000_000).rpd(1_000);
/// let limits = Limits::new().bucket("gemini-2.5-pro", quotas);
/// # tower_throttle::Limiter::new(limits).unwrap();
/// ```
pub fn quotas() -> Quotas {
    Quotas::daily_in_pacific_time()
}
