//! Frames of `application/vnd.amazon.eventstream`, read while they pass.
//!
//! A frame is kept until it is whole, up to a bound; a longer one is passed over. After a frame
//! that cannot be right, such as one with a wrong checksum, nothing more is read. What events say
//! is not known here.

use aws_smithy_eventstream::frame::read_message_from;
use aws_smithy_types::event_stream::Message;
use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;

/// Takes the JSON of events.
pub(super) trait EventSink {
    /// Takes an event's JSON.
    fn event(&mut self, json: &[u8]);

    /// Takes an exception: its name and its JSON.
    fn exception(&mut self, name: &str, json: &[u8]);
}

/// A longer frame is not kept.
const LONGEST: usize = 256 * 1024;
/// Bytes of a frame without headers and payload.
const LEAST: usize = 16;
/// Bytes that tell the length of a frame.
const LENGTH: usize = 4;

/// A reader of frames, in bounded memory.
#[derive(Debug, Default)]
pub(super) struct AmazonEvents {
    /// The beginning of a frame.
    frame: Vec<u8>,
    /// Bytes of a frame that is passed over which have yet to come.
    passing: usize,
    is_broken: bool,
}

impl AmazonEvents {
    pub(super) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl EventSink) {
        while !bytes.is_empty() && !self.is_broken {
            let used = if self.passing > 0 { self.pass(bytes) } else { self.keep(bytes, sink) };
            bytes = &bytes[used..];
        }
    }

    fn pass(&mut self, bytes: &[u8]) -> usize {
        let passed = bytes.len().min(self.passing);
        self.passing -= passed;
        passed
    }

    fn keep(&mut self, bytes: &[u8], sink: &mut impl EventSink) -> usize {
        let Some(length) = self.length() else {
            let used = bytes.len().min(LENGTH - self.frame.len());
            self.frame.extend_from_slice(&bytes[..used]);
            return used;
        };
        if length < LEAST {
            self.is_broken = true;
            return bytes.len();
        }
        if length > LONGEST {
            self.passing = length - self.frame.len();
            self.frame.clear();
            return 0;
        }
        let used = bytes.len().min(length - self.frame.len());
        self.frame.extend_from_slice(&bytes[..used]);
        if self.frame.len() == length {
            let message = read_message_from(&mut self.frame.as_slice());
            self.frame.clear();
            match message {
                Ok(message) => hand_on(&message, sink),
                Err(_) => self.is_broken = true,
            }
        }
        used
    }

    fn length(&self) -> Option<usize> {
        let bytes = self.frame.get(..LENGTH)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(bytes)).ok()
    }
}

/// A chunk of an InvokeModel stream: JSON as base64.
#[derive(Deserialize)]
struct Chunk {
    bytes: String,
}

fn hand_on(message: &Message, sink: &mut impl EventSink) {
    let header = |name: &str| {
        let header = message.headers().iter().find(|header| header.name().as_str() == name)?;
        header.value().as_string().ok().map(|value| value.as_str())
    };
    let payload = message.payload();
    let exception = header(":exception-type").or_else(|| header(":error-code"));
    if let Some(exception) = exception {
        sink.exception(exception, payload);
        return;
    }
    let chunk: Option<Chunk> = if header(":event-type") == Some("chunk") {
        serde_json::from_slice(payload).ok()
    } else {
        None
    };
    match chunk.and_then(|chunk| STANDARD.decode(chunk.bytes).ok()) {
        Some(json) => sink.event(&json),
        None => sink.event(payload),
    }
}

#[cfg(test)]
mod tests {
    use aws_smithy_eventstream::frame::write_message_to;
    use aws_smithy_types::event_stream::{Header, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Handed(Vec<(Option<String>, String)>);

    impl EventSink for Handed {
        fn event(&mut self, json: &[u8]) {
            self.0.push((None, String::from_utf8_lossy(json).into_owned()));
        }

        fn exception(&mut self, name: &str, json: &[u8]) {
            self.0.push((Some(name.to_owned()), String::from_utf8_lossy(json).into_owned()));
        }
    }

    fn frame(headers: &[(&'static str, &'static str)], payload: &str) -> Vec<u8> {
        let headers = headers
            .iter()
            .map(|(name, value)| Header::new(*name, HeaderValue::String((*value).into())));
        let message = Message::new_from_parts(headers.collect(), payload.as_bytes().to_vec());
        let mut frame = Vec::new();
        write_message_to(&message, &mut frame).unwrap();
        frame
    }

    fn read(bytes: &[u8], size: usize) -> Handed {
        let (mut events, mut recorded) = (AmazonEvents::default(), Handed::default());
        for piece in bytes.chunks(size) {
            events.feed(piece, &mut recorded);
            assert!(events.frame.capacity() <= 2 * LONGEST);
        }
        recorded
    }

    #[test]
    fn frames_are_read_in_any_split() {
        let stream = [
            frame(&[(":event-type", "metadata"), (":message-type", "event")], r#"{"usage":{}}"#),
            frame(&[(":event-type", "chunk")], r#"{"bytes":"eyJhIjoxfQ==","p":"abc"}"#),
            frame(&[(":event-type", "other")], &"x".repeat(LONGEST)),
            frame(
                &[(":message-type", "exception"), (":exception-type", "throttlingException")],
                "{}",
            ),
        ]
        .concat();
        let expected = [
            (None, r#"{"usage":{}}"#.to_owned()),
            (None, r#"{"a":1}"#.to_owned()),
            (Some("throttlingException".to_owned()), "{}".to_owned()),
        ];
        for size in [1, 7, 1_000, stream.len()] {
            assert_eq!(read(&stream, size).0, expected, "in pieces of {size}");
        }
    }

    #[test]
    fn nothing_is_read_after_a_wrong_checksum() {
        let good = frame(&[(":event-type", "a")], "{}");
        let mut bad = good.clone();
        bad[good.len() - 6] ^= 1;
        let stream = [good.clone(), bad, good].concat();
        assert_eq!(read(&stream, 5).0.len(), 1);
    }

    proptest! {
        #[test]
        fn any_bytes_in_any_split_read_alike(
            bytes in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0usize..200,
            size in 1usize..40,
        ) {
            let mut stream = [frame(&[(":event-type", "a")], r#"{"usage":{}}"#), bytes].concat();
            prop_assert_eq!(read(&stream, size), read(&stream, stream.len()));
            let at = at % stream.len();
            stream[at] ^= 0x55;
            prop_assert_eq!(read(&stream, size), read(&stream, stream.len()));
        }
    }
}
