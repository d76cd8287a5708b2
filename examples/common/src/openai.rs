//! What the requests and answers of an OpenAI-like provider tell of tokens.

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    response::Parts,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tower_throttle::{
    BoxError, Demand, ExtractError, Settlement,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver, ByStatus},
    usage,
};

/// What a chat completion is asked for with.
#[derive(Clone, Debug, Deserialize)]
pub struct Asked {
    /// The model.
    pub model: String,
    #[serde(default)]
    messages: Vec<Message>,
    #[serde(alias = "max_completion_tokens")]
    max_tokens: Option<u64>,
}

#[derive(Clone, Debug, Deserialize)]
struct Message {
    #[serde(default)]
    content: Value,
}

impl Asked {
    /// What the body of a request asks for.
    ///
    /// # Errors
    /// When it is not the JSON of a chat completion.
    pub fn read(body: &[u8]) -> Result<Self, BoxError> {
        Ok(serde_json::from_slice(body)?)
    }

    /// The most tokens that may be used: the prompt, at four bytes each, and as long an answer as
    /// is allowed.
    pub fn tokens(&self) -> u64 {
        const DEFAULT_MAX_TOKENS: u64 = 1_000;
        let bytes: usize =
            self.messages.iter().filter_map(|message| message.content.as_str()).map(str::len).sum();
        (bytes as u64).div_ceil(4).saturating_add(self.max_tokens.unwrap_or(DEFAULT_MAX_TOKENS))
    }
}

/// The demand of a request for a chat completion: its model is the bucket.
///
/// # Errors
/// When it is none.
pub fn demand(request: &mut reqwest::Request) -> Result<Demand, ExtractError> {
    let body = request.body().and_then(reqwest::Body::as_bytes).ok_or("the request has no body")?;
    let asked = Asked::read(body)?;
    let tokens = asked.tokens();
    Ok(Demand::new(asked.model, usage! { requests: 1, tokens: tokens }))
}

/// Settles calls on the usage that their answers tell, whole or as a stream of events.
pub type Inspect = ByStatus<BodyInspector<fn(&Parts) -> Follow>>;

/// Settles calls on the usage that their answers tell: see [`Follow`].
pub fn inspect() -> Inspect {
    inspect::by_status(inspect::body(Follow::new as fn(&Parts) -> Follow))
}

/// Longer answers, or events, are not looked into.
const MAX_BYTES: usize = 1 << 20;

/// Follows an answer and keeps the usage that it tells.
///
/// The usage comes in an event without choices, and after it nothing that counts: a reader who
/// stops there, at `[DONE]`, has had all. Told earlier, it is a lower bound unless the answer ends.
#[derive(Debug)]
pub struct Follow {
    reading: Reading,
    pending: Vec<u8>,
    used: Option<u64>,
    is_final: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    /// One JSON value.
    Whole,
    /// Lines of events.
    Events,
    /// The rest of an event that is too long.
    PastLine,
    /// Nothing: too long, or compressed.
    Nothing,
}

#[derive(Deserialize)]
struct Told {
    choices: Option<Vec<serde::de::IgnoredAny>>,
    usage: Option<Used>,
}

#[derive(Deserialize)]
struct Used {
    total_tokens: u64,
}

impl Follow {
    /// Follows the answer with this head.
    pub fn new(head: &Parts) -> Self {
        let has = |name, start: &str| {
            value(&head.headers, name).is_some_and(|value| value.starts_with(start))
        };
        let reading = match () {
            () if head.headers.contains_key(CONTENT_ENCODING) => Reading::Nothing,
            () if has(CONTENT_TYPE, "text/event-stream") => Reading::Events,
            () => Reading::Whole,
        };
        Self { reading, pending: Vec::new(), used: None, is_final: false }
    }

    fn collect(&mut self, piece: &[u8], too_long: Reading) {
        if piece.len() > MAX_BYTES - self.pending.len() {
            (self.reading, self.pending) = (too_long, Vec::new());
        } else {
            self.pending.extend_from_slice(piece);
        }
    }

    fn lines(&mut self, mut piece: &[u8]) {
        while let Some(end) = piece.iter().position(|&byte| byte == b'\n') {
            let (line, rest) = piece.split_at(end);
            piece = &rest[1..];
            if self.reading == Reading::Events {
                self.collect(line, Reading::PastLine);
            }
            let line = std::mem::take(&mut self.pending);
            if let Some(event) = line.strip_prefix(b"data:") {
                self.look_into(event);
            }
            self.reading = Reading::Events;
        }
        if self.reading == Reading::Events {
            self.collect(piece, Reading::PastLine);
        }
    }

    fn look_into(&mut self, json: &[u8]) {
        if let Ok(Told { choices, usage: Some(Used { total_tokens }) }) =
            serde_json::from_slice(json)
        {
            self.used = Some(total_tokens);
            self.is_final = choices.is_some_and(|choices| choices.is_empty());
        }
    }
}

fn value(headers: &HeaderMap, name: http::HeaderName) -> Option<&str> {
    headers.get(name)?.to_str().ok()
}

impl BodyObserver for Follow {
    fn data(&mut self, piece: &[u8]) {
        match self.reading {
            Reading::Whole => self.collect(piece, Reading::Nothing),
            Reading::Events | Reading::PastLine => self.lines(piece),
            Reading::Nothing => {}
        }
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        let complete = end == BodyEnd::Complete;
        if complete && self.reading == Reading::Whole {
            let body = std::mem::take(&mut self.pending);
            self.look_into(&body);
        }
        match self.used {
            Some(tokens) if complete || self.is_final => {
                Settlement::Exact(usage! { tokens: tokens })
            }
            Some(tokens) => Settlement::AtLeast(usage! { tokens: tokens }),
            None => Settlement::Keep,
        }
    }
}

/// A chat completion of a provider that has used this many tokens for it.
pub fn completion(tokens: u64) -> Value {
    let message = json!({ "role": "assistant", "content": "It depends." });
    json!({
        "id": "1", "object": "chat.completion", "created": 0, "model": "gpt-4o",
        "choices": [{ "index": 0, "message": message, "finish_reason": "stop" }],
        "usage": used(tokens),
    })
}

/// One piece of a streamed chat completion.
pub fn piece() -> Value {
    let delta = json!({ "role": "assistant", "content": "It " });
    chunk(json!([{ "index": 0, "delta": delta, "finish_reason": null }]), Value::Null)
}

/// The last piece of a streamed chat completion, which tells its usage.
pub fn last_piece(tokens: u64) -> Value {
    chunk(json!([]), used(tokens))
}

fn chunk(choices: Value, usage: Value) -> Value {
    let object = "chat.completion.chunk";
    json!({ "id": "1", "object": object, "created": 0, "model": "gpt-4o", "choices": choices, "usage": usage })
}

fn used(tokens: u64) -> Value {
    json!({ "prompt_tokens": tokens.div_ceil(2), "completion_tokens": tokens / 2, "total_tokens": tokens })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn follow(content_type: &str, encoding: Option<&str>) -> Follow {
        let mut response = http::Response::builder().header(CONTENT_TYPE, content_type);
        if let Some(encoding) = encoding {
            response = response.header(CONTENT_ENCODING, encoding);
        }
        Follow::new(&response.body(()).expect("a response").into_parts().0)
    }

    fn exact(tokens: u64) -> Settlement {
        Settlement::Exact(usage! { tokens: tokens })
    }

    #[test]
    fn an_answer_in_one_piece_tells_its_usage_at_its_end() {
        for end in [BodyEnd::Complete, BodyEnd::Failed, BodyEnd::Dropped] {
            let mut follow = follow("application/json", None);
            follow.data(completion(12).to_string().as_bytes());
            let expected = if end == BodyEnd::Complete { exact(12) } else { Settlement::Keep };
            assert_eq!(follow.end(end), expected);
        }
    }

    #[test]
    fn events_may_be_cut_anywhere_and_the_last_one_is_enough() {
        let text = format!(
            ": ping\r\n\r\ndata: {}\r\n\r\ndata:{}\n\ndata: [DONE]\n\n",
            piece(),
            last_piece(12)
        );
        for length in 1..text.len() {
            let mut follow = follow("text/event-stream; charset=utf-8", None);
            text.as_bytes().chunks(length).for_each(|piece| follow.data(piece));
            assert_eq!(follow.end(BodyEnd::Dropped), exact(12));
        }
    }

    #[test]
    fn usage_that_is_not_the_last_is_a_lower_bound() {
        let mut chunk = piece();
        chunk["usage"] = used(3);
        for (end, expected) in [
            (BodyEnd::Dropped, Settlement::AtLeast(usage! { tokens: 3 })),
            (BodyEnd::Complete, exact(3)),
        ] {
            let mut follow = follow("text/event-stream", None);
            follow.data(format!("data: {chunk}\n").as_bytes());
            assert_eq!(follow.end(end), expected);
        }
    }

    #[test]
    fn what_cannot_be_read_is_kept() {
        let long = vec![b'x'; MAX_BYTES + 1];
        let mut compressed = follow("application/json", Some("gzip"));
        compressed.data(completion(12).to_string().as_bytes());
        assert_eq!(compressed.end(BodyEnd::Complete), Settlement::Keep);

        let mut endless = follow("application/json", None);
        endless.data(&long);
        endless.data(completion(12).to_string().as_bytes());
        assert_eq!(endless.end(BodyEnd::Complete), Settlement::Keep);

        // An event that is too long passes; those after it are read.
        let mut events = follow("text/event-stream", None);
        events.data(b"data: ");
        events.data(&long);
        events.data(&long);
        assert!(events.pending.is_empty());
        events.data(format!("\ndata: {}\n", last_piece(12)).as_bytes());
        assert_eq!(events.end(BodyEnd::Complete), exact(12));
    }

    #[test]
    fn a_request_may_use_its_prompt_and_its_answer() {
        let body =
            json!({ "model": "m", "messages": [{ "content": "12345" }, {}], "max_tokens": 10 });
        let asked = Asked::read(body.to_string().as_bytes()).expect("JSON");
        assert_eq!((asked.model.as_str(), asked.tokens()), ("m", 12));
        assert!(Asked::read(b"").is_err());
    }
}
