//! What the values in a response's body tell.
//!
//! It knows which members of which provider's JSON mean something. How a body comes, it does not know.

use std::sync::LazyLock;

use memchr::{memchr2, memmem::Finder};

use super::{
    counts::Counts,
    feedback::Refusal,
    json::{Found, Path},
    rules::Rules,
    sse::Event,
};

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
    (&["message", "usage"], Tells::Usage), // Anthropic, in message_start
    (&["response", "usage"], Tells::Usage), // OpenAI responses, in response.completed
    (&["delta", "usage"], Tells::Usage),   // Cohere, in message-end
    (&["x_groq", "usage"], Tells::Usage),
    (&["meta", "billed_units"], Tells::Usage), // Cohere embeddings
    (&["error"], Tells::Error),
    (&["x_groq", "error"], Tells::Error),
    (&["response", "error"], Tells::Error),
    (&["choices", "error"], Tells::Error),
    (&["choices", "finish_reason"], Tells::Finish),
    (&["delta", "stop_reason"], Tells::Finish),
    (&["delta", "finish_reason"], Tells::Finish),
    (&["stop_reason"], Tells::Finish),   // Anthropic's JSON
    (&["finish_reason"], Tells::Finish), // Cohere's JSON
    (&["incomplete_details", "reason"], Tells::Finish), // OpenAI responses
    (&["response", "incomplete_details", "reason"], Tells::Finish),
    (&["type"], Tells::Kind),
    (&["model"], Tells::Model),
    (&["message", "model"], Tells::Model),
];

pub(super) const PATHS: &[Path] = &{
    let mut paths: [Path; MEMBERS.len()] = [&[]; MEMBERS.len()];
    let mut member = 0;
    while member < paths.len() {
        paths[member] = MEMBERS[member].0;
        member += 1;
    }
    paths
};

/// Events that end a response, and those that tell of a failure.
const LAST: &[&[u8]] = &[
    b"\"response.completed\"",
    b"\"response.incomplete\"",
    b"\"message_stop\"",
    b"\"message-end\"",
];
/// Why an answer is shorter than it would have been.
const CUT: &[&[u8]] = &[
    b"\"length\"",
    b"\"max_tokens\"",
    b"\"MAX_TOKENS\"",
    b"\"max_output_tokens\"",
    b"\"model_length\"",
];
const FAILING: &[&[u8]] = &[b"\"error\"", b"\"response.failed\""];

/// What a body has told.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) counts: Option<Counts>,
    /// Of the event that is being read.
    pub(super) event_counts: bool,
    /// An answer is over.
    pub(super) finished: bool,
    /// It was cut off.
    pub(super) is_cut: bool,
    /// The event that is being read is the last one that tells anything.
    pub(super) is_last: bool,
    /// The counts are the last ones.
    pub(super) is_final: bool,
    pub(super) failed: bool,
    pub(super) refusal: Option<Refusal>,
    pub(super) cached_in_full: bool,
}

impl Seen {
    /// An event is over.
    pub(super) fn end_event(&mut self, event: Event) {
        self.failed |= event.is_error;
        // Usage may come with every event: that of an answer's end, or told after it, is the whole.
        let told = std::mem::take(&mut self.event_counts) && self.finished;
        let is_last = std::mem::take(&mut self.is_last) || event.is_done;
        self.is_final |= self.counts.is_some() && (told || is_last);
    }
}

/// Takes down what is found.
pub(super) struct Telling<'r> {
    pub(super) seen: &'r mut Seen,
    pub(super) rules: &'r Rules,
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
                self.seen.cached_in_full |=
                    model.is_ok_and(|model| self.rules.cached_in_full(&model));
            }
        }
    }
}

/// Whether an event may tell anything. Most are a few words of an answer and do not, which is found out much faster
/// than what they say: they have no key of [`MEMBERS`] but those whose value is null, or a kind that means nothing.
pub(super) fn may_tell(data: &[u8], models_matter: bool) -> bool {
    let keys = if models_matter { &KEYS[..] } else { &KEYS[1..] };
    keys.iter().any(|key| {
        let mut ends = key.find_iter(data).map(|at| at + key.needle().len());
        ends.any(|end| !tells_nothing(key.needle() == KIND, &data[end..]))
    })
}

const KIND: &[u8] = b"\"type\"";

/// What [`MEMBERS`] end in. Models come first, since they do not always matter.
static KEYS: LazyLock<[Finder<'static>; 6]> = LazyLock::new(|| {
    [&b"\"model\""[..], b"\"usage\"", b"reason\"", KIND, b"\"error\"", b"\"billed_units\""]
        .map(Finder::new)
});

/// Whether what follows a key is null, or a kind of event that means nothing.
fn tells_nothing(is_kind: bool, after_key: &[u8]) -> bool {
    let Some(value) = after_key.trim_ascii_start().strip_prefix(b":") else { return false };
    let value = value.trim_ascii_start();
    let rest =
        value.strip_prefix(b"null").or_else(|| is_kind.then(|| after_idle_kind(value)).flatten());
    rest.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b',' | b'}')))
}

fn after_idle_kind(value: &[u8]) -> Option<&[u8]> {
    let end = 1 + memchr2(b'"', b'\\', value.strip_prefix(b"\"")?)?;
    let (kind, rest) = value.split_at(end + 1);
    let is_idle = kind.ends_with(b"\"") && !LAST.contains(&kind) && !FAILING.contains(&kind);
    is_idle.then_some(rest)
}
