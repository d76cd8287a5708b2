//! Errors in bodies: whether waiting helps, how long, and for what.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::Value;

use super::{
    time::duration,
    words::{MONTH, Message},
};
use crate::{feedback::Named, llm::json::read_value};

const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Kinds of errors that no waiting helps: credit that is used up, spend limits, requests larger
/// than a limit.
const PERMANENT: &[&str] = &[
    "insufficient_quota", // OpenAI
    "billing_hard_limit_reached",
    "billing_not_active",
    "enforced_spend_limit_reached", // Anthropic
    "billing_error",
    "request_too_large",
    "insufficient_credits",
    "insufficient_balance",
    "insufficient_user_quota",
    "payment_required",
    "arrearage",
];

/// Kinds of errors that pass.
const TRANSIENT: &[&str] = &[
    "rate_limit_exceeded", // OpenAI, Groq
    "slow_down",
    "rate_limit_error", // Anthropic
    "overloaded_error",
    "rate_limited",                  // Mistral
    "too_many_requests",             // Azure, Cohere
    "resource_exhausted",            // Google
    "throttlingexception",           // Bedrock
    "servicequotaexceededexception", // Bedrock
    "modelnotreadyexception",        // Bedrock
    "serviceunavailableexception",   // Bedrock
];

/// Members that tell the kind of an error, and those that tell it in words.
const KINDS: &[&str] = &["code", "type", "status", "reason", "__type", "error_code"];
const WORDS: &[&str] = &["message", "msg", "detail", "error", "error_description", "title", "raw"];

/// What an error in a body says of waiting.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct ErrorReport {
    pub(super) permanent: bool,
    pub(super) transient: bool,
    pub(super) delay: Option<Duration>,
    /// The quota that it is about.
    pub(super) of: Option<Named>,
    /// Headers that are told inside the body.
    pub(super) headers: HeaderMap,
}

impl ErrorReport {
    /// Reads an `error` member. What is not understood says nothing.
    pub(crate) fn of_member(json: &[u8]) -> Self {
        // Errors are short and rare: a tree is no luxury.
        Self::of(&[&read_value(json).unwrap_or_default()])
    }

    /// Reads the body of an error response, in whatever format it comes.
    pub(crate) fn of_body(body: &[u8]) -> Self {
        let text = String::from_utf8_lossy(body);
        let value = json_in(&text).unwrap_or_else(|| Value::String(text.into_owned()));
        let first = value.as_array().and_then(|list| list.first());
        let outer = first.unwrap_or(&value);
        let inner = ["error", "errors", "detail"].iter().filter_map(|key| outer.get(*key));
        let inner =
            inner.map(|inner| inner.as_array().and_then(|list| list.first()).unwrap_or(inner));
        // The inner ones are more exact.
        let parts: Vec<_> = inner.filter(|inner| inner.is_object()).chain([outer]).collect();
        Self::of(&parts)
    }

    /// Reads an error that is told by name, as in a header or an exception of an event stream.
    #[cfg(feature = "bedrock")]
    pub(crate) fn of_kind(kind: &str, body: &[u8]) -> Self {
        let kind = serde_json::json!({ "type": kind });
        Self::of(&[&kind, &read_value(body).unwrap_or_default()])
    }

    fn of(parts: &[&Value]) -> Self {
        let texts = |keys: &'static [&'static str]| {
            let members =
                parts.iter().flat_map(move |part| keys.iter().filter_map(|key| part.get(*key)));
            members.filter_map(Value::as_str)
        };
        let bare = parts.iter().filter_map(|part| part.as_str());
        let metadata: Vec<_> = parts.iter().filter_map(|part| part.get("metadata")).collect();
        let raw = metadata.iter().filter_map(|metadata| metadata.get("raw")?.as_str());
        let words: Vec<_> = texts(WORDS).chain(bare.clone()).chain(raw).collect();
        let message = Message::new(&words.join("\n"));
        let kinds: Vec<_> = texts(KINDS).chain(bare).map(plain_kind).collect();
        let code = parts.iter().find_map(|part| part.get("code")?.as_u64());
        let details = Details::of(parts);
        let of = details.violated.or_else(|| message.quota()).or_else(|| by_kind(&kinds));
        let members = parts.iter().copied().chain(metadata.iter().copied());
        let delay = details.delay.max(message.delay()).max(members.filter_map(told_delay).max());
        let mut report = Self {
            permanent: false,
            transient: false,
            delay,
            of,
            headers: told_headers(&metadata),
        };
        report.judge(&kinds, code, &message, details.is_zero);
        report
    }

    fn judge(&mut self, kinds: &[String], code: Option<u64>, message: &Message, no_quota: bool) {
        let is_one = |of: &[&str]| kinds.iter().any(|kind| of.contains(&kind.as_str()));
        let says_when = self.delay.is_some() || !self.headers.is_empty();
        let window = self.of.as_ref().and_then(|of| of.window);
        let is_of_month = window == Some(MONTH);
        let is_broke = message.is_broke() && window.is_none_or(|window| window >= MONTH);
        let is_known =
            is_one(PERMANENT) || code == Some(402) || message.is_beyond_limit() || no_quota;
        self.permanent = is_known || !says_when && (is_broke || is_of_month);
        self.transient =
            is_one(TRANSIENT) || matches!(code, Some(429 | 529)) || message.is_of_rate();
    }
}

/// True if waiting helps after an error of this kind.
pub(super) fn is_transient(kind: &str) -> bool {
    TRANSIENT.contains(&plain_kind(kind).as_str())
}

/// A kind in lower case, without the namespace and the address that AWS puts around it:
/// `com.amazonaws.bedrock#ThrottlingException:http://..`.
fn plain_kind(kind: &str) -> String {
    let kind = kind.split(':').next().unwrap_or(kind);
    kind.rsplit('#').next().unwrap_or(kind).trim().to_ascii_lowercase()
}

/// The JSON of a body: as a whole, or in the data of its first event.
fn json_in(text: &str) -> Option<Value> {
    let whole = || serde_json::Deserializer::from_str(text).into_iter().next()?.ok();
    let data = || {
        let data = text.lines().filter_map(|line| line.strip_prefix("data:"));
        data.filter_map(|data| serde_json::from_str(data.trim()).ok())
            .find(|value: &Value| value.is_object())
    };
    if text.trim_start().starts_with(['{', '[', '"']) { whole() } else { data() }
}

/// The time to wait that a member tells as a number.
fn told_delay(part: &Value) -> Option<Duration> {
    const SECONDS: &[&str] = &["retry_after", "retry-after", "retryAfter", "retry_after_seconds"];
    const MILLIS: &[&str] = &["retry_after_ms", "retry-after-ms", "retryAfterMs"];
    let told = |names: &[&str], unit: f64| {
        let number = names.iter().find_map(|name| part.get(*name)?.as_f64());
        number.and_then(|number| Duration::try_from_secs_f64(number * unit).ok())
    };
    told(SECONDS, 1.0).max(told(MILLIS, 1e-3)).filter(|delay| !delay.is_zero())
}

/// The limit that a kind names, as OpenAI's do.
fn by_kind(kinds: &[String]) -> Option<Named> {
    let metric = kinds.iter().find_map(|kind| match kind.as_str() {
        "requests" => Some("requests"),
        "tokens" => Some("tokens"),
        "input_tokens" => Some("input_tokens"),
        "output_tokens" => Some("output_tokens"),
        _ => None,
    });
    metric.map(Named::metric)
}

/// The headers that OpenRouter tells inside of its errors.
fn told_headers(metadata: &[&Value]) -> HeaderMap {
    let told =
        metadata.iter().filter_map(|metadata| metadata.get("headers")?.as_object()).flatten();
    let header = |(name, value): (&String, &Value)| {
        let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        Some((HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?))
    };
    told.filter_map(header).collect()
}

/// Google's details.
#[derive(Debug, Default)]
struct Details {
    delay: Option<Duration>,
    /// The quota that was violated, if it is but one.
    violated: Option<Named>,
    /// The quota that was violated is none at all.
    is_zero: bool,
}

impl Details {
    fn of(parts: &[&Value]) -> Self {
        let lists = parts.iter().filter_map(|part| part.get("details")?.as_array());
        let details: Vec<_> = lists.flatten().collect();
        let delays = details.iter().filter_map(|detail| detail.get("retryDelay")?.as_str());
        let delay = delays.filter_map(duration).max().filter(|delay| !delay.is_zero());
        let violations =
            details.iter().filter_map(|detail| detail.get("violations")?.as_array()).flatten();
        let violations: Vec<_> = violations.collect();
        let value =
            |violation: &&&Value| violation.get("quotaValue").and_then(Value::as_str) == Some("0");
        // Of several that name different quotas none is meant alone.
        let named: Vec<_> = violations.iter().map(|violation| violated(violation)).collect();
        let is_same = |one: &Option<Named>| {
            let of =
                |named: &Option<Named>| named.as_ref().map(|of| (of.metric.clone(), of.window));
            of(one) == of(&named[0])
        };
        let violated =
            if named.iter().all(is_same) { named.first().cloned().flatten() } else { None };
        Self { delay, violated, is_zero: violations.iter().any(|violation| value(&violation)) }
    }
}

/// `{"quotaId": "GenerateRequestsPerDayPerProjectPerModel-FreeTier", "quotaValue": "50", ..}`
fn violated(violation: &Value) -> Option<Named> {
    let id = violation.get("quotaId")?.as_str()?;
    let metric = match id {
        id if id.contains("InputToken") => "input_tokens",
        id if id.contains("OutputToken") => "output_tokens",
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
