//! While the store is away.

use super::{
    mock::Mock,
    service::{CHAT, CLAUDE, GPT, MESSAGES, Service, get, limits, parsed, post, until},
};
use crate::support::RedisServer;

#[tokio::test(flavor = "multi_thread")]
async fn calls_fail_and_the_service_is_not_ready_until_the_store_is_back() {
    let mut redis = RedisServer::start();
    let mock = Mock::answering("{}").await;
    let service = Service::start_with(&limits(&mock.url()), &["--redis", &redis.url()]);
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    assert_eq!(get(&service.url("/readyz")).await.0, 200);

    redis.stop();
    let (status, headers, text) = post(&service.url(CHAT), &[], GPT).await;
    assert_eq!(
        (status, &headers["x-throttle-error"]),
        (503, &"store_unavailable".parse().expect("a value"))
    );
    assert_eq!(parsed(&text)["error"]["type"], "server_error");
    let (status, _, text) = get(&service.url("/readyz")).await;
    assert_eq!((status, &parsed(&text)["status"]), (503, &"not ready".into()));
    assert_eq!(get(&service.url("/healthz")).await.0, 200);
    // Metrics of this process are still there.
    assert_eq!(service.metric("tower_throttle_degraded").await, Some(1.0));
    assert_eq!(mock.seen().len(), 1);

    redis.restart();
    until("it to be ready", async || get(&service.url("/readyz")).await.0 == 200).await;
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    let ended = service.stop();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("the store cannot be reached"), "{}", ended.err);
    assert!(ended.err.contains("the store answers again"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_pass_where_the_file_says_so() {
    let mut redis = RedisServer::start();
    let mock = Mock::answering("{}").await;
    let limits = format!("on_unavailable = 'allow'\n{}", limits(&mock.url()));
    let service = Service::start_with(&limits, &["--redis", &redis.url()]);
    redis.stop();
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    assert_eq!(post(&service.url(MESSAGES), &[], CLAUDE).await.0, 200);
    assert_eq!(get(&service.url("/readyz")).await.0, 503);
    assert_eq!(service.stop().code, 0);
}
