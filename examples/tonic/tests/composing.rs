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
    assert!(code.lines().count() < 20);
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
