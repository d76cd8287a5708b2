//! How a service ends: with what is in flight, or after a while without it.

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::{Response, body::Incoming};
use tokio::sync::mpsc::UnboundedSender;
use tower_throttle::{Limiter, file::LimitsFile, store::RedisStore};

use super::{
    mock::{Mock, fed},
    service::{CLAUDE, MESSAGES, Service, limits, send, until},
};
use crate::support::RedisServer;

const USAGE: &str = "data: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":42}}\n\n";
const STOP: &str = "data: {\"type\":\"message_stop\"}\n\n";

/// A service in the middle of a stream.
struct Streaming {
    redis: RedisServer,
    limits: String,
    service: Service,
    feed: UnboundedSender<Bytes>,
    response: Response<Incoming>,
}

impl Streaming {
    async fn start(arguments: &[&str]) -> Self {
        let redis = RedisServer::start();
        let (feed, response) = fed();
        let response = Mutex::new(Some(response));
        let mock =
            Mock::start(move |_| response.lock().expect("it is whole").take().expect("one call"))
                .await;
        let (limits, url) = (limits(&mock.url()), redis.url());
        let arguments = [&["--redis", &url], arguments].concat();
        let service = Service::start_with(&limits, &arguments);
        let response = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
        feed.send(USAGE.into()).expect("its stream lives");
        Self { redis, limits, service, feed, response }
    }

    /// Sends a signal, and waits until no connection is accepted any more.
    async fn signal(&self, name: &str) {
        self.service.signal(name);
        let url = self.service.url("/healthz");
        let address = url.trim_start_matches("http://").split('/').next().expect("an address");
        until("the port to be closed", async || {
            tokio::net::TcpStream::connect(address).await.is_err()
        })
        .await;
    }
}

/// What is charged of output tokens, and how many calls are in flight.
async fn charged(redis: &RedisServer, limits: &str) -> (f64, u64) {
    let file = LimitsFile::from_toml(limits).expect("limits");
    let store = RedisStore::connect(&redis.url()).await.expect("a server");
    let limiter: Limiter = file.limiter().store(store).build().expect("a limiter");
    let status = limiter.status("claude-sonnet-4-5").await.expect("a status");
    (status.quotas[1].charged, status.quotas[2].in_flight)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_in_its_time_and_is_settled() {
    for signal in ["TERM", "INT"] {
        let streaming = Streaming::start(&[]).await;
        streaming.signal(signal).await;
        let Streaming { redis, limits, service, feed, response } = streaming;
        assert_eq!(charged(&redis, &limits).await, (100.0, 1));
        feed.send(STOP.into()).expect("its stream lives");
        drop(feed);
        let body = response.into_body().collect().await.expect("all of it").to_bytes();
        assert_eq!(body, format!("{USAGE}{STOP}"));
        let ended = service.ended();
        assert_eq!((ended.code, ended.err.as_str()), (0, ""), "{signal}");
        assert_eq!(charged(&redis, &limits).await, (42.0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_the_grace_a_stream_is_cut_off_and_keeps_its_charge() {
    let streaming = Streaming::start(&["--grace", "200ms"]).await;
    streaming.signal("TERM").await;
    let Streaming { redis, limits, service, feed, response } = streaming;
    let ended = service.ended();
    assert_eq!(ended.code, 0, "{}", ended.err);
    assert!(ended.err.contains("had not ended within 200ms"), "{}", ended.err);
    assert!(response.into_body().collect().await.is_err(), "it was cut off");
    assert_eq!(charged(&redis, &limits).await, (100.0, 0));
    drop(feed);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_is_told_at_the_end() {
    let (streams, mock) = Mock::streaming().await;
    let service = Service::start_with(&limits(&mock.url()), &["--grace", "200ms"]);
    let url = service.url(MESSAGES);
    let _first = send(&url, &[], CLAUDE).await.expect("a head");
    let _second = send(&url, &[], CLAUDE).await.expect("a head");
    let waiting = tokio::spawn(async move { super::service::post(&url, &[], CLAUDE).await });
    service.metric_is("tower_throttle_waiting{", 1.0).await;
    service.signal("TERM");
    let (status, headers, text) = waiting.await.expect("a response");
    assert_eq!(status, 503, "{text}");
    assert_eq!(headers["x-throttle-error"], "closed");
    assert!(text.contains("it shuts down"), "{text}");
    assert_eq!(service.ended().code, 0);
    assert_eq!(streams.try_iter().count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_ends_it_at_once() {
    let streaming = Streaming::start(&[]).await;
    streaming.signal("TERM").await;
    streaming.service.signal("TERM");
    assert_eq!(streaming.service.ended().code, 143);
    drop(streaming.feed);
}
