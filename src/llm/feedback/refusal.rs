//! Errors in bodies: whether waiting helps, how long, and for what.

use std::time::Duration;

use serde_json::Value;

use super::time::duration;
use crate::feedback::Named;

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Kinds of errors that no waiting helps: credit that is used up, spend limits, requests larger than a limit.
const PERMANENT: &[&str] = &[
    "insufficient_quota", // OpenAI
    "billing_hard_limit_reached",
    "enforced_spend_limit_reached", // Anthropic
    "request_too_large",
];

/// Messages, by their beginning, of requests larger than a limit, which OpenAI and Groq tell in no other way.
const TOO_LARGE: &str = "Request too large";

/// Kinds of errors that pass.
const TRANSIENT: &[&str] = &[
    "rate_limit_exceeded", // OpenAI, Groq
    "slow_down",
    "rate_limit_error", // Anthropic
    "overloaded_error",
    "rate_limited",        // Mistral
    "RESOURCE_EXHAUSTED",  // Google
    "ThrottlingException", // Bedrock
];

/// What an error in a body says of waiting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(super) permanent: bool,
    pub(super) transient: bool,
    pub(super) delay: Option<Duration>,
    /// What it is for.
    pub(super) of: Option<Named>,
}

impl Refusal {
    /// From an `error` member. What is not understood says nothing.
    pub(crate) fn read(json: &[u8]) -> Self {
        // Errors are short and rare: a tree is no luxury.
        let error: Value = serde_json::from_slice(json).unwrap_or_default();
        let text = |key: &str| error.get(key).and_then(Value::as_str).unwrap_or_default();
        let kinds = [text("code"), text("type"), text("status")];
        let is_one = |of: &[&str]| kinds.iter().any(|kind| of.contains(kind));
        let message = text("message");
        let code = error.get("code").and_then(Value::as_u64);
        let (delay, violated) = details(&error);
        Self {
            permanent: is_one(PERMANENT) || message.starts_with(TOO_LARGE) || code == Some(402),
            transient: is_one(TRANSIENT) || matches!(code, Some(429 | 529)),
            delay,
            of: violated.or_else(|| by_openai(text("type"), message)),
        }
    }
}

/// How OpenAI names a limit: by its metric as the type, and in words.
fn by_openai(kind: &str, message: &str) -> Option<Named> {
    let named = match kind {
        "requests" => Named::metric("requests"),
        "tokens" => Named::metric("tokens"),
        _ => return None,
    };
    let window = if message.contains("per min") {
        Some(MINUTE)
    } else {
        message.contains("per day").then_some(DAY)
    };
    Some(Named { window, ..named })
}

/// Google's details: how long to wait, and the quota that was violated if it is but one.
fn details(error: &Value) -> (Option<Duration>, Option<Named>) {
    let details = || error.get("details").and_then(Value::as_array).into_iter().flatten();
    let delay =
        details().filter_map(|detail| detail.get("retryDelay")?.as_str()).find_map(duration);
    let mut violations =
        details().filter_map(|detail| detail.get("violations")?.as_array()).flatten().map(violated);
    let named = match (violations.next(), violations.next()) {
        (Some(only), None) => only,
        _ => None,
    };
    (delay, named)
}

/// `{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "50", ..}`
fn violated(violation: &Value) -> Option<Named> {
    let id = violation.get("quotaId")?.as_str()?;
    let metric = match id {
        id if id.contains("InputToken") => "input_tokens",
        id if id.contains("Token") => "tokens",
        id if id.contains("Request") => "requests",
        _ => return None,
    };
    let window =
        if id.contains("PerDay") { Some(DAY) } else { id.contains("PerMinute").then_some(MINUTE) };
    let value = violation.get("quotaValue").and_then(Value::as_str);
    let limit = value.and_then(|value| value.parse().ok()).filter(|limit| *limit > 0);
    Some(Named { metric: metric.into(), limit, window })
}
