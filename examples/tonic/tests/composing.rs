//! The code that docs/composing.md shows.

#[path = "composing/channel.rs"]
mod channel;

use tonic::transport::Channel;
use tonic_examples::{
    budgeted,
    chat::Client,
    server::{Server, answered},
};
use tower_throttle::{Limiter, Limits, Quota};

#[test]
fn the_document_shows_this_code() {
    let code = include_str!("composing/channel.rs");
    assert!(
        include_str!("../../../docs/composing.md").contains(&code.replace("pub(crate) ", "")),
        "{code}"
    );
    assert!(code.lines().count() < 30);
}

#[tokio::test]
async fn the_channel_that_it_shows_keeps_within_its_limit() {
    let server = Server::start(|_| std::future::ready(answered(&["It depends."], 60))).unwrap();
    let limits = Limits::new()
        .bucket("chat", [Quota::per_minute("tokens", 1_000)])
        .family("/chat.Chat/*", "chat");
    let limiter = Limiter::new(limits).unwrap();
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let throttled = channel::throttled(limiter.clone(), channel);
    Client::new(throttled).answer(budgeted("May I?", 300)).await.unwrap();
    assert_eq!(limiter.status("chat").await.unwrap().quotas[0].charged, 60.0);
}

/// In tasks and handlers, where the future of a call has to be `Send`.
#[tokio::test]
async fn the_channel_that_it_shows_is_called_from_tasks_and_handlers() {
    let server = Server::start(|_| std::future::ready(answered(&["It depends."], 60))).unwrap();
    let quotas = [Quota::per_minute("tokens", 10_000)];
    let limits = Limits::new().bucket("chat", quotas).family("/chat.Chat/*", "chat");
    let limiter = Limiter::new(limits).unwrap();
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let throttled = channel::throttled(limiter.clone(), channel);

    let one = throttled.clone();
    let asked = async move { Client::new(one).answer(budgeted("May I?", 300)).await.map(drop) };
    tokio::spawn(asked).await.unwrap().unwrap();

    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let one = throttled.clone();
        tasks
            .spawn(async move { Client::new(one).answer(budgeted("May I?", 300)).await.map(drop) });
    }
    while let Some(asked) = tasks.join_next().await {
        asked.unwrap().unwrap();
    }

    let handler =
        async move || match Client::new(throttled.clone()).answer(budgeted("May I?", 300)).await {
            Ok(_) => http::StatusCode::OK,
            Err(_) => http::StatusCode::BAD_GATEWAY,
        };
    let router = axum::Router::new().route("/", axum::routing::get(handler));
    let request = http::Request::get("/").body(axum::body::Body::empty()).unwrap();
    let Ok(answer) = tower::ServiceExt::oneshot(router, request).await;
    assert_eq!(answer.status(), http::StatusCode::OK);
    assert_eq!(limiter.status("chat").await.unwrap().quotas[0].charged, 240.0);
}
