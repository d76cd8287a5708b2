//! How a response's body is written: what its headers say, and what its first byte shows.

use http::{
    HeaderMap,
    header::{CONTENT_ENCODING, CONTENT_TYPE},
};

/// How a body is written.
///
/// Providers send streams as `application/json` and errors as `text/event-stream`, so
/// [`Reader`](super::UsageReader) takes this for a hint and looks at the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// JSON texts.
    Json,
    /// Server-sent events with JSON in them.
    Events,
    /// Frames of `application/vnd.amazon.eventstream` with JSON in them, read with feature
    /// `bedrock`.
    AmazonEvents,
    /// A format that cannot be read, such as compressed bytes.
    Unreadable,
}

impl Format {
    /// Returns the format that a response's headers tell.
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
            b"application/vnd.amazon.eventstream" => Self::AmazonEvents,
            other if UNREADABLE.iter().any(|kind| other.starts_with(kind)) => Self::Unreadable,
            _ => Self::Json,
        }
    }

    /// Returns the format that the first byte after blanks shows, which may be another than the
    /// headers tell.
    pub(super) fn shown_by(self, first: u8) -> Self {
        match (self, first) {
            (Self::Json | Self::Events, b'{' | b'[') => Self::Json,
            // The names of fields, and comments. No JSON that tells a usage begins like this.
            (Self::Json, b'd' | b'e' | b'i' | b'r' | b':') => Self::Events,
            (told, _) => told,
        }
    }
}

/// Media types whose bytes are no text.
const UNREADABLE: &[&[u8]] =
    &[b"image/", b"audio/", b"video/", b"font/", b"application/pdf", b"application/zip"];
