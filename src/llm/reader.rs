//! Reads the usage out of a body while it passes.

use std::sync::Arc;

use super::{
    alike::Alike,
    feedback::{Refusal, pauses},
    json::Scanner,
    rules::{Estimate, Rules},
    sse::{Event, Sink, Sse},
    telling::{PATHS, Seen, Telling, may_tell},
};
use crate::{
    inspect::{BodyEnd, BodyObserver},
    limiter::{Origin, Settlement},
    usage::Usage,
};

/// How a body is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON text.
    Json,
    /// Server-sent events with JSON in them.
    Events,
    /// Something that cannot be read, such as compressed bytes.
    Unreadable,
}

/// Reads the usage out of one response's body, in constant memory, cut anywhere: see [`Rules::reader`].
#[derive(Debug)]
pub struct Reader {
    rules: Arc<Rules>,
    reserved: Usage,
    /// Of the request, if something is to be learned from the response.
    estimate: Option<Estimate>,
    format: Format,
    sse: Sse,
    scanner: Scanner,
    alike: Alike,
    seen: Seen,
    hearing: Option<Hearing>,
}

/// Where what an error says goes: there is one to be told of at most.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) origin: Origin,
    pub(super) status: u16,
}

impl Reader {
    pub(super) fn new(
        rules: Arc<Rules>,
        format: Format,
        reserved: Usage,
        estimate: Option<Estimate>,
    ) -> Self {
        let (sse, scanner, alike) = (Sse::default(), Scanner::new(PATHS), Alike::default());
        Self {
            rules,
            reserved,
            estimate,
            format,
            sse,
            scanner,
            alike,
            seen: Seen::default(),
            hearing: None,
        }
    }

    /// The same, telling what errors say of limits.
    pub(super) fn hearing(self, hearing: Option<Hearing>) -> Self {
        Self { hearing, ..self }
    }

    /// The error that was read, if there was one.
    pub(super) fn take_refusal(&mut self) -> Option<Refusal> {
        self.seen.refusal.take()
    }

    /// Tells what an error says, once it is known or once nothing more can come.
    fn hear(&mut self, is_over: bool) {
        let Some(Hearing { status, .. }) = self.hearing else { return };
        let refusal = self.take_refusal();
        if refusal.is_none() && !(is_over && pauses(status)) {
            return;
        }
        if let Some(Hearing { origin, .. }) = self.hearing.take() {
            // It is on its way, and nobody need wait for it.
            drop(origin.feedback(&self.rules.feedback_of_error(status, refusal.as_ref())));
        }
    }

    #[cfg(test)]
    pub(super) fn seen(&self) -> &Seen {
        &self.seen
    }

    fn events(&mut self) -> (&mut Sse, Events<'_>) {
        let Self { scanner, alike, seen, rules, .. } = self;
        (&mut self.sse, Events { scanner, alike: Some(alike), seen, rules })
    }

    fn feed(&mut self, piece: &[u8]) {
        let rest = self.alike.resume(piece).unwrap_or_else(|| {
            self.read_begun();
            piece
        });
        let (sse, mut events) = self.events();
        sse.feed(rest, &mut events);
    }

    /// Reads the beginning of an event that was passed over, since it went on unlike others, or not at all.
    fn read_begun(&mut self) {
        let begun = self.alike.begun();
        let (sse, events) = self.events();
        sse.feed(&begun, &mut Events { alike: None, ..events });
    }

    /// What was used, as far as it is known by now.
    pub fn used(&self) -> Option<Usage> {
        Some(self.rules.used(&self.seen.counts?, self.seen.cached_in_full))
    }
}

impl BodyObserver for Reader {
    fn data(&mut self, piece: &[u8]) {
        match self.format {
            Format::Json => self.events().1.data(piece),
            Format::Events => self.feed(piece),
            Format::Unreadable => {}
        }
        if self.seen.refusal.is_some() {
            self.hear(false);
        }
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        self.read_begun();
        match self.format {
            Format::Events if end == BodyEnd::Complete => {
                let (sse, mut events) = self.events();
                sse.finish(&mut events);
            }
            Format::Json => self.seen.is_final |= self.scanner.is_complete(),
            _ => {}
        }
        self.hear(true);
        let used = self.used();
        if let (Some(estimate), Some(used), true) =
            (&self.estimate, &used, self.seen.is_final && !self.seen.failed)
        {
            self.rules.learn(estimate, used, self.seen.is_cut);
        }
        let used = used.map(|used| self.rules.charged(used, &self.reserved));
        match used {
            Some(used) if self.seen.is_final => Settlement::Exact(used),
            used if self.seen.failed => {
                self.rules.after_stream_error().settlement(&self.reserved, used)
            }
            used => used.map_or(Settlement::Keep, Settlement::AtLeast),
        }
    }
}

/// Reads events, one after the other.
struct Events<'r> {
    scanner: &'r mut Scanner,
    /// Unless nothing is to be passed over.
    alike: Option<&'r mut Alike>,
    seen: &'r mut Seen,
    rules: &'r Rules,
}

impl Sink for Events<'_> {
    fn pass_over(&mut self, bytes: &[u8]) -> usize {
        self.alike.as_mut().map_or(0, |alike| alike.pass_over(bytes, self.rules))
    }

    fn data(&mut self, piece: &[u8]) {
        self.scanner.feed(piece, &mut Telling { seen: self.seen, rules: self.rules });
    }

    fn whole(&mut self, data: &[u8]) {
        if may_tell(data, self.rules.models_matter()) {
            self.data(data);
        }
    }

    fn end(&mut self, event: Event) {
        self.scanner.reset();
        self.seen.end_event(event);
    }
}
