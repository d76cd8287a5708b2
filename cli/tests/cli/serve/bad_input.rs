//! What makes no sense is told, to who starts the service and to who calls it, and leaves nothing
//! behind.

use std::{
    net::TcpListener,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::{Request, body::Frame};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    mock::{Mock, json},
    service::{
        CHAT, CLAUDE, GPT, MESSAGES, Service, get, limits, parsed, post, send, until, whole,
        written,
    },
};
use crate::program::run;

const SECRET: &str = "hunter2";

/// A port that nothing listens on.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Runs `serve`, which ends at once with this code and one line that contains this.
fn ends(limits: &str, arguments: &[&str], code: i32, message: &str) {
    let file = written(limits);
    let path = file.to_str().expect("a text");
    let ended = run(&[&["serve", "--limits", path], arguments].concat());
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!((ended.code, ended.out.as_str()), (code, ""), "{}", ended.err);
    assert!(ended.err.contains(message), "{message}: {}", ended.err);
    assert!(!ended.err.contains(SECRET), "{}", ended.err);
    assert_eq!(ended.err.lines().count(), 1, "{}", ended.err);
}

#[test]
fn a_service_that_cannot_start_says_why() {
    let good = limits("http://127.0.0.1:1");
    let holder = TcpListener::bind("127.0.0.1:0").expect("a port");
    let taken = holder.local_addr().expect("an address").to_string();
    ends(&good, &["--listen", "0.0.0.0:0"], 2, "no loopback address");
    ends(&good, &["--listen", "0.0.0.0:0"], 2, "unencrypted");
    ends(&good, &["--listen", &taken], 8, "Address already in use");
    drop(holder);

    let unknown = good.replace("[upstreams.openai]", "[upstreams.openai]\nretries = 3");
    ends(&unknown, &[], 3, "unknown field `retries`");
    let none = good.split("[upstreams").next().expect("a text").to_owned();
    ends(&none, &[], 3, "it names no upstreams");
    ends(&none.replace("500", "0"), &[], 3, "its limit is 0");

    let redis = format!("redis://user:{SECRET}@127.0.0.1:{}", free_port());
    ends(&good, &["--redis", &redis], 4, "Connection refused");
    ends(&good, &["--redis", &format!("http://user:{SECRET}@host")], 5, "write redis://");
    let missing = run(&["serve", "--limits", "/nowhere/limits.toml"]);
    assert_eq!(missing.code, 3, "{}", missing.err);
    for arguments in [&["--listen", "here"][..], &["--grace", "soon"], &["--max-body-mib", "0"]] {
        let ended = run(&[&["serve", "--limits", "l.toml"], arguments].concat());
        assert_eq!(ended.code, 2, "{arguments:?}: {}", ended.err);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn it_listens_anywhere_only_where_told() {
    let limits = limits("http://127.0.0.1:1");
    let service = Service::start_with(&limits, &["--listen", "0.0.0.0:0", "--listen-anywhere"]);
    assert_eq!(service.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_that_no_upstream_has_is_told_what_there_is() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&limits(&mock.url()));
    for path in ["/", "/v1/chat/completions", "/open%61i/v1", "/openaix", "//openai/v1"] {
        let (status, headers, text) = post(&service.url(path), &[], GPT).await;
        assert_eq!(
            (status, &headers["content-type"]),
            (404, &"application/json".parse().expect("a value"))
        );
        let error = &parsed(&text)["error"];
        let message = error["message"].as_str().expect("a text");
        let expected = "there is /openai, /anthropic, /healthz, /readyz, /metrics";
        assert!(message.contains(expected), "{path}: {message}");
    }
    assert!(mock.seen().is_empty());
    assert_eq!(get(&service.url("/healthz")).await.0, 200);
    assert_eq!(get(&service.url("/readyz")).await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_cannot_be_counted_are_told_why() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&limits(&mock.url()));
    let multipart = [("content-type", "multipart/form-data; boundary=x")];
    let gzip = [("content-encoding", "gzip")];
    let unknown_class = [("x-throttle-class", "no-such-class")];
    for (headers, body, kind, message) in [
        (&[][..], "", "unreadable", "no JSON object"),
        (&[], "[]", "unreadable", "no JSON object"),
        (&[], "{\"model\":", "unreadable", "no JSON object"),
        (&[], "{}", "unreadable", "names no model"),
        (&multipart, GPT, "unreadable", "`unreadable` below [upstreams.openai]"),
        (&gzip, GPT, "unreadable", "none that can be read"),
        (&[], r#"{"model":"no-such-model"}"#, "bad_demand", "`no-such-model` is not declared"),
        (&unknown_class, GPT, "bad_demand", "class `no-such-class` is not declared"),
        (&[("x-throttle-class", "a\u{e9}\u{a0}")], GPT, "bad_demand", "is not declared"),
        (&[("x-throttle-share", "")], GPT, "bad_header", "`x-throttle-share` is a name"),
        (&[("x-throttle-prio", "1")], GPT, "bad_header", "there are only `x-throttle-class`"),
    ] {
        let (status, told, text) = post(&service.url(CHAT), headers, body).await;
        assert_eq!(status, 400, "{headers:?} {body}: {text}");
        assert_eq!(told["x-throttle-error"], kind, "{text}");
        let error = parsed(&text)["error"].clone();
        assert_eq!(error["type"], "invalid_request_error");
        assert!(error["message"].as_str().expect("a text").contains(message), "{message}: {text}");
    }
    let huge = r#"{"model":"gpt-4o","max_tokens":30001,"messages":[]}"#;
    let (status, headers, text) = post(&service.url(CHAT), &[], huge).await;
    assert_eq!((status, &headers["x-should-retry"]), (413, &"false".parse().expect("a value")));
    assert!(text.contains("more than could ever be admitted"), "{text}");
    let (status, _, text) = post(&service.url(MESSAGES), &[], "{}").await;
    assert_eq!((status, &parsed(&text)["error"]["type"]), (400, &"invalid_request_error".into()));
    assert!(mock.seen().is_empty());
    assert_eq!(service.metric("tower_throttle_granted_total").await, None);
}

/// The most memory that a process has taken, in MiB.
fn peak(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find(|line| line.starts_with("VmHWM:"))?;
    Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? / 1024)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_of_a_hundred_megabytes_is_refused_and_not_kept() {
    let mock = Mock::answering("{}").await;
    let service = Service::start_with(&limits(&mock.url()), &["--max-body-mib", "8"]);
    let piece = Bytes::from(vec![b' '; 1 << 20]);

    let all = Bytes::from(vec![b' '; 100 << 20]);
    let (status, headers, text) = post(&service.url(CHAT), &[], all).await;
    assert_eq!(
        (status, &headers["x-throttle-error"]),
        (413, &"body_too_long".parse().expect("a value"))
    );
    assert!(text.contains("longer than 8 MiB"), "{text}");

    // In chunks, so that its length is not told.
    let client = Client::builder(TokioExecutor::new()).build_http();
    let pieces =
        stream::iter((0..100).map(move |_| Ok::<_, hyper::Error>(Frame::data(piece.clone()))));
    let request = Request::post(service.url(MESSAGES)).body(StreamBody::new(pieces));
    let response = client.request(request.expect("a request")).await.expect("a response");
    let (status, _, text) = whole(response).await;
    assert_eq!((status, &parsed(&text)["error"]["type"]), (413, &"request_too_large".into()));

    if let Some(peak) = peak(service.id()) {
        assert!(peak < 90, "{peak} MiB");
    }
    assert!(mock.seen().is_empty());
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
}

/// Sends bytes as they are, and no more if so told. Returns what comes back until the connection
/// ends.
async fn raw(service: &Service, bytes: &[u8], ends: bool) -> String {
    let url = service.url("");
    let address = url.strip_prefix("http://").expect("a URL");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    // It may hang up before it has read all.
    let _ = connection.write_all(bytes).await;
    if ends {
        let _ = connection.shutdown().await;
    }
    let mut back = Vec::new();
    let _ = connection.read_to_end(&mut back).await;
    String::from_utf8_lossy(&back).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_bytes_are_too_odd() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&limits(&mock.url()));
    let many: String = (0..500).map(|number| format!("x-{number}: y\r\n")).collect();
    let long = "y".repeat(1 << 20);
    for (bytes, status) in [
        ("\0\x01\x02\r\n\r\n".to_owned(), Some("400")),
        ("GET /openai/v1 HTTP/9.9\r\n\r\n".to_owned(), Some("400")),
        (format!("GET /openai/v1 HTTP/1.1\r\nhost: a\r\n{many}\r\n"), Some("431")),
        (format!("GET /openai/v1 HTTP/1.1\r\nhost: a\r\nx: {long}\r\n\r\n"), Some("431")),
        (format!("GET /{long} HTTP/1.1\r\nhost: a\r\n\r\n"), Some("431")),
        ("POST /openai/v1 HTTP/1.1\r\nhost: a\r\ncontent-length: -5\r\n\r\n".into(), Some("400")),
        ("POST /openai/v1 HTTP/1.1\r\nhost: a\r\ntransfer-encoding: x\r\n\r\n".into(), Some("400")),
        ("CONNECT a.b:443 HTTP/1.1\r\nhost: a.b\r\nconnection: close\r\n\r\n".into(), Some("404")),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n".into(), Some("404")),
        // A body that breaks off: there is none to tell.
        ("POST /openai/v1 HTTP/1.1\r\nhost: a\r\ncontent-length: 90\r\n\r\n{\"mod".into(), None),
    ] {
        let back = raw(&service, bytes.as_bytes(), status.is_none()).await;
        let told = back.split_whitespace().nth(1);
        let shown: String = bytes.chars().take(80).collect();
        match status {
            Some(status) => assert_eq!(told, Some(status), "{shown:?}: {back}"),
            None => assert!(back.is_empty() || told == Some("400"), "{shown:?}: {back}"),
        }
    }
    assert!(mock.seen().is_empty());
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    assert_eq!(service.metric("tower_throttle_in_flight{").await, Some(0.0));
    assert_eq!(service.stop().code, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_is_down_gives_a_call_back() {
    let port = free_port();
    let service = Service::start(&limits(&format!("http://127.0.0.1:{port}")));
    let (status, headers, text) = post(&service.url(MESSAGES), &[], CLAUDE).await;
    assert_eq!(
        (status, &headers["x-throttle-error"]),
        (502, &"upstream_failed".parse().expect("a value"))
    );
    assert_eq!(parsed(&text)["error"]["type"], "api_error");
    assert!(text.contains("Connection refused"), "{text}");
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 502);
    for quota in
        ["claude-sonnet-4-5\",quota=\"requests per hour", "gpt-4o\",quota=\"tokens per minute"]
    {
        let start = format!("tower_throttle_quota_charged{{bucket=\"{quota}\"}}");
        service.metric_is(&start, 0.0).await;
    }
    service.metric_is("tower_throttle_in_flight{bucket=\"gpt-4o\"", 0.0).await;
    let ended = service.stop();
    // Once for each upstream, not for each call.
    assert_eq!(ended.err.matches("Connection refused").count(), 2, "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_an_upstream_drops_keeps_its_charge() {
    let hangs_up = Arc::new(AtomicBool::new(true));
    let told = hangs_up.clone();
    let mock = Mock::start(move |_| (!told.load(Ordering::Relaxed)).then(|| json(200, "{}"))).await;
    let service = Service::start(&limits(&mock.url()));
    let (status, _, text) = post(&service.url(CHAT), &[], GPT).await;
    assert_eq!(status, 502, "{text}");
    let charged = "tower_throttle_quota_charged{bucket=\"gpt-4o\",quota=\"tokens per minute\"}";
    service.metric_is(charged, 100.0).await;
    hangs_up.store(false, Ordering::Relaxed);
    assert_eq!(post(&service.url(CHAT), &[], GPT).await.0, 200);
    let ended = service.stop();
    assert!(ended.err.contains("upstream openai: answers again"), "{}", ended.err);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_does_not_begin_in_time_is_a_timeout() {
    // Accepts, and says nothing.
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    let limits = limits(&url)
        .replace(&format!("url = \"{url}\""), &format!("url = \"{url}\"\ntimeout = \"100 ms\""));
    let service = Service::start(&limits);
    let (status, headers, text) = post(&service.url(MESSAGES), &[], CLAUDE).await;
    assert_eq!((status, &headers["x-should-retry"]), (504, &"false".parse().expect("a value")));
    assert_eq!(parsed(&text)["error"]["type"], "timeout_error");
    let charged = "tower_throttle_quota_charged{bucket=\"claude-sonnet-4-5\",quota=\"output_tokens per hour\"}";
    service.metric_is(charged, 100.0).await;
    drop(listener);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_breaks_off_for_the_client_and_keeps_its_charge() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("an address"));
    tokio::spawn(async move {
        let (mut connection, _) = listener.accept().await.expect("a call");
        let mut head = [0; 4096];
        let _ = connection.read(&mut head).await.expect("a request");
        let begun = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\ndata: \r\n";
        connection.write_all(begun.as_bytes()).await.expect("it is sent");
    });
    let service = Service::start(&limits(&url));
    let response = send(&service.url(MESSAGES), &[], CLAUDE).await.expect("a head");
    assert!(response.into_body().collect().await.is_err());
    let charged = "tower_throttle_quota_charged{bucket=\"claude-sonnet-4-5\",quota=\"output_tokens per hour\"}";
    service.metric_is(charged, 100.0).await;
    service.metric_is("tower_throttle_in_flight{", 0.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_upload_of_a_client_that_hangs_up_reserves_nothing() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&limits(&mock.url()));
    let url = service.url("");
    let address = url.strip_prefix("http://").expect("a URL");
    let mut connection = TcpStream::connect(address).await.expect("a connection");
    let begun = format!("POST {CHAT} HTTP/1.1\r\nhost: a\r\ncontent-length: 50\r\n\r\n{{");
    connection.write_all(begun.as_bytes()).await.expect("it is sent");
    drop(connection);
    // One that comes after it is served as ever.
    until("a call to pass", async || post(&service.url(CHAT), &[], GPT).await.0 == 200).await;
    assert_eq!(service.metric("tower_throttle_granted_total").await, Some(1.0));
}

#[test]
fn a_check_tells_of_upstreams_in_words() {
    let file = written(&limits("https://api.example.com/base").replace(
        "[upstreams.anthropic]",
        "[upstreams.anthropic]\nwhen_full = 'refuse'\nunreadable = 'unlimited'",
    ));
    let ended = run(&["check", file.to_str().expect("a text")]);
    std::fs::remove_file(&file).expect("it is there");
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for line in [
        "upstream openai: https://api.example.com/base, by the rules of openai; what is full waits 60 s at most",
        "upstream anthropic: https://api.example.com/base, by the rules of anthropic; what is full is refused; requests that name no model pass unlimited and uncounted",
    ] {
        assert!(ended.out.lines().any(|told| told == line), "{line}\nin {}", ended.out);
    }
}

/// An upload that is refused is read, so that its client gets to know why.
#[tokio::test(flavor = "multi_thread")]
async fn an_upload_that_is_refused_is_told_why() {
    let mock = Mock::answering("{}").await;
    let service = Service::start(&limits(&mock.url()));
    let request = Request::post(service.url("/openai/v1/files"))
        .header("content-type", "multipart/form-data; boundary=x")
        .body(Full::new(Bytes::from(vec![b'x'; 20 << 20])))
        .expect("a request");
    let response = super::service::client().request(request).await.expect("a response");
    let (status, _, text) = whole(response).await;
    assert_eq!(status, 400);
    assert!(text.contains("`unreadable` below [upstreams.openai]"), "{text}");
}
