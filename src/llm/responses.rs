//! What the rules read in responses outside of a layer.

use std::sync::Arc;

use http::HeaderMap;

use super::{format::Format, rules::Rules, usage_reader::UsageReader};
use crate::{feedback::Feedback, inspect::BodyObserver, usage::Usage};

impl Rules {
    /// Makes a reader of one response's body, for use without the layer. It settles as if nothing
    /// was reserved.
    ///
    /// ```
    /// use tower_throttle::{Settlement, inspect::{BodyEnd, BodyObserver}, usage};
    /// use tower_throttle::llm::{Format, anthropic};
    ///
    /// let mut reader = anthropic::rules().reader(Format::Events);
    /// reader.data(b"data: {\"message\":{\"usage\":{\"input_tokens\":25,\"output");
    /// reader.data(b"_tokens\":1}}}\n\ndata: {\"delta\":{\"stop_reason\":\"end_turn\"},");
    /// assert_eq!(reader.used(), Some(usage! { input_tokens: 25, output_tokens: 1 }));
    ///
    /// reader.data(b"\"usage\":{\"output_tokens\":15}}\n\n");
    /// let used = usage! { input_tokens: 25, output_tokens: 15 };
    /// assert_eq!(reader.end(BodyEnd::Dropped), Settlement::Exact(used));
    /// ```
    #[must_use]
    pub fn reader(&self, format: Format) -> UsageReader {
        UsageReader::new(Arc::new(self.clone()), format)
    }

    /// Returns what was used, from a response's JSON; `None` if it does not tell.
    ///
    /// ```
    /// use tower_throttle::{llm::anthropic, usage};
    ///
    /// let response = br#"{"usage":{"input_tokens":11,"output_tokens":42}}"#;
    /// let used = usage! { input_tokens: 11, output_tokens: 42 };
    /// assert_eq!(anthropic::rules().usage(response), Some(used));
    /// assert_eq!(anthropic::rules().usage(b"{}"), None);
    /// ```
    pub fn usage(&self, body: &[u8]) -> Option<Usage> {
        let mut reader = self.reader(Format::Json);
        reader.data(body);
        reader.used()
    }

    /// Returns what a response says of the provider's limits, for
    /// [`Limiter::feedback`](crate::Limiter::feedback) and for retry policies. The layers of this
    /// module apply it themselves.
    ///
    /// * headers on what is left, limits and resets, also inside of an error's body: what is left
    ///   of a quota; placeholders for "unknown" are ignored
    /// * `retry-after-ms`, `retry-after`, Google's `RetryInfo`, words such as "try again in 28ms",
    ///   on 429, 503 and 529: how long to wait: the longest one. It holds the quota that has
    ///   nothing left or that the error names, or else all. Where the headers name nothing, a layer
    ///   waits for the body's end, or its drop, before it holds anything
    /// * 429 and 529, and errors of that kind in a body, with no time told: a wait of
    ///   [`default_pause`](Self::default_pause)
    /// * 402, `x-should-retry: false`, used up credit in any words, spend limits, requests larger
    ///   than a limit: a refusal that no waiting helps
    ///
    /// A wait of 0, a time that has passed and what is no time are not told. Times of day are held
    /// against the response's own `Date`. Without a body, which is `None` before it is read, only
    /// the headers tell a wait.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::llm::{Rules, openai};
    ///
    /// /// When to try again, for a retry policy outside of the throttle.
    /// fn again(rules: &Rules, response: &http::Response<&str>) -> Option<Duration> {
    ///     let body = response.body().as_bytes();
    ///     let said = rules.feedback(response.status().as_u16(), response.headers(), Some(body));
    ///     if said.is_permanent() { None } else { said.retry_after() }
    /// }
    ///
    /// let refused = |body| http::Response::builder().status(429).header("retry-after-ms", "1500").body(body).unwrap();
    /// let slower = refused(r#"{"error":{"type":"tokens","code":"rate_limit_exceeded"}}"#);
    /// assert_eq!(again(&openai::rules(), &slower), Some(Duration::from_millis(1_500)));
    /// let broke = refused(r#"{"error":{"code":"insufficient_quota"}}"#);
    /// assert_eq!(again(&openai::rules(), &broke), None);
    /// ```
    #[must_use]
    pub fn feedback(&self, status: u16, headers: &HeaderMap, body: Option<&[u8]>) -> Feedback {
        let head = self.feedback_of_head(status, headers);
        let Some(body) = body else { return head.feedback };
        let mut reader = self.reader(Format::of(headers));
        reader.take_status(status);
        reader.data(body);
        let error = reader.error();
        self.feedback_of_whole(status, head, error.as_ref())
    }
}
