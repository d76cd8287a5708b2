//! Scenario 36: the server is gone, hangs, and comes back.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tower_throttle::{
    Limiter, Limits, OnUnavailable, Quota, Reservation, Throttled,
    limiter::Retries,
    observe::Event,
    store::{RedisStore, StoreError},
};

use crate::{support::RedisServer, world::*};

async fn limiter(server: &RedisServer, on_unavailable: OnUnavailable, told: &Told) -> Limiter {
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 100)]);
    let mut retries = Retries::default();
    retries.max = 1;
    Limiter::builder(limits)
        .store(RedisStore::connect(&server.url()).await.expect("the server answers"))
        .on_unavailable(on_unavailable)
        .attempt_timeout(ms(500))
        .retries(retries)
        .observer(told.observer())
        .build()
        .unwrap()
}

/// The events of an outage, by name.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<&'static str>>>);

impl Told {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let told = self.0.clone();
        move |event: &Event<'_>| {
            let name = match event {
                Event::Degraded { .. } => "degraded",
                Event::Recovered => "recovered",
                Event::StateLost { .. } => "state lost",
                _ => return,
            };
            told.lock().unwrap().push(name);
        }
    }

    fn all(&self) -> Vec<&'static str> {
        self.0.lock().unwrap().clone()
    }
}

fn is_unavailable(error: &Throttled) -> bool {
    matches!(error, Throttled::Store(error) if matches!(**error, StoreError::Unavailable(_)))
}

/// The first reservation that the shared state has granted again.
async fn shared_again(limiter: &Limiter, amount: u64) -> Reservation {
    soon(async {
        loop {
            match limiter.reserve(tokens(amount)).await {
                Ok(call) if !call.degraded() => return call,
                Ok(call) => drop(call.release()),
                Err(error) => assert!(is_unavailable(&error), "{error}"),
            }
            tokio::time::sleep(ms(50)).await;
        }
    })
    .await
}

#[tokio::test]
async fn s36_fail_errs_in_time_and_goes_on_after_a_restart() {
    let (mut server, told) = (RedisServer::start(), Told::default());
    let limiter = limiter(&server, OnUnavailable::Fail, &told).await;
    spend(&limiter, tokens(60)).await;
    server.stop();
    for _ in 0..3 {
        let began = Instant::now();
        let error = soon(limiter.reserve(tokens(1))).await.unwrap_err();
        assert!(is_unavailable(&error), "{error}");
        assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    }
    assert_eq!(told.all(), ["degraded"]);
    server.restart();
    // What the server had not saved is gone, which is told.
    shared_again(&limiter, 100).await.keep().await.unwrap();
    assert_eq!(told.all(), ["degraded", "recovered", "state lost"]);
}

#[tokio::test]
async fn s36_a_server_that_hangs_is_out_too() {
    let (server, told) = (RedisServer::start(), Told::default());
    let limiter = limiter(&server, OnUnavailable::Fail, &told).await;
    let call = take(&limiter, tokens(60)).await;
    server.pause();
    let began = Instant::now();
    assert!(is_unavailable(&soon(limiter.reserve(tokens(30))).await.unwrap_err()));
    assert!(began.elapsed() < secs(5), "{:?}", began.elapsed());
    drop(call.settle(tower_throttle::usage! { tokens: 20 }));
    server.resume();
    // What was in doubt is cleared up: 20 are charged, the 30 came back.
    shared_again(&limiter, 80).await.keep().await.unwrap();
    assert_eq!(left(&limiter, "a").await, [0.0]);
    assert_eq!(told.all(), ["degraded", "recovered"]);
}

#[tokio::test]
async fn s36_allow_lets_through_and_says_so() {
    let (mut server, told) = (RedisServer::start(), Told::default());
    let limiter = limiter(&server, OnUnavailable::Allow, &told).await;
    server.stop();
    for _ in 0..3 {
        let call = soon(limiter.reserve(tokens(90))).await.unwrap();
        assert!(call.degraded());
        call.keep().await.unwrap();
    }
    server.restart();
    shared_again(&limiter, 90).await.keep().await.unwrap();
    assert!(!passes(&limiter, tokens(90)).await);
    assert_eq!(told.all(), ["degraded", "recovered"]);
}

#[tokio::test]
async fn s36_local_holds_a_quarter() {
    let (mut server, told) = (RedisServer::start(), Told::default());
    let limiter = limiter(&server, OnUnavailable::local(0.25), &told).await;
    server.stop();
    let call = soon(limiter.reserve(tokens(20))).await.unwrap();
    assert!(call.degraded());
    call.keep().await.unwrap();
    assert!(!passes(&limiter, tokens(6)).await);
    assert!(passes(&limiter, tokens(5)).await);
    let status = limiter.status("a").await.unwrap();
    assert!(status.degraded && status.quotas[0].limit == 25);
    // This one would have to wait for an hour there.
    let waiting = Waiting::for_(&limiter, tokens(20)).await;
    assert!(!waiting.is_over());
    server.restart();
    let call = waiting.granted().await;
    assert!(!call.degraded());
    call.release().await.unwrap();
    spend(&limiter, tokens(100)).await;
    assert!(!limiter.status("a").await.unwrap().degraded);
}

#[tokio::test]
async fn s36_those_that_wait_are_told_and_wait_again() {
    let (mut server, told) = (RedisServer::start(), Told::default());
    let limiter = limiter(&server, OnUnavailable::Fail, &told).await;
    spend(&limiter, tokens(100)).await;
    let waiting = Waiting::for_(&limiter, tokens(10)).await;
    server.stop();
    assert!(is_unavailable(&waiting.outcome().await.unwrap_err()));
    server.restart();
    shared_again(&limiter, 100).await.keep().await.unwrap();
    let waiting = Waiting::for_(&limiter, tokens(10)).await;
    assert!(!waiting.is_over());
    waiting.cancel();
    assert!(limiter.reserve(tokens(10).max_wait(Duration::from_secs(5))).await.is_err());
}

/// Speed fails open, money closed.
#[tokio::test]
async fn s36_one_quota_fails_open_and_another_closed() {
    let mut server = RedisServer::start();
    let limits = Limits::new().bucket(
        "a",
        [
            Quota::per_hour("tokens", 100).on_unavailable(OnUnavailable::local(0.5)),
            Quota::per_hour("cents", 100).on_unavailable(OnUnavailable::Fail),
        ],
    );
    let mut retries = Retries::default();
    retries.max = 1;
    let limiter = Limiter::builder(limits)
        .store(RedisStore::connect(&server.url()).await.expect("the server answers"))
        .attempt_timeout(ms(500))
        .retries(retries)
        .build()
        .unwrap();
    let both = || tower_throttle::Demand::new("a", tower_throttle::usage! { tokens: 10, cents: 1 });
    spend(&limiter, both()).await;
    let check = async || {
        let call = soon(limiter.reserve(tokens(20))).await.unwrap();
        assert!(call.degraded());
        assert!(is_unavailable(&soon(limiter.reserve(both())).await.unwrap_err()));
        call.release().await.unwrap();
    };
    server.pause();
    check().await;
    server.resume();
    shared_again(&limiter, 1).await.release().await.unwrap();
    server.stop();
    check().await;
}
