use std::slice;

use proptest::prelude::*;

use super::*;
use crate::{
    inspect::{BodyEnd, BodyObserver},
    llm::{Format, anthropic, compatible, openai},
};

const CHAT: &str = r#"data: {"id":"c-1","created":1767225600,"model":"gpt-4o","choices":[{"index":0,"delta":{"content":" waits"},"finish_reason":null}],"usage":null,"obfuscation":"x7"}"#;
const RESPONSES: &str = "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\
    \"sequence_number\":9,\"item_id\":\"msg_1\",\"delta\":\"In\",\"logprobs\":[],\"obfuscation\":\"aB\"}";
const MESSAGES: &str = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
    \"delta\":{\"type\":\"text_delta\",\"text\":\" waits\"}}";
const COHERE: &str = "event: content-delta\ndata: {\"type\":\"content-delta\",\"index\":0,\"delta\":\
    {\"message\":{\"content\":{\"text\":\" waits\"}}}}";
const EVENTS: [&str; 4] = [CHAT, RESPONSES, MESSAGES, COHERE];

/// How much of a stream is passed over at its beginning.
fn passed(alike: &mut Alike, events: &[String]) -> usize {
    let bytes = events.concat();
    let passed = alike.pass_over(bytes.as_bytes(), &anthropic::rules());
    let mut ends = events.iter().scan(0, |end, event| {
        *end += event.len();
        Some(*end)
    });
    if passed == 0 { 0 } else { 1 + ends.position(|end| end == passed).expect("whole events") }
}

fn event(of: &str, old: &str, new: &str) -> String {
    assert!(of.contains(old));
    of.replace(old, new) + "\n\n"
}

#[test]
fn what_differs_in_texts_and_numbers_is_passed_over() {
    for (of, old, new) in [
        (CHAT, " waits", ""),
        (CHAT, " waits", r#" \"usage\":{\"completion_tokens\":5}"#),
        (CHAT, " waits", r"日本語\\\n\u00e9"),
        (CHAT, " waits", "usage"),
        (CHAT, "x7", "x7Fq90aab"),
        (CHAT, "1767225600", "1767225601"),
        (RESPONSES, "9", "10"),
        (RESPONSES, "In", "error"),
        (MESSAGES, ":0", ":12"),
        (MESSAGES, "waits", "message_stop"),
        (COHERE, " waits", "."),
    ] {
        let events =
            [event(of, "", ""), event(of, old, new), event(of, "", ""), event(of, old, new)];
        assert_eq!(passed(&mut Alike::default(), &events), 4, "{new}");
    }
    let crlf = CHAT.to_owned() + "\r\n\r\n";
    assert_eq!(passed(&mut Alike::default(), &[crlf.clone(), crlf.replace("waits", "w")]), 2);
}

#[test]
fn what_differs_elsewhere_is_read() {
    for (of, old, new) in [
        (CHAT, "x7", r#"","usage":{"completion_tokens":5},"x":""#),
        (CHAT, "x7", r#"\\","usage":{"completion_tokens":5},"x":""#),
        (CHAT, r#""finish_reason":null"#, r#""finish_reason":"stop""#),
        (CHAT, r#""usage":null"#, r#""usage":{"completion_tokens":5}"#),
        (CHAT, r#""id":"c-1""#, r#""error":"c""#),
        (CHAT, "1767225600", r#"1,"error":1"#),
        (RESPONSES, r#""response.output_text.delta""#, r#""response.completed""#),
        (RESPONSES, "event: response.output_text.delta", "event: error"),
        (MESSAGES, r#""type":"content_block_delta""#, r#""type":"message_stop""#),
        (MESSAGES, r#""type":"content_block_delta""#, r#""type":"error""#),
    ] {
        let events = [event(of, "", ""), event(of, "", ""), event(of, old, new)];
        assert_eq!(passed(&mut Alike::default(), &events), 2, "{new}");
    }
    for other in
        ["data: [DONE]\n\n", ": waits\n\n", "data: {}\ndata: {}\n\n", "\n\n", "data: {\"x\":1}"]
    {
        assert_eq!(
            passed(&mut Alike::default(), &[event(CHAT, "", ""), other.into()]),
            1,
            "{other}"
        );
    }
}

#[test]
fn a_text_ends_with_its_line() {
    let mut alike = Alike::default();
    assert_eq!(passed(&mut alike, &[event(CHAT, "", "")]), 1);
    let mut pattern = alike.pattern.expect("it was learned");
    assert_eq!(pattern.after(event(CHAT, "waits", "longs").as_bytes()), Some(&b""[..]));
    for odd in [
        "\\\\\\",
        "a\n\ndata: {\"error\":{}}",
        "a\\\ndata: ",
        "a\rdata: ",
        "\"",
        "a\\\r\"",
        "a\n\"",
    ] {
        assert_eq!(pattern.after(event(CHAT, "waits", odd).as_bytes()), None, "{odd:?}");
    }
    for odd in ["", "x", "-1", "1.5", "1 ", "1\n"] {
        assert_eq!(pattern.after(event(CHAT, "1767225600", odd).as_bytes()), None, "{odd:?}");
    }
    let cut = event(CHAT, "", "");
    assert!((0..cut.len()).all(|end| pattern.after(&cut.as_bytes()[..end]).is_none()));
}

/// Passes over all of a stream in pieces, as long as it can.
fn passed_in_pieces(stream: &[u8], size: usize) -> usize {
    let mut alike = Alike::default();
    let known = [event(CHAT, "", ""), event(CHAT, " waits", "x")].concat();
    assert_eq!(alike.pass_over(known.as_bytes(), &anthropic::rules()), known.len());
    let mut passed = 0;
    for piece in stream.chunks(size) {
        let Some(rest) = alike.resume(piece) else { return passed };
        assert!(alike.begun.len() < LONGEST, "little is kept");
        let rest_passed = alike.pass_over(rest, &anthropic::rules());
        passed += piece.len() - rest.len() + rest_passed;
        if rest_passed < rest.len() {
            return passed;
        }
    }
    passed
}

#[test]
fn what_is_cut_is_passed_over_in_pieces() {
    let texts = ["", " a", r"\n\\", r#" \"quoted\""#, "usage", "日本語"];
    let events = texts.map(|text| event(CHAT, " waits", text)).concat();
    for size in 1..events.len() {
        assert_eq!(passed_in_pieces(events.as_bytes(), size), events.len(), "{size}");
    }
    for (old, like, unlike) in [
        (r#""usage":null"#, r#""usage":"#, r#"{"completion_tokens":5}"#),
        (r#""finish_reason":null"#, r#""finish_reason":"#, r#""stop""#),
        (r#""id":"c-1""#, "\"", r#"error":"c""#),
        (r#" waits"}"#, r#" w"}"#, "\n"),
        (r#" waits"}"#, " w", "\n"),
    ] {
        let told = event(CHAT, old, &[like, unlike].concat());
        let differs = CHAT.find(old).expect("it is there") + like.len();
        for size in 1..told.len() {
            assert!(passed_in_pieces(told.as_bytes(), size) <= differs, "{like}{unlike} {size}");
        }
    }
    let long = event(CHAT, " waits", &"x".repeat(70 * LONGEST));
    for size in [1, 10, 1_000, 1_500, 60_000] {
        assert!(passed_in_pieces(long.as_bytes(), size) < 2 * LONGEST, "{size}");
    }
}

#[test]
fn long_events_are_not_kept() {
    let long = event(CHAT, " waits", &"x".repeat(LONGEST));
    assert_eq!(passed(&mut Alike::default(), slice::from_ref(&long)), 0);
    assert_eq!(passed(&mut Alike::default(), &[event(CHAT, "", ""), long]), 2, "yet compared");
    let many = format!("data: [{}0]\n\n", "1,".repeat(MOST_GAPS));
    assert_eq!(passed(&mut Alike::default(), &[many]), 0);
}

#[test]
fn events_that_are_all_different_are_learned_now_and_then() {
    let mut alike = Alike::default();
    let mut learned = 0;
    for kind in 0..1_000 {
        // A key of its own.
        learned += passed(&mut alike, &[event(CHAT, r#""id""#, &format!(r#""id{kind}""#))]);
    }
    assert!((60..80).contains(&learned), "{learned}");
    let same: Vec<_> = (0..100).map(|_| event(MESSAGES, "", "")).collect();
    let passed: usize = same.iter().map(|event| passed(&mut alike, slice::from_ref(event))).sum();
    assert!(passed >= 80, "and what is alike is found out soon: {passed}");
}

/// Reads all there is to read.
struct Plain<'r> {
    scanner: Scanner,
    seen: Seen,
    rules: &'r Rules,
}

impl Sink for Plain<'_> {
    fn data(&mut self, piece: &[u8]) {
        self.scanner.feed(piece, &mut Telling { seen: &mut self.seen, rules: self.rules });
    }

    fn end(&mut self, event: Event) {
        self.scanner.reset();
        self.seen.end_event(event);
    }
}

/// Bytes that break texts, lines and numbers.
const ODD: &[&str] = &[
    "\"",
    "\\",
    "\\\"",
    "\n",
    "\r",
    "\n\n",
    "\r\n\r\n",
    "data: ",
    "event: error\n",
    "7",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    " ",
    "null",
    "usage",
    "\"usage\":",
    "{\"output_tokens\":5}",
    "\",\"usage\":{\"output_tokens\":5},\"x\":\"",
    "\"error\":",
    "\"type\":\"message_stop\",",
    "\",\"type\":\"error\",\"x\":\"",
    "\"finish_reason\":\"length\",",
    "[DONE]",
    "é",
    "\u{feff}",
];

/// One event after the other, with odd bytes put in place of others.
fn stream() -> impl Strategy<Value = Vec<u8>> {
    let edit = (any::<prop::sample::Index>(), 0usize..12, proptest::sample::select(ODD));
    let event = (0..EVENTS.len(), proptest::collection::vec(edit, 0..3), 0usize..3);
    let spoilt = event.prop_map(|(of, edits, times)| {
        let mut bytes = (EVENTS[of].to_owned() + "\n\n").into_bytes();
        let plain = bytes.repeat(times);
        for (place, removed, odd) in edits {
            let at = place.index(bytes.len());
            bytes.splice(at..bytes.len().min(at + removed), odd.bytes());
        }
        [plain, bytes].concat()
    });
    proptest::collection::vec(spoilt, 1..8).prop_map(|events| events.concat())
}

/// Of the pieces that a stream comes in.
fn sizes() -> impl Strategy<Value = Vec<usize>> {
    proptest::collection::vec(prop_oneof![1..4usize, 1..300usize, 1..2_000usize], 1..6)
}

proptest! {
    #[test]
    fn what_is_passed_over_tells_nothing(stream in stream(), sizes in sizes(), rules in 0..3usize) {
        let rules = [openai::rules, anthropic::rules, compatible::rules][rules]();
        let (mut reader, mut sse) = (rules.reader(Format::Events), Sse::default());
        let mut plain = Plain { scanner: Scanner::new(PATHS), seen: Seen::default(), rules: &rules };
        let mut rest = &stream[..];
        for size in sizes.into_iter().cycle() {
            if rest.is_empty() {
                break;
            }
            let (piece, after) = rest.split_at(size.min(rest.len()));
            rest = after;
            reader.data(piece);
            sse.feed(piece, &mut plain);
            prop_assert_eq!(reader.seen(), &plain.seen, "{}", String::from_utf8_lossy(&stream));
        }
        reader.end(BodyEnd::Complete);
        sse.finish(&mut plain);
        prop_assert_eq!(reader.seen(), &plain.seen, "{}", String::from_utf8_lossy(&stream));
    }

    #[test]
    fn whatever_fills_a_gap(
        of in 0..EVENTS.len(),
        place in any::<prop::sample::Index>(),
        odd in proptest::collection::vec(proptest::sample::select(ODD), 0..5),
    ) {
        let rules = anthropic::rules();
        let event = EVENTS[of].to_owned() + "\n\n";
        let gaps = idle_gaps(event.as_bytes(), &rules).expect("it tells nothing");
        let gap = gaps[place.index(gaps.len())];
        let spoilt = [&event[..gap.start], &odd.concat(), &event[gap.end..]].concat();
        let mut alike = Alike::default();
        alike.pass_over(event.as_bytes(), &rules);
        let passed = alike.pass_over(spoilt.as_bytes(), &rules);
        let mut plain = Plain { scanner: Scanner::new(PATHS), seen: Seen::default(), rules: &rules };
        let mut sse = Sse::default();
        sse.feed(&spoilt.as_bytes()[..passed], &mut plain);
        prop_assert_eq!(plain.seen, Seen::default(), "{}", spoilt);
        prop_assert!(sse.is_between_events());
    }
}
