//! Settles calls by what their responses tell.

use std::sync::Arc;

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

use super::{
    reader::{Format, Hearing, Reader},
    rules::Rules,
};
use crate::{
    inspect::{CallError, Carrier, HasStatus, Inspector, never_connected},
    limiter::{Reservation, Settlement},
    usage::Usage,
};

/// An [`Inspector`] that settles calls by a provider's [`Rules`]: see [`Rules::inspector`].
///
/// | response | is charged |
/// |---|---|
/// | a status that the rules name | what they say |
/// | another 4xx (400, 401, 404 ..), but 408 and 499 | a request and no tokens, unless [`Rules::on_status`] says otherwise |
/// | JSON, or a stream to its end | the usage it tells |
/// | a stream that breaks off or is dropped | what was reserved, or what was seen if that is more |
/// | a stream that tells of an error | what the rules say |
/// | no usage, an encoding that cannot be read, another content | what was reserved |
/// | none, since the connection was refused | nothing |
///
/// Bodies pass on unchanged and undelayed.
///
/// What responses say of limits holds back all that share the bucket: see [`Rules::feedback`].
#[derive(Clone, Debug)]
pub struct Inspect {
    rules: Arc<Rules>,
}

impl Rules {
    /// The inspector that settles by these rules.
    #[must_use]
    pub fn inspector(&self) -> Inspect {
        Inspect { rules: Arc::new(self.clone()) }
    }

    /// A reader of one response's body, for use without the layer. It settles as if nothing was reserved.
    ///
    /// ```
    /// use tower_throttle::{Settlement, inspect::{BodyEnd, BodyObserver}, llm::{Format, anthropic}, usage};
    ///
    /// let mut reader = anthropic::rules().reader(Format::Events);
    /// reader.data(b"data: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":25,\"output");
    /// reader.data(b"_tokens\":1}}}\n\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},");
    /// assert_eq!(reader.used(), Some(usage! { input_tokens: 25, output_tokens: 1 }));
    ///
    /// reader.data(b"\"usage\":{\"output_tokens\":15}}\n\n");
    /// assert_eq!(reader.end(BodyEnd::Dropped), Settlement::Exact(usage! { input_tokens: 25, output_tokens: 15 }));
    /// ```
    #[must_use]
    pub fn reader(&self, format: Format) -> Reader {
        Reader::new(Arc::new(self.clone()), format, Usage::new(), None)
    }
}

impl Format {
    /// The format that a response's headers tell.
    pub fn of(headers: &HeaderMap) -> Self {
        let is_plain =
            |encoding: &http::HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
        if !headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
            return Self::Unreadable;
        }
        let Some(content) = headers.get(CONTENT_TYPE) else { return Self::Json };
        let media_type = content.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        let media_type = media_type.trim_ascii().to_ascii_lowercase();
        match media_type.as_slice() {
            b"text/event-stream" => Self::Events,
            b"application/json" | b"text/json" => Self::Json,
            other if other.ends_with(b"+json") => Self::Json,
            _ => Self::Unreadable,
        }
    }
}

impl<R: Carrier + HasStatus> Inspector<R> for Inspect {
    type Inspected = R::Metered;

    fn inspect(&self, response: R, mut reservation: Reservation) -> R::Metered {
        let reserved = reservation.usage().clone();
        let status = response.status().as_u16();
        let feedback = self.rules.feedback_of_head(status, response.headers());
        let origin = reservation.origin();
        // Before anything is given back: nobody must take that and be refused too.
        drop(origin.as_ref().map(|origin| origin.wait(&feedback)));
        if let Some(charge) = self.rules.after_status(status) {
            reservation.conclude_early(&charge.settlement(&reserved, None));
        }
        // What a refused call gives back was not counted, and is not left besides.
        drop(origin.as_ref().map(|origin| origin.left(&feedback)));
        let is_told = feedback.is_permanent() || feedback.retry_after().is_some();
        let hearing = origin.filter(|_| !is_told).map(|origin| Hearing { origin, status });
        let estimate = reservation.note().cloned();
        response.metered(reservation, |head| {
            let reader =
                Reader::new(self.rules.clone(), Format::of(&head.headers), reserved, estimate);
            Box::new(reader.hearing(hearing))
        })
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        if never_connected(error.get_ref()) { Settlement::Release } else { Settlement::Keep }
    }
}
