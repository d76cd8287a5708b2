//! What providers really send as answers, and what requests ask for: each case by its name, with
//! the value that is right.

use http::HeaderMap;

use super::{EVENTS, JSON};
use crate::{
    Settlement, Usage,
    inspect::{BodyEnd, BodyObserver},
    llm::{Format, Rules, anthropic, azure, compatible, openai},
};

/// Input and output.
pub(super) type Tokens = (u64, u64);

#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Read {
    Exact(Tokens),
    AtLeast(Tokens),
    Keep,
}

pub(super) fn exact(input: u64, output: u64) -> Read {
    Read::Exact((input, output))
}

/// How a body is settled that comes under a content type, in pieces of any size.
pub(super) fn settled(
    rules: &Rules,
    content: Option<&str>,
    body: impl AsRef<[u8]>,
    end: BodyEnd,
) -> Read {
    let body = body.as_ref();
    let mut headers = HeaderMap::new();
    if let Some(content) = content {
        headers.insert("content-type", content.parse().unwrap());
    }
    let tokens = |usage: Usage| {
        (usage.get("input_tokens").unwrap_or(0), usage.get("output_tokens").unwrap_or(0))
    };
    let read = |size: usize| {
        let mut reader = rules.reader(Format::of(&headers));
        body.chunks(size).for_each(|piece| reader.data(piece));
        match reader.end(end) {
            Settlement::Exact(usage) => Read::Exact(tokens(usage)),
            Settlement::AtLeast(usage) => Read::AtLeast(tokens(usage)),
            _ => Read::Keep,
        }
    };
    let whole = read(body.len().max(1));
    for size in [1, 7, 100] {
        assert_eq!(read(size), whole, "in pieces of {size}: {}", String::from_utf8_lossy(body));
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

pub(super) fn events(events: &[&str]) -> String {
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
