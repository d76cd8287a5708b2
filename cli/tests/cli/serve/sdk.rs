//! The SDKs of providers, as `scripts/sdks` installs them. What is not there is skipped, and said.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use hyper::Response;
use serde_json::{Value, json};

use super::{
    mock::{Body, Mock, Seen, events, json as json_response},
    service::{Service, limits, parsed},
};

const CHAT: &str = r#"{"id":"chatcmpl-1","object":"chat.completion","created":1,"model":"gpt-4o","choices":[{"index":0,"message":{"role":"assistant","content":"Rayleigh"},"finish_reason":"stop"}],"usage":{"prompt_tokens":8,"completion_tokens":9,"total_tokens":17}}"#;
const EMBEDDING: &str = r#"{"object":"list","data":[{"object":"embedding","index":0,"embedding":[0.5,0.25]}],"model":"gpt-4o","usage":{"prompt_tokens":1,"total_tokens":1}}"#;
const MODELS: &str = r#"{"object":"list","data":[{"id":"gpt-4o","object":"model","created":1,"owned_by":"openai"}]}"#;
const MESSAGE: &str = r#"{"id":"msg_1","type":"message","role":"assistant","model":"claude-sonnet-4-5","content":[{"type":"text","text":"Rayleigh"}],"stop_reason":"end_turn","stop_sequence":null,"usage":{"input_tokens":8,"output_tokens":9}}"#;

/// The folder of the SDKs of a language, if they are installed.
fn installed(language: &str, list: &str) -> Option<PathBuf> {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().expect("the target folder");
    let folder = target.join("sdk").join(language);
    let wanted = fs::read(script(list)).expect("the list of SDKs");
    if fs::read(folder.join("installed")).is_ok_and(|installed| installed == wanted) {
        return Some(folder);
    }
    eprintln!("SKIPPED: `./scripts/sdks` has not installed the SDKs for {language}");
    None
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/sdk").join(name)
}

/// The responses of OpenAI and Anthropic.
fn answer(seen: &Seen) -> Response<Body> {
    let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let streams = asked["stream"] == true;
    match seen.path.as_str() {
        "/v1/chat/completions" if streams => events(chat_events()),
        "/v1/chat/completions" => json_response(200, CHAT),
        "/v1/embeddings" => json_response(200, EMBEDDING),
        "/v1/models" => json_response(200, MODELS),
        "/v1/messages" if streams => events(message_events()),
        "/v1/messages" => json_response(200, MESSAGE),
        path => json_response(404, format!("there is no {path}")),
    }
}

fn chat_events() -> String {
    let chunk = |choices: Value, usage: Value| {
        let chunk = json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1,
            "model": "gpt-4o", "choices": choices, "usage": usage,
        });
        format!("data: {chunk}\n\n")
    };
    let piece = |text: &str| json!([{ "index": 0, "delta": { "content": text } }]);
    let usage = json!({ "prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17 });
    let chunks = [
        chunk(piece("Ray"), Value::Null),
        chunk(piece("leigh"), Value::Null),
        chunk(json!([]), usage),
    ];
    format!("{}data: [DONE]\n\n", chunks.concat())
}

fn message_events() -> String {
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [], "stop_reason": null, "stop_sequence": null,
        "usage": { "input_tokens": 8, "output_tokens": 1 },
    });
    let text = |text: &str| {
        json!({ "type": "content_block_delta", "index": 0,
                "delta": { "type": "text_delta", "text": text } })
    };
    let block = json!({ "type": "text", "text": "" });
    let events = [
        json!({ "type": "message_start", "message": message }),
        json!({ "type": "content_block_start", "index": 0, "content_block": block }),
        text("Ray"),
        text("leigh"),
        json!({ "type": "content_block_stop", "index": 0 }),
        json!({ "type": "message_delta",
                "delta": { "stop_reason": "end_turn", "stop_sequence": null },
                "usage": { "output_tokens": 9 } }),
        json!({ "type": "message_stop" }),
    ];
    let event = |event: &Value| {
        format!("event: {}\ndata: {event}\n\n", event["type"].as_str().expect("a name"))
    };
    events.iter().map(event).collect()
}

/// A provider, and a service before it.
async fn start() -> (Mock, Service) {
    let mock = Mock::start(answer).await;
    let more = "
        [buckets.hourly]
        quotas = [{ metric = 'requests', limit = 1, per = '1 h' }]
        [buckets.secondly]
        quotas = [{ metric = 'requests', limit = 1, per = '1 s' }]
    ";
    let refusing = limits(&mock.url())
        .replace("[upstreams.openai]", "[upstreams.openai]\nwhen_full = 'refuse'");
    (mock, Service::start(&format!("{refusing}{more}")))
}

/// Runs a script against a service, and returns what it printed.
fn results(program: &Path, script_name: &str, service: &Service, folder: &Path) -> Value {
    let output = Command::new(program)
        .arg(script(script_name))
        .arg(service.url(""))
        .env("NODE_PATH", folder.join("node_modules"))
        .env_remove("HTTP_PROXY")
        .env_remove("http_proxy")
        .env("NO_PROXY", "127.0.0.1")
        .output()
        .expect("it starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}", text(&output.stderr));
    parsed(&text(&output.stdout))
}

/// What the SDKs of OpenAI saw.
async fn check_openai(results: &Value, mock: &Mock, service: Service, key: &str) {
    let told = json!({ "text": "Rayleigh", "tokens": 17 });
    assert_eq!((&results["plain"], &results["streamed"]), (&told, &told));
    assert_eq!(results["at_once"], json!(vec!["Rayleigh"; 20]));

    let full = &results["full"];
    assert_eq!((&full["class"], &full["status"]), (&json!("RateLimitError"), &json!(429)));
    assert_eq!((&full["type"], &full["code"]), (&json!("rate_limit_error"), &json!("not_now")));
    let unknown = &results["unknown"];
    assert_eq!((&unknown["class"], &unknown["status"]), (&json!("BadRequestError"), &json!(400)));
    let message = unknown["message"].as_str().expect("a text");
    assert!(message.contains("`no-such-model` is not declared"), "{message}");
    let nowhere = &results["nowhere"];
    assert_eq!((&nowhere["class"], &nowhere["status"]), (&json!("NotFoundError"), &json!(404)));
    let message = nowhere["message"].as_str().expect("a text");
    assert!(message.contains("there is /openai, /anthropic"), "{message}");

    // A call that is to wait for an hour is not tried again.
    let refused = "tower_throttle_refused_total{bucket=\"hourly\"";
    assert_eq!(service.metric(refused).await, Some(1.0));
    let granted = "tower_throttle_granted_total{bucket=\"gpt-4o\",class=\"batch\"}";
    assert_eq!(service.metric(granted).await, Some(1.0));
    let expected = format!("Bearer {key}");
    assert!(mock.seen().iter().all(|seen| seen.headers["authorization"] == expected.as_str()));
    ends_without(service, key);
}

/// A service that ends, and has printed no key.
fn ends_without(service: Service, key: &str) {
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(!ended.out.contains(key) && !ended.err.contains(key), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_for_python() {
    let Some(folder) = installed("python", "requirements.txt") else { return };
    let (mock, service) = start().await;
    let results = results(&folder.join("bin/python"), "openai_calls.py", &service, &folder);
    assert_eq!(results["models"], json!(["gpt-4o"]));
    assert_eq!(results["embedding"], json!([0.5, 0.25]));
    assert_eq!(results["retried"], "Rayleigh");
    let refused = "tower_throttle_refused_total{bucket=\"secondly\"";
    assert_eq!(service.metric(refused).await, Some(1.0));
    check_openai(&results, &mock, service, "sk-python-openai").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn openai_for_node() {
    let Some(folder) = installed("node", "package.json") else { return };
    let (mock, service) = start().await;
    let results = results(Path::new("node"), "openai_calls.cjs", &service, &folder);
    check_openai(&results, &mock, service, "sk-node-openai").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn anthropic_for_python() {
    let Some(folder) = installed("python", "requirements.txt") else { return };
    let (mock, service) = start().await;
    let results = results(&folder.join("bin/python"), "anthropic_calls.py", &service, &folder);
    let told = json!({ "text": "Rayleigh", "tokens": 9 });
    assert_eq!((&results["plain"], &results["streamed"]), (&told, &told));
    let full = &results["full"];
    assert_eq!((&full["class"], &full["status"]), (&json!("RateLimitError"), &json!(429)));
    assert_eq!(full["type"], "rate_limit_error");
    let unknown = &results["unknown"];
    assert_eq!((&unknown["class"], &unknown["status"]), (&json!("BadRequestError"), &json!(400)));
    assert_eq!(unknown["type"], "invalid_request_error");

    // By Anthropic's rules a call is charged what it used.
    let settled = "tower_throttle_settled_total{bucket=\"claude-sonnet-4-5\",class=\"batch\",metric=\"output_tokens\"}";
    assert_eq!(service.metric(settled).await, Some(9.0));
    let refused = "tower_throttle_refused_total{bucket=\"hourly\"";
    assert_eq!(service.metric(refused).await, Some(1.0));
    let expected = "Bearer sk-python-anthropic";
    assert!(mock.seen().iter().all(|seen| seen.headers["authorization"] == expected));
    ends_without(service, "sk-python-anthropic");
}
