//! Responses of the service's own: what went wrong, as the clients of each provider read it.

use std::time::Duration;

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER},
};
use serde_json::json;
use tower_throttle::{Throttled, limiter::BadDemand};

/// Marks a response of the service's own, and says why in a word.
const ERROR: HeaderName = HeaderName::from_static("x-throttle-error");
/// Tells the SDKs of OpenAI and Anthropic whether to try again, against their own rules.
const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");
/// Of longer waits SDKs are told not to try again: OpenAI's for Python gives up by itself, but
/// OpenAI's for Node and Anthropic's sleep for as long as `Retry-After` says, be it a day.
const LONGEST_HEEDED: Duration = Duration::from_secs(120);

/// How a provider writes its errors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ErrorShape {
    OpenAi,
    Anthropic,
    Google,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ServeError {
    status: StatusCode,
    /// A word for it that never changes.
    kind: &'static str,
    message: String,
    retry_after: Option<Duration>,
    /// False where another attempt is of no use.
    may_retry: bool,
}

impl ErrorShape {
    /// The shape of a provider, by its name in a limits file.
    pub(super) fn of(provider: &str) -> Self {
        match provider {
            "anthropic" | "vertex-claude" => Self::Anthropic,
            "gemini" | "vertex-gemini" => Self::Google,
            _ => Self::OpenAi,
        }
    }

    fn json(self, status: StatusCode, kind: &str, message: &str) -> String {
        let json = match self {
            Self::OpenAi => json!({ "error": {
                "message": message, "type": openai_type(status), "param": null, "code": kind,
            } }),
            Self::Anthropic => json!({
                "type": "error",
                "error": { "type": anthropic_type(status), "message": message },
            }),
            Self::Google => json!({ "error": {
                "code": status.as_u16(), "message": message, "status": google_status(status),
            } }),
        };
        json.to_string()
    }
}

fn openai_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_server_error() => "server_error",
        _ => "invalid_request_error",
    }
}

fn anthropic_type(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "not_found_error",
        StatusCode::PAYLOAD_TOO_LARGE => "request_too_large",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        StatusCode::GATEWAY_TIMEOUT => "timeout_error",
        status if status.is_server_error() => "api_error",
        _ => "invalid_request_error",
    }
}

fn google_status(status: StatusCode) -> &'static str {
    match status {
        StatusCode::NOT_FOUND => "NOT_FOUND",
        StatusCode::TOO_MANY_REQUESTS => "RESOURCE_EXHAUSTED",
        StatusCode::GATEWAY_TIMEOUT => "DEADLINE_EXCEEDED",
        status if status.is_server_error() => "UNAVAILABLE",
        _ => "INVALID_ARGUMENT",
    }
}

impl ServeError {
    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        let message = format!("tower-throttle: {}", message.into());
        Self { status, kind, message, retry_after: None, may_retry: true }
    }

    /// Tells clients not to try again.
    pub(super) fn not_again(mut self) -> Self {
        self.may_retry = false;
        self
    }

    /// The error of a call that the limiter did not let pass.
    pub(super) fn refused(error: &Throttled) -> Self {
        let status = match error {
            Throttled::Store(_) | Throttled::Closed => StatusCode::SERVICE_UNAVAILABLE,
            Throttled::ExceedsCapacity(_) => StatusCode::PAYLOAD_TOO_LARGE,
            // What a request can name.
            Throttled::BadDemand(
                BadDemand::UnknownBucket(_)
                | BadDemand::UnknownClass(_)
                | BadDemand::SameBucketTwice(_),
            ) => StatusCode::BAD_REQUEST,
            Throttled::BadDemand(_) | Throttled::NoRuntime | Throttled::NotInProcess => {
                StatusCode::INTERNAL_SERVER_ERROR
            }
            _ => StatusCode::TOO_MANY_REQUESTS,
        };
        let message = match error {
            Throttled::Closed => "it shuts down".to_owned(),
            error => error.to_string(),
        };
        let mut refused = Self::new(status, error.kind(), message);
        if status == StatusCode::TOO_MANY_REQUESTS {
            // Where it depends on calls in flight, a second is as good as any other time.
            let wait = error.retry_after().unwrap_or(Duration::from_secs(1));
            refused.retry_after = Some(wait);
            refused.may_retry = wait <= LONGEST_HEEDED;
        }
        refused.may_retry &= !error.is_permanent() || matches!(error, Throttled::Closed);
        refused
    }

    pub(super) fn response(&self, shape: ErrorShape) -> Response<String> {
        let mut response =
            json_response(self.status, shape.json(self.status, self.kind, &self.message));
        let headers = response.headers_mut();
        headers.insert(ERROR, HeaderValue::from_static(self.kind));
        if let Some(wait) = self.retry_after {
            headers.insert(RETRY_AFTER, HeaderValue::from(whole_seconds(wait)));
        }
        if !self.may_retry {
            headers.insert(SHOULD_RETRY, HeaderValue::from_static("false"));
        }
        response
    }
}

/// Rounded up, and at least one: SDKs do not heed a zero.
fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).max(1)
}

pub(super) fn json_response(status: StatusCode, text: String) -> Response<String> {
    let mut response = Response::new(text);
    *response.status_mut() = status;
    let json = HeaderValue::from_static("application/json");
    response.headers_mut().insert(CONTENT_TYPE, json);
    response
}

#[cfg(test)]
mod tests {
    use tower_throttle::limiter::{Refusal, Shortage};

    use super::*;

    fn deadline(wait: Duration) -> ServeError {
        let shortage = Shortage::new("gpt-4o", "tokens per minute").with_retry_after(wait);
        ServeError::refused(&Throttled::Deadline(Refusal::new([shortage]).into()))
    }

    #[test]
    fn a_wait_is_told_in_whole_seconds_and_only_where_sdks_heed_it() {
        for (millis, told, retries) in [
            (0, "1", true),
            (1, "1", true),
            (1_000, "1", true),
            (1_001, "2", true),
            (120_000, "120", true),
            (120_001, "121", false),
        ] {
            let response = deadline(Duration::from_millis(millis)).response(ErrorShape::OpenAi);
            assert_eq!(response.status(), 429);
            assert_eq!(response.headers()["retry-after"], told, "{millis}");
            let says_no = response.headers().get("x-should-retry");
            assert_eq!(says_no.is_none(), retries, "{millis}");
        }
    }

    #[test]
    fn each_provider_has_its_shape() {
        let json = |shape: ErrorShape| -> serde_json::Value {
            let error = deadline(Duration::from_secs(1));
            serde_json::from_str(&shape.json(error.status, error.kind, "a \"b\"")).expect("JSON")
        };
        let openai = json(ErrorShape::of("groq"));
        assert_eq!(openai["error"]["type"], "rate_limit_error");
        assert_eq!(openai["error"]["message"], "a \"b\"");
        let anthropic = json(ErrorShape::of("anthropic"));
        assert_eq!(
            (&anthropic["type"], &anthropic["error"]["type"]),
            (&json!("error"), &json!("rate_limit_error"))
        );
        assert_eq!(json(ErrorShape::of("gemini"))["error"]["status"], "RESOURCE_EXHAUSTED");
    }

    #[test]
    fn what_is_never_granted_is_not_tried_again() {
        let capacity = Throttled::ExceedsCapacity(Refusal::default().into());
        let unknown = Throttled::BadDemand(BadDemand::UnknownBucket("b".into()));
        for (error, status, retries) in [
            (capacity, 413, false),
            (unknown, 400, false),
            (Throttled::Closed, 503, true),
            (Throttled::queue_full("b", 1), 429, true),
        ] {
            let response = ServeError::refused(&error).response(ErrorShape::OpenAi);
            assert_eq!(response.status(), status);
            assert_eq!(response.headers().get("x-should-retry").is_none(), retries, "{error}");
            assert_eq!(response.headers()["x-throttle-error"], error.kind());
        }
    }
}
