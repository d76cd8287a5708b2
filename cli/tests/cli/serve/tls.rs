//! An upstream over TLS and HTTP/2, with an authority that the machine is told of.

use std::{convert::Infallible, sync::Arc};

use bytes::Bytes;
use hyper::{Request, Response, Version, body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

use super::{
    mock::{Body, fed},
    service::{CHAT, GPT, Service, limits, post, send, written},
};
use crate::tls::acceptor;

/// More than a server admits on one connection.
const STREAMS: usize = 150;

/// An upstream over HTTP/2 that admits a hundred streams on a connection, and ends them when it is
/// told to.
async fn upstream() -> (String, String, Arc<Semaphore>) {
    let (acceptor, authority) = acceptor(&[b"h2"]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("https://localhost:{}", listener.local_addr().expect("an address").port());
    let ends = Arc::new(Semaphore::new(0));
    let told = ends.clone();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, told) = (acceptor.clone(), told.clone());
            tokio::spawn(async move {
                // A client that does not trust us hangs up.
                let Ok(secured) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let told = told.clone();
                    async move { Ok::<_, Infallible>(answer(&request, told)) }
                });
                let mut http = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let http = http.max_concurrent_streams(100);
                let _ = http.serve_connection(TokioIo::new(secured), service).await;
            });
        }
    });
    (url, authority, ends)
}

fn answer(request: &Request<Incoming>, ends: Arc<Semaphore>) -> Response<Body> {
    assert_eq!(request.version(), Version::HTTP_2);
    assert!(!request.headers().contains_key("connection"));
    let (feed, response) = fed();
    tokio::spawn(async move {
        feed.send(Bytes::from("data: {}\n\n")).expect("its stream lives");
        ends.acquire().await.expect("it is open").forget();
    });
    response
}

#[tokio::test(flavor = "multi_thread")]
async fn more_streams_than_one_connection_takes_run_at_a_time() {
    let (url, authority, ends) = upstream().await;
    let file = written(&authority);
    let service = Service::start_by(&limits(&url), &[], |command| {
        command.env("SSL_CERT_FILE", &file);
    });
    let mut heads = JoinSet::new();
    for _ in 0..STREAMS {
        let url = service.url(CHAT);
        heads.spawn(async move { send(&url, &[], GPT).await.expect("a head") });
    }
    // All of them have begun, and none has ended.
    let responses = heads.join_all().await;
    assert!(responses.iter().all(|response| response.status() == 200));
    assert!(responses.iter().all(|response| response.version() == Version::HTTP_11));
    service.metric_is("tower_throttle_in_flight{", STREAMS as f64).await;
    ends.add_permits(STREAMS);
    for response in responses {
        let (_, _, text) = super::service::whole(response).await;
        assert_eq!(text, "data: {}\n\n");
    }
    service.metric_is("tower_throttle_in_flight{", 0.0).await;
    std::fs::remove_file(&file).expect("it is there");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_nothing_vouches_for_is_not_trusted() {
    let (url, _, _) = upstream().await;
    let (_, other) = acceptor(&[]);
    let file = written(&other);
    let service = Service::start_by(&limits(&url), &[], |command| {
        command.env("SSL_CERT_FILE", &file);
    });
    let (status, _, text) = post(&service.url(CHAT), &[], GPT).await;
    assert_eq!(status, 502);
    assert!(text.contains("certificate"), "{text}");
    // Nothing was sent, so nothing is charged.
    service
        .metric_is(
            "tower_throttle_quota_charged{bucket=\"gpt-4o\",quota=\"tokens per minute\"}",
            0.0,
        )
        .await;
    std::fs::remove_file(&file).expect("it is there");
}
