//! Anthropic: messages.
//!
//! | metric | when a call is admitted | at its end |
//! |---|---|---|
//! | `requests` | 1 | 1 |
//! | `input_tokens` | the estimated input | input and cache writes; cache reads are free, except for Haiku 3.5 |
//! | `output_tokens` | `max_tokens` | those used |
//!
//! Its `anthropic-ratelimit-*` headers tell what is left, of tokens to the nearest thousand, and when the limit is whole again
//! (<https://docs.anthropic.com/en/api/rate-limits#response-headers>).
//!
//! Limits are per class of models and refill continuously; the models of Opus 4 share one limit, as do Sonnet 4.5 and 4.6
//! (<https://docs.anthropic.com/en/api/rate-limits>): check yours in the Console under *Limits*. Anthropic does not count
//! `max_tokens` itself. If your answers are much shorter, reserve less with [`Output::Expected`](super::Output::Expected):
//! what comes beyond it becomes a debt.

use super::{BadRequest, Extract, Inspect, Quotas, Rules, table};
use crate::{demand::Demand, usage::Usage};

/// Anthropic's rules, as far as they are known.
#[must_use]
pub fn rules() -> Rules {
    Rules::new(table::ANTHROPIC)
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

/// Limits that refill linearly: `anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000)`.
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

/// The name of the class of models whose limits this one shares.
///
/// ```
/// use tower_throttle::llm::anthropic;
///
/// assert_eq!(anthropic::family("claude-sonnet-4-5-20250929"), "claude-sonnet-4-5");
/// assert_eq!(anthropic::family("claude-opus-4-1-20250805"), "claude-opus-4");
/// ```
#[must_use]
pub fn family(model: &str) -> String {
    table::ANTHROPIC.naming.family(model).into_owned()
}
