use proptest::prelude::*;

use super::*;
use crate::llm::media::MediaRates;

/// One token per word.
fn words(text: &str) -> f64 {
    text.split_whitespace().count() as f64
}

fn asked(json: &str) -> ParsedRequest {
    ParsedRequest::read(json.as_bytes(), &words).unwrap()
}

fn input(json: &str) -> u64 {
    let asked = asked(&format!(r#"{{"model":"m",{json}}}"#));
    let media = asked.media.iter().map(|media| MediaRates::OPENAI.tokens("m", *media));
    (asked.text_tokens + media.sum::<f64>()) as u64
}

#[test]
fn bounds_and_choices_are_read() {
    let one =
        asked(r#"{"model":"m","max_tokens":5,"max_completion_tokens":9,"n":3,"messages":[]}"#);
    assert_eq!((one.bound, one.choices, one.generates), (Some(9), 3, true));
    let none = asked(r#"{"model":"m","max_tokens":null,"n":null,"temperature":{"a":[1]}}"#);
    assert_eq!((none.bound, none.choices, none.generates, none.text_tokens), (None, 1, true, 0.0));
    assert_eq!(asked(r#"{"model":"m","max_tokens":-5}"#).bound, None);
    let best = asked(r#"{"model":"m","prompt":"Hi","max_tokens":5,"n":2,"best_of":4}"#);
    assert_eq!((best.bound, best.choices), (Some(5), 4), "the larger of the two");
}

#[test]
fn messages_count_their_overhead() {
    assert_eq!(input(r#""messages":[{"role":"user","content":"one two"}]"#), 2 + 3 + 3);
    assert_eq!(
        input(
            r#""messages":[{"name":"mira","role":"user","content":"one"},{"role":"assistant","content":null}]"#
        ),
        2 + 3 + 1 + 3 + 3
    );
    assert_eq!(
        input(
            r#""system":[{"type":"text","text":"a b","cache_control":{"type":"ephemeral"}}],"messages":[]"#
        ),
        2 + 3
    );
    assert_eq!(
        input(
            r#""instructions":"a b","input":[{"role":"user","content":[{"type":"input_text","text":"c d"}]}]"#
        ),
        4 + 3
    );
}

#[test]
fn tools_and_schemas_count() {
    let schema = r#"{"type":"object","properties":{"city":{"type":"string"}},"required":["city"]}"#;
    // Ten names of members, each with one token beside it, and what they hold.
    let tool = format!(
        r#""tools":[{{"type":"function","function":{{"name":"weather","description":"of a city","parameters":{schema}}}}}]"#
    );
    assert_eq!(input(&tool), 10 * 2 + 8);
    assert_eq!(input(&format!(r#""response_format":{schema}"#)), 5 * 2 + 3);
    let call = r#""messages":[{"role":"assistant","content":[{"type":"tool_use","id":"toolu_1","name":"weather","input":{"city":"Graz"}}]}]"#;
    assert_eq!(input(call), 1 + (1 + 1 + 1) + 3 + 3);
}

#[test]
fn images_count_by_their_size_and_not_by_their_bytes() {
    let png = "iVBORw0KGgoAAAANSUhEUgAABAAAAAMA"; // 1024 x 768
    let part = |source: &str| {
        input(&format!(r#""messages":[{{"role":"user","content":[{source}]}}]"#)) - 6
    };
    let url = format!("data:image/png;base64,{png}{}", "A".repeat(50_000));
    assert_eq!(part(&format!(r#"{{"type":"image_url","image_url":{{"url":"{url}"}}}}"#)), 765);
    assert_eq!(
        part(&format!(r#"{{"type":"image_url","image_url":{{"detail":"low","url":"{url}"}}}}"#)),
        85
    );
    assert_eq!(
        part(&format!(r#"{{"type":"input_image","image_url":"{url}","detail":"low"}}"#)),
        85
    );
    assert_eq!(
        part(r#"{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}"#),
        765
    );
    assert_eq!(
        part(&format!(
            r#"{{"type":"image","source":{{"type":"base64","media_type":"image/png","data":"{png}"}}}}"#
        )),
        765
    );
    assert_eq!(
        part(r#"{"type":"input_audio","input_audio":{"format":"wav","data":"UklGRgAAAABXQVZF"}}"#),
        0
    );
}

#[test]
fn what_is_to_be_embedded_is_counted() {
    let embed = |inputs: &str| {
        let asked = asked(&format!(r#"{{"model":"m",{inputs}}}"#));
        (asked.inputs, asked.text_tokens as u64, asked.generates)
    };
    assert_eq!(embed(r#""input":"one two""#), (1, 2, false));
    assert_eq!(embed(r#""input":["one two","three"]"#), (2, 3, false));
    assert_eq!(embed(r#""input":[1,2,3,4]"#), (1, 4, false));
    assert_eq!(embed(r#""input":[[1,2],[3]]"#), (2, 3, false));
    assert_eq!(embed(r#""texts":["a","b","c d"]"#), (3, 4, false));
}

#[test]
fn what_is_no_request_is_told() {
    let read = |json: &str| ParsedRequest::read(json.as_bytes(), &words).unwrap_err();
    for json in ["", "[]", "\"x\"", "{", r#"{"model":7}"#, "{} {}", "\u{0}"] {
        assert_eq!(read(json), BadRequest::NotJson, "{json}");
    }
    let model = |json: &str| asked(json).model;
    assert_eq!(model("{}"), None);
    assert_eq!(model(r#"{"model":null}"#), None);
    assert_eq!(model(&format!(r#"{{"model":"{}"}}"#, "x".repeat(300))), None);
    assert_eq!(read(&format!(r#"{{"messages":{}"#, "[".repeat(100_000))), BadRequest::NotJson);
}

proptest! {
    #[test]
    fn no_bytes_are_too_odd(
        bytes in proptest::collection::vec(any::<u8>(), 0..200),
        text in any::<String>(),
    ) {
        let _ = ParsedRequest::read(&bytes, &words);
        let body = serde_json::json!({ "model": "m", "messages": [{ "role": text, "content": text, &*text: [text] }] });
        prop_assert!(ParsedRequest::read(body.to_string().as_bytes(), &words).is_ok());
    }
}
