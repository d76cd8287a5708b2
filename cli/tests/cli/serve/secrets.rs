//! Keys pass through, and are in nothing that the service prints or tells.

use super::{
    mock::{Mock, json},
    service::{CHAT, CLAUDE, GPT, MESSAGES, Service, get, limits, post},
};
use crate::support::RedisServer;

/// Begins every secret below.
const SECRET: &str = "s3cret";

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_printed_whatever_goes_wrong() {
    let redis = RedisServer::start_with(&["--requirepass", "s3cret-redis"]);
    let mock = Mock::start(|seen| match seen.path.as_str() {
        "/v1/chat/completions?key=s3cret-query" => json(401, r#"{"error":{"message":"no"}}"#),
        "/v1/messages" => json(500, "{}"),
        _ => json(200, "{}"),
    })
    .await;
    let down = "\n[upstreams.down]\nurl = \"http://127.0.0.1:1\"\nrules = \"openai\"\n";
    let limits = format!("{}{down}", limits(&mock.url()));
    let service = Service::start_with(&limits, &["--verbose", "--redis", &redis.url()]);

    let headers = [
        ("authorization", "Bearer s3cret-bearer"),
        ("x-api-key", "s3cret-x-api-key"),
        ("api-key", "s3cret-api-key"),
        ("x-goog-api-key", "s3cret-goog"),
        ("cookie", "session=s3cret-cookie"),
        ("x-throttle-share", "s3cret-share"),
    ];
    let class = [("x-throttle-class", "s3cret-class")];
    let odd = [("x-throttle-s3cret", "s3cret")];
    let model = r#"{"model":"s3cret-model","max_tokens":1,"messages":[]}"#;
    let mut statuses = Vec::new();
    for (path, headers, body) in [
        (CHAT, &headers[..], GPT),
        ("/openai/v1/chat/completions?key=s3cret-query", &headers, GPT),
        (MESSAGES, &headers, CLAUDE),
        ("/down/v1/chat/completions?key=s3cret-query", &headers, GPT),
        ("/s3cret-path/v1", &headers, GPT),
        ("/openai/s3cret-path", &headers, "s3cret-body"),
        (CHAT, &class, GPT),
        (CHAT, &odd, GPT),
        (CHAT, &headers, model),
    ] {
        statuses.push(post(&service.url(path), headers, body).await.0);
    }
    assert_eq!(statuses, [200, 401, 500, 502, 404, 400, 400, 400, 400]);
    // They arrived where they belong.
    let seen = &mock.seen()[0];
    assert_eq!(seen.headers["x-api-key"], "s3cret-x-api-key");

    let (_, _, metrics) = get(&service.url("/metrics")).await;
    assert!(metrics.contains("tower_throttle_granted_total"), "{metrics}");
    assert!(!metrics.contains(SECRET), "{metrics}");
    let ended = service.stop();
    assert_eq!(ended.code, 0);
    assert!(ended.err.contains("openai POST 401"), "{}", ended.err);
    assert!(ended.err.contains("upstream down: no response"), "{}", ended.err);
    assert!(!ended.out.contains(SECRET) && !ended.err.contains(SECRET), "{ended:?}");
}
