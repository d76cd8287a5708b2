//! Bedrock's event streams and headers, through the layer.

use aws_smithy_eventstream::frame::write_message_to;
use aws_smithy_types::event_stream::{Header, HeaderValue, Message};
use base64::{Engine, engine::general_purpose::STANDARD};

use super::{Account, Ending, JSON, charged, full, response};
use crate::llm::bedrock;

const CONTENT: &str = "application/vnd.amazon.eventstream";
const REQUEST: &str = "/model/us.anthropic.claude-sonnet-4-20250514-v1%3A0/converse-stream\n\
    {\"messages\":[{\"role\":\"user\",\"content\":[{\"text\":\"Hi\"}]}],\"inferenceConfig\":{\"maxTokens\":640}}";
const RESERVED: [u64; 4] = [1, 7, 640, 647];

fn frame(kind: (&'static str, &'static str), payload: &str) -> Vec<u8> {
    let header = |name: &'static str, value: &'static str| {
        Header::new(name, HeaderValue::String(value.into()))
    };
    let headers = vec![header(kind.0, kind.1), header(":content-type", "application/json")];
    let mut frame = Vec::new();
    write_message_to(&Message::new_from_parts(headers, payload.as_bytes().to_vec()), &mut frame)
        .unwrap();
    frame
}

fn converse() -> Vec<Vec<u8>> {
    let event = |kind, payload| frame((":event-type", kind), payload);
    vec![
        event("messageStart", r#"{"p":"ab","role":"assistant"}"#),
        event("contentBlockDelta", r#"{"contentBlockIndex":0,"delta":{"text":"Hi"},"p":"abc"}"#),
        event("contentBlockStop", r#"{"contentBlockIndex":0}"#),
        event("messageStop", r#"{"p":"abcd","stopReason":"end_turn"}"#),
        event(
            "metadata",
            r#"{"metrics":{"latencyMs":9},"usage":{"inputTokens":90,"outputTokens":20,"totalTokens":110,"cacheReadInputTokens":0,"cacheWriteInputTokens":0}}"#,
        ),
    ]
}

#[tokio::test(start_paused = true)]
async fn converse_streams_are_settled_on_their_last_event() {
    let stream = converse().concat();
    for size in [1, 13, stream.len()] {
        for ending in [Ending::Read, Ending::Dropped] {
            let after =
                charged(&bedrock::rules(), REQUEST, CONTENT, stream.chunks(size), ending).await;
            assert_eq!(after, [1, 90, 20, 90 + 5 * 20], "in pieces of {size}, {ending:?}");
        }
    }
    let broken = &stream[..stream.len() - 3];
    for ending in [Ending::Read, Ending::Dropped, Ending::Failed] {
        let after = charged(&bedrock::rules(), REQUEST, CONTENT, [broken], ending).await;
        assert_eq!(after, RESERVED, "{ending:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn streams_of_invoke_model_tell_their_metrics_last() {
    let chunk = |json: &str| {
        frame(
            (":event-type", "chunk"),
            &format!(r#"{{"bytes":"{}","p":"ab"}}"#, STANDARD.encode(json)),
        )
    };
    let stream = [
        chunk(r#"{"type":"message_start","message":{"id":"m","usage":{"input_tokens":90,"output_tokens":1}}}"#),
        chunk(r#"{"type":"message_delta","delta":{"stop_reason":"end_turn"},"usage":{"output_tokens":20}}"#),
        chunk(
            r#"{"type":"message_stop","amazon-bedrock-invocationMetrics":{"inputTokenCount":90,"outputTokenCount":20,"invocationLatency":9}}"#,
        ),
    ]
    .concat();
    let after = charged(&bedrock::rules(), REQUEST, CONTENT, stream.chunks(11), Ending::Read).await;
    assert_eq!(after, [1, 90, 20, 190]);
}

#[tokio::test(start_paused = true)]
async fn invoke_model_tells_its_usage_in_headers() {
    let account = Account::new();
    let mut answer = response(200, JSON, full(r#"{"generation":"Hi","stop_reason":"stop"}"#));
    for (name, count) in
        [("x-amzn-bedrock-input-token-count", "90"), ("x-amzn-bedrock-output-token-count", "20")]
    {
        answer.headers_mut().insert(name, count.parse().unwrap());
    }
    let answer = account.call(&bedrock::rules(), REQUEST, answer).await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    assert_eq!(account.charged().await, [1, 90, 20, 190]);
}

#[tokio::test(start_paused = true)]
async fn an_exception_in_a_stream_pauses() {
    let account = Account::new();
    let stream =
        frame((":exception-type", "throttlingException"), r#"{"message":"Too many tokens"}"#);
    let body = http_body_util::Full::new(bytes::Bytes::from(stream));
    let answer = account.call(&bedrock::rules(), REQUEST, response(200, CONTENT, body)).await;
    assert!(account.limiter.status("all").await.unwrap().paused_until.is_none());
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    assert!(account.limiter.status("all").await.unwrap().paused_until.is_some());
    assert_eq!(account.charged().await, RESERVED);
}

#[tokio::test(start_paused = true)]
async fn a_throttling_exception_pauses_and_gives_back() {
    let account = Account::new();
    let body = r#"{"message":"Too many tokens, please wait before trying again."}"#;
    let body = http_body_util::Full::new(bytes::Bytes::from(body));
    let mut answer = response(429, "application/json", body);
    let name = http::HeaderValue::from_static("ThrottlingException");
    answer.headers_mut().insert("x-amzn-errortype", name);
    let answer = account.call(&bedrock::rules(), REQUEST, answer).await;
    http_body_util::BodyExt::collect(answer.into_body()).await.unwrap();
    assert!(account.limiter.status("all").await.unwrap().paused_until.is_some());
    assert_eq!(account.charged().await, [0; 4]);
}
