//! What a gateway reserves, charges and answers.

use std::{collections::HashMap, sync::Mutex};

use axum_examples::{
    Server,
    gateway::{TENANT, Upstream, limits, router},
};
use examples_common::{
    openai::{completion, last_piece, piece},
    provider::{self, Provider, event, events, fed, json, status, typed, whole},
};
use http::StatusCode;
use tower_throttle::{
    Limiter, OnUnavailable,
    limiter::Retries,
    store::{Batch, Reply, Store, StoreError},
};

use crate::stand::{RESERVED, chat, read_until, stand, stand_before};

#[tokio::test]
async fn a_stream_is_settled_on_the_usage_it_tells() {
    let stand = stand(|_| events(&[piece(), piece(), last_piece(40), "[DONE]".into()])).await;
    let answer = stand.chat().await;
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.content_length(), None, "it is chunked");
    let text = answer.text().await.unwrap();
    assert!(text.starts_with("data: {") && text.ends_with("data: [DONE]\n\n"), "{text}");

    let totals = stand.end(1).await;
    assert_eq!((totals.reserved, totals.charged), (RESERVED, 40));
}

#[tokio::test]
async fn it_is_charged_what_it_reserved_while_it_streams() {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand = stand(move |_| answer.lock().unwrap().take().unwrap()).await;
    feed.send(Ok(event(&piece()))).unwrap();
    let mut streamed = stand.chat().await;
    streamed.chunk().await.unwrap().unwrap();
    assert_eq!(stand.charged("tenant acme").await, (RESERVED, RESERVED));
    assert_eq!(stand.charged("everyone").await, (RESERVED, RESERVED));

    feed.send(Ok(event(&last_piece(40)))).unwrap();
    drop(feed);
    while streamed.chunk().await.unwrap().is_some() {}
    assert_eq!(stand.end(1).await.charged, 40);
}

#[tokio::test]
async fn an_answer_in_one_piece_is_settled_whether_its_length_is_announced_or_not() {
    let announced = stand(|_| json(&completion(50))).await;
    assert!(announced.chat().await.content_length().is_some());
    assert_eq!(announced.end(1).await.charged, 50);

    let chunked = stand(|_| {
        let (feed, answer) = fed();
        for piece in completion(50).to_string().into_bytes().chunks(7) {
            feed.send(Ok(http_body::Frame::data(piece.to_vec().into()))).unwrap();
        }
        typed("application/json", answer)
    });
    let chunked = chunked.await;
    let answer = chunked.chat().await;
    assert_eq!(answer.content_length(), None);
    answer.bytes().await.unwrap();
    assert_eq!(chunked.end(1).await.charged, 50);
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_the_time_to_come_again() {
    let stand = stand(|_| json(&completion(900))).await;
    stand.chat().await.bytes().await.unwrap();
    assert_eq!(stand.charged("tenant acme").await, (900, 0));

    let refused = stand.chat().await;
    assert_eq!((refused.status(), stand.provider.calls()), (StatusCode::TOO_MANY_REQUESTS, 1));
    let header = |name: &str| refused.headers()[name].to_str().unwrap().to_owned();
    let retry_after: u64 = header("retry-after").parse().unwrap();
    assert!((30..=62).contains(&retry_after), "{retry_after}");
    assert_eq!(header("ratelimit-policy"), r#""tokens per minute";q=1000;w=60"#);
    assert_eq!(header("ratelimit"), format!(r#""tokens per minute";r=100;t={retry_after}"#));
    let text = refused.text().await.unwrap();
    assert_eq!(text, "too many requests", "nothing of the tenants");

    let totals = stand.end(1).await;
    assert_eq!((totals.reservations, totals.refused), (1, 1));
}

#[tokio::test]
async fn what_could_never_fit_is_refused_without_a_time() {
    let stand = stand(|_| json(&completion(1))).await;
    let body = chat().replace("300", "1001");
    let refused = reqwest::Client::new()
        .post(stand.url())
        .header(TENANT, "acme")
        .body(body)
        .send()
        .await
        .unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(refused.headers().get("retry-after"), None);
    assert_eq!((stand.provider.calls(), stand.end(0).await.refused), (0, 1));
}

#[derive(Debug)]
struct Gone;

impl Store for Gone {
    fn apply(&self, _: &Batch<'_>) -> Reply {
        Reply::Later(Box::pin(async { Err(StoreError::Unavailable("gone".into())) }))
    }
}

#[tokio::test]
async fn a_store_that_fails_is_a_503_and_no_call() {
    let provider = Provider::start(|_| json(&completion(1))).await.unwrap();
    for (on_unavailable, expected) in [
        (OnUnavailable::Fail, StatusCode::SERVICE_UNAVAILABLE),
        (OnUnavailable::Allow, StatusCode::OK),
    ] {
        let limits = limits(HashMap::from([("acme".into(), 1_000)]), 10_000);
        let limiter = Limiter::builder(limits)
            .store(Gone)
            .retries(Retries::none())
            .on_unavailable(on_unavailable);
        let router = router(limiter.build().unwrap(), Upstream::new(&provider.url()));
        let server = Server::start(router).await.unwrap();
        let request =
            reqwest::Client::new().post(server.url("/v1/chat/completions")).header(TENANT, "acme");
        assert_eq!(request.body(chat()).send().await.unwrap().status(), expected);
    }
    assert_eq!(provider.calls(), 1);
}

#[tokio::test]
async fn s27_a_provider_that_cannot_be_reached_costs_nothing() {
    let provider = Provider::start(|_| status(StatusCode::OK)).await.unwrap();
    let gone = provider::gone().await.unwrap();
    let stand = stand_before(provider, &gone).await;
    assert_eq!(stand.chat().await.status(), StatusCode::BAD_GATEWAY);
    assert_eq!(stand.end(1).await.charged, 0);
}

#[tokio::test]
async fn s27_a_call_that_fails_is_kept_and_one_that_is_refused_is_not() {
    for (code, expected) in [
        (StatusCode::INTERNAL_SERVER_ERROR, RESERVED),
        (StatusCode::BAD_GATEWAY, RESERVED),
        (StatusCode::BAD_REQUEST, RESERVED),
        (StatusCode::TOO_MANY_REQUESTS, 0),
    ] {
        let stand = stand(move |_| status(code)).await;
        assert_eq!(stand.chat().await.status(), code);
        assert_eq!(stand.end(1).await.charged, expected, "{code}");
    }
}

#[tokio::test]
async fn s30_each_attempt_of_a_client_that_retries_reserves_and_settles() {
    let codes = [StatusCode::SERVICE_UNAVAILABLE, StatusCode::TOO_MANY_REQUESTS, StatusCode::OK];
    let answers = Mutex::new(codes.into_iter());
    let stand = stand(move |_| match answers.lock().unwrap().next() {
        Some(StatusCode::OK) => json(&completion(50)),
        code => status(code.unwrap_or(StatusCode::OK)),
    })
    .await;
    for code in codes {
        let answer = stand.chat().await;
        assert_eq!(answer.status(), code);
        answer.bytes().await.unwrap();
    }
    let status = stand.limiter.status("tenant acme").await.unwrap();
    assert_eq!(status.quotas[1].charged, 2.0, "a call that was refused counts as none");
    let totals = stand.end(3).await;
    assert_eq!(
        (totals.reservations, totals.reserved, totals.charged),
        (3, 3 * RESERVED, RESERVED + 50)
    );
}

#[tokio::test]
async fn when_it_shuts_down_answers_come_to_their_end_and_are_settled() {
    let (feed, answer) = fed();
    let answer = Mutex::new(Some(answer));
    let stand = stand(move |_| answer.lock().unwrap().take().unwrap()).await;
    feed.send(Ok(event(&piece()))).unwrap();
    let mut connection =
        stand.raw("POST /v1/chat/completions HTTP/1.1\r\nx-tenant: acme", &chat()).await;
    read_until(&mut connection, "choices").await;

    let address = stand.server.address();
    let stopping = stand.server.stop();
    feed.send(Ok(event(&last_piece(40)))).unwrap();
    drop(feed);
    read_until(&mut connection, "\r\n0\r\n\r\n").await;
    stopping.await.unwrap().unwrap();
    stand.limiter.close().await;

    let totals = stand.meter.totals();
    assert_eq!((totals.settled, totals.charged), (1, 40));
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "it takes no more");
}

#[tokio::test]
async fn a_request_without_a_body_is_a_request_and_no_tokens() {
    let stand = stand(|request| {
        assert_eq!((request.method().as_str(), request.uri().path()), ("GET", "/v1/models"));
        assert!(request.body().is_empty() && !request.headers().contains_key("transfer-encoding"));
        assert!(
            !request.headers().contains_key(TENANT),
            "that is between the gateway and its tenants"
        );
        whole("{}")
    })
    .await;
    let models = reqwest::Client::new().get(stand.server.url("/v1/models")).header(TENANT, "acme");
    assert_eq!(models.send().await.unwrap().status(), StatusCode::OK);
    let status = stand.limiter.status("tenant acme").await.unwrap();
    assert_eq!((status.quotas[0].charged, status.quotas[1].charged), (0.0, 1.0));
    assert_eq!(stand.end(1).await.reserved, 0);
}
