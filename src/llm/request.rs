//! What a request asks for, read from its JSON without a tree of it.

use std::{borrow::Cow, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{self, DeserializeSeed, IgnoredAny, MapAccess, SeqAccess, Visitor},
};

use super::{
    counts::Amount,
    estimate::Estimator,
    image::{Blob, Images, base64, data_url},
};

/// Tokens that a message takes beside its content, and a name of its author.
const PER_MESSAGE: f64 = 3.0;
const PER_NAME: f64 = 1.0;
/// Tokens that begin the answer to messages.
const PER_REPLY: f64 = 3.0;
/// Tokens that a member of a schema takes beside its name and its content.
const PER_MEMBER: f64 = 1.0;
/// No model has a longer name.
const LONGEST_MODEL: usize = 256;

/// Why a request's demand cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadRequest {
    /// Its body cannot be looked into without consuming it.
    Unreadable,
    /// Its body is no JSON object.
    NotJson,
    /// It names no model.
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
pub(crate) struct Asked {
    pub(crate) model: String,
    /// Tokens, estimated.
    pub(crate) input: u64,
    /// The most tokens of one answer, if it says so.
    pub(crate) bound: Option<u64>,
    /// Answers asked for.
    pub(crate) choices: u64,
    /// It asks for an answer in tokens, and not for embeddings.
    pub(crate) generates: bool,
    /// Texts to embed.
    pub(crate) inputs: u64,
}

impl Asked {
    pub(crate) fn read(
        body: &[u8],
        estimator: &dyn Estimator,
        images: Images,
    ) -> Result<Self, BadRequest> {
        let mut json = serde_json::Deserializer::from_slice(body);
        let mut tokens = 0.0;
        let counter = Counter { estimator, images, tokens: &mut tokens, place: Place::Content };
        let mut asked = json.deserialize_map(Request(counter)).map_err(|_| BadRequest::NotJson)?;
        json.end().map_err(|_| BadRequest::NotJson)?;
        // The cast saturates, and makes 0 of what is no number.
        asked.input = tokens.ceil() as u64;
        asked.choices = asked.choices.max(1);
        if asked.model.is_empty() || asked.model.len() > LONGEST_MODEL {
            return Err(BadRequest::NoModel);
        }
        Ok(asked)
    }
}

/// Reads the members of a request.
struct Request<'c>(Counter<'c>);

impl<'de> Visitor<'de> for Request<'_> {
    type Value = Asked;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a request")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Asked, A::Error> {
        let mut asked = Asked::default();
        while let Some(Name(key)) = map.next_key()? {
            match &*key {
                "model" => asked.model = map.next_value::<Option<String>>()?.unwrap_or_default(),
                "max_tokens" | "max_completion_tokens" | "max_output_tokens" => {
                    asked.bound = asked.bound.max(map.next_value::<Amount>()?.0);
                }
                "n" | "best_of" => {
                    asked.choices = asked.choices.max(map.next_value::<Amount>()?.0.unwrap_or(1));
                }
                "messages" => {
                    asked.generates = true;
                    *self.0.tokens += PER_REPLY;
                    map.next_value_seed(self.0.at(Place::Content))?;
                }
                "prompt" | "message" | "chat_history" => {
                    asked.generates = true;
                    map.next_value_seed(self.0.at(Place::Content))?;
                }
                "input" | "inputs" | "texts" | "images" => {
                    asked.inputs = asked.inputs.max(map.next_value_seed(self.0.at(Place::Input))?);
                }
                "system" | "instructions" | "preamble" | "documents" | "mcp_servers" => {
                    map.next_value_seed(self.0.at(Place::Content))?;
                }
                "tools" | "functions" | "response_format" | "text" | "output_config" => {
                    map.next_value_seed(self.0.at(Place::Schema))?;
                }
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(asked)
    }
}

/// A key, borrowed where it can be.
struct Name<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Name<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowed;
        impl<'de> Visitor<'de> for Borrowed {
            type Value = Name<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a key")
            }

            fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Borrowed(key)))
            }

            fn visit_str<E>(self, key: &str) -> Result<Name<'de>, E> {
                Ok(Name(Cow::Owned(key.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowed)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Messages and their parts: names of members are the API's, and no input.
    Content,
    /// What is to be embedded, or to be answered: texts or tokens.
    Input,
    /// Tools, schemas, arguments: names of members count.
    Schema,
    /// What stands for an image, an audio or a document.
    Source,
}

/// Adds up the tokens of a value. Answers how many values an array holds (an array of tokens being one), else 1.
struct Counter<'c> {
    estimator: &'c dyn Estimator,
    images: Images,
    tokens: &'c mut f64,
    place: Place,
}

impl Counter<'_> {
    fn at(&mut self, place: Place) -> Counter<'_> {
        Counter { estimator: self.estimator, images: self.images, tokens: self.tokens, place }
    }

    fn text(&mut self, text: &str) {
        let is_source = self.place == Place::Source && !text.contains(char::is_whitespace);
        let blob = match data_url(text) {
            // By its address, which is not fetched.
            None if is_source && text.contains("://") => Some(Blob::Image(None)),
            None if is_source => Some(base64(text)),
            blob => blob,
        };
        *self.tokens += match blob {
            Some(Blob::Image(size)) => self.images.tokens(size, false) as f64,
            Some(Blob::Other) => 0.0,
            None => self.estimator.tokens(text),
        };
    }
}

impl<'de> DeserializeSeed<'de> for Counter<'_> {
    type Value = u64;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<u64, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counter<'_> {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_str<E>(mut self, text: &str) -> Result<u64, E> {
        self.text(text);
        Ok(1)
    }

    fn visit_u64<E>(self, _: u64) -> Result<u64, E> {
        *self.tokens += 1.0;
        Ok(0)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<u64, E> {
        self.visit_u64(0)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<u64, E> {
        self.visit_u64(0)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<u64, E> {
        self.visit_u64(0)
    }

    fn visit_unit<E>(self) -> Result<u64, E> {
        Ok(0)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut sequence: A) -> Result<u64, A::Error> {
        let (mut values, mut is_empty) = (0_u64, true);
        while let Some(value) = sequence.next_element_seed(self.at(self.place))? {
            values += value.min(1);
            is_empty = false;
        }
        // An array of nothing but tokens is one text.
        Ok(if values == 0 && !is_empty { 1 } else { values })
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<u64, A::Error> {
        let before = *self.tokens;
        let (mut is_message, mut is_named, mut is_image, mut low_detail) =
            (false, false, false, false);
        while let Some(Name(key)) = map.next_key()? {
            if self.place == Place::Schema {
                *self.tokens += self.estimator.tokens(&key) + PER_MEMBER;
                map.next_value_seed(self.at(Place::Schema))?;
                continue;
            }
            match &*key {
                "role" => {
                    is_message = true;
                    map.next_value::<IgnoredAny>()?;
                }
                "detail" => low_detail |= map.next_value_seed(IsLow)?,
                "type" | "id" | "tool_call_id" | "tool_use_id" | "call_id" | "status"
                | "cache_control" | "media_type" | "format" | "signature" | "encrypted_content"
                | "index" => {
                    map.next_value::<IgnoredAny>()?;
                }
                "image_url" | "source" | "input_audio" | "file_data" => {
                    is_image |= key == "image_url";
                    map.next_value_seed(self.at(Place::Source))?;
                }
                // Arguments of a tool, given as an object.
                "input" | "arguments" => {
                    map.next_value_seed(self.at(Place::Schema))?;
                }
                _ => {
                    is_named |= key == "name";
                    map.next_value_seed(self.at(self.place))?;
                }
            }
        }
        if low_detail && (is_image || self.place == Place::Source) {
            *self.tokens = before + self.images.tokens(None, true) as f64;
        }
        if is_message {
            *self.tokens += PER_MESSAGE + if is_named { PER_NAME } else { 0.0 };
        }
        Ok(1)
    }
}

/// Whether a value is `"low"`.
struct IsLow;

impl<'de> DeserializeSeed<'de> for IsLow {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        Ok(Option::<Cow<'de, str>>::deserialize(deserializer)?
            .is_some_and(|detail| detail == "low"))
    }
}

#[cfg(test)]
mod tests;
