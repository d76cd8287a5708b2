//! Reads the usage out of a body while it passes.

use std::sync::{Arc, LazyLock};

use memchr::{memchr2, memmem::Finder};

use super::{
    counts::Counts,
    feedback::{Refusal, pauses},
    json::{Found, Path, Scanner},
    rules::{Estimate, Rules},
    sse::{Event, Sink, Sse},
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

/// What is told by the values that are looked for.
#[derive(Clone, Copy, Debug)]
enum Tells {
    Usage,
    /// That something failed, unless it is null.
    Error,
    /// That an answer is over, unless it is null.
    Finish,
    /// Which event it is.
    Kind,
    Model,
}

/// Where they stand, in the bodies and events of all providers.
const MEMBERS: &[(Path, Tells)] = &[
    (&["usage"], Tells::Usage),
    (&["message", "usage"], Tells::Usage),  // Anthropic, in message_start
    (&["response", "usage"], Tells::Usage), // OpenAI responses, in response.completed
    (&["delta", "usage"], Tells::Usage),    // Cohere, in message-end
    (&["x_groq", "usage"], Tells::Usage),
    (&["meta", "billed_units"], Tells::Usage), // Cohere embeddings
    (&["error"], Tells::Error),
    (&["x_groq", "error"], Tells::Error),
    (&["response", "error"], Tells::Error),
    (&["choices", "error"], Tells::Error),
    (&["choices", "finish_reason"], Tells::Finish),
    (&["delta", "stop_reason"], Tells::Finish),
    (&["delta", "finish_reason"], Tells::Finish),
    (&["stop_reason"], Tells::Finish),                  // Anthropic's JSON
    (&["finish_reason"], Tells::Finish),                // Cohere's JSON
    (&["incomplete_details", "reason"], Tells::Finish), // OpenAI responses
    (&["response", "incomplete_details", "reason"], Tells::Finish),
    (&["type"], Tells::Kind),
    (&["model"], Tells::Model),
    (&["message", "model"], Tells::Model),
];

const PATHS: &[Path] = &{
    let mut paths: [Path; MEMBERS.len()] = [&[]; MEMBERS.len()];
    let mut member = 0;
    while member < paths.len() {
        paths[member] = MEMBERS[member].0;
        member += 1;
    }
    paths
};

/// Events that end a response, and those that tell of a failure.
const LAST: &[&[u8]] =
    &[b"\"response.completed\"", b"\"response.incomplete\"", b"\"message_stop\"", b"\"message-end\""];
/// Why an answer is shorter than it would have been.
const CUT: &[&[u8]] =
    &[b"\"length\"", b"\"max_tokens\"", b"\"MAX_TOKENS\"", b"\"max_output_tokens\"", b"\"model_length\""];
const FAILING: &[&[u8]] = &[b"\"error\"", b"\"response.failed\""];

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
    seen: Seen,
    hearing: Option<Hearing>,
}

/// Where what an error says goes: there is one to be told of at most.
#[derive(Debug)]
pub(super) struct Hearing {
    pub(super) origin: Origin,
    pub(super) status: u16,
}

/// What a body has told.
#[derive(Debug, Default)]
struct Seen {
    counts: Option<Counts>,
    /// Of the event that is being read.
    event_counts: bool,
    /// An answer is over.
    finished: bool,
    /// It was cut off.
    is_cut: bool,
    /// The event that is being read is the last one that tells anything.
    is_last: bool,
    /// The counts are the last ones.
    is_final: bool,
    failed: bool,
    refusal: Option<Refusal>,
    cached_in_full: bool,
}

impl Reader {
    pub(super) fn new(
        rules: Arc<Rules>,
        format: Format,
        reserved: Usage,
        estimate: Option<Estimate>,
    ) -> Self {
        let scanner = Scanner::new(PATHS);
        let (sse, seen) = (Sse::default(), Seen::default());
        Self { rules, reserved, estimate, format, sse, scanner, seen, hearing: None }
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

    /// What was used, as far as it is known by now.
    pub fn used(&self) -> Option<Usage> {
        Some(self.rules.used(&self.seen.counts?, self.seen.cached_in_full))
    }
}

impl BodyObserver for Reader {
    fn data(&mut self, piece: &[u8]) {
        let mut events = Events { scanner: &mut self.scanner, seen: &mut self.seen, rules: &self.rules };
        match self.format {
            Format::Json => events.data(piece),
            Format::Events => self.sse.feed(piece, &mut events),
            Format::Unreadable => {}
        }
        if self.seen.refusal.is_some() {
            self.hear(false);
        }
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        let mut events = Events { scanner: &mut self.scanner, seen: &mut self.seen, rules: &self.rules };
        match self.format {
            Format::Events if end == BodyEnd::Complete => self.sse.finish(&mut events),
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
            used if self.seen.failed => self.rules.after_stream_error().settlement(&self.reserved, used),
            used => used.map_or(Settlement::Keep, Settlement::AtLeast),
        }
    }
}

/// Whether an event may tell anything. Most are a few words of an answer and do not, which is found out much faster
/// than what they say: they have no key of [`MEMBERS`] but those whose value is null, or a kind that means nothing.
fn may_tell(data: &[u8], models_matter: bool) -> bool {
    let keys = if models_matter { &KEYS[..] } else { &KEYS[1..] };
    keys.iter().any(|key| {
        let mut ends = key.find_iter(data).map(|at| at + key.needle().len());
        ends.any(|end| !tells_nothing(key.needle() == KIND, &data[end..]))
    })
}

const KIND: &[u8] = b"\"type\"";

/// What [`MEMBERS`] end in. Models come first, since they do not always matter.
static KEYS: LazyLock<[Finder<'static>; 6]> = LazyLock::new(|| {
    [&b"\"model\""[..], b"\"usage\"", b"reason\"", KIND, b"\"error\"", b"\"billed_units\""].map(Finder::new)
});

/// Whether what follows a key is null, or a kind of event that means nothing.
fn tells_nothing(is_kind: bool, after_key: &[u8]) -> bool {
    let Some(value) = after_key.trim_ascii_start().strip_prefix(b":") else { return false };
    let value = value.trim_ascii_start();
    let rest = value.strip_prefix(b"null").or_else(|| is_kind.then(|| after_idle_kind(value)).flatten());
    rest.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b',' | b'}')))
}

fn after_idle_kind(value: &[u8]) -> Option<&[u8]> {
    let end = 1 + memchr2(b'"', b'\\', value.strip_prefix(b"\"")?)?;
    let (kind, rest) = value.split_at(end + 1);
    let is_idle = kind.ends_with(b"\"") && !LAST.contains(&kind) && !FAILING.contains(&kind);
    is_idle.then_some(rest)
}

/// Reads events, one after the other.
struct Events<'r> {
    scanner: &'r mut Scanner,
    seen: &'r mut Seen,
    rules: &'r Rules,
}

impl Sink for Events<'_> {
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
        self.seen.failed |= event.is_error;
        // Usage may come with every event: that of an answer's end, or told after it, is the whole.
        let told = std::mem::take(&mut self.seen.event_counts) && self.seen.finished;
        let is_last = std::mem::take(&mut self.seen.is_last) || event.is_done;
        self.seen.is_final |= self.seen.counts.is_some() && (told || is_last);
    }
}

struct Telling<'r> {
    seen: &'r mut Seen,
    rules: &'r Rules,
}

impl Found for Telling<'_> {
    fn found(&mut self, path: usize, value: Option<&[u8]>) {
        let is_null = value == Some(b"null");
        let Some((_, tells)) = MEMBERS.get(path).filter(|_| !is_null) else { return };
        let value = value.unwrap_or_default();
        match tells {
            Tells::Usage => {
                if let Some(counts) = Counts::read(value) {
                    self.seen.counts.get_or_insert_default().merge(counts);
                    self.seen.event_counts = true;
                }
            }
            Tells::Error => {
                self.seen.failed = true;
                self.seen.refusal.get_or_insert_with(|| Refusal::read(value));
            }
            Tells::Finish => {
                self.seen.finished = true;
                self.seen.is_cut |= CUT.contains(&value);
                self.seen.failed |= value.eq_ignore_ascii_case(b"\"error\"");
            }
            Tells::Kind => {
                self.seen.is_last |= LAST.contains(&value);
                self.seen.failed |= FAILING.contains(&value);
            }
            Tells::Model => {
                let model = serde_json::from_slice::<std::borrow::Cow<'_, str>>(value);
                self.seen.cached_in_full |= model.is_ok_and(|model| self.rules.cached_in_full(&model));
            }
        }
    }
}
