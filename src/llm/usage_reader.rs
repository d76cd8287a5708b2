//! Reads the usage out of a body while it passes.

use std::sync::Arc;

use tokio::time::Instant;

#[cfg(feature = "bedrock")]
use super::amazon_events::{AmazonEvents, EventSink};
use super::{
    call_estimate::CallEstimate,
    feedback::{HeadFeedback, error_report::ErrorReport},
    format::Format,
    json::Scanner,
    price::COST,
    response_fields::{FieldReader, Findings, PATHS, may_tell},
    rules::Rules,
    sse::{Sink, Sse, SseEvent},
};
use crate::{
    feedback::Feedback,
    inspect::{BodyEnd, BodyObserver},
    limiter::{Origin, Settlement},
    usage::Usage,
};

/// Bytes of an error response that are kept to be read.
const LONGEST_ERROR: usize = 16 * 1024;
/// A stream may begin with the bytes of this mark.
const BYTE_ORDER_MARK: [u8; 3] = [0xef, 0xbb, 0xbf];

/// Reads the usage out of one response's body, in constant memory, cut anywhere: see
/// [`Rules::reader`].
#[derive(Debug)]
pub struct UsageReader {
    rules: Arc<Rules>,
    reserved: Usage,
    /// The estimate of the request, if something is to be learned from the response.
    estimate: Option<Arc<CallEstimate>>,
    format: Format,
    /// The first byte that is no blank was seen.
    has_begun: bool,
    sse: Sse,
    scanner: Scanner,
    #[cfg(feature = "bedrock")]
    amazon: AmazonEvents,
    findings: Findings,
    /// The beginning of an error response.
    error_body: Option<Vec<u8>>,
    listener: Option<FeedbackListener>,
    /// What the status decides, once the body has ended.
    settlement: Option<Settlement>,
    left: Option<TellsLeft>,
}

/// Takes what an error in a body says of limits, at most once.
#[derive(Debug)]
pub(super) struct FeedbackListener {
    pub(super) origin: Origin,
    pub(super) status: u16,
    pub(super) head: HeadFeedback,
    /// Since when what the head says is held back.
    pub(super) held: Option<Instant>,
}

/// Tells what is left when it is dropped, as the reader is when its call is settled: what a refused
/// call gives back was not counted, and is not left besides.
#[derive(Debug)]
struct TellsLeft {
    origin: Origin,
    feedback: Feedback,
}

impl Drop for TellsLeft {
    fn drop(&mut self) {
        drop(self.origin.left(&self.feedback));
    }
}

impl UsageReader {
    pub(super) fn new(rules: Arc<Rules>, format: Format) -> Self {
        Self {
            rules,
            reserved: Usage::new(),
            estimate: None,
            format,
            has_begun: false,
            sse: Sse::default(),
            scanner: Scanner::new(PATHS),
            #[cfg(feature = "bedrock")]
            amazon: AmazonEvents::default(),
            findings: Findings::default(),
            error_body: None,
            listener: None,
            settlement: None,
            left: None,
        }
    }

    /// Reads for a call that has reserved this much, by an estimate that learns.
    pub(super) fn read_for(&mut self, reserved: Usage, estimate: Option<Arc<CallEstimate>>) {
        let choices = estimate.as_ref().map_or(1, |estimate| estimate.choices);
        self.findings.finishes.expect(choices);
        (self.reserved, self.estimate) = (reserved, estimate);
    }

    /// Takes the usage that headers tell.
    pub(super) fn take_headers(&mut self, headers: &http::HeaderMap) {
        self.findings.take_headers(headers);
    }

    /// Reads the body as that of an error, if the status is one.
    pub(super) fn take_status(&mut self, status: u16) {
        self.error_body = (status >= 400 && self.format != Format::Unreadable).then(Vec::new);
    }

    /// Settles on what the status decides, whatever the body says, if it decides.
    pub(super) fn settle_on(&mut self, settlement: Option<Settlement>) {
        self.settlement = settlement;
    }

    /// Tells the listener what an error says of limits.
    pub(super) fn tell_to(&mut self, listener: Option<FeedbackListener>) {
        self.listener = listener;
    }

    /// Returns the error that was read, if there was one.
    pub(super) fn error(&mut self) -> Option<ErrorReport> {
        let body = self.error_body.take().filter(|body| !body.is_empty());
        body.map(|body| ErrorReport::of_body(&body)).or_else(|| self.findings.error.take())
    }

    /// Tells what an error says, once it is known or once nothing more can come.
    fn tell(&mut self, is_over: bool) {
        let Some(FeedbackListener { status, held, head, .. }) = &self.listener else { return };
        let (status, held) = (*status, *held);
        let passes = head.passes(status);
        if !is_over && self.error_body.is_some() {
            return;
        }
        let error = self.error();
        if error.is_none() && !(is_over && (passes || held.is_some())) {
            return;
        }
        let Some(FeedbackListener { origin, head, .. }) = self.listener.take() else { return };
        // The operations are on their way, and their outcome changes nothing here.
        let Some(held) = held else {
            drop(origin.feedback(&self.rules.feedback_of_body(status, &head, error.as_ref())));
            return;
        };
        let mut feedback = self.rules.feedback_of_whole(status, head, error.as_ref());
        if let Some(wait) = &mut feedback.wait {
            wait.time = wait.time.saturating_sub(held.elapsed());
        }
        drop(origin.wait(&feedback));
        self.left = Some(TellsLeft { origin, feedback });
    }

    fn events(&mut self) -> (&mut Sse, EventReader<'_>) {
        let Self { scanner, findings, rules, .. } = self;
        (&mut self.sse, EventReader { scanner, findings, rules })
    }

    /// Finds out the format by the first byte that is no blank, and returns what follows the
    /// blanks.
    fn begin<'b>(&mut self, piece: &'b [u8]) -> &'b [u8] {
        if self.has_begun || matches!(self.format, Format::Unreadable | Format::AmazonEvents) {
            return piece;
        }
        let is_blank = |byte: &u8| byte.is_ascii_whitespace() || BYTE_ORDER_MARK.contains(byte);
        let Some(start) = piece.iter().position(|byte| !is_blank(byte)) else { return &[] };
        self.has_begun = true;
        self.format = self.format.shown_by(piece[start]);
        &piece[start..]
    }

    /// Returns what was used, as far as it is known by now.
    pub fn used(&self) -> Option<Usage> {
        let counts = self.findings.counts(&self.rules)?;
        Some(self.rules.used(&counts, self.findings.cached_in_full))
    }

    /// The usage with `tokens` in which output weighs as much as it does for the model.
    fn weighted(&self, used: Usage) -> Usage {
        let weight = self.estimate.as_ref().map_or(1, |estimate| estimate.output_weight);
        let (input, output) = (used.get("input_tokens"), used.get("output_tokens"));
        match output.filter(|_| weight > 1) {
            Some(output) => {
                let weighted = output.saturating_mul(weight).saturating_add(input.unwrap_or(0));
                used.with("tokens", weighted)
            }
            None => used,
        }
    }

    /// The usage with its cost, if that is counted and known.
    fn priced(&self, used: Usage) -> Usage {
        let price = self.estimate.as_ref().and_then(|estimate| estimate.price);
        let counts = price.and_then(|_| self.findings.counts(&self.rules));
        match price.zip(counts).and_then(|(price, counts)| price.of(&counts)) {
            Some(cost) => used.with(COST, cost),
            None => used,
        }
    }

    fn finish(&mut self, end: BodyEnd) {
        match self.format {
            Format::Events if end == BodyEnd::Complete => {
                let (sse, mut events) = self.events();
                sse.finish(&mut events);
            }
            Format::Json if self.scanner.is_complete() => {
                self.findings.end_json(self.scanner.ended())
            }
            _ => {}
        }
    }
}

impl BodyObserver for UsageReader {
    fn data(&mut self, piece: &[u8]) {
        if let Some(body) = &mut self.error_body {
            let room = LONGEST_ERROR - body.len();
            body.extend_from_slice(&piece[..piece.len().min(room)]);
        }
        let piece = self.begin(piece);
        match self.format {
            Format::Json => self.events().1.data(piece),
            Format::Events => {
                let (sse, mut events) = self.events();
                sse.feed(piece, &mut events);
            }
            #[cfg(feature = "bedrock")]
            Format::AmazonEvents => {
                let Self { amazon, scanner, findings, rules, .. } = self;
                amazon.feed(piece, &mut EventReader { scanner, findings, rules });
            }
            _ => {}
        }
        if self.findings.error.is_some() {
            self.tell(false);
        }
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        self.finish(end);
        self.tell(true);
        let (used, is_final) = (self.used(), self.findings.is_final);
        if let (Some(estimate), Some(used), true) =
            (&self.estimate, &used, is_final && !self.findings.failed)
        {
            estimate.learn(used, self.findings.is_cut);
        }
        let used =
            used.map(|used| self.priced(self.rules.charged(self.weighted(used), &self.reserved)));
        if let Some(settlement) = self.settlement.take() {
            return settlement;
        }
        match used {
            Some(used) if is_final => Settlement::Exact(used),
            used if self.findings.failed => {
                self.rules.after_stream_error().settlement(&self.reserved, used)
            }
            used => used.map_or(Settlement::Keep, Settlement::AtLeast),
        }
    }
}

/// Reads events, one after the other.
pub(super) struct EventReader<'r> {
    scanner: &'r mut Scanner,
    findings: &'r mut Findings,
    rules: &'r Rules,
}

impl Sink for EventReader<'_> {
    fn data(&mut self, piece: &[u8]) {
        self.scanner.feed(piece, &mut FieldReader { findings: self.findings, rules: self.rules });
    }

    fn whole(&mut self, data: &[u8]) {
        if may_tell(data, self.findings.wants_model(self.rules)) {
            self.data(data);
        }
    }

    fn end(&mut self, event: SseEvent) {
        self.scanner.reset();
        self.findings.end_event(event);
    }
}

#[cfg(feature = "bedrock")]
impl EventSink for EventReader<'_> {
    fn event(&mut self, json: &[u8]) {
        self.data(json);
        self.end(SseEvent::default());
    }

    fn exception(&mut self, name: &str, json: &[u8]) {
        self.findings.fail(ErrorReport::of_kind(name, json));
    }
}
