//! AWS Bedrock: Converse, ConverseStream and InvokeModel.
//!
//! * `requests`: when a call is admitted: 1; at its end: 1
//! * `tokens`: when a call is admitted: the estimated input and `maxTokens`, or the most that the
//!   model can answer; at its end: input, cache writes, and output: 5 times for Claude 3.7 and 4,
//!   once for others; cache reads are free
//! * `input_tokens`, `output_tokens`: when a call is admitted: the estimate, the bound; at its end:
//!   those used
//!
//! Limits are per account, region and model, in tokens per minute and day
//! (<https://docs.aws.amazon.com/bedrock/latest/userguide/quotas-token-burndown.html>). Set
//! `maxTokens`: a call without it reserves as much as its model can answer.
//!
//! The model is in the path, as an id, an ARN or an inference profile. A cross-region profile
//! (`us.`, `eu.`, `apac.`, `global.`) has limits of its own, so it is a bucket of its own.
//!
//! Usage is told by Converse in its JSON, by ConverseStream in its last event, by InvokeModel in
//! headers (`x-amzn-bedrock-input-token-count`) and by its stream in the last event. Event streams
//! (`application/vnd.amazon.eventstream`) are read with feature `bedrock`; without it, they keep
//! what they reserved. Nothing tells how much is left; `ThrottlingException` and its like ask for
//! less, by a name in the body or in the header `x-amzn-errortype`.

use super::{Quotas, Rules, presets};

/// Bedrock's rules, as far as they are known.
///
/// ```
/// use tower_throttle::llm::bedrock;
///
/// let rules = bedrock::rules();
/// let profile = "us.anthropic.claude-sonnet-4-20250514-v1:0";
/// assert_eq!(rules.bucket_of(profile), "us.anthropic.claude-sonnet-4");
/// assert_eq!(rules.bucket_of("amazon.nova-lite-v1:0"), "amazon.nova-lite");
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::BEDROCK)
}

/// Limits per minute and day, in windows of unknown phase:
/// `bedrock::quotas().rpm(200).tpm(200_000).tpd(5_000_000)`.
///
/// ```
/// use tower_throttle::llm::bedrock;
///
/// assert_eq!(bedrock::quotas().rpm(200).tpm(200_000).into_iter().count(), 2);
/// ```
pub fn quotas() -> Quotas {
    Quotas::sliding()
}
