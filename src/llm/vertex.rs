//! Vertex AI: Gemini, and Anthropic's Claude as a partner model.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1
//! * `input_tokens`: when a call is admitted: the estimated input, which earlier calls corrected;
//!   at its end: Gemini: input. Claude: input and cache writes
//! * `output_tokens`: when a call is admitted: what most of the latest answers stayed within, the
//!   bound at most; at its end: those used
//!
//! Claude has requests and tokens per minute for a base model with all its versions; `@20250514` is
//! a version
//! (<https://cloud.google.com/vertex-ai/generative-ai/docs/partner-models/claude/use-claude#quotas>).
//! Gemini has limits where a project bought them, and shares capacity with others elsewhere
//! (<https://cloud.google.com/vertex-ai/generative-ai/docs/quotas>): its 429 then says that there
//! is none.
//!
//! The model is in the path: `/publishers/google/models/gemini-2.5-pro:generateContent`,
//! `/publishers/anthropic/models/claude-sonnet-4@20250514:streamRawPredict`. Nothing tells how much
//! is left.

use super::{Quotas, Rules, presets};

/// The rules of Gemini's models on Vertex AI.
///
/// ```
/// use tower_throttle::llm::vertex;
///
/// assert_eq!(vertex::gemini_rules().bucket_of("gemini-2.0-flash-001"), "gemini-2.0-flash");
/// ```
#[must_use]
pub fn gemini_rules() -> Rules {
    Rules::new(presets::VERTEX_GEMINI)
}

/// The rules of Anthropic's models on Vertex AI.
///
/// ```
/// use tower_throttle::llm::vertex;
///
/// assert_eq!(vertex::claude_rules().bucket_of("claude-sonnet-4@20250514"), "claude-sonnet-4");
/// ```
#[must_use]
pub fn claude_rules() -> Rules {
    Rules::new(presets::VERTEX_CLAUDE)
}

/// Limits per minute, in windows of unknown phase: `vertex::quotas().rpm(60).itpm(500_000)`.
///
/// ```
/// use tower_throttle::llm::vertex;
///
/// assert_eq!(vertex::quotas().rpm(60).itpm(500_000).into_iter().count(), 2);
/// ```
pub fn quotas() -> Quotas {
    Quotas::sliding()
}
