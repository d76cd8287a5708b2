//! The meaning of the fields in a response's body.
//!
//! It knows which members of which provider's JSON say something about usage, the end of an answer
//! or a failure. How the body arrives it does not know.

use std::{borrow::Cow, sync::LazyLock};

use aho_corasick::{AhoCorasick, MatchKind, packed};
use http::HeaderName;
use memchr::memmem::Finder;

use super::{
    feedback::error_report::ErrorReport,
    finishes::Finishes,
    json::{Path, ValueSink},
    rules::Rules,
    sse::SseEvent,
    usage_json::{TokenCounts, UsageReport},
};

/// The meaning of a field.
#[derive(Clone, Copy, Debug)]
enum Meaning {
    Usage,
    /// A single count, which is not within a usage.
    Amount,
    /// The count of one of several texts.
    PartCount,
    /// A failure, unless it is null.
    Error,
    /// Which of several answers it is about.
    Index,
    /// The reason why an answer is over.
    Finish,
    /// True if the answer is over.
    Done,
    /// The kind of the event.
    Kind,
    /// The kind of the object.
    Object,
    Model,
    MessageId,
}

/// The fields of the bodies and events of all providers.
const FIELDS: &[(Path, Meaning)] = &[
    (&["usage"], Meaning::Usage),
    (&["message", "usage"], Meaning::Usage), // Anthropic, in message_start
    (&["response", "usage"], Meaning::Usage), // OpenAI responses, in response.completed
    (&["delta", "usage"], Meaning::Usage),   // Cohere, in message-end
    (&["x_groq", "usage"], Meaning::Usage),
    (&["choices", "usage"], Meaning::Usage), // Moonshot, in the last chunk
    (&["meta"], Meaning::Usage),             // Cohere's first API
    (&["response", "meta"], Meaning::Usage), // the same, in stream-end
    (&["usageMetadata"], Meaning::Usage),    // Gemini
    (&["response", "usageMetadata"], Meaning::Usage),
    (&["metadata", "usage"], Meaning::Usage), // Bedrock ConverseStream, event by event
    (&["amazon-bedrock-invocationMetrics"], Meaning::Usage),
    (&["prompt_eval_count"], Meaning::Amount), // Ollama
    (&["eval_count"], Meaning::Amount),
    (&["prompt_token_count"], Meaning::Amount), // Llama on Bedrock
    (&["generation_token_count"], Meaning::Amount),
    (&["predictions", "embeddings", "statistics"], Meaning::PartCount), // Vertex AI
    (&["error"], Meaning::Error),
    (&["x_groq", "error"], Meaning::Error),
    (&["response", "error"], Meaning::Error),
    (&["choices", "error"], Meaning::Error),
    (&["choices", "index"], Meaning::Index),
    (&["candidates", "index"], Meaning::Index), // Gemini
    (&["response", "candidates", "index"], Meaning::Index),
    (&["choices", "finish_reason"], Meaning::Finish),
    (&["candidates", "finishReason"], Meaning::Finish), // Gemini
    (&["response", "candidates", "finishReason"], Meaning::Finish),
    (&["promptFeedback", "blockReason"], Meaning::Finish),
    (&["delta", "stop_reason"], Meaning::Finish),
    (&["delta", "finish_reason"], Meaning::Finish),
    (&["stop_reason"], Meaning::Finish), // Anthropic's JSON
    (&["stopReason"], Meaning::Finish),  // Bedrock Converse
    (&["messageStop", "stopReason"], Meaning::Finish),
    (&["finish_reason"], Meaning::Finish), // Cohere's JSON
    (&["done_reason"], Meaning::Finish),   // Ollama
    (&["incomplete_details", "reason"], Meaning::Finish), // OpenAI responses
    (&["response", "incomplete_details", "reason"], Meaning::Finish),
    (&["done"], Meaning::Done), // Ollama
    (&["type"], Meaning::Kind),
    (&["event_type"], Meaning::Kind), // Cohere's first API
    (&["object"], Meaning::Object),
    (&["model"], Meaning::Model),
    (&["modelVersion"], Meaning::Model),
    (&["message", "model"], Meaning::Model),
    (&["message", "id"], Meaning::MessageId),
];

pub(super) const PATHS: &[Path] = &{
    let mut paths: [Path; FIELDS.len()] = [&[]; FIELDS.len()];
    let mut field = 0;
    while field < paths.len() {
        paths[field] = FIELDS[field].0;
        field += 1;
    }
    paths
};

/// Headers that tell counts, and the fields that they stand for.
static COUNTING_HEADERS: [(HeaderName, &str); 4] = [
    (HeaderName::from_static("x-amzn-bedrock-input-token-count"), "inputTokenCount"),
    (HeaderName::from_static("x-amzn-bedrock-output-token-count"), "outputTokenCount"),
    (
        HeaderName::from_static("x-amzn-bedrock-cache-read-input-token-count"),
        "cacheReadInputTokenCount",
    ),
    (
        HeaderName::from_static("x-amzn-bedrock-cache-write-input-token-count"),
        "cacheWriteInputTokenCount",
    ),
];

/// Kinds of events that end a response, whatever was told before.
const LAST: &[&[u8]] = &[
    b"\"response.completed\"",
    b"\"response.incomplete\"",
    b"\"message_stop\"",
    b"\"message-end\"",
    b"\"stream-end\"",
];
/// The ends of the names of other such kinds, if the event tells a usage itself.
const LAST_WITH_USAGE: &[&[u8]] = &[b".completed\"", b".done\"", b".incomplete\"", b".failed\""];
/// Values that stand for no error.
const NO_ERROR: &[&[u8]] = &[b"false", b"\"\"", b"{}", b"[]", b"0"];
/// Kinds of events that tell of a failure.
const FAILING: &[&[u8]] = &[b"\"error\"", b"\"response.failed\""];
/// Reasons why an answer is shorter than it would have been, in lower case.
const CUT: &[&str] = &["length", "max_tokens", "max_output_tokens", "model_length"];
/// Reasons that are none: the answer goes on.
const UNFINISHED: &[&str] = &["", "null", "finish_reason_unspecified"];
/// No model's name is longer.
const LONGEST_MODEL: usize = 256;

/// What a body has told so far.
#[derive(Debug, Default)]
pub(super) struct Findings {
    /// The usage of the message that is being read.
    report: Option<UsageReport>,
    /// The usage of messages before it.
    earlier: TokenCounts,
    message_id: Option<Vec<u8>>,
    model: Option<String>,
    /// The latest usage was too long to be read.
    is_unread: bool,
    /// The event that is being read tells a usage.
    event_has_usage: bool,
    /// The answers of the message that are over.
    pub(super) finishes: Finishes,
    /// The answer was cut off.
    pub(super) is_cut: bool,
    /// The event that is being read is the last one that tells anything.
    event_is_last: bool,
    /// The event that is being read is the last one if it tells a usage.
    event_is_last_with_usage: bool,
    /// The JSON is a part of an answer, as the events of a stream are.
    is_part: bool,
    /// The counts are the last ones.
    pub(super) is_final: bool,
    pub(super) failed: bool,
    pub(super) error: Option<ErrorReport>,
    pub(super) cached_in_full: bool,
}

impl Findings {
    /// Takes note of the end of an event.
    pub(super) fn end_event(&mut self, event: SseEvent) {
        self.failed |= event.is_error;
        self.finishes.end_event();
        // Usage may come with every event. That of an answer's end, or told after it, is the whole.
        let has_usage = std::mem::take(&mut self.event_has_usage);
        let is_last_with_usage = std::mem::take(&mut self.event_is_last_with_usage);
        let is_last = std::mem::take(&mut self.event_is_last) || event.is_done;
        let tells_all = has_usage && (self.finishes.are_all() || is_last_with_usage);
        self.is_final |= self.has_read() && (tells_all || is_last);
    }

    /// Takes note of the end of a body that is JSON, of which `texts` were read to their end.
    pub(super) fn end_json(&mut self, texts: u32) {
        let is_whole = texts == 1 && !self.is_part;
        self.is_final |= self.has_read() && (is_whole || self.finishes.are_all());
    }

    /// True if a usage was told, and the latest one was read.
    fn has_read(&self) -> bool {
        self.report.is_some() && !self.is_unread
    }

    /// True if the model is of use: it is not known yet, or later ones matter.
    pub(super) fn wants_model(&self, rules: &Rules) -> bool {
        self.model.is_none() || rules.models_matter()
    }

    /// The counts that were told, if any were.
    pub(super) fn counts(&self, rules: &Rules) -> Option<TokenCounts> {
        let counts = self.report?.counts(rules.excess());
        Some(self.earlier.plus(counts)).filter(|counts| *counts != TokenCounts::default())
    }

    /// Takes the counts that Bedrock tells in headers.
    pub(super) fn take_headers(&mut self, headers: &http::HeaderMap) {
        for (header, field) in &COUNTING_HEADERS {
            let value = headers.get(header).map(http::HeaderValue::as_bytes);
            self.take_report(value.and_then(|value| UsageReport::of_field(field, value)));
        }
        self.event_has_usage = false;
    }

    /// Takes a usage; `None` if it was too long.
    fn take_usage(&mut self, json: Option<&[u8]>) {
        let Some(json) = json else {
            (self.is_unread, self.is_final) = (true, false);
            return;
        };
        let report = UsageReport::read(json, self.model.as_deref());
        self.is_unread &= report.is_none();
        self.take_report(report);
    }

    fn take_report(&mut self, report: Option<UsageReport>) {
        let Some(report) = report else { return };
        self.report.get_or_insert_default().merge(report);
        self.event_has_usage = true;
    }

    /// Adds what one of several texts took.
    fn take_part(&mut self, json: &[u8]) {
        let Some(tokens) = UsageReport::count_of_part(json) else { return };
        self.report.get_or_insert_default().add_input(tokens);
        self.event_has_usage = true;
    }

    /// Another message of the same response begins: its usage adds to that of the one before.
    fn begin_message(&mut self, id: &[u8], rules: &Rules) {
        if self.message_id.as_ref().is_some_and(|known| known != id) {
            let counts = self.report.take().map(|report| report.counts(rules.excess()));
            self.earlier = self.earlier.plus(counts.unwrap_or_default());
            self.finishes.begin_message();
            self.is_final = false;
        }
        self.message_id = Some(id.to_vec());
    }

    /// Takes note of a failure that is told outside of the JSON.
    #[cfg(feature = "bedrock")]
    pub(super) fn fail(&mut self, error: ErrorReport) {
        self.failed = true;
        self.error.get_or_insert(error);
    }

    fn finish(&mut self, reason: &[u8]) {
        let Ok(reason) = serde_json::from_slice::<Cow<'_, str>>(reason) else { return };
        let reason = reason.to_ascii_lowercase();
        if UNFINISHED.contains(&reason.as_str()) {
            return;
        }
        self.finishes.end();
        self.is_cut |= CUT.contains(&reason.as_str());
        self.failed |= reason == "error";
    }
}

/// Takes down the fields that are found.
pub(super) struct FieldReader<'r> {
    pub(super) findings: &'r mut Findings,
    pub(super) rules: &'r Rules,
}

impl ValueSink for FieldReader<'_> {
    fn found(&mut self, path: usize, value: Option<&[u8]>) {
        let is_null = value == Some(b"null");
        let Some((path, meaning)) = FIELDS.get(path).filter(|_| !is_null) else { return };
        let (whole, findings) = (value, &mut *self.findings);
        let value = value.unwrap_or_default();
        match meaning {
            Meaning::Usage => findings.take_usage(whole),
            Meaning::Amount => {
                let name = path.last().copied().unwrap_or_default();
                findings.take_report(UsageReport::of_field(name, value));
            }
            Meaning::PartCount => findings.take_part(value),
            Meaning::Index => {
                let index = std::str::from_utf8(value).ok().and_then(|index| index.parse().ok());
                index.into_iter().for_each(|index| findings.finishes.index(index));
            }
            Meaning::Error if NO_ERROR.contains(&value) => {}
            Meaning::Error => {
                findings.failed = true;
                findings.error.get_or_insert_with(|| ErrorReport::of_member(value));
            }
            Meaning::Finish => findings.finish(value),
            Meaning::Done => {
                if value == b"true" {
                    findings.finishes.end();
                }
                findings.is_part |= value == b"false";
            }
            Meaning::Kind => {
                findings.event_is_last |= LAST.contains(&value);
                findings.event_is_last_with_usage |=
                    LAST_WITH_USAGE.iter().any(|end| value.ends_with(end));
                findings.failed |= FAILING.contains(&value);
            }
            Meaning::Object => {
                findings.is_part |= value.ends_with(b".chunk\"");
                findings.failed |= value == b"\"error\"";
            }
            Meaning::Model => self.model(value),
            Meaning::MessageId => findings.begin_message(value, self.rules),
        }
    }
}

impl FieldReader<'_> {
    fn model(&mut self, value: &[u8]) {
        let Ok(model) = serde_json::from_slice::<Cow<'_, str>>(value) else { return };
        self.findings.cached_in_full |= self.rules.cached_in_full(&model);
        if self.findings.model.as_deref() != Some(&*model) && model.len() <= LONGEST_MODEL {
            self.findings.model = Some(model.into_owned());
        }
    }
}

/// True if an event may tell anything. Most are a few words of an answer and tell nothing, which is
/// found out much faster than what they say: they hold none of [`TELLS`], or a key whose value is
/// nothing.
///
/// Not looked for are indices: a usage that comes before the end comes with every event, and an end
/// tells its index itself.
pub(super) fn may_tell(data: &[u8], wants_model: bool) -> bool {
    TELLING.any(data, |found| !tells_nothing(&data[found.end()..]))
        || wants_model && MODEL.find(data).is_some()
}

/// A text of each event that tells anything by [`FIELDS`], and of few others. Few texts that seldom
/// begin like others are found much faster than many exact ones.
///
/// * `okens"`, `ount"`: counts; a usage without any tells nothing
/// * `eason"`, `done"`, `rror"`: reasons, ends and failures
/// * the others: kinds that mean something by themselves (failed, completed, incomplete,
///   `message_start`, `message_stop`, `message-end`, `stream-end`)
const TELLS: [&[u8]; 9] = [
    b"okens\"", b"ount\"", b"eason\"", b"done\"", b"rror\"", b"ailed\"", b"plete", b"_st",
    b"-end\"",
];

static TELLING: LazyLock<Needles> = LazyLock::new(|| Needles::new(&TELLS));
/// Of `model` and `modelVersion`.
static MODEL: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"odel"));

/// Finds several short texts in one pass: many bytes at a time where the processor can, else one by
/// one.
#[derive(Debug)]
enum Needles {
    Packed(packed::Searcher),
    Plain(AhoCorasick),
    /// So few and short texts always fit. If they did not, every event would be read.
    Unsearchable,
}

impl Needles {
    fn new(needles: &[&[u8]]) -> Self {
        // The automaton's own shortcut looks for the rarest byte, which is a quote here, and is
        // slower than none.
        let plain = || {
            AhoCorasick::builder()
                .match_kind(MatchKind::LeftmostFirst)
                .prefilter(false)
                .build(needles)
        };
        match packed::Searcher::new(needles) {
            Some(searcher) => Self::Packed(searcher),
            None => plain().map_or(Self::Unsearchable, Self::Plain),
        }
    }

    /// True if this holds for any text that is found.
    fn any(&self, data: &[u8], holds: impl FnMut(aho_corasick::Match) -> bool) -> bool {
        match self {
            Self::Packed(searcher) => searcher.find_iter(data).any(holds),
            Self::Plain(automaton) => automaton.find_iter(data).any(holds),
            Self::Unsearchable => true,
        }
    }
}

/// True if the value after a key is null, false or empty.
fn tells_nothing(after_key: &[u8]) -> bool {
    let Some(value) = after_key.trim_ascii_start().strip_prefix(b":") else { return false };
    let value = value.trim_ascii_start();
    let empty =
        [&b"null"[..], b"false", b"\"\""].iter().find_map(|empty| value.strip_prefix(*empty));
    empty.is_some_and(|rest| matches!(rest.trim_ascii_start().first(), Some(b',' | b'}')))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An event with this value in this place.
    fn event(path: Path, value: &str) -> String {
        path.iter()
            .rev()
            .fold(value.to_owned(), |value, key| format!("{{\"{key}\":{value},\"x\":1}}"))
    }

    #[test]
    fn no_event_that_tells_anything_is_passed_over() {
        for (path, meaning) in FIELDS {
            let texts = |texts: &[&[u8]]| -> Vec<String> {
                texts.iter().map(|text| String::from_utf8_lossy(text).into_owned()).collect()
            };
            let values = match meaning {
                Meaning::Usage => vec!["{\"prompt_tokens\":1}".to_owned()],
                Meaning::Amount => vec!["1".to_owned()],
                Meaning::PartCount => texts(&[b"{\"token_count\":1}", b"{\"tokenCount\":1}"]),
                Meaning::Error => texts(&[b"\"no\"", b"{\"code\":429}", b"1"]),
                Meaning::Finish => texts(&[b"\"stop\"", b" \"stop\"", b"\t\"stop\""]),
                Meaning::Done => vec!["true".to_owned()],
                Meaning::Kind => texts(&[LAST, FAILING].concat()),
                Meaning::Object => texts(&[b"\"error\""]),
                Meaning::Model => vec!["\"m\"".to_owned()],
                Meaning::MessageId => continue, // in an event of a kind of its own
                Meaning::Index => continue,
            };
            for value in values {
                let event = event(path, &value);
                assert!(may_tell(event.as_bytes(), true), "{event}");
                let spaced = event.replace(':', " : ");
                assert!(may_tell(spaced.as_bytes(), true), "{spaced}");
            }
        }
        assert!(may_tell(br#"{"type":"message_start","message":{"id":"m"}}"#, false));
    }

    #[test]
    fn events_that_tell_nothing_are_passed_over() {
        for event in [
            concat!(
                r#"{"object":"chat.completion.chunk","model":"m","choices":[{"index":0,"#,
                r#""delta":{"content":"tokens of usage"},"finish_reason":null}],"usage":null}"#
            ),
            r#"{"choices": [{"index": 0, "finish_reason": null}], "usage": null}"#,
            r#"{"choices":[{"index":0,"finish_reason":"","delta":{}}]}"#,
            r#"{"type":"content_block_delta","index":1,"delta":{"text":"\"error\""}}"#,
            r#"{"type":"response.output_text.delta","item_id":"m","delta":"a","error":null}"#,
            r#"{"candidates":[{"content":{"parts":[{"text":"Hi"}]}}],"done":false}"#,
        ] {
            assert!(!may_tell(event.as_bytes(), false), "{event}");
        }
    }
}
