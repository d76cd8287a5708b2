//! OpenAI: chat completions, responses and embeddings.
//!
//! | metric | when a call is admitted | at its end |
//! |---|---|---|
//! | `requests` | 1 | 1; refused and failed requests count |
//! | `tokens` | the larger of the output's bound (times `n`) and the estimated input | the same: OpenAI does not correct it |
//! | `input_tokens`, `output_tokens` | the estimate, the bound | those used |
//!
//! Limits are per organisation and project, refill linearly, and count cached tokens in full
//! (<https://platform.openai.com/docs/guides/rate-limits>). Long contexts and some families have limits of their own:
//! check yours under *Settings, Limits*. If yours are corrected by what was used, say
//! [`tokens_at_end(AtEnd::Actual)`](super::Rules::tokens_at_end).
//!
//! Its `x-ratelimit-*` headers tell what is left, of requests often per day
//! (<https://platform.openai.com/docs/guides/rate-limits#rate-limits-in-headers>); Azure's mean "unknown" by `-1` and `0`.
//!
//! A stream tells its usage only if it is asked to ([`Rules::include_usage`](super::Rules::include_usage)); without it, what was reserved stays.

use super::{BadRequest, Extract, Inspect, Quotas, Rules, table};
use crate::{demand::Demand, usage::Usage};

/// OpenAI's rules, as far as they are known.
#[must_use]
pub fn rules() -> Rules {
    Rules::new(table::OPENAI)
}

/// Reads what requests ask for.
#[must_use]
pub fn extractor() -> Extract {
    rules().extractor()
}

/// Settles calls by what their responses tell.
#[must_use]
pub fn inspector() -> Inspect {
    rules().inspector()
}

/// Limits that refill linearly: `openai::quotas().rpm(500).tpm(30_000)`.
pub fn quotas() -> Quotas {
    Quotas::refilling()
}

/// What a request asks for, from its JSON.
///
/// # Errors
/// If it is no JSON object, or names no model.
pub fn demand(request: &[u8]) -> Result<Demand, BadRequest> {
    rules().demand(request)
}

/// The tokens that were used, from a response's JSON.
#[must_use]
pub fn usage(response: &[u8]) -> Option<Usage> {
    rules().usage(response)
}

/// The model whose limits this one shares: without its date, and of a fine-tuned one its base.
///
/// ```
/// use tower_throttle::llm::openai;
///
/// assert_eq!(openai::family("gpt-4o-2024-11-20"), "gpt-4o");
/// assert_eq!(openai::family("gpt-4o-mini"), "gpt-4o-mini");
/// ```
#[must_use]
pub fn family(model: &str) -> String {
    table::OPENAI.naming.family(model).into_owned()
}
