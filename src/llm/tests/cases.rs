//! What providers really send: each case by its name, with the value that is right.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue};

use super::{EVENTS, JSON};
use crate::{
    Feedback, Named, Settlement, Usage,
    inspect::{BodyEnd, BodyObserver},
    llm::{Format, Rules, anthropic, azure, compatible, gemini, openai},
    usage,
};

/// Input and output.
type Tokens = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Read {
    Exact(Tokens),
    AtLeast(Tokens),
    Keep,
}

fn exact(input: u64, output: u64) -> Read {
    Read::Exact((input, output))
}

/// How a body is settled that comes under a content type, in pieces of any size.
fn settled(rules: &Rules, content: Option<&str>, body: &str, end: BodyEnd) -> Read {
    let mut headers = HeaderMap::new();
    if let Some(content) = content {
        headers.insert("content-type", content.parse().unwrap());
    }
    let tokens = |usage: Usage| {
        (usage.get("input_tokens").unwrap_or(0), usage.get("output_tokens").unwrap_or(0))
    };
    let read = |size: usize| {
        let mut reader = rules.reader(Format::of(&headers));
        body.as_bytes().chunks(size).for_each(|piece| reader.data(piece));
        match reader.end(end) {
            Settlement::Exact(usage) => Read::Exact(tokens(usage)),
            Settlement::AtLeast(usage) => Read::AtLeast(tokens(usage)),
            _ => Read::Keep,
        }
    };
    let whole = read(body.len().max(1));
    for size in [1, 7, 100] {
        assert_eq!(read(size), whole, "in pieces of {size}: {body}");
    }
    whole
}

/// A case that is one JSON body.
struct JsonCase {
    id: &'static str,
    rules: fn() -> Rules,
    usage: &'static str,
    right: Tokens,
}

const JSON_CASES: &[JsonCase] = &[
    JsonCase {
        id: "reasoning beside the output (xAI)",
        rules: compatible::xai,
        usage: r#"{"prompt_tokens":20,"completion_tokens":2,"total_tokens":322,"prompt_tokens_details":{"cached_tokens":9},"completion_tokens_details":{"reasoning_tokens":300}}"#,
        right: (20, 302),
    },
    JsonCase {
        id: "reasoning beside the output, of any provider",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":20,"completion_tokens":2,"total_tokens":322,"completion_tokens_details":{"reasoning_tokens":300}}"#,
        right: (20, 302),
    },
    JsonCase {
        id: "reasoning beside the output, without a total",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":20,"completion_tokens":2,"completion_tokens_details":{"reasoning_tokens":300}}"#,
        right: (20, 302),
    },
    JsonCase {
        id: "reasoning beside the output of responses",
        rules: openai::rules,
        usage: r#"{"input_tokens":20,"output_tokens":2,"total_tokens":322,"output_tokens_details":{"reasoning_tokens":300}}"#,
        right: (20, 302),
    },
    JsonCase {
        id: "reasoning inside (OpenAI) stays",
        rules: openai::rules,
        usage: r#"{"prompt_tokens":12,"completion_tokens":300,"total_tokens":312,"completion_tokens_details":{"reasoning_tokens":290}}"#,
        right: (12, 300),
    },
    JsonCase {
        id: "thinking only in the total (Gemini's OpenAI endpoint)",
        rules: compatible::rules,
        usage: r#"{"completion_tokens":10,"prompt_tokens":30,"total_tokens":100}"#,
        right: (30, 70),
    },
    JsonCase {
        id: "audio beside the prompt (Mistral)",
        rules: compatible::mistral,
        usage: r#"{"prompt_tokens":11,"completion_tokens":15,"total_tokens":401,"prompt_tokens_details":{"audio_tokens":375}}"#,
        right: (11, 15),
    },
    JsonCase {
        id: "audio beside the prompt is never output",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":11,"completion_tokens":15,"total_tokens":401,"prompt_tokens_details":{"audio_tokens":375}}"#,
        right: (386, 15),
    },
    JsonCase {
        id: "audio inside the prompt, thinking in the total",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":100,"completion_tokens":15,"total_tokens":175,"prompt_tokens_details":{"audio_tokens":40}}"#,
        right: (100, 75),
    },
    JsonCase {
        id: "Mistral's limit leaves out what is cached",
        rules: compatible::mistral,
        usage: r#"{"prompt_tokens":100,"completion_tokens":15,"total_tokens":115,"prompt_tokens_details":{"cached_tokens":64}}"#,
        right: (36, 15),
    },
    JsonCase {
        id: "more cached than prompted (Azure, Grok)",
        rules: azure::rules,
        usage: r#"{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":163}}"#,
        right: (7, 1),
    },
    JsonCase {
        id: "more cached than prompted, and free",
        rules: compatible::groq,
        usage: r#"{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8,"prompt_tokens_details":{"cached_tokens":163}}"#,
        right: (0, 1),
    },
    JsonCase {
        id: "more cached than input of responses",
        rules: openai::rules,
        usage: r#"{"input_tokens":7,"output_tokens":1,"total_tokens":8,"input_tokens_details":{"cached_tokens":163}}"#,
        right: (7, 1),
    },
    JsonCase {
        id: "more cached than prompted (prompt_cache_hit_tokens)",
        rules: compatible::deepseek,
        usage: r#"{"prompt_tokens":7,"completion_tokens":1,"total_tokens":8,"prompt_cache_hit_tokens":163}"#,
        right: (7, 1),
    },
    JsonCase {
        id: "a total of less than its parts",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":20,"completion_tokens":300,"total_tokens":310}"#,
        right: (20, 290),
    },
    JsonCase {
        id: "a total of nothing",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":20,"completion_tokens":300,"total_tokens":0}"#,
        right: (20, 300),
    },
    JsonCase {
        id: "steps of another model",
        rules: anthropic::rules,
        usage: r#"{"input_tokens":2400,"output_tokens":120,"iterations":[{"type":"message","input_tokens":1100,"output_tokens":110},
            {"type":"advisor_message","model":"claude-opus-4-8","input_tokens":2500,"output_tokens":20},
            {"type":"message","input_tokens":1300,"output_tokens":10}]}"#,
        right: (2_400, 120),
    },
    JsonCase {
        id: "steps of the same model (compaction) add up",
        rules: anthropic::rules,
        usage: r#"{"input_tokens":162,"output_tokens":11,"iterations":[
            {"type":"compaction","model":"claude-sonnet-5","input_tokens":99195,"output_tokens":81},
            {"type":"message","model":"claude-sonnet-5","input_tokens":162,"output_tokens":11}]}"#,
        right: (99_357, 92),
    },
    JsonCase {
        id: "one odd value: details",
        rules: openai::rules,
        usage: r#"{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":"none","completion_tokens_details":3}"#,
        right: (9, 7),
    },
    JsonCase {
        id: "one odd value: iterations",
        rules: anthropic::rules,
        usage: r#"{"input_tokens":9,"output_tokens":7,"iterations":3,"tokens":"many"}"#,
        right: (9, 7),
    },
    JsonCase {
        id: "one odd value: a key twice",
        rules: openai::rules,
        usage: r#"{"prompt_tokens":9,"completion_tokens":7,"prompt_tokens_details":{"cached_tokens":1},"prompt_tokens_details":{"cached_tokens":2}}"#,
        right: (9, 7),
    },
    JsonCase {
        id: "`prompt_tokens: 0` beside `input_tokens: 40`",
        rules: compatible::rules,
        usage: r#"{"prompt_tokens":0,"completion_tokens":0,"input_tokens":40,"output_tokens":12}"#,
        right: (40, 12),
    },
];

#[test]
fn json_cases() {
    for JsonCase { id, rules, usage, right } in JSON_CASES {
        for body in [
            format!(r#"{{"model":"claude-sonnet-5","usage":{usage}}}"#),
            format!(r#"{{"usage":{usage},"model":"claude-sonnet-5"}}"#),
        ] {
            let read = settled(&rules(), Some(JSON), &body, BodyEnd::Complete);
            assert_eq!(read, Read::Exact(*right), "{id}");
        }
        let usage = rules().usage(format!(r#"{{"usage":{usage}}}"#).as_bytes()).unwrap();
        let tokens = (usage.get("input_tokens").unwrap(), usage.get("output_tokens").unwrap());
        assert_eq!(tokens, *right, "{id}");
    }
}

fn events(events: &[&str]) -> String {
    events.iter().map(|event| format!("data: {event}\n\n")).collect()
}

#[test]
fn running_usage_replaces_itself() {
    let start = |usage: &str| {
        format!(
            r#"{{"type":"message_start","message":{{"id":"msg_1","model":"claude-sonnet-5","usage":{usage}}}}}"#
        )
    };
    let delta = |reason: &str, usage: &str| {
        format!(
            r#"{{"type":"message_delta","delta":{{"stop_reason":"{reason}"}},"usage":{usage}}}"#
        )
    };
    let split = events(&[
        &start(r#"{"input_tokens":30000,"output_tokens":0}"#),
        &delta(
            "end_turn",
            r#"{"input_tokens":2000,"output_tokens":40,"cache_creation_input_tokens":0,"cache_read_input_tokens":28000}"#,
        ),
    ]);
    let late = events(&[
        &start(r#"{"input_tokens":30000,"output_tokens":0}"#),
        &delta("end_turn", r#"{"output_tokens":40,"cache_read_input_tokens":28000}"#),
    ]);
    let parts =
        r#""input_tokens":2,"cache_creation_input_tokens":47119,"cache_read_input_tokens":0"#;
    let twice = events(&[
        &start(&format!(r#"{{{parts},"output_tokens":4}}"#)),
        &delta("end_turn", &format!(r#"{{{parts},"output_tokens":64}}"#)),
    ]);
    let less = events(&[
        &start(r#"{"input_tokens":30,"output_tokens":1}"#),
        &delta("refusal", r#"{"output_tokens":0}"#),
    ]);
    let two = events(&[
        &start(r#"{"input_tokens":30,"output_tokens":1}"#),
        &delta("end_turn", r#"{"output_tokens":5}"#),
        &start(r#"{"input_tokens":50,"output_tokens":1}"#).replace("msg_1", "msg_2"),
        &delta("end_turn", r#"{"output_tokens":6}"#),
    ]);
    let zeros = events(&[
        r#"{"choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16}}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}}"#,
        "[DONE]",
    ]);
    for (id, rules, stream, right) in [
        ("the whole prompt first, its split later", anthropic::rules(), &split, exact(2_000, 40)),
        ("the whole prompt first, compatible", compatible::rules(), &split, exact(30_000, 40)),
        ("only the cached part later", anthropic::rules(), &late, exact(2_000, 40)),
        ("only the cached part later, compatible", compatible::rules(), &late, exact(30_000, 40)),
        ("the split told twice alike", anthropic::rules(), &twice, exact(47_121, 64)),
        ("the end says less", anthropic::rules(), &less, exact(30, 0)),
        ("two messages add up", anthropic::rules(), &two, exact(80, 11)),
        ("zeros are no report", compatible::rules(), &zeros, exact(9, 7)),
    ] {
        assert_eq!(settled(&rules, Some(EVENTS), stream, BodyEnd::Complete), right, "{id}");
    }
}

#[test]
fn bytes_decide_what_a_body_is() {
    let chunk = |finish: &str, output: u64| {
        let total = 9 + output;
        format!(
            r#"{{"object":"chat.completion.chunk","choices":[{{"index":0,"delta":{{"content":"a"}},"finish_reason":{finish}}}],"usage":{{"prompt_tokens":9,"completion_tokens":{output},"total_tokens":{total}}}}}"#
        )
    };
    let running = events(&[&chunk(r#""""#, 1)]);
    let stream = events(&[&chunk("null", 1), &chunk(r#""stop""#, 70), "[DONE]"]);
    let responses = events(&[
        r#"{"type":"response.created","response":{"usage":null}}"#,
        r#"{"type":"response.completed","response":{"usage":{"input_tokens":182,"output_tokens":49,"total_tokens":231}}}"#,
    ]);
    let whole = r#"{"object":"chat.completion","choices":[{"finish_reason":"stop"}],"usage":{"prompt_tokens":9,"completion_tokens":7,"total_tokens":16}}"#;
    let image = events(&[
        r#"{"type":"image_generation.partial_image","b64_json":"aGk="}"#,
        r#"{"type":"image_generation.completed","b64_json":"aGk=","usage":{"input_tokens":50,"output_tokens":50,"total_tokens":100}}"#,
    ]);
    let transcript = events(&[
        r#"{"type":"transcript.text.delta","delta":"a"}"#,
        r#"{"type":"transcript.text.done","text":"a","usage":{"type":"tokens","input_tokens":50,"output_tokens":3,"total_tokens":53}}"#,
    ]);
    let lines = format!("{}\n{}\n", chunk("null", 1), chunk("null", 2));
    let pretty =
        serde_json::to_string_pretty(&serde_json::from_str::<serde_json::Value>(whole).unwrap());
    let pretty = format!("\n\n{}", pretty.unwrap());
    let with_done = format!("{whole}\n\ndata: [DONE]\n\n");
    let at_least = |input, output| Read::AtLeast((input, output));
    for (id, content, body, right) in [
        ("no finish", Some(EVENTS), &running, at_least(9, 1)),
        ("a stream called JSON", Some(JSON), &stream, exact(9, 70)),
        ("a part of a stream called JSON", Some(JSON), &running, at_least(9, 1)),
        ("a stream without content type", None, &responses, exact(182, 49)),
        ("a stream called text", Some("text/plain"), &stream, exact(9, 70)),
        ("JSON called a stream", Some(EVENTS), &with_done, exact(9, 7)),
        ("printed JSON called a stream", Some(EVENTS), &pretty, exact(9, 7)),
        ("other last events: images", Some(EVENTS), &image, exact(50, 50)),
        ("other last events: transcripts", Some(EVENTS), &transcript, exact(50, 3)),
        ("chunks as JSON lines", Some("application/x-ndjson"), &lines, at_least(9, 2)),
        ("one chunk as JSON", Some(JSON), &chunk("null", 1), at_least(9, 1)),
    ] {
        for end in [BodyEnd::Complete, BodyEnd::Dropped] {
            assert_eq!(settled(&compatible::rules(), content, body, end), right, "{id} {end:?}");
        }
    }
    let cut = &whole[..whole.len() - 1];
    assert_eq!(settled(&compatible::rules(), Some(JSON), cut, BodyEnd::Dropped), at_least(9, 7));
}

const BLOB: usize = 1 << 20;

#[test]
fn requests_are_estimated_by_the_provider_s_arithmetic() {
    let blob: String = "iVBORw0KGgoAAAANSUhEUgAABAAAAAMA".to_owned() + &"A".repeat(BLOB);
    let noise = "q7Z".repeat(BLOB / 3);
    let item = |blob: &str| {
        format!(
            r#"{{"model":"gpt-4o","max_output_tokens":1,"input":[{{"type":"image_generation_call","id":"ig_1","result":"{blob}"}}]}}"#
        )
    };
    let redacted = format!(
        r#"{{"model":"claude-sonnet-5","max_tokens":1,"messages":[{{"role":"assistant","content":[{{"type":"redacted_thinking","data":"{noise}"}}]}}]}}"#
    );
    let output = format!(
        r#"{{"model":"gpt-4o","max_output_tokens":1,"input":[{{"type":"function_call_output","call_id":"c","output":"{noise}"}}]}}"#
    );
    let input = |rules: Rules, body: &str| {
        rules.demand(body.as_bytes()).unwrap().usage().get("input_tokens").unwrap()
    };
    assert_eq!(input(openai::rules(), &item(&blob)), 765, "base64 outside of the known names");
    assert_eq!(input(openai::rules(), &item(&"A".repeat(BLOB))), 0, "base64 of nothing known");
    assert!(input(anthropic::rules(), &redacted) < 10, "redacted_thinking.data");
    assert!(input(openai::rules(), &output) < 10, "base64 as a tool's output");
}

#[test]
fn tools_take_what_the_provider_adds() {
    let added = |rules: Rules| {
        let request =
            |tools: &str| format!(r#"{{"model":"m","max_tokens":1,"messages":[]{tools}}}"#);
        let input = |tools: &str| {
            rules.demand(request(tools).as_bytes()).unwrap().usage().get("input_tokens").unwrap()
        };
        assert_eq!(input(r#","tools":[]"#), input(""));
        input(r#","tools":[1]"#) - 1 - 3
    };
    for (rules, right) in [
        (anthropic::rules(), 560..=600),
        (compatible::groq(), 650..=650),
        (compatible::openrouter(), 530..=530),
        (compatible::xai(), 300..=300),
        (compatible::deepseek(), 260..=260),
        (compatible::cohere(), 1_400..=1_400),
        (openai::rules(), 0..=0),
    ] {
        let added = added(rules.clone());
        assert!(right.contains(&added), "{rules:?}: {added}");
    }
    let plain = compatible::xai().demand(br#"{"model":"m","max_tokens":1,"messages":[]}"#).unwrap();
    assert_eq!(plain.usage().get("input_tokens"), Some(193), "xAI's without tools");
}

#[test]
fn the_usage_is_asked_for_in_chat_alone() {
    use crate::Extractor;

    let sent = |body: &str| {
        let mut request = http::Request::new(body.to_owned());
        compatible::rules().include_usage().extractor().extract(&mut request).unwrap();
        request.into_body()
    };
    let responses = r#"{"model":"m","input":"Hi","stream":true}"#;
    assert_eq!(sent(responses), responses, "include_usage in a Responses request");
    assert!(sent(r#"{"model":"m","messages":[],"stream":true}"#).contains("include_usage"));
    assert!(sent(r#"{"model":"m","prompt":"Hi","stream":true}"#).contains("include_usage"));
}

#[test]
fn a_model_that_the_body_does_not_name_is_in_the_path_or_a_closure_s() {
    use crate::Extractor;

    let demand = |rules: Rules, uri: &str| {
        let body = r#"{"anthropic_version":"..","max_tokens":10,"messages":[{"role":"user","content":"Hi"}]}"#;
        let mut request = http::Request::post(uri).body(body.to_owned()).unwrap();
        rules.extractor().extract(&mut request)
    };
    let named = |rules, uri: &str| {
        let demand = demand(rules, uri).unwrap();
        assert_eq!(demand.usage().get("output_tokens"), Some(10), "tokens from the body");
        demand.buckets().next().unwrap().to_owned()
    };
    let bedrock =
        "https://bedrock.example/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/invoke";
    assert_eq!(named(crate::llm::bedrock::rules(), bedrock), "us.anthropic.claude-sonnet-4");
    let azure = "https://a.example/openai/deployments/chat-prod/chat/completions?api-version=1";
    assert_eq!(named(crate::llm::azure::rules(), azure), "chat-prod");
    assert_eq!(named(openai::rules(), azure), "chat-prod");
    let own = openai::rules().model_of_path(|path| path.strip_prefix("/own/").map(str::to_owned));
    assert_eq!(named(own, "/own/chat"), "chat");
    assert!(demand(openai::rules(), "/v1/chat/completions").is_err());
}

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

fn headers(lines: &[(&'static str, &str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_str(value).unwrap()))
        .collect()
}

fn said(rules: &Rules, status: u16, lines: &[(&'static str, &str)], body: &str) -> Feedback {
    rules.feedback(status, &headers(lines), Some(body.as_bytes()))
}

fn wait(feedback: &Feedback) -> Option<(Duration, Option<Named>)> {
    feedback.wait.as_ref().map(|wait| (wait.time, wait.of.clone()))
}

#[test]
fn waits_are_the_longest_plausible_ones() {
    let rules = compatible::rules().default_pause(3 * SECOND);
    let date = ("date", "Mon, 05 Jan 2015 07:00:00 GMT");
    let two = [("retry-after-ms", "0"), ("retry-after", "1")];
    assert_eq!(
        wait(&said(&rules, 429, &two, "")),
        Some((SECOND, None)),
        "two waits, one of them 0 (Azure)"
    );
    let odd = [("retry-after-ms", "1500"), ("retry-after", "99999999999")];
    assert_eq!(said(&rules, 429, &odd, "").retry_after(), Some(Duration::from_millis(1_500)));
    for value in ["0", "-5", "nan", "", "0s", "soon", "Mon, 05 Jan 2015 06:59:00 GMT"] {
        let feedback = said(&rules, 429, &[date, ("retry-after", value)], "");
        assert_eq!(wait(&feedback), Some((3 * SECOND, None)), "a wait of nothing: {value}");
    }
    let zero =
        r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","details":[{"retryDelay":"0s"}]}}"#;
    assert_eq!(
        wait(&said(&rules, 429, &[], zero)),
        Some((3 * SECOND, None)),
        "a retryDelay of nothing"
    );
    let longer = r#"{"error":{"code":429,"details":[{"retryDelay":"48s"}]}}"#;
    assert_eq!(said(&rules, 429, &[("retry-after", "5")], longer).retry_after(), Some(48 * SECOND));
    let number = r#"{"error":{"message":"slow down"},"retry_after":12.5}"#;
    let told = said(&rules, 429, &[], number).retry_after();
    assert_eq!(told, Some(Duration::from_millis(12_500)), "a number in the body");
    let passed = [
        date,
        ("x-ratelimit-limit-tokens", "100"),
        ("x-ratelimit-remaining-tokens", "0"),
        ("x-ratelimit-reset-tokens", "2015-01-05T06:59:55Z"),
    ];
    let feedback = said(&rules, 429, &passed, "");
    assert_eq!(feedback.left, [], "a reset that has passed");
    assert_eq!(feedback.retry_after(), Some(3 * SECOND));
}

#[test]
fn a_reset_is_of_no_longer_window_than_is_told() {
    let minute = |limit| Named::metric("requests").limit(limit).window(MINUTE);
    for rules in [openai::rules(), azure::rules(), compatible::rules()] {
        let azure = [
            ("x-ratelimit-limit-requests", "120"),
            ("x-ratelimit-remaining-requests", "119"),
            ("x-ratelimit-reset-requests", "500"),
            ("x-ratelimit-renewalperiod-requests", "60"),
        ];
        let right = Feedback::new().with_left(minute(120), 119, Some(Duration::from_millis(500)));
        assert_eq!(said(&rules, 200, &azure, "{}"), right, "milliseconds without a unit (Azure)");
        let others = [
            ("x-ratelimit-limit-requests", "1000"),
            ("x-ratelimit-remaining-requests", "999"),
            ("x-ratelimit-reset-requests", "59"),
        ];
        let right = Feedback::new().with_left(minute(1_000), 999, Some(59 * SECOND));
        assert_eq!(
            said(&rules, 200, &others, "{}"),
            right,
            "seconds without a unit, whole window (others)"
        );

        let old = [("x-rate-limit-reset-tokens", "55")];
        let body = r#"{"error":{"code":"429","message":"Requests have exceeded token rate limit. Please retry after 55 seconds."}}"#;
        let right = (55 * SECOND, Some(Named::metric("tokens").window(MINUTE)));
        for body in ["", body] {
            let feedback = said(&rules, 429, &old, body);
            assert_eq!(wait(&feedback), Some(right.clone()), "old spelling, no Retry-After");
        }
    }
}

#[test]
fn words_tell_what_nothing_else_does() {
    let message = |time: &str| {
        format!(
            "Rate limit reached for m in organization org-1 on tokens per min (TPM): Limit 30000, Used 22999, \
             Requested 12528. Please try again in {time}. Visit https://example.org/account/rate-limits"
        )
    };
    let of = Named::metric("tokens").limit(30_000).window(MINUTE);
    for (time, right) in
        [("11.054s", 11.054), ("28ms", 0.028), ("15m55.6s", 955.6), ("2 seconds", 2.0)]
    {
        let message = message(time);
        let event = format!(
            r#"{{"type":"response.failed","response":{{"status":"failed","error":{{"code":"rate_limit_exceeded","message":"{message}"}},"usage":null}}}}"#
        );
        let stream = format!("event: response.failed\ndata: {event}\n\n");
        let json = format!(
            r#"{{"error":{{"code":"rate_limit_exceeded","type":"tokens","message":"{message}"}}}}"#
        );
        let right = Some((Duration::from_secs_f64(right), Some(of.clone())));
        let events = [("content-type", EVENTS)];
        assert_eq!(
            wait(&said(&openai::rules(), 200, &events, &stream)),
            right,
            "words only, status 200"
        );
        assert_eq!(wait(&said(&openai::rules(), 200, &[], &json)), right, "words only in JSON");
        assert_eq!(wait(&said(&openai::rules(), 429, &[], &message)), right, "words alone");
    }
}

#[test]
fn used_up_credit_is_permanent_in_any_words() {
    for (status, body) in [
        (
            429,
            r#"{"code":"Some resource has been exhausted","error":"Your team has either used all available credits or reached its monthly spending limit"}"#,
        ),
        (429, r#"{"error":"insufficient_quota"}"#),
        (
            403,
            r#"{"error":{"message":"Your credit balance is too low","type":"invalid_request_error"}}"#,
        ),
        (402, r#"{"error":{"message":"Insufficient Balance","type":"unknown_error"}}"#),
        (429, r#"{"error":{"code":"billing_not_active","message":"Your account is not active"}}"#),
        (
            429,
            r#"{"message":"You are using a Trial key, which is limited to 1000 API calls / month."}"#,
        ),
        (429, r#"{"detail":"You have run out of credits."}"#),
        (429, "Out of credits"),
        (429, r#"{"error":{"code":"1113","message":"余额不足或无可用资源包,请充值。"}}"#),
        (403, r#"{"error":{"message":"Key limit exceeded (monthly limit)","code":403}}"#),
        (200, "data: {\"error\":\"You exceeded your credit limit\"}\n\n"),
    ] {
        let feedback = said(&compatible::rules(), status, &[], body);
        assert!(feedback.is_permanent() && feedback.wait.is_none(), "{body}: {feedback:?}");
    }
    let google = r#"{"error":{"code":429,"status":"RESOURCE_EXHAUSTED","message":"You exceeded your current quota, please check your plan and billing details.",
        "details":[{"violations":[{"quotaId":"GenerateContentInputTokensPerModelPerMinute-FreeTier","quotaValue":"250000"}]},{"retryDelay":"48s"}]}}"#;
    let feedback = said(&gemini::rules(), 429, &[], google);
    assert!(!feedback.is_permanent(), "it tells when to come back");
}

#[test]
fn limits_are_read_inside_of_an_error_s_body() {
    let reset = "1420444800000"; // the next hour
    let body = format!(
        r#"{{"error":{{"code":429,"message":"Rate limit exceeded: free-models-per-day.","metadata":{{"headers":{{"X-RateLimit-Limit":"50","X-RateLimit-Remaining":"0","X-RateLimit-Reset":"{reset}"}}}}}}}}"#
    );
    let date = [("date", "Mon, 05 Jan 2015 07:00:00 GMT")];
    for rules in [compatible::openrouter(), compatible::rules()] {
        let feedback = said(&rules, 429, &date, &body);
        let day = Named::metric("requests").limit(50).window(DAY);
        let right = Feedback::new().with_left(day, 0, Some(3_600 * SECOND));
        assert_eq!(feedback.left, right.left, "headers inside the body (OpenRouter)");
        assert_eq!(wait(&feedback), Some((SECOND, Some(Named::metric("requests").window(DAY)))));
    }
}

#[test]
fn headers_by_other_names() {
    let left = |rules: Rules, lines: &[(&'static str, &str)]| said(&rules, 200, lines, "{}").left;
    let named =
        |metric: &'static str, limit, window| Named::metric(metric).limit(limit).window(window);
    for rules in [compatible::cohere(), compatible::rules()] {
        let trial =
            [("x-trial-endpoint-call-limit", "20"), ("x-trial-endpoint-call-remaining", "6")];
        let right = Feedback::new().with_left(named("requests", 20, MINUTE), 6, None);
        assert_eq!(left(rules, &trial), right.left, "trial keys (Cohere)");
    }
    for rules in [compatible::mistral(), compatible::rules()] {
        let today = [
            ("x-ratelimit-limit-req-minute", "100"),
            ("x-ratelimit-remaining-req-minute", "94"),
            ("x-ratelimit-limit-tokens-minute", "100000"),
            ("x-ratelimit-remaining-tokens-minute", "98863"),
            ("x-ratelimit-limit-tokens-month", "4000000"),
            ("x-ratelimit-remaining-tokens-month", "3998863"),
            ("x-ratelimit-limit-req-10-second", "60"),
            ("x-ratelimit-tokens-query-cost", "26"),
        ];
        let right = Feedback::new()
            .with_left(named("requests", 100, MINUTE), 94, None)
            .with_left(named("tokens", 100_000, MINUTE), 98_863, None)
            .with_left(named("tokens", 4_000_000, 30 * DAY), 3_998_863, None);
        assert_eq!(left(rules.clone(), &today), right.left, "Mistral's names of today");
        let none = [
            ("x-ratelimit-limit-tokens-minute", "0"),
            ("x-ratelimit-remaining-tokens-minute", "0"),
        ];
        assert!(said(&rules, 429, &none, "{}").is_permanent(), "limit 0 is permanent");
    }
    for rules in [compatible::together(), compatible::rules(), compatible::openrouter()] {
        let together = [
            ("x-ratelimit-limit", "2"),
            ("x-ratelimit-remaining", "1"),
            ("x-ratelimit-reset", "2"),
        ];
        let right = Feedback::new().with_left(named("requests", 2, MINUTE), 1, Some(2 * SECOND));
        let told = left(rules, &together);
        assert_eq!((told[0].amount, told[0].reset), (1, right.left[0].reset), "Together");
    }
    let fireworks = [
        ("x-ratelimit-limit-tokens-prompt", "60000"),
        ("x-ratelimit-remaining-tokens-prompt", "5"),
    ];
    assert_eq!(
        left(compatible::fireworks(), &fireworks)[0].of,
        named("input_tokens", 60_000, MINUTE)
    );
}

#[test]
fn google_s_429_may_be_called_a_stream() {
    let body = r#"{
      "error": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [
          {
            "@type": "type.googleapis.com/google.rpc.QuotaFailure",
            "violations": [
              { "quotaId": "GenerateContentPaidTierInputTokensPerModelPerMinute", "quotaValue": "1000000" }
            ]
          },
          { "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "48s" }
        ]
      }
    }"#;
    let of = Named::metric("input_tokens").limit(1_000_000).window(MINUTE);
    for (content, body) in
        [(EVENTS, body.to_owned()), (JSON, body.to_owned()), (JSON, format!("[{body}]"))]
    {
        for rules in [gemini::rules(), compatible::rules()] {
            let feedback = said(&rules, 429, &[("content-type", content)], &body);
            assert_eq!(wait(&feedback), Some((48 * SECOND, Some(of.clone()))), "{content}");
        }
    }
}

#[test]
fn limits_that_never_bite_are_refused_and_name_what_was_meant() {
    for (metric, meant) in [
        ("total_tokens", "tokens"),
        ("completion_tokens", "output_tokens"),
        ("prompt_tokens", "input_tokens"),
        ("reqests", "requests"),
        ("tokns", "tokens"),
    ] {
        let limits = crate::Limits::new().bucket("m", [crate::Quota::per_minute(metric, 5)]);
        let error = crate::Limiter::new(limits).unwrap_err().to_string();
        assert!(error.contains(&format!("do you mean `{meant}`")), "{metric}: {error}");
    }
    for metric in ["inputs", "images", "cost", "tokens_of_mine"] {
        let limits = crate::Limits::new().bucket("m", [crate::Quota::per_minute(metric, 5)]);
        assert!(crate::Limiter::new(limits).is_ok(), "{metric}");
    }
}

#[test]
fn a_question_to_responses_is_no_text_to_embed() {
    let output = |path: &str, body: &str| {
        let demand = openai::rules().unbounded_output(77).demand_at(path, body.as_bytes()).unwrap();
        demand.usage().get("output_tokens").unwrap()
    };
    let bare = r#"{"model":"m","input":"Hi"}"#;
    assert_eq!((output("/v1/embeddings", bare), output("/v1/responses", bare)), (0, 77));
    assert_eq!(output("/", r#"{"model":"m","input":"Hi","stream":true}"#), 77);
}

/// A limiter with a minute and a day of requests, and a minute of tokens.
fn account() -> super::Account {
    super::Account::with([
        crate::Quota::per_minute("requests", 100),
        crate::Quota::per_day("requests", 10_000),
        crate::Quota::per_minute("tokens", 30_000),
    ])
}

const CALL: &str = r#"{"model":"m","max_tokens":100,"messages":[]}"#;

#[tokio::test(start_paused = true)]
async fn what_is_named_is_held_and_nothing_else() {
    let account = account();
    let mut answer = super::response(200, JSON, super::full("{}"));
    for (name, value) in [
        ("x-ratelimit-limit-requests", "120"),
        ("x-ratelimit-remaining-requests", "119"),
        ("x-ratelimit-reset-requests", "500"),
        ("x-ratelimit-renewalperiod-requests", "60"),
    ] {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    drop(account.call(&azure::rules(), CALL, answer).await);
    assert_eq!(account.available().await[..2], [99.0, 9_999.0], "the day is untouched");

    let event = r#"{"type":"response.failed","response":{"error":{"code":"rate_limit_exceeded","message":"Rate limit reached on tokens per min (TPM): Limit 30000, Used 22999, Requested 12528. Please try again in 11.054s."}}}"#;
    let stream = format!("data: {event}\n\n");
    let answer = account
        .call(&openai::rules(), CALL, super::response(200, EVENTS, super::full(&stream)))
        .await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let wait = async |usage: Usage| {
        account.limiter.time_until_available(crate::Demand::new("all", usage)).await.unwrap()
    };
    let tokens = wait(usage! { requests: 1, tokens: 5 }).await.unwrap();
    assert_eq!(tokens, Duration::from_millis(11_054), "of the tokens per minute");
    assert_eq!(
        wait(usage! { requests: 1, tokens: 0 }).await,
        Some(Duration::ZERO),
        "no tokens, no wait"
    );
}

#[tokio::test(start_paused = true)]
async fn used_up_credit_pauses_nothing() {
    let account = account();
    let body = r#"{"code":"x","error":"Your team has either used all available credits or reached its monthly spending limit"}"#;
    let answer =
        account.call(&compatible::xai(), CALL, super::response(429, JSON, super::full(body))).await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    let status = account.limiter.status("all").await.unwrap();
    assert!(
        status.paused_until.is_none() && status.quotas.iter().all(|quota| quota.withheld == 0.0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_bad_request_is_a_request_and_no_tokens() {
    let request = r#"{"model":"m","max_tokens":900,"messages":[]}"#;
    for rules in [openai::rules(), anthropic::rules(), compatible::rules(), gemini::rules()] {
        for status in [400, 401, 403, 404, 413, 422] {
            let account = super::Account::new();
            let body = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#;
            drop(
                account
                    .call(&rules, request, super::response(status, JSON, super::full(body)))
                    .await,
            );
            assert_eq!(account.charged().await, [1, 0, 0, 0], "4xx of a bad request: {status}");
        }
    }
    let usage = usage! { requests: 1 };
    assert_eq!(usage.get("tokens"), None);
}
