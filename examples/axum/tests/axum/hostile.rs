//! Peers that leave, break off, or answer out of turn: settled once, and the capacity is right.

use std::{sync::Mutex, time::Duration};

use axum_examples::gateway::TENANT;
use bytes::Bytes;
use examples_common::{
    openai::{completion, last_piece, piece},
    provider::{event, events, fed, json, status, typed, whole},
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use http_body::Frame;
use serde_json::{Value, json as value};

use tokio::time::timeout;

use crate::stand::{RESERVED, chat, read_until, stand};

const PATIENCE: Duration = Duration::from_secs(20);
const CHAT: &str = "POST /v1/chat/completions HTTP/1.1\r\nx-tenant: acme";

#[tokio::test]
async fn s28_a_client_that_hangs_up_in_mid_stream_keeps_its_charge() {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand = stand(move |_| answer.lock().unwrap().take().unwrap()).await;
    feed.send(Ok(event(&piece()))).unwrap();
    let mut connection = stand.raw(CHAT, &chat()).await;
    read_until(&mut connection, "choices").await;
    assert_eq!(stand.meter.totals().settled, 0);
    drop(connection);

    let totals = stand.end(1).await;
    assert_eq!((totals.reserved, totals.charged), (RESERVED, RESERVED));
    // And the provider is told.
    feed.closed().await;
}

#[tokio::test]
async fn s28_a_client_that_hangs_up_after_the_usage_has_had_all() {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand = stand(move |_| answer.lock().unwrap().take().unwrap()).await;
    feed.send(Ok(event(&last_piece(40)))).unwrap();
    let mut connection = stand.raw(CHAT, &chat()).await;
    read_until(&mut connection, "total_tokens").await;
    drop(connection);
    assert_eq!(stand.end(1).await.charged, 40);
}

#[tokio::test]
async fn s28_a_client_that_hangs_up_before_the_answer_keeps_its_charge() {
    let (arrived, mut arrivals) = tokio::sync::mpsc::unbounded_channel();
    let stand = stand(move |_| {
        let (feed, answer) = fed();
        arrived.send(feed).unwrap();
        answer
    });
    let stand = stand.await;
    let connection = stand.raw(CHAT, &chat()).await;
    let _feed = arrivals.recv().await.unwrap();
    drop(connection);
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_stream_without_usage_keeps_its_charge() {
    let stand = stand(|_| events(&[piece(), piece(), "[DONE]".into()])).await;
    stand.chat().await.bytes().await.unwrap();
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

/// What is charged when the upstream breaks off after this event.
async fn broken_off_after(first: Value) -> u64 {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand = stand(move |_| answer.lock().unwrap().take().unwrap()).await;
    feed.send(Ok(event(&first))).unwrap();
    let mut answer = stand.chat().await;
    answer.chunk().await.unwrap().unwrap();
    feed.send(Err("reset".into())).unwrap();
    assert!(answer.chunk().await.is_err(), "the client is told");
    stand.end(1).await.charged
}

#[tokio::test]
async fn s28_an_upstream_that_breaks_off_keeps_its_charge() {
    assert_eq!(broken_off_after(piece()).await, RESERVED);
}

/// More than was reserved had been used by then.
#[tokio::test]
async fn s28_what_was_seen_before_an_upstream_broke_off_is_the_least() {
    let mut seen = piece();
    for (tokens, expected) in [(10, RESERVED), (310, 310)] {
        seen["usage"] = value!({ "total_tokens": tokens });
        assert_eq!(broken_off_after(seen.clone()).await, expected);
    }
}

/// Before it answered anything.
#[tokio::test]
async fn s28_an_upstream_that_breaks_off_at_once_keeps_its_charge() {
    let stand = stand(|_| {
        let (feed, answer) = fed();
        feed.send(Err("reset".into())).unwrap();
        answer
    })
    .await;
    let answer = stand.chat().await;
    // The head may have come through.
    assert!(answer.status() == StatusCode::BAD_GATEWAY || answer.bytes().await.is_err());
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s35_a_client_that_hangs_up_while_it_waits_leaves_no_trace() {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand =
        stand(move |_| answer.lock().unwrap().take().unwrap_or_else(|| json(&completion(10))))
            .await;
    let large = chat().replace("300", "900");
    let first = stand.raw(CHAT, &large).await;
    stand.meter.until(|totals| totals.reservations == 1).await.unwrap();

    let waits = stand.raw(CHAT, &chat()).await;
    let waiting = async |waiting: usize| {
        for bucket in ["tenant acme", "everyone"] {
            while stand.limiter.status(bucket).await.unwrap().waiting != waiting {
                tokio::task::yield_now().await;
            }
        }
    };
    timeout(PATIENCE, waiting(1)).await.unwrap();
    drop(waits);
    timeout(PATIENCE, waiting(0)).await.unwrap();
    // The next request has its place.
    feed.send(Ok(event(&last_piece(100)))).unwrap();
    drop(feed);
    assert_eq!(stand.chat().await.status(), StatusCode::OK);
    drop(first);
    let totals = stand.end(2).await;
    assert_eq!((totals.reservations, totals.charged), (2, 110));
}

#[tokio::test]
async fn s29_answers_without_a_body_are_settled_once() {
    for (method, code) in [
        (Method::HEAD, StatusCode::OK),
        (Method::POST, StatusCode::NO_CONTENT),
        (Method::POST, StatusCode::NOT_MODIFIED),
        (Method::POST, StatusCode::OK),
    ] {
        let stand = stand(move |request| match *request.method() {
            Method::HEAD => json(&completion(5)),
            _ => status(code),
        })
        .await;
        let request =
            reqwest::Client::new().request(method.clone(), stand.url()).header(TENANT, "acme");
        let answer = request.body(chat()).send().await.unwrap();
        assert_eq!(answer.status(), code);
        assert_eq!(answer.bytes().await.unwrap().len(), 0);
        assert_eq!(stand.end(1).await.charged, RESERVED, "{method} {code}");
    }
}

#[tokio::test]
async fn s29_an_answer_with_trailers_is_settled_and_they_are_passed_on() {
    let stand = stand(|_| {
        let (feed, mut answer) = fed();
        answer.headers_mut().insert("trailer", HeaderValue::from_static("x-end"));
        feed.send(Ok(event(&last_piece(40)))).unwrap();
        let trailers =
            HeaderMap::from_iter([("x-end".parse().unwrap(), HeaderValue::from_static("yes"))]);
        feed.send(Ok(Frame::trailers(trailers))).unwrap();
        answer
    })
    .await;
    let mut connection = stand.raw(&format!("{CHAT}\r\nte: trailers"), &chat()).await;
    let answer = read_until(&mut connection, "\r\n0\r\nx-end: yes\r\n\r\n").await;
    assert!(answer.to_ascii_lowercase().contains("trailer: x-end"), "{answer}");
    assert_eq!(stand.end(1).await.charged, 40);
}

const TEN_MEGABYTES: usize = 10 << 20;

#[tokio::test]
async fn ten_megabytes_of_answer_pass_and_keep_their_charge() {
    let mut answer = completion(40);
    answer["padding"] = "x".repeat(TEN_MEGABYTES).into();
    let (text, length) = (answer.to_string(), answer.to_string().len());
    let stand = stand(move |_| typed("application/json", whole(text.clone()))).await;
    assert_eq!(stand.chat().await.bytes().await.unwrap().len(), length);
    assert_eq!(stand.end(1).await.charged, RESERVED, "too much to look into");
}

#[tokio::test]
async fn ten_megabytes_of_events_are_settled_on_the_last() {
    let stand = stand(|_| {
        let (feed, answer) = fed();
        let mut padded = piece();
        padded["padding"] = "x".repeat(10 << 10).into();
        for _ in 0..1 << 10 {
            feed.send(Ok(event(&padded))).unwrap();
        }
        feed.send(Ok(event(&last_piece(40)))).unwrap();
        answer
    })
    .await;
    assert!(stand.chat().await.bytes().await.unwrap().len() > TEN_MEGABYTES);
    assert_eq!(stand.end(1).await.charged, 40);
}

#[tokio::test]
async fn ten_megabytes_of_request_are_measured_and_passed_on() {
    let question = "x".repeat(TEN_MEGABYTES);
    let body =
        value!({ "model": "gpt-4o", "max_tokens": 300, "messages": [{ "content": question }] })
            .to_string();
    let sent = Bytes::from(body.clone());
    let stand = stand(move |request| {
        assert!(request.body() == &sent, "{} bytes", request.body().len());
        json(&completion(2_000_000))
    })
    .await;
    let request = reqwest::Client::new().post(stand.url()).header(TENANT, "giant").body(body);
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let totals = stand.meter.settled(1).await.unwrap();
    assert_eq!((totals.reserved, totals.charged), ((10 << 20) / 4 + 300, 2_000_000));
    assert_eq!(stand.charged("tenant giant").await, (2_000_000, 0));
}

#[tokio::test]
async fn more_than_is_held_in_memory_is_refused_and_reserves_nothing() {
    let stand = stand(|_| json(&completion(1))).await;
    let request =
        reqwest::Client::new().post(stand.url()).header(TENANT, "giant").body(vec![b'x'; 17 << 20]);
    // It answers without having read all: whether the client sees that or a broken connection is up
    // to the network.
    if let Ok(answer) = request.send().await {
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }
    assert_eq!((stand.provider.calls(), stand.meter.totals().reservations), (0, 0));
}

#[tokio::test]
async fn a_compressed_answer_passes_and_keeps_its_charge() {
    // To the gateway these are just bytes, whether they are gzip or not.
    let stand = stand(|_| {
        let mut answer = json(&completion(40));
        answer.headers_mut().insert("content-encoding", HeaderValue::from_static("gzip"));
        answer
    })
    .await;
    let answer = stand.chat().await;
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    assert_eq!(answer.bytes().await.unwrap(), completion(40).to_string());
    assert_eq!(stand.end(1).await.charged, RESERVED);
}
