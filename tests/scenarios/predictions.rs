//! `time_until_available`: what is said is what then happens, and nothing is reserved.

use std::time::Duration;

use tower_throttle::{Limits, Quota, Throttled, limits::Class, quota::ChargeAt, usage};

use crate::world::*;

on_every_store!(
    what_fits_is_available_now,
    what_is_in_flight_stays_so,
    what_is_drained_is_available_once_enough_has_come_back,
    a_try_behind_waiters_is_told_when_it_would_fit,
    who_comes_behind_many_is_told_so,
    a_wait_for_calls_in_flight_has_no_time,
    a_pause_is_waited_for,
);

async fn what_fits_is_available_now(world: World) {
    let limiter =
        world.bucket([Quota::token_bucket("tokens", 10_000, MINUTE), Quota::concurrency(1)]);
    for _ in 0..3 {
        let wait = limiter.time_until_available(tokens(10_000)).await.unwrap();
        assert_eq!(wait, Some(Duration::ZERO));
    }
    let quotas = limiter.status("a").await.unwrap().quotas;
    assert!(quotas.iter().all(|quota| (quota.charged, quota.in_flight) == (0.0, 0)), "{quotas:?}");
}

async fn what_is_in_flight_stays_so(world: World) {
    let limiter = world.bucket([
        Quota::per_minute("tokens", 10_000).charge_at(ChargeAt::End),
        Quota::concurrency(2),
    ]);
    let call = take(&limiter, tokens(1_000)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(Duration::ZERO));
    let quotas = limiter.status("a").await.unwrap().quotas;
    assert_eq!([quotas[0].in_flight, quotas[1].in_flight], [1_000, 1], "{quotas:?}");
    call.release().await.unwrap();
}

async fn what_is_drained_is_available_once_enough_has_come_back(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 10_000, MINUTE)]);
    spend(&limiter, tokens(10_000)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(secs(6)));
    world.advance(ms(5_999)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(ms(1)));
    world.advance(ms(1)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(Duration::ZERO));
    assert!(passes(&limiter, tokens(1_000)).await);

    assert_eq!(limiter.time_until_available(tokens(10_000)).await.unwrap(), Some(MINUTE));
    let never = limiter.time_until_available(tokens(10_001)).await.unwrap_err();
    assert!(never.is_permanent() && matches!(never, Throttled::ExceedsCapacity(_)), "{never}");
}

async fn a_try_behind_waiters_is_told_when_it_would_fit(world: World) {
    let limits = Limits::new()
        .bucket("a", [Quota::token_bucket("tokens", 10_000, MINUTE)])
        .class("production", Class::new().head_start(secs(30)));
    let limiter = world.limiter(limits);
    spend(&limiter, tokens(10_000)).await;
    let first = Waiting::for_(&limiter, tokens(5_000)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(secs(36)));
    let production = tokens(1_000).class("production");
    assert_eq!(limiter.time_until_available(production).await.unwrap(), Some(secs(6)));
    let second = Waiting::for_(&limiter, tokens(1_000)).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(secs(42)));
    first.cancel();
    settled(&limiter).await;
    assert_eq!(limiter.time_until_available(tokens(1_000)).await.unwrap(), Some(secs(12)));
    assert!(!second.is_over());
    second.cancel();
}

async fn who_comes_behind_many_is_told_so(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 10_000, MINUTE)]);
    spend(&limiter, tokens(10_000)).await;
    let mut waiting = Vec::new();
    for _ in 0..30 {
        waiting.push(Waiting::for_(&limiter, tokens(1_000)).await);
    }
    assert_eq!(limiter.time_until_available(tokens(500)).await.unwrap(), Some(secs(183)));
    waiting.into_iter().for_each(Waiting::cancel);
}

async fn a_wait_for_calls_in_flight_has_no_time(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 100), Quota::concurrency(1)]);
    let call = take(&limiter, tokens(10)).await;
    assert_eq!(limiter.time_until_available(tokens(1)).await.unwrap(), None);
    call.settle(usage! { tokens: 10 }).await.unwrap();
    assert_eq!(limiter.time_until_available(tokens(1)).await.unwrap(), Some(Duration::ZERO));
}

async fn a_pause_is_waited_for(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 100)]);
    limiter.pause("a", secs(20)).await.unwrap();
    assert_eq!(limiter.time_until_available(tokens(1)).await.unwrap(), Some(secs(20)));
    world.advance(secs(5)).await;
    assert_eq!(limiter.time_until_available(tokens(1)).await.unwrap(), Some(secs(15)));
    limiter.resume("a").await.unwrap();
    assert_eq!(limiter.time_until_available(tokens(1)).await.unwrap(), Some(Duration::ZERO));
}
