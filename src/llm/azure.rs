//! Azure OpenAI: deployments of OpenAI's models.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1
//! * `tokens`: when a call is admitted: the estimated prompt and `max_tokens` (times `n` or
//!   `best_of`); at its end: the same: Azure does not correct it
//! * `input_tokens`, `output_tokens`: when a call is admitted: the estimate, the bound; at its end:
//!   those used
//!
//! Tokens are a running count that is reset each minute. Requests per minute are checked over 1 or
//! 10 seconds (<https://learn.microsoft.com/azure/ai-foundry/openai/how-to/quota>), which
//! [`Quotas::rpm`](super::Quotas::rpm) of these [`quotas`] adds.
//!
//! The bucket is the deployment, whose name is in the path (`/openai/deployments/{name}/..`) or, in
//! the API of version `v1`, in the body as `model`. The model that a response names is not looked
//! at.
//!
//! Headers tell what is left; `-1` and `0` mean that it is not known. Resets without a unit are
//! seconds or, on some resources, milliseconds: `x-ratelimit-renewalperiod-*` tells which.

use super::{Quotas, Rules, presets};

/// Azure's rules, as far as they are known.
///
/// ```
/// use tower_throttle::llm::azure;
///
/// let body = br#"{"max_tokens":10,"messages":[]}"#;
/// let demand = azure::rules().demand_at("/openai/deployments/chat-prod/chat/completions", body)?;
/// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["chat-prod"]);
/// # Ok::<_, tower_throttle::BoxError>(())
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::AZURE)
}

/// Limits of a deployment: `azure::quotas().rpm(300).tpm(50_000)`. Requests per minute are spread
/// over it, at most a sixth in 10 seconds and a sixtieth in one.
///
/// ```
/// use tower_throttle::llm::azure;
///
/// assert_eq!(azure::quotas().rpm(300).tpm(50_000).into_iter().count(), 4);
/// ```
pub fn quotas() -> Quotas {
    Quotas::spread()
}
