//! What passes: unchanged, as soon as it comes, and counted.

use std::sync::Mutex;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response};

use super::{
    mock::{Body, Mock, events, fed, json},
    service::{CHAT, CLAUDE, GPT, MESSAGES, Service, client, get, limits, post, send, whole},
};

const ANSWER: &str =
    r#"{ "usage": {"prompt_tokens": 8, "completion_tokens": 9, "total_tokens": 17} , "x": "ü" }"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_call_goes_to_its_upstream_and_is_counted() {
    let mock = Mock::start(|_| {
        let mut response = json(200, ANSWER);
        let headers = response.headers_mut();
        headers.insert("x-request-id", "req_1".parse().expect("a value"));
        headers.insert("x-hop", "1".parse().expect("a value"));
        headers.insert("connection", "keep-alive, x-hop".parse().expect("a value"));
        response
    })
    .await;
    let service = Service::start(&limits(&mock.url()));
    assert!(service.line.contains("limits of this process"), "{}", service.line);
    assert!(service.line.contains(&format!("/openai to {}", mock.url())), "{}", service.line);

    let headers = [
        ("authorization", "Bearer sk-1"),
        ("accept-encoding", "gzip, br"),
        ("x-throttle-class", "batch"),
        ("x-throttle-share", "tenant 7"),
        ("connection", "x-private"),
        ("x-private", "1"),
    ];
    let (status, told, text) = post(&service.url(&format!("{CHAT}?a=%20b")), &headers, GPT).await;
    assert_eq!((status, text.as_str()), (200, ANSWER));
    assert_eq!(told["x-request-id"], "req_1");
    assert!(!told.contains_key("x-hop"), "{told:?}");

    let [seen] = &mock.seen()[..] else { panic!("one request") };
    assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", "/v1/chat/completions?a=%20b"));
    assert_eq!(seen.body, GPT);
    assert_eq!(seen.headers["host"], mock.url().strip_prefix("http://").expect("a URL"));
    assert_eq!(seen.headers["authorization"], "Bearer sk-1");
    assert_eq!(seen.headers["accept-encoding"], "identity");
    assert_eq!(seen.headers["content-length"], GPT.len().to_string());
    for absent in ["x-throttle-class", "x-throttle-share", "x-private", "connection"] {
        assert!(!seen.headers.contains_key(absent), "{absent}: {:?}", seen.headers);
    }
    // By OpenAI's rules tokens stay as they were reserved.
    for (metric, amount) in [("tokens", 100.0), ("output_tokens", 9.0), ("requests", 1.0)] {
        let start = format!(
            "tower_throttle_settled_total{{bucket=\"gpt-4o\",class=\"batch\",metric=\"{metric}\"}}"
        );
        service.metric_is(&start, amount).await;
    }
    assert_eq!(service.metric("tower_throttle_in_flight{").await, Some(0.0));
    let left = "tower_throttle_quota_charged{bucket=\"gpt-4o\",quota=\"tokens per minute\"}";
    assert_eq!(service.metric(left).await, Some(100.0));
    let ended = service.stop();
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_piece_by_piece() {
    let streams = Mutex::new(Vec::new());
    let (feed, response) = fed();
    streams.lock().expect("it is whole").push(response);
    let next = move |_: &_| streams.lock().expect("it is whole").pop().expect("one call");
    let mock = Mock::start(next).await;
    let service = Service::start(&limits(&mock.url()));
    let asking = r#"{"model":"claude-sonnet-4-5","max_tokens":100,"stream":true,"messages":[]}"#;
    let response = send(&service.url(MESSAGES), &[], asking).await.expect("a head");
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let mut body = response.into_body();
    for piece in [
        "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"usage\":{\"input_tokens\":9,\"output_tokens\":1}}}\n\n",
        "event: message_delta\r\nda",
        "ta: {\"type\":\"message_delta\",\"usage\":{\"output_tokens\":42}}\r\n\r\n",
        "event: message_stop\ndata: {\"type\":\"message_stop\"}\n\n",
    ] {
        // Each is there before the next is sent.
        feed.send(Bytes::from(piece)).expect("its stream lives");
        let frame = body.frame().await.expect("a piece").expect("a piece");
        assert_eq!(frame.data_ref().expect("data"), piece);
    }
    drop(feed);
    assert!(body.frame().await.is_none());
    let start = "tower_throttle_settled_total{bucket=\"claude-sonnet-4-5\",class=\"none\",metric=\"output_tokens\"}";
    service.metric_is(start, 42.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_names_no_model_passes_uncounted_where_nothing_could_count() {
    let mock = Mock::answering(r#"{"data":[]}"#).await;
    let service = Service::start(&limits(&mock.url()));
    assert_eq!(get(&service.url("/openai/v1/models")).await.0, 200);
    let request = Request::delete(service.url("/openai/v1/files/f")).body(Full::default());
    let response = client().request(request.expect("a request")).await.expect("a response");
    assert_eq!(whole(response).await.0, 200);
    assert_eq!(mock.seen()[0].path, "/v1/models");
    assert_eq!(service.metric("tower_throttle_granted_total").await, None);
}

#[tokio::test(flavor = "multi_thread")]
async fn uploads_pass_where_the_file_lets_them() {
    let mock = Mock::answering("{}").await;
    let limits = limits(&mock.url())
        .replace("[upstreams.openai]", "[upstreams.openai]\nunreadable = { bucket = \"gpt-4o\" }");
    let service = Service::start_with(&limits, &["--max-body-mib", "1"]);
    // Longer than what is read of a body.
    let upload = vec![b'x'; 3 << 20];
    let request = Request::post(service.url("/openai/v1/files"))
        .header("content-type", "multipart/form-data; boundary=x")
        .body(Full::new(Bytes::from(upload.clone())))
        .expect("a request");
    let response = client().request(request).await.expect("a response");
    assert_eq!(response.status(), 200);
    assert_eq!(mock.seen()[0].body, upload);
    assert_eq!(mock.seen()[0].headers["content-length"], upload.len().to_string());
    let granted = "tower_throttle_granted_total{bucket=\"gpt-4o\",class=\"none\"}";
    assert_eq!(service.metric(granted).await, Some(1.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_of_the_upstream_pass_as_they_are() {
    let refused = || -> Response<Body> {
        let mut response = json(429, r#"{"error":{"message":"slow down"}}"#);
        response.headers_mut().insert("retry-after", "7".parse().expect("a value"));
        response
    };
    let mock = Mock::start(move |seen| match seen.path.as_str() {
        "/v1/messages" => json(401, r#"{"type":"error"}"#),
        _ => refused(),
    })
    .await;
    let service = Service::start(&limits(&mock.url()));
    let (status, _, text) = post(&service.url(MESSAGES), &[], CLAUDE).await;
    assert_eq!((status, text.as_str()), (401, r#"{"type":"error"}"#));
    let (status, headers, text) = post(&service.url(CHAT), &[], GPT).await;
    assert_eq!((status, text.as_str()), (429, r#"{"error":{"message":"slow down"}}"#));
    assert_eq!(headers["retry-after"], "7");
    assert!(!headers.contains_key("x-throttle-error"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_asked_for_its_usage_where_the_file_says_so() {
    let mock = Mock::start(|_| {
        events("data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\ndata: [DONE]\n\n")
    })
    .await;
    let limits = limits(&mock.url())
        .replace("[upstreams.openai]", "[upstreams.openai]\ninclude_usage = true");
    let service = Service::start(&limits);
    let asking = r#"{"model":"gpt-4o","max_tokens":100,"stream":true,"messages":[]}"#;
    let (status, _, _) = post(&service.url(CHAT), &[], asking).await;
    assert_eq!(status, 200);
    let [seen] = &mock.seen()[..] else { panic!("one request") };
    assert_eq!(
        super::service::parsed(str::from_utf8(&seen.body).expect("a text"))["stream_options"]["include_usage"],
        true
    );
    assert_eq!(seen.headers["content-length"], seen.body.len().to_string());
    let start =
        "tower_throttle_settled_total{bucket=\"gpt-4o\",class=\"none\",metric=\"output_tokens\"}";
    service.metric_is(start, 4.0).await;
}
