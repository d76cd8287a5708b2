//! What is full waits or is refused, here and in all processes that share the limits.

use tokio::task::JoinSet;
use tower_throttle::{Limiter, ThrottleLayer, file::LimitsFile, store::RedisStore};

use super::{
    mock::Mock,
    service::{CHAT, CLAUDE, GPT, MESSAGES, Service, get, limits, parsed, post, send, until},
};
use crate::support::RedisServer;

/// Limits that five calls fill.
fn five(url: &str, when_full: &str) -> String {
    let limits = limits(url).replace("limit = 500", "limit = 5");
    limits.replace("[upstreams.openai]", &format!("[upstreams.openai]\n{when_full}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_full_is_refused_in_the_provider_s_shape() {
    let mock = Mock::answering("{}").await;
    let file = five(&mock.url(), "when_full = 'refuse'")
        .replace("limit = 50,", "limit = 1,")
        .replace("[upstreams.anthropic]", "[upstreams.anthropic]\nmax_wait = '10 ms'");
    let service = Service::start(&file);
    for _ in 0..5 {
        assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    }
    let (status, headers, text) = post(&service.url(CHAT), &[], GPT).await;
    assert_eq!((status, &headers["x-throttle-error"]), (429, &"not_now".parse().expect("a value")));
    let seconds: u64 = headers["retry-after"].to_str().expect("a text").parse().expect("a number");
    assert!((1..=65).contains(&seconds), "{seconds}");
    let error = &parsed(&text)["error"];
    assert_eq!(error["type"], "rate_limit_error", "{text}");
    assert!(error["message"].as_str().expect("a text").contains("requests per minute"), "{text}");

    assert_eq!(post(&service.url(MESSAGES), &[], CLAUDE).await.0, 200);
    let (status, headers, text) = post(&service.url(MESSAGES), &[], CLAUDE).await;
    assert_eq!(status, 429);
    assert_eq!(parsed(&text)["type"], "error", "{text}");
    assert_eq!(parsed(&text)["error"]["type"], "rate_limit_error", "{text}");
    // In an hour, which no SDK waits for.
    assert_eq!(headers["x-should-retry"], "false");
    assert_eq!(mock.seen().len(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_full_waits_until_there_is_room() {
    let (streams, mock) = Mock::streaming().await;
    let service = Service::start(&limits(&mock.url()));
    // Two calls may be in flight.
    let first = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
    let _second = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
    let url = service.url(MESSAGES);
    let third = tokio::spawn(async move { send(&url, &[], CLAUDE).await.expect("a head") });
    service.metric_is("tower_throttle_waiting{", 1.0).await;
    assert_eq!(mock.seen().len(), 2);
    drop(streams.recv().expect("the first call"));
    drop(first);
    assert_eq!(third.await.expect("no panic").status(), 200);
    assert_eq!(mock.seen().len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_and_a_process_share_limits_on_one_redis() {
    let redis = RedisServer::start();
    let store = RedisStore::connect(&redis.url()).await.expect("a server");
    services_and_a_process_share_limits([&redis, &redis], store).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_services_and_a_process_share_limits_on_a_cluster() {
    let nodes = RedisServer::start_cluster(2);
    let store = RedisStore::connect_cluster([nodes[0].url()]).await.expect("a cluster");
    services_and_a_process_share_limits([&nodes[0], &nodes[1]], store).await;
}

async fn services_and_a_process_share_limits(named: [&RedisServer; 2], store: RedisStore) {
    let mock = Mock::answering("{}").await;
    let file = five(&mock.url(), "when_full = 'refuse'");
    let services = named.map(|redis| Service::start_with(&file, &["--redis", &redis.url()]));
    assert!(services[0].line.contains(&format!("limits on 127.0.0.1:{}", named[0].port())));

    let mut calls = JoinSet::new();
    for call in 0..20 {
        let url = services[call % 2].url(CHAT);
        calls.spawn(async move { post(&url, &[], GPT).await.0 });
    }
    let statuses = calls.join_all().await;
    let count = |status| statuses.iter().filter(|other| **other == status).count();
    assert_eq!((count(200), count(429)), (5, 15), "{statuses:?}");
    assert_eq!(mock.seen().len(), 5);

    // A process that makes its calls itself.
    let file = LimitsFile::from_toml(&file).expect("limits");
    let limiter: Limiter = file.limiter().store(store).build().expect("a limiter");
    let _layer = ThrottleLayer::openai(limiter.clone());
    let status = limiter.status("gpt-4o-2024-11-20").await.expect("a status");
    assert_eq!((status.quotas[0].charged, status.quotas[1].charged), (5.0, 500.0));
    for service in services {
        assert_eq!(get(&service.url("/readyz")).await.0, 200);
        assert_eq!(service.stop().code, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_class_leaves_headroom_to_others() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&five(&mock.url(), "when_full = 'refuse'"));
    let class = [("x-throttle-class", "batch")];
    let mut statuses = Vec::new();
    for _ in 0..4 {
        statuses.push(post(&service.url(CHAT), &class, GPT).await.0);
    }
    // A class that may take half of five, rounded up.
    assert_eq!(statuses, [200, 200, 200, 429]);
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_hangs_up_leaves_nothing_behind() {
    let (streams, mock) = Mock::streaming().await;
    let service = Service::start(&limits(&mock.url()));
    let first = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
    let _second = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
    let url = service.url(MESSAGES);
    let waiting = tokio::spawn(async move { send(&url, &[], CLAUDE).await.map(drop) });
    service.metric_is("tower_throttle_waiting{", 1.0).await;

    // While it waits: no call is made.
    waiting.abort();
    service.metric_is("tower_throttle_waiting{", 0.0).await;
    service.metric_is("tower_throttle_cancelled_total{", 1.0).await;
    assert_eq!(mock.seen().len(), 2);

    // In the middle of a stream: the call to the upstream ends, and keeps its charge.
    let feed = streams.recv().expect("the first call");
    drop(first);
    until("the upstream's stream to end", async || feed.is_closed()).await;
    service.metric_is("tower_throttle_in_flight{", 1.0).await;
    let start = "tower_throttle_settled_total{bucket=\"claude-sonnet-4-5\",class=\"none\",metric=\"output_tokens\"}";
    service.metric_is(start, 100.0).await;
    // Its place is free again.
    assert_eq!(send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head").status(), 200);
}
