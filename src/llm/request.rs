//! What a request asks for, read from its JSON in one pass and without a tree of it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{
    estimate::Estimator,
    media::{Image, Media, base64, data_url, hidden_base64},
    usage_json::amount,
};

/// Tokens that a message takes beside its content, and a name of its author.
const PER_MESSAGE: f64 = 3.0;
const PER_NAME: f64 = 1.0;
/// Tokens that begin the answer to messages.
const PER_REPLY: f64 = 3.0;
/// Tokens that a member of a schema takes beside its name and its content.
const PER_MEMBER: f64 = 1.0;
/// No model has a longer name.
pub(super) const LONGEST_MODEL: usize = 256;

/// Why the demand of a request is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadRequest {
    /// Its body cannot be read without being consumed.
    Unreadable,
    /// Its body is no JSON object.
    NotJson,
    /// Neither its body nor its path names a model.
    NoModel,
}

impl fmt::Display for BadRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unreadable => "the request's body cannot be read ahead",
            Self::NotJson => "the request's body is no JSON object",
            Self::NoModel => "the request names no model",
        })?;
        f.write_str(": say what such requests ask for with `Rules::unreadable`")
    }
}

impl std::error::Error for BadRequest {}

/// What a request asks for.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ParsedRequest {
    /// The model that the body names.
    pub(crate) model: Option<String>,
    /// Tokens of its texts, estimated.
    pub(crate) text_tokens: f64,
    /// What it holds beside text.
    pub(crate) media: Vec<Media>,
    /// The most tokens of one answer, if it says so.
    pub(crate) bound: Option<u64>,
    /// How many answers it asks for.
    pub(crate) choices: u64,
    /// It asks for an answer in tokens, and not for embeddings.
    pub(crate) generates: bool,
    /// It offers tools.
    pub(crate) has_tools: bool,
    /// It asks for a format of the answer.
    pub(crate) has_format: bool,
    /// Texts to embed.
    pub(crate) inputs: u64,
}

impl ParsedRequest {
    pub(crate) fn read(body: &[u8], estimator: &dyn Estimator) -> Result<Self, BadRequest> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let mut tally = Tally { estimator, tokens: 0.0, media: Vec::new() };
        let mut parsed =
            json.deserialize_map(RequestVisitor(&mut tally)).map_err(|_| BadRequest::NotJson)?;
        json.end().map_err(|_| BadRequest::NotJson)?;
        (parsed.text_tokens, parsed.media) = (tally.tokens, tally.media);
        parsed.choices = parsed.choices.max(1);
        parsed.model =
            parsed.model.filter(|model| !model.is_empty() && model.len() <= LONGEST_MODEL);
        Ok(parsed)
    }
}

/// What has been counted so far.
struct Tally<'e> {
    estimator: &'e dyn Estimator,
    tokens: f64,
    media: Vec<Media>,
}

impl Tally<'_> {
    fn text(&mut self, text: &str, kind: ContentKind) {
        let is_source = kind == ContentKind::Source && !text.contains(char::is_whitespace);
        let media = match data_url(text) {
            // By its address, which is not fetched.
            None if is_source && text.contains("://") => Some(Media::Image(Image::default())),
            None if is_source => Some(base64(text)),
            None => hidden_base64(text, kind != ContentKind::Other),
            media => media,
        };
        match media {
            Some(media) => self.media.push(media),
            None => self.tokens += self.estimator.tokens(text),
        }
    }
}

/// Reads the members of a request.
struct RequestVisitor<'t, 'e>(&'t mut Tally<'e>);

impl<'de> Visitor<'de> for RequestVisitor<'_, '_> {
    type Value = ParsedRequest;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<ParsedRequest, A::Error> {
        let mut parsed = ParsedRequest::default();
        while let Some(Key(key)) = map.next_key()? {
            self.member(&key, &mut map, &mut parsed)?;
        }
        Ok(parsed)
    }
}

impl RequestVisitor<'_, '_> {
    fn member<'de, A: MapAccess<'de>>(
        &mut self,
        key: &str,
        map: &mut A,
        parsed: &mut ParsedRequest,
    ) -> Result<(), A::Error> {
        if BOUNDS.contains(&key) {
            parsed.bound = parsed.bound.max(whole(map)?);
            return Ok(());
        }
        match key {
            // A model that is no text is no request.
            "model" => parsed.model = map.next_value::<Option<String>>()?,
            "n" | "best_of" => parsed.choices = parsed.choices.max(whole(map)?.unwrap_or(1)),
            "inferenceConfig"
            | "generationConfig"
            | "generation_config"
            | "textGenerationConfig"
            | "options" => {
                CallSettings::of(&map.next_value()?).apply(parsed);
            }
            "messages" => {
                parsed.generates = true;
                self.0.tokens += PER_REPLY;
                self.count(map, ContentKind::Text)?;
            }
            "prompt" | "message" | "chat_history" | "contents" => {
                parsed.generates = true;
                self.count(map, ContentKind::Text)?;
            }
            "input" | "inputs" | "inputText" | "texts" | "images" | "requests" | "content"
            | "instances" => {
                let kind = if key == "images" { ContentKind::Source } else { ContentKind::Input };
                let inputs = self.count(map, kind)?;
                parsed.inputs = parsed.inputs.max(inputs);
            }
            "instructions" | "reasoning" | "previous_response_id" | "store" => {
                parsed.generates = true;
                self.count_if(map, key == "instructions", ContentKind::Text)?;
            }
            "system" | "preamble" | "documents" | "mcp_servers" | "systemInstruction"
            | "system_instruction" => {
                self.count(map, ContentKind::Text)?;
            }
            "tools" | "functions" | "toolConfig" => {
                parsed.generates = true;
                parsed.has_tools |= self.count(map, ContentKind::Schema)? > 0;
            }
            "response_format" | "text" | "output_config" | "format" => {
                parsed.has_format = true;
                self.count(map, ContentKind::Schema)?;
            }
            _ => {
                parsed.generates |= OF_ANSWERS.contains(&key);
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }

    fn count<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        kind: ContentKind,
    ) -> Result<u64, A::Error> {
        map.next_value_seed(Counter { tally: self.0, kind })
    }

    fn count_if<'de, A: MapAccess<'de>>(
        &mut self,
        map: &mut A,
        counts: bool,
        kind: ContentKind,
    ) -> Result<(), A::Error> {
        if counts {
            self.count(map, kind).map(drop)
        } else {
            map.next_value::<IgnoredAny>().map(drop)
        }
    }
}

/// Members that only a request for an answer has.
const OF_ANSWERS: &[&str] = &[
    "stream",
    "temperature",
    "top_p",
    "tool_choice",
    "truncation",
    "include",
    "background",
    "conversation",
];

/// Names of the bound of an answer.
const BOUNDS: &[&str] = &[
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "maxOutputTokens",
    "maxTokens",
    "maxTokenCount",
    "max_tokens_to_sample",
    "max_new_tokens",
    "max_gen_len",
    "num_predict",
];

/// Bounds and choices in an object of their own.
#[derive(Debug, Default)]
struct CallSettings {
    bound: Option<u64>,
    choices: Option<u64>,
}

impl CallSettings {
    fn of(value: &Value) -> Self {
        Self {
            bound: BOUNDS.iter().filter_map(|name| amount(value.get(name)?)).max(),
            choices: ["candidateCount", "candidate_count"]
                .iter()
                .filter_map(|name| amount(value.get(name)?))
                .max(),
        }
    }

    fn apply(&self, parsed: &mut ParsedRequest) {
        parsed.bound = parsed.bound.max(self.bound);
        parsed.choices = parsed.choices.max(self.choices.unwrap_or(1));
    }
}

/// The next value, if it is a whole amount.
fn whole<'de, A: MapAccess<'de>>(map: &mut A) -> Result<Option<u64>, A::Error> {
    Ok(amount(&map.next_value()?))
}

/// A key, borrowed where it can be.
struct Key<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Key<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct KeyVisitor;
        impl<'de> Visitor<'de> for KeyVisitor {
            type Value = Key<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Key<'de>, E> {
                Ok(Key(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(KeyVisitor)
    }
}

/// What a value holds, by the keys that lead to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ContentKind {
    /// Messages and their texts. Names of members are the API's, and no input.
    Text,
    /// A member of a message that is no text by its name.
    Other,
    /// What is to be embedded, or to be answered: texts or tokens.
    Input,
    /// Tools, schemas, arguments. Names of members count.
    Schema,
    /// What stands for an image, an audio or a document.
    Source,
}

/// Members that hold texts of a message.
const TEXTS: &[&str] = &[
    "text",
    "content",
    "parts",
    "thinking",
    "output",
    "refusal",
    "query",
    "documents",
    "toolResult",
    "json",
];
/// Members that say nothing to a model.
const SILENT: &[&str] = &[
    "type",
    "id",
    "tool_call_id",
    "tool_use_id",
    "toolUseId",
    "call_id",
    "status",
    "cache_control",
    "cachePoint",
    "media_type",
    "mimeType",
    "mime_type",
    "format",
    "signature",
    "thoughtSignature",
    "thought_signature",
    "encrypted_content",
    "index",
    "taskType",
    "task_type",
    "model",
    "outputDimensionality",
];
/// Members that hold an image, an audio or a document.
const SOURCES: &[&str] = &[
    "image_url",
    "source",
    "input_audio",
    "audio",
    "video_url",
    "file",
    "file_data",
    "file_url",
    "inlineData",
    "inline_data",
    "fileData",
    "file_data_uri",
    "images",
];

/// Adds up the tokens of a value. Its result is how many values an array holds (an array of tokens
/// being one), or 1.
struct Counter<'t, 'e> {
    tally: &'t mut Tally<'e>,
    kind: ContentKind,
}

impl<'e> Counter<'_, 'e> {
    fn of(&mut self, kind: ContentKind) -> Counter<'_, 'e> {
        Counter { tally: self.tally, kind }
    }

    fn number(self) -> u64 {
        self.tally.tokens += 1.0;
        0
    }

    /// The kind of a member's value.
    fn kind_of(&self, key: &str) -> ContentKind {
        match self.kind {
            ContentKind::Schema | ContentKind::Source => self.kind,
            _ if SOURCES.contains(&key) => ContentKind::Source,
            // Arguments of a tool, given as an object.
            _ if matches!(key, "input" | "arguments" | "args") => ContentKind::Schema,
            _ if TEXTS.contains(&key) => ContentKind::Text,
            _ => ContentKind::Other,
        }
    }
}

impl<'de> DeserializeSeed<'de> for Counter<'_, '_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_, '_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(self, text: &str) -> Result<u64, E> {
        self.tally.text(text, self.kind);
        Ok(1)
    }

    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        Ok(self.number())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<u64, E> {
        Ok(self.number())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<u64, E> {
        Ok(self.number())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<u64, E> {
        Ok(self.number())
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<u64, A::Error> {
        let (mut values, mut is_empty) = (0_u64, true);
        while let Some(value) = sequence.next_element_seed(self.of(self.kind))? {
            values += value.min(1);
            is_empty = false;
        }
        // An array of nothing but tokens is one text.
        Ok(if values == 0 && !is_empty { 1 } else { values })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<u64, A::Error> {
        let (tokens, media) = (self.tally.tokens, self.tally.media.len());
        let (mut is_message, mut is_named, mut low_detail) = (false, false, false);
        while let Some(Key(key)) = map.next_key()? {
            match &*key {
                name if self.kind == ContentKind::Schema => {
                    self.tally.tokens += self.tally.estimator.tokens(name) + PER_MEMBER;
                    map.next_value_seed(self.of(ContentKind::Schema))?;
                }
                "role" => {
                    is_message = true;
                    map.next_value::<IgnoredAny>()?;
                }
                "detail" => low_detail |= map.next_value::<Value>()?.as_str() == Some("low"),
                name if SILENT.contains(&name) => drop(map.next_value::<IgnoredAny>()?),
                name => {
                    is_named |= name == "name";
                    let kind = self.kind_of(name);
                    map.next_value_seed(self.of(kind))?;
                }
            }
        }
        if low_detail && self.tally.media.len() > media {
            self.tally.tokens = tokens;
            self.tally.media.truncate(media);
            self.tally.media.push(Media::Image(Image { size: None, low_detail }));
        }
        if is_message {
            self.tally.tokens += PER_MESSAGE + if is_named { PER_NAME } else { 0.0 };
        }
        Ok(1)
    }
}

#[cfg(test)]
mod tests;
