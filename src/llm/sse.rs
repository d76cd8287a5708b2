//! Server-sent events, read while they pass.
//!
//! The data of an event is handed on in the pieces in which it comes, and nothing of it is kept. An
//! event may be of any length and cut anywhere: between lines, in `\r\n` or within a character.
//! What events say is not known here.

use memchr::memchr2;

/// Length of the longest field name that means something, and of the longest data that is compared
/// as a whole.
const SHORT: usize = 8;

/// Takes the data of events.
pub(crate) trait Sink {
    /// Takes a piece of an event's data. Lines of data come with a line feed between them.
    fn data(&mut self, piece: &[u8]);

    /// Takes all of an event's data, where it is one line and at hand.
    fn whole(&mut self, data: &[u8]) {
        self.data(data);
    }

    /// Takes note of the end of an event.
    fn end(&mut self, event: SseEvent);
}

/// What is known of an event at its end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct SseEvent {
    /// It is named `error`.
    pub(crate) is_error: bool,
    /// Its data is `[DONE]`.
    pub(crate) is_done: bool,
}

/// A reader of server-sent events, in constant memory.
#[derive(Debug, Default)]
pub(crate) struct Sse {
    at: LinePart,
    name: Short,
    /// Of the event's name.
    event: Short,
    /// The beginning of the event's data.
    head: Short,
    has_data: bool,
    /// The last byte was a carriage return, so that a line feed belongs to it.
    after_return: bool,
}

/// Where in a line the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum LinePart {
    #[default]
    Name,
    /// After the colon, where one space is no content.
    Colon(Field),
    Value(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Data,
    Event,
    Other,
}

/// The first bytes of something, and whether there were more.
#[derive(Clone, Copy, Debug, Default)]
struct Short {
    bytes: [u8; SHORT],
    length: usize,
}

impl Short {
    fn push(&mut self, piece: &[u8]) {
        let free = &mut self.bytes[self.length.min(SHORT)..];
        let fits = piece.len().min(free.len());
        free[..fits].copy_from_slice(&piece[..fits]);
        self.length = self.length.saturating_add(piece.len());
    }

    fn is(&self, text: &[u8]) -> bool {
        self.length == text.len() && self.bytes.starts_with(text)
    }
}

/// A stream may begin with this mark.
const BYTE_ORDER_MARK: &str = "\u{feff}";

impl Sse {
    pub(crate) fn feed(&mut self, mut bytes: &[u8], sink: &mut impl Sink) {
        while let Some(&first) = bytes.first() {
            if std::mem::take(&mut self.after_return) && first == b'\n' {
                bytes = &bytes[1..];
                continue;
            }
            let used = match self.at {
                LinePart::Name => match self.whole_event(bytes, sink) {
                    Some(used) => used,
                    None => self.name(bytes, sink),
                },
                LinePart::Colon(field) => {
                    self.at = LinePart::Value(field);
                    usize::from(first == b' ')
                }
                LinePart::Value(field) => self.value(field, bytes, sink),
            };
            bytes = &bytes[used..];
        }
    }

    /// Ends the stream, and with it an event that no empty line has ended.
    pub(crate) fn finish(&mut self, sink: &mut impl Sink) {
        self.dispatch(sink);
    }

    /// Reads an event whose data is one line that has come at once, as most have, and returns how
    /// many bytes that took.
    fn whole_event(&mut self, bytes: &[u8], sink: &mut impl Sink) -> Option<usize> {
        if self.has_data || self.name.length > 0 {
            return None;
        }
        let value = bytes.strip_prefix(b"data:")?;
        let value = value.strip_prefix(b" ").unwrap_or(value);
        let length = memchr2(b'\n', b'\r', value)?;
        let (data, rest) = value.split_at(length);
        let after = after_event(rest)?;
        if !data.is_empty() {
            sink.whole(data);
        }
        let event = std::mem::take(&mut self.event);
        sink.end(SseEvent { is_error: event.is(b"error"), is_done: data == b"[DONE]" });
        Some(bytes.len() - after.len())
    }

    fn name(&mut self, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let end = bytes.iter().position(|byte| matches!(byte, b':' | b'\n' | b'\r'));
        self.name.push(&bytes[..end.unwrap_or(bytes.len())]);
        let Some(end) = end else { return bytes.len() };
        if bytes[end] == b':' {
            let name = std::mem::take(&mut self.name);
            let field = self.begin(name, sink);
            self.at = LinePart::Colon(field);
            return end + 1;
        }
        let name = std::mem::take(&mut self.name);
        if name.length == 0 {
            self.dispatch(sink);
        } else {
            self.begin(name, sink);
        }
        self.end_line(bytes[end]);
        end + 1
    }

    fn begin(&mut self, mut name: Short, sink: &mut impl Sink) -> Field {
        if name.bytes.starts_with(BYTE_ORDER_MARK.as_bytes()) && name.length <= SHORT {
            name.bytes.rotate_left(BYTE_ORDER_MARK.len());
            name.length -= BYTE_ORDER_MARK.len();
        }
        if name.is(b"data") {
            if std::mem::replace(&mut self.has_data, true) {
                self.head.push(b"\n");
                sink.data(b"\n");
            }
            Field::Data
        } else if name.is(b"event") {
            self.event = Short::default();
            Field::Event
        } else {
            Field::Other
        }
    }

    fn value(&mut self, field: Field, bytes: &[u8], sink: &mut impl Sink) -> usize {
        let end = memchr2(b'\n', b'\r', bytes);
        let piece = &bytes[..end.unwrap_or(bytes.len())];
        match field {
            Field::Data if !piece.is_empty() => {
                self.head.push(piece);
                sink.data(piece);
            }
            Field::Event => self.event.push(piece),
            _ => {}
        }
        let Some(end) = end else { return bytes.len() };
        self.end_line(bytes[end]);
        end + 1
    }

    fn end_line(&mut self, by: u8) {
        self.at = LinePart::Name;
        self.after_return = by == b'\r';
    }

    fn dispatch(&mut self, sink: &mut impl Sink) {
        let event = std::mem::take(&mut self.event);
        let head = std::mem::take(&mut self.head);
        if std::mem::take(&mut self.has_data) {
            sink.end(SseEvent { is_error: event.is(b"error"), is_done: head.is(b"[DONE]") });
        }
    }
}

/// What follows an event whose line of data ends here; `None` if the event may go on.
fn after_event(rest: &[u8]) -> Option<&[u8]> {
    rest.strip_prefix(b"\n\n").or_else(|| rest.strip_prefix(b"\r\n\r\n"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, Default, PartialEq)]
    struct Recorded {
        open: Vec<u8>,
        ended: Vec<(String, SseEvent)>,
    }

    impl Sink for Recorded {
        fn data(&mut self, piece: &[u8]) {
            assert!(!piece.is_empty());
            self.open.extend_from_slice(piece);
        }

        fn end(&mut self, event: SseEvent) {
            let data = String::from_utf8_lossy(&std::mem::take(&mut self.open)).into_owned();
            self.ended.push((data, event));
        }
    }

    fn events<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Vec<(String, SseEvent)> {
        let (mut sse, mut events) = (Sse::default(), Recorded::default());
        pieces.into_iter().for_each(|piece| sse.feed(piece, &mut events));
        sse.finish(&mut events);
        events.ended
    }

    fn data(text: &str) -> Vec<String> {
        events([text.as_bytes()]).into_iter().map(|(data, _)| data).collect()
    }

    #[test]
    fn lines_end_in_each_of_three_ways() {
        for end in ["\n", "\r\n", "\r"] {
            let text = "data: one|data:two||: a comment|data: three||".replace('|', end);
            assert_eq!(data(&text), ["one\ntwo", "three"], "{end:?}");
        }
    }

    #[test]
    fn what_means_nothing_is_passed_over() {
        assert_eq!(data(": keep-alive\n\nid: 7\nretry: 5\ndatabase: no\n\ndata:  x\n\n"), [" x"]);
        assert_eq!(data("\u{feff}data: x\n\n"), ["x"], "a byte order mark");
        assert_eq!(data("data\n\ndata:\ndata:\n\n"), ["", "\n"], "no content is content");
        assert_eq!(data("data: the end was cut"), ["the end was cut"]);
        assert_eq!(data("\n\n\r\n: x"), [""; 0]);
    }

    #[test]
    fn the_end_and_errors_are_told() {
        let told = events([
            &b"event: error\ndata: {}\n\ndata: [DONE]\n\n"[..],
            b"data: [DONE]!\n\nevent: errors\ndata: 1\n\n",
        ]);
        let told: Vec<_> =
            told.into_iter().map(|(_, event)| (event.is_error, event.is_done)).collect();
        assert_eq!(told, [(true, false), (false, true), (false, false), (false, false)]);
    }

    proptest! {
        #[test]
        fn any_split_reads_alike(
            text in proptest::collection::vec(
                prop_oneof![
                    Just("data"), Just(":"), Just(" "), Just("\n"), Just("\r"), Just("\r\n"),
                    Just("event"),
                    Just("[DONE]"), Just("error"), Just("日本語"), Just("x"), Just("\u{feff}"),
                ],
                0..60,
            ),
            cuts in proptest::collection::vec(0usize..300, 0..20),
        ) {
            let text = text.concat();
            let whole = events([text.as_bytes()]);
            prop_assert_eq!(&events(text.as_bytes().chunks(1)), &whole);
            let cuts = cuts.into_iter().map(|cut| cut.min(text.len()));
            let mut cuts: Vec<_> = cuts.chain([0, text.len()]).collect();
            cuts.sort_unstable();
            let pieces = cuts.windows(2).map(|cut| &text.as_bytes()[cut[0]..cut[1]]);
            prop_assert_eq!(&events(pieces), &whole);
        }

        #[test]
        fn no_bytes_are_too_odd(
            bytes in proptest::collection::vec(any::<u8>(), 0..500),
            size in 1usize..20,
        ) {
            prop_assert_eq!(events(bytes.chunks(size)), events([&bytes[..]]));
        }
    }
}
