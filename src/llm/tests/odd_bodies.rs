//! Bodies that make no sense, or too much of it: nothing panics, the pieces in which a body comes
//! make no difference, and no less is charged than what was told.

use http_body_util::BodyExt;
use proptest::prelude::*;
use tokio::time::advance;

use super::{
    Account, EVENTS, Ending, JSON,
    cases::{Read, events, exact, settled},
    charged, full, response,
};
use crate::{
    Settlement, Usage,
    inspect::{BodyEnd, BodyObserver},
    llm::{Format, Rules, anthropic, compatible, gemini, openai},
};

/// What serde_json takes for no value, and what it takes for one only within bounds.
fn odd_values() -> Vec<Vec<u8>> {
    let deep = ["[".repeat(5_000), "]".repeat(5_000)].concat();
    let long = format!("\"{}\"", "x".repeat(40_000));
    let texts = [
        "1e999",
        "-1e999",
        "NaN",
        "Infinity",
        "-Infinity",
        "nan",
        "1.2.3",
        "+1",
        "01",
        ".5",
        "True",
        r#""\ud800""#,
        r#""\x""#,
        "\"\n\"",
        &deep,
        &long,
    ];
    texts.iter().map(|text| text.as_bytes().to_vec()).chain([b"\"\xff\xfe\"".to_vec()]).collect()
}

#[test]
fn a_value_that_no_parser_takes_spoils_itself_alone() {
    for odd in odd_values() {
        let shown = String::from_utf8_lossy(&odd[..odd.len().min(20)]).into_owned();
        let with = |text: &str| {
            let (before, after) = text.split_once('@').unwrap();
            [before.as_bytes(), &odd, after.as_bytes()].concat()
        };
        let usage =
            with(r#"{"usage":{"prompt_tokens":9,"speed":@,"completion_tokens":7},"model":"m"}"#);
        let read = |body: &[u8]| settled(&compatible::rules(), Some(JSON), body, BodyEnd::Complete);
        assert_eq!(read(&usage), exact(9, 7), "beside the counts: {shown}");
        let details = with(
            r#"{"usage":{"prompt_tokens":9,"completion_tokens":2,"completion_tokens_details":{"speed":@,"reasoning_tokens":300}}}"#,
        );
        assert_eq!(read(&details), exact(9, 302), "in the details: {shown}");
        let steps = with(
            r#"{"model":"m","usage":{"input_tokens":9,"output_tokens":1,"iterations":[{"speed":@},{"input_tokens":500,"output_tokens":40}]}}"#,
        );
        assert_eq!(read(&steps), exact(500, 40), "in the steps: {shown}");
        let outside = with(r#"{"speed":@,"usage":{"prompt_tokens":9,"completion_tokens":7}}"#);
        assert_eq!(read(&outside), exact(9, 7), "beside the usage: {shown}");
    }
}

#[test]
fn a_usage_that_is_not_read_leaves_nothing_exact() {
    let long = "x".repeat(200_000);
    let start = r#"{"type":"message_start","message":{"id":"a","usage":{"input_tokens":25,"output_tokens":1}}}"#;
    let unread = format!(
        r#"{{"type":"message_delta","delta":{{"stop_reason":"end_turn"}},"usage":{{"output_tokens":900,"note":"{long}"}}}}"#
    );
    let stop = r#"{"type":"message_stop"}"#;
    let stream = events(&[start, &unread, stop]);
    let read = |stream: &str| {
        settled(&anthropic::rules(), Some(EVENTS), stream.as_bytes(), BodyEnd::Complete)
    };
    assert_eq!(read(&stream), Read::AtLeast((25, 1)));
    let again = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":900}}"#;
    assert_eq!(read(&events(&[start, &unread, again, stop])), exact(25, 900), "told once more");
}

#[test]
fn another_message_is_not_over_when_the_first_is() {
    let start = |id: &str, input: u64| {
        format!(
            r#"{{"type":"message_start","message":{{"id":"{id}","usage":{{"input_tokens":{input},"output_tokens":1}}}}}}"#
        )
    };
    let end = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":5}}"#;
    let stop = r#"{"type":"message_stop"}"#;
    let read = |stream: &str| {
        settled(&anthropic::rules(), Some(EVENTS), stream.as_bytes(), BodyEnd::Dropped)
    };
    let (one, two) = (start("a", 30), start("b", 50));
    assert_eq!(read(&events(&[&one, end, stop])), exact(30, 5));
    assert_eq!(read(&events(&[&one, end, stop, &two])), Read::AtLeast((80, 6)));
    assert_eq!(read(&events(&[&one, end, stop, &two, end, stop])), exact(80, 10));
    // The usage may be told later than the message begins.
    let bare = r#"{"type":"message_start","message":{"id":"b"}}"#;
    let told = r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"input_tokens":50,"output_tokens":6}}"#;
    assert_eq!(read(&events(&[&one, end, stop, bare, told, stop])), exact(80, 11));
}

#[test]
fn an_empty_error_is_none() {
    let usage = r#""usage":{"prompt_tokens":9,"completion_tokens":7}"#;
    for empty in ["null", "false", "\"\"", "{}", "[]", "0"] {
        for (content, body) in [
            (JSON, format!(r#"{{"error":{empty},"choices":[]}}"#)),
            (EVENTS, events(&[&format!(r#"{{"error":{empty},"choices":[]}}"#)])),
        ] {
            let rules = compatible::rules().on_stream_error(crate::llm::Charge::Nothing);
            let mut reader =
                rules.reader(if content == JSON { Format::Json } else { Format::Events });
            reader.data(body.as_bytes());
            assert_eq!(reader.end(BodyEnd::Complete), Settlement::Keep, "{body}");
        }
        let body = format!(r#"{{"error":{empty},{usage}}}"#);
        let read = settled(&compatible::rules(), Some(JSON), body.as_bytes(), BodyEnd::Complete);
        assert_eq!(read, exact(9, 7), "{body}");
    }
}

#[test]
fn errors_are_seen_in_whatever_pieces_they_come() {
    for error in [
        r#"{"object":"error","message":"no","code":400}"#,
        r#"{"object":"error","message":"no","type":"BadRequestError","param":null,"code":400}"#,
        r#"{"type":"error","message":"no"}"#,
        r#"{"error":"no"}"#,
        r#"{"error":{"message":"no"}}"#,
        r#"{"type":"response.failed"}"#,
        r#"{"choices":[{"index":0,"finish_reason":"error"}]}"#,
    ] {
        let rules = compatible::rules().on_stream_error(crate::llm::Charge::Nothing);
        let stream = events(&[error]);
        for size in [1, 5, stream.len()] {
            let mut reader = rules.reader(Format::Events);
            stream.as_bytes().chunks(size).for_each(|piece| reader.data(piece));
            assert_eq!(reader.end(BodyEnd::Complete), Settlement::Release, "{size}: {error}");
        }
    }
}

/// A call of many answers, of which all but one are over.
#[tokio::test(start_paused = true)]
async fn ten_thousand_answers_end_each_by_itself() {
    for answers in [64_u64, 65, 100, 128, 10_000] {
        let chunk = |index: u64, output: u64| {
            format!(
                r#"{{"choices":[{{"index":{index},"finish_reason":"stop"}}],"usage":{{"prompt_tokens":9,"completion_tokens":{output}}}}}"#
            )
        };
        let request = format!(r#"{{"model":"m","n":{answers},"max_tokens":50,"messages":[]}}"#);
        let chunks: Vec<_> = (0..answers).map(|index| chunk(index, index + 1)).collect();
        let chunks: Vec<_> = chunks.iter().map(String::as_str).collect();
        let all_but_one = events(&chunks[..chunks.len() - 1]);
        let all = [events(&chunks), events(&["[DONE]"])].concat();
        let after = async |stream: &str| {
            let pieces = stream.as_bytes().chunks(1_000);
            charged(&compatible::rules(), &request, EVENTS, pieces, Ending::Dropped).await[2]
        };
        assert_eq!(after(&all_but_one).await, 50 * answers, "{answers}");
        assert_eq!(after(&all).await, answers, "{answers}");
    }
}

/// Where a stream may be cut: in a character, in `data:`, in a line's end, in a mark.
#[test]
fn a_stream_may_be_cut_at_every_byte() {
    let pretty = "{\n  \"choices\": [],\n  \"usage\": {\n    \"prompt_tokens\": 9,\n    \"completion_tokens\": 7\n  }\n}";
    for end in ["\n", "\r\n", "\r"] {
        let lines = [
            "\u{feff}: a comment: 日本語",
            "",
            "event: message",
            r#"data: {"choices":[{"index":0,"delta":{"content":"日本語 🦀 \"usage\":{\"prompt_tokens\":99}"},"finish_reason":null}],"usage":null}"#,
            "id: 7",
            "",
            ": keep-alive",
            "retry: 10",
            "",
            r#"data:{"choices":[{"index":0,"delta":{"content":"é"},"finish_reason":"stop"}]}"#,
            "",
            &pretty.lines().map(|line| format!("data: {line}")).collect::<Vec<_>>().join(end),
            "",
            "data: [DONE]",
            "",
            "",
        ];
        let stream = lines.join(end);
        for content in [Some(EVENTS), Some(JSON), None] {
            let rules = compatible::rules();
            let read = settled(&rules, content, stream.as_bytes(), BodyEnd::Complete);
            assert_eq!(read, exact(9, 7), "{end:?} {content:?}");
        }
        for cut in 0..=stream.len() {
            let mut reader = compatible::rules().reader(Format::Events);
            let (head, tail) = stream.as_bytes().split_at(cut);
            reader.data(head);
            reader.data(b"");
            reader.data(tail);
            let right = crate::usage! { input_tokens: 9, output_tokens: 7 };
            assert_eq!(reader.end(BodyEnd::Complete), Settlement::Exact(right), "{end:?} at {cut}");
        }
    }
}

#[test]
fn a_body_of_any_bytes_and_any_length_tells_nothing_it_does_not_say() {
    // The first bytes of what gzip makes, without a header that says so.
    let mut zipped = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 3];
    zipped.extend(
        std::iter::successors(Some(7_u32), |last| {
            Some(last.wrapping_mul(1_664_525).wrapping_add(1_013_904_223))
        })
        .take(100_000)
        .map(|number| (number >> 24) as u8),
    );
    let megabyte = format!(
        r#"data: {{"choices":[{{"delta":{{"content":"{}"}}}}],"usage":null}}"#,
        "é".repeat(1 << 19)
    );
    let unended = ["data: ", &"{\"usage\":".repeat(100_000)].concat();
    let nested = ["data: ", &"[".repeat(1 << 20)].concat();
    for body in [&zipped[..], megabyte.as_bytes(), unended.as_bytes(), nested.as_bytes()] {
        for format in [Format::Json, Format::Events, Format::AmazonEvents, Format::Unreadable] {
            for size in [1_024, body.len()] {
                let mut reader = compatible::rules().reader(format);
                body.chunks(size).for_each(|piece| reader.data(piece));
                assert_eq!(reader.end(BodyEnd::Complete), Settlement::Keep, "{format:?} {size}");
            }
        }
    }
    let stream = [&megabyte, "\n\n", &events(&[r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":7}}"#])].concat();
    let read = |piece: usize| {
        let mut reader = compatible::rules().reader(Format::Events);
        stream.as_bytes().chunks(piece).for_each(|piece| reader.data(piece));
        reader.end(BodyEnd::Complete)
    };
    let right = Settlement::Exact(crate::usage! { input_tokens: 9, output_tokens: 7 });
    assert_eq!((read(4_096), read(stream.len())), (right.clone(), right), "after an event of 1 MB");
}

/// A count beyond all sense is a debt that ends, and teaches nothing.
#[tokio::test(start_paused = true)]
async fn no_count_blocks_a_bucket_for_good() {
    const REQUEST: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[{"role":"user","content":"Hi"}]}"#;
    for count in
        ["18446744073709551615", "1e308", "99999999999999999999999999", "-1", "-1e308", "1e999"]
    {
        let account = Account::new();
        let rules = anthropic::rules();
        let usage = format!(
            r#"{{"input_tokens":{count},"output_tokens":{count},"cache_creation_input_tokens":{count},"total_tokens":{count}}}"#
        );
        let json = format!(r#"{{"stop_reason":"end_turn","usage":{usage}}}"#);
        for _ in 0..20 {
            let answer = account.call(&rules, REQUEST, response(200, JSON, full(&json))).await;
            answer.into_body().collect().await.unwrap();
            advance(std::time::Duration::from_secs(3_600)).await;
        }
        let demand = rules.demand(REQUEST.as_bytes()).unwrap();
        assert!(demand.usage().get("input_tokens").unwrap() < 100, "{count}");
        assert_eq!(demand.usage().get("output_tokens"), Some(100), "{count}");
        let waits =
            account.limiter.time_until_available(crate::Demand::new("all", demand.usage().clone()));
        assert_eq!(waits.await.unwrap(), Some(std::time::Duration::ZERO), "{count}");
    }
}

/// A count of a usage, mostly one that makes sense.
fn count() -> impl Strategy<Value = String> {
    prop_oneof![
        8 => (0_u64..1_000).prop_map(|count| count.to_string()),
        1 => any::<u64>().prop_map(|count| count.to_string()),
        1 => proptest::sample::select(vec!["1e308", "1e999", "-5", "NaN", "\"9\"", "null", "[]", "{}", "7.5"])
            .prop_map(str::to_owned),
    ]
}

const COUNTS: &[&str] = &[
    "prompt_tokens",
    "completion_tokens",
    "total_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "promptTokenCount",
    "candidatesTokenCount",
    "thoughtsTokenCount",
    "totalTokenCount",
    "cachedContentTokenCount",
    "inputTokens",
    "outputTokens",
    "reasoning_tokens",
    "eval_count",
    "prompt_cache_hit_tokens",
];

/// A usage with some of its fields, which may be told twice.
fn any_usage() -> impl Strategy<Value = String> {
    let field = (proptest::sample::select(COUNTS), count())
        .prop_map(|(name, count)| format!("\"{name}\":{count}"));
    let details = (
        proptest::sample::select(vec![
            "prompt_tokens_details",
            "output_tokens_details",
            "input_tokens_details",
        ]),
        proptest::sample::select(vec!["cached_tokens", "reasoning_tokens", "audio_tokens"]),
        count(),
    );
    let details =
        details.prop_map(|(name, detail, count)| format!("\"{name}\":{{\"{detail}\":{count}}}"));
    let odd = proptest::sample::select(odd_values())
        .prop_map(|odd| format!("\"odd\":{}", String::from_utf8_lossy(&odd)));
    let member = prop_oneof![12 => field, 4 => details, 1 => odd];
    proptest::collection::vec(member, 0..7).prop_map(|members| format!("{{{}}}", members.join(",")))
}

/// An event of any provider's, or of none.
fn any_event() -> impl Strategy<Value = String> {
    let reason = || {
        proptest::sample::select(vec![
            "null",
            "\"\"",
            "\"stop\"",
            "\"length\"",
            "\"end_turn\"",
            "\"error\"",
            "7",
        ])
    };
    let kind = proptest::sample::select(vec![
        "ping",
        "message_start",
        "message_delta",
        "message_stop",
        "response.completed",
        "x.done",
        "x.failed",
        "error",
        "content_block_delta",
        "message-end",
    ]);
    prop_oneof![
        2 => (0_u64..3, reason(), any_usage()).prop_map(|(index, reason, usage)| format!(
            r#"{{"choices":[{{"finish_reason":{reason},"index":{index},"delta":{{"content":"é \"usage\":1"}}}}],"usage":{{"cached_tokens":0,"tokens":{usage}}}}}"#
        )),
        2 => (reason(), any_usage()).prop_map(|(reason, usage)| format!(
            r#"{{"choices":[{{"finish_reason":{reason},"index":0}}],"usage":{usage}}}"#
        )),
        2 => Just(r#"{"choices":[{"index":0,"delta":{"content":"a"},"finish_reason":null}],"usage":null}"#.to_owned()),
        2 => (kind, reason(), any_usage()).prop_map(|(kind, reason, usage)| format!(
            r#"{{"type":"{kind}","delta":{{"stop_reason":{reason}}},"usage":{usage}}}"#
        )),
        2 => ("[ab]", any_usage()).prop_map(|(id, usage)| format!(
            r#"{{"type":"message_start","message":{{"id":"{id}","model":"claude-3-5-haiku-1","usage":{usage}}}}}"#
        )),
        1 => "[ab]".prop_map(|id| format!(r#"{{"type":"message_start","message":{{"id":"{id}"}}}}"#)),
        1 => any_usage().prop_map(|usage| format!(r#"{{"response":{{"usageMetadata":{usage}}},"done":true}}"#)),
        1 => proptest::sample::select(vec![
            "[DONE]", "", "{", "nonsense", r#"{"error":{"code":429}}"#, r#"{"error":""}"#,
            r#"{"object":"error"}"#, r#"{"model":"claude-3-5-haiku-1"}"#, r#"{"done":false}"#,
        ]).prop_map(str::to_owned),
    ]
}

/// A stream of them, in any of the ways to write one, and whatever stands between.
fn any_stream() -> impl Strategy<Value = String> {
    let line = prop_oneof![
        10 => any_event().prop_map(|event| format!("data: {event}||")),
        1 => any_event().prop_map(|event| format!("event: error|data:{event}||")),
        1 => any_event().prop_map(|event| {
            let half = event.len() / 2;
            let middle = (0..=half).rev().find(|at| event.is_char_boundary(*at)).unwrap_or(0);
            format!("data: {}|data: {}||", &event[..middle], &event[middle..])
        }),
        1 => Just(": 日本語|".to_owned()),
        1 => Just("|id: 4|retry: 5||".to_owned()),
    ];
    let end = proptest::sample::select(vec!["\n", "\r\n", "\r"]);
    (proptest::collection::vec(line, 0..12), end, any::<bool>()).prop_map(|(lines, end, marked)| {
        let mark = if marked { "\u{feff}" } else { "" };
        [mark, &lines.concat().replace('|', end)].concat()
    })
}

fn all_rules() -> [Rules; 5] {
    [
        compatible::rules(),
        openai::rules(),
        anthropic::rules(),
        gemini::rules(),
        compatible::mistral(),
    ]
}

/// How a body ends that comes in these pieces.
fn end_of<'b>(
    rules: &Rules,
    format: Format,
    pieces: impl IntoIterator<Item = &'b [u8]>,
    end: BodyEnd,
) -> Settlement {
    let mut reader = rules.reader(format);
    pieces.into_iter().for_each(|piece| reader.data(piece));
    reader.end(end)
}

/// All tokens of a usage, which are more than a number may hold.
fn tokens(usage: &Usage) -> u128 {
    ["input_tokens", "output_tokens", "tokens"]
        .iter()
        .map(|metric| u128::from(usage.get(metric).unwrap_or(0)))
        .sum()
}

proptest! {
    #[test]
    fn pieces_make_no_difference(
        stream in any_stream(),
        cuts in proptest::collection::vec(any::<proptest::sample::Index>(), 0..20),
        format in proptest::sample::select(vec![Format::Events, Format::Json]),
        rules in 0_usize..5,
        end in proptest::sample::select(vec![BodyEnd::Complete, BodyEnd::Dropped]),
    ) {
        let rules = &all_rules()[rules];
        let stream = stream.as_bytes();
        let whole = end_of(rules, format, [stream], end);
        prop_assert_eq!(&end_of(rules, format, stream.chunks(1), end), &whole);
        let cuts = cuts.iter().map(|cut| cut.index(stream.len() + 1));
        let mut cuts: Vec<_> = cuts.chain([0, stream.len()]).collect();
        cuts.sort_unstable();
        let pieces = cuts.windows(2).map(|cut| &stream[cut[0]..cut[1]]);
        prop_assert_eq!(&end_of(rules, format, pieces, end), &whole);
    }

    /// No less than the total that was told last.
    #[test]
    fn no_less_is_charged_than_the_total_proves(
        prompt in proptest::option::of(0_u64..1_000),
        output in proptest::option::of(0_u64..1_000),
        reasoning in proptest::option::of(0_u64..1_000),
        cached in proptest::option::of(0_u64..1_000),
        audio in proptest::option::of(0_u64..1_000),
        total in prop_oneof![9 => 1_u64..3_000, 1 => any::<u64>()],
        odd in proptest::sample::select(odd_values()),
    ) {
        let member = |name: &str, count: Option<u64>| {
            count.map_or(String::new(), |count| format!("\"{name}\":{count},"))
        };
        let details = |name: &str, parts: String| format!("\"{name}\":{{{parts}\"other\":0}},");
        let of_prompt = member("cached_tokens", cached) + &member("audio_tokens", audio);
        let members = [
            member("prompt_tokens", prompt),
            member("completion_tokens", output),
            details("completion_tokens_details", member("reasoning_tokens", reasoning)),
            details("prompt_tokens_details", of_prompt),
        ];
        let odd = String::from_utf8_lossy(&odd).into_owned();
        let body = format!(
            r#"{{"usage":{{{}"odd":{odd},"total_tokens":{total}}},"choices":[{{"finish_reason":"stop"}}]}}"#,
            members.concat()
        );
        // An event's line has no other line in it.
        let event = events(&[&body.replace('\n', "\u{1}")]);
        for (format, body) in [(Format::Json, body), (Format::Events, event)] {
            let rules = compatible::rules();
            let settlement = end_of(&rules, format, [body.as_bytes()], BodyEnd::Complete);
            let Settlement::Exact(usage) = &settlement else {
                return Err(TestCaseError::fail(format!("{settlement:?}: {body}")));
            };
            prop_assert!(tokens(usage) >= u128::from(total), "{usage:?}: {body}");
        }
    }
}
