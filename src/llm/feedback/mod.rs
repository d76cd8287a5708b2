//! What responses say of limits, read from their status, their headers and the errors in their bodies.

mod headers;
mod refusal;
#[cfg(test)]
mod tests;
mod time;

use std::time::Duration;

use http::{HeaderMap, header::RETRY_AFTER};

pub(crate) use self::{headers::Told, refusal::Refusal};
use self::{
    headers::text,
    time::{Clock, duration},
};
use super::{Format, rules::Rules};
use crate::{
    feedback::{Feedback, Left, Named, Wait},
    inspect::BodyObserver,
};

impl Rules {
    /// What a response says of the provider's limits, for [`Limiter::feedback`](crate::Limiter::feedback) and for whoever
    /// decides whether to try again. The layers of this module do so by themselves.
    ///
    /// | said by | is |
    /// |---|---|
    /// | headers on what is left, limits and resets | what is left of a quota; placeholders for "unknown" are ignored |
    /// | `retry-after-ms`, `retry-after`, Google's `RetryInfo`, on 429, 503 and 529 | how long to wait: for the quota that has nothing left or that the error names, or else for all |
    /// | 429 and 529, and errors of that kind in a body, with no time said | a wait of [`default_pause`](Self::default_pause) |
    /// | 402, `x-should-retry: false`, `insufficient_quota`, spend limits, requests larger than a limit | a refusal that no waiting helps |
    ///
    /// Times of day are held against the response's own `Date`. Without a body, which is nothing yet known of it, there is
    /// no wait but one that the headers tell.
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
    /// let broke = refused(r#"{"error":{"type":"insufficient_quota","code":"insufficient_quota"}}"#);
    /// assert_eq!(again(&openai::rules(), &broke), None);
    /// ```
    #[must_use]
    pub fn feedback(&self, status: u16, headers: &HeaderMap, body: Option<&[u8]>) -> Feedback {
        let mut feedback = self.feedback_of_head(status, headers);
        let Some(body) = body else { return feedback };
        let mut reader = self.reader(Format::Json);
        reader.data(body);
        let refusal = reader.take_refusal();
        feedback.permanent |= refusal.as_ref().is_some_and(|refusal| refusal.permanent);
        if feedback.wait.is_none() {
            feedback.wait = self.feedback_of_error(status, refusal.as_ref()).wait;
        }
        feedback
    }

    pub(super) fn feedback_of_head(&self, status: u16, headers: &HeaderMap) -> Feedback {
        let refused = is_refusal(status);
        let told: Vec<_> =
            self.headers().iter().filter_map(|told| told.read(headers, status == 429)).collect();
        let mut exhausted = told.iter().filter(|(_, nothing)| *nothing).map(|(left, _)| &left.of);
        let of = match (exhausted.next(), exhausted.next()) {
            (Some(only), None) if status == 429 => Some(only.clone()),
            _ => None,
        };
        let time = if refused { retry_after(headers) } else { None };
        let never = headers.get("x-should-retry").and_then(text) == Some("false");
        Feedback {
            left: told.into_iter().map(|(left, _)| left).collect::<Vec<Left>>(),
            wait: time.map(|time| Wait { of, time }),
            permanent: status == 402 || refused && never,
        }
    }

    /// What an error in a body says, or that there is none.
    pub(super) fn feedback_of_error(&self, status: u16, refusal: Option<&Refusal>) -> Feedback {
        let wait = |time, of: Option<&Named>| Feedback {
            wait: Some(Wait { of: of.cloned(), time }),
            ..Feedback::new()
        };
        let passes = pauses(status) || refusal.is_some_and(|refusal| refusal.transient);
        match refusal {
            Some(refusal) if refusal.permanent => Feedback::new().with_permanent_refusal(),
            Some(Refusal { delay: Some(delay), of, .. }) if passes || is_refusal(status) => {
                wait(*delay, of.as_ref())
            }
            refusal if passes => {
                wait(self.default_pause, refusal.and_then(|refusal| refusal.of.as_ref()))
            }
            _ => Feedback::new(),
        }
    }
}

/// Statuses that ask for less, or may.
fn is_refusal(status: u16) -> bool {
    pauses(status) || status == 503
}

/// Statuses after which nothing is sent for a while, whatever else is said.
pub(super) fn pauses(status: u16) -> bool {
    matches!(status, 429 | 529)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let millis = headers
        .get("retry-after-ms")
        .and_then(text)
        .and_then(duration)
        .map(|seconds| seconds / 1_000);
    millis.or_else(|| {
        headers.get(RETRY_AFTER).and_then(text).and_then(|text| Clock(headers).until(text))
    })
}
