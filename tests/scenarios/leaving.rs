//! Scenario 22 across a network: a `reserve` is dropped, or not polled, while its batch is sent.

use std::{future::poll_fn, task::Poll};

use tower_throttle::{Limiter, Limits, Quota, store::RedisStore};

use crate::{support::RedisServer, world::*};

/// The connections over which scripts came.
fn connections(server: &RedisServer) -> Vec<String> {
    let clients: String = server.command(&["CLIENT", "LIST"]);
    let of_scripts = clients.lines().filter(|client| client.contains("cmd=eval"));
    of_scripts.filter_map(|client| client.split(' ').next()).map(str::to_owned).collect()
}

/// Polls once. The server may have answered by then, where a thread is held up for long enough.
macro_rules! poll_once {
    ($future:expr) => {
        poll_fn(|context| Poll::Ready($future.as_mut().poll(context))).await
    };
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s22_a_reserve_may_be_dropped_or_not_polled_while_it_is_sent() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.unwrap();
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 100), Quota::concurrency(3)]);
    let limiter = Limiter::with_store(limits, store).unwrap();
    take(&limiter, tokens(10)).await.keep().await.unwrap();
    let before = connections(&server);
    for _ in 0..50 {
        let mut goes = Box::pin(limiter.reserve(tokens(20)));
        if let Poll::Ready(granted) = poll_once!(goes) {
            granted.unwrap().release().await.unwrap();
        }
        drop(goes);

        let mut stays = Box::pin(limiter.reserve(tokens(30)));
        let stayed = poll_once!(stays);
        soon(limiter.reserve(tokens(20))).await.unwrap().release().await.unwrap();
        let granted = match stayed {
            Poll::Ready(granted) => granted,
            Poll::Pending => soon(stays).await,
        };
        granted.unwrap().release().await.unwrap();
    }
    settled(&limiter).await;
    assert_eq!(left(&limiter, "a").await, [90.0, 3.0]);
    assert_eq!(
        connections(&server),
        before,
        "a reply that is read for another caller puts no connection in doubt"
    );
}
