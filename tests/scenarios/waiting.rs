//! Scenarios 20 to 26: waiting.

use std::time::Duration;

use tokio::time::Instant;
use tower_throttle::{Demand, Limits, Quota, Throttled, limits::Class, usage};

use crate::world::*;

on_every_store!(
    s20_a_refund_starts_the_waiter_within_a_hop,
    s21_first_come_first_served,
    s21_small_demands_do_not_starve_a_large_one,
    s22_a_cancelled_waiter_was_never_there,
    s23_an_update_reaches_those_that_wait,
    s24_of_48_tries_exactly_those_that_fit_pass,
    s25_a_hopeless_wait_is_refused_at_once,
    s25_a_wait_that_refunds_could_shorten_is_waited,
    s26_a_head_start_passes_those_that_wait,
    s26_headroom_is_left_to_others,
    s26_headroom_is_left_to_others_that_wait,
);

async fn s20_a_refund_starts_the_waiter_within_a_hop(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 10)]);
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let call = take(&limiter, tokens(10)).await;
        let waiting = Waiting::for_(&limiter, tokens(5)).await;
        assert!(!waiting.is_over());
        let before = Instant::now();
        call.settle(usage! { tokens: 0 }).await.unwrap();
        waiting.granted().await.release().await.unwrap();
        shortest = shortest.min(before.elapsed());
    }
    // A poll would come a quarter of a second later, on average.
    assert!(shortest < ms(50), "{shortest:?}");
}

async fn s21_first_come_first_served(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 100, secs(1))]);
    spend(&limiter, tokens(100)).await;
    let mut waiting = Vec::new();
    for amount in [60, 10, 10] {
        waiting.push(Waiting::for_(&limiter, tokens(amount)).await);
    }
    for (step, over) in [
        (599, [false, false, false]),
        (1, [true, false, false]),
        (99, [true, false, false]),
        (1, [true, true, false]),
        (99, [true, true, false]),
        (1, [true, true, true]),
    ] {
        world.advance(ms(step)).await;
        settled(&limiter).await;
        assert_eq!([0, 1, 2].map(|index| waiting[index].is_over()), over);
    }
}

async fn s21_small_demands_do_not_starve_a_large_one(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 100, secs(1))]);
    spend(&limiter, tokens(100)).await;
    let large = Waiting::for_(&limiter, tokens(100)).await;
    let mut small = Vec::new();
    for _ in 0..10 {
        assert!(!passes(&limiter, tokens(1)).await, "a try may not overtake");
        small.push(Waiting::for_(&limiter, tokens(1)).await);
        world.advance(ms(99)).await;
        settled(&limiter).await;
        assert!(!large.is_over() && small.iter().all(|small| !small.is_over()));
    }
    world.advance(ms(10)).await;
    settled(&limiter).await;
    assert!(large.is_over() && small.iter().all(|small| !small.is_over()));
    world.advance(ms(100)).await;
    settled(&limiter).await;
    assert!(small.iter().all(Waiting::is_over));
}

async fn s22_a_cancelled_waiter_was_never_there(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 100)]);
    let call = take(&limiter, tokens(30)).await;
    spend(&limiter, tokens(70)).await;
    let first = Waiting::for_(&limiter, tokens(90)).await;
    let second = Waiting::for_(&limiter, tokens(20)).await;
    let third = Waiting::for_(&limiter, tokens(20)).await;
    call.release().await.unwrap();
    settled(&limiter).await;
    assert!(!first.is_over() && !second.is_over());
    first.cancel();
    settled(&limiter).await;
    assert!(second.is_over() && !third.is_over());
    assert_eq!(left(&limiter, "a").await, [10.0]);
    second.granted().await.release().await.unwrap();
    settled(&limiter).await;
    assert!(third.is_over());
    assert_eq!(left(&limiter, "a").await, [10.0]);
    third.granted().await.release().await.unwrap();
    let status = limiter.status("a").await.unwrap();
    assert_eq!(
        (status.waiting, status.quotas[0].in_flight, status.quotas[0].available),
        (0, 0, 30.0)
    );
}

async fn s23_an_update_reaches_those_that_wait(world: World) {
    let limits = |limit| Limits::new().bucket("a", [Quota::per_hour("tokens", limit)]);
    let limiter = world.limiter(limits(5));
    spend(&limiter, tokens(5)).await;
    let waiting = Waiting::for_(&limiter, tokens(4)).await;
    assert!(!waiting.is_over());
    limiter.update(limits(3)).unwrap();
    let error = waiting.outcome().await.unwrap_err();
    assert!(
        matches!(&error, Throttled::ExceedsCapacity(refusal) if refusal.shortages()[0].limit == 3),
        "{error}"
    );

    limiter.update(limits(5)).unwrap();
    let waiting = Waiting::for_(&limiter, tokens(4)).await;
    assert!(!waiting.is_over());
    limiter.update(limits(10)).unwrap();
    settled(&limiter).await;
    assert!(waiting.is_over());
    waiting.granted().await.keep().await.unwrap();
    assert_eq!(left(&limiter, "a").await, [1.0]);
}

async fn s24_of_48_tries_exactly_those_that_fit_pass(world: World) {
    let mut tries = Vec::new();
    for _ in 0..8 {
        let limiter = world.bucket([Quota::per_hour("requests", 33)]);
        tries.extend((0..6).map(|_| {
            let limiter = limiter.clone();
            tokio::spawn(async move { passes(&limiter, requests(1)).await })
        }));
    }
    let mut passed = 0;
    for attempt in tries {
        passed += usize::from(soon(attempt).await.unwrap());
    }
    assert_eq!(passed, 33);
}

async fn s25_a_hopeless_wait_is_refused_at_once(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 10_000, MINUTE)]);
    spend(&limiter, tokens(10_000)).await;
    let before = Instant::now();
    let error = limiter.reserve(tokens(1_000).max_wait(secs(5))).await.unwrap_err();
    assert!(before.elapsed() < secs(4), "at once, not after {:?}", before.elapsed());
    assert!(matches!(error, Throttled::Deadline(_)), "{error}");
    let retry_after = error.retry_after().expect("it is known");
    assert_eq!(retry_after, secs(6));
    let status = limiter.status("a").await.unwrap();
    assert_eq!((status.waiting, status.quotas[0].in_flight), (0, 0));

    // It stands behind another: what that one takes has to come back first.
    let other = Waiting::for_(&limiter, tokens(5_000)).await;
    let error = limiter.reserve(tokens(1_000).max_wait(secs(20))).await.unwrap_err();
    assert!(error.retry_after().is_some_and(|wait| wait > secs(34)), "{error}");
    other.cancel();
}

async fn s25_a_wait_that_refunds_could_shorten_is_waited(world: World) {
    let limiter = world.bucket([Quota::token_bucket("tokens", 10_000, MINUTE)]);
    let call = take(&limiter, tokens(10_000)).await;
    let waiting = Waiting::for_(&limiter, tokens(1_000).max_wait(secs(20))).await;
    assert!(!waiting.is_over());
    call.settle(usage! { tokens: 10 }).await.unwrap();
    waiting.granted().await.keep().await.unwrap();
}

async fn s26_a_head_start_passes_those_that_wait(world: World) {
    let limits = Limits::new()
        .bucket("a", [Quota::token_bucket("tokens", 100, secs(1)).burst(10)])
        .class("production", Class::new().head_start(secs(30)));
    let limiter = world.limiter(limits);
    spend(&limiter, tokens(10)).await;
    let mut batch = Vec::new();
    for _ in 0..20 {
        batch.push(Waiting::for_(&limiter, tokens(10)).await);
    }
    let production = Waiting::for_(&limiter, tokens(10).class("production")).await;
    assert!(!production.is_over());
    world.advance(ms(100)).await;
    settled(&limiter).await;
    assert!(production.is_over() && batch.iter().all(|batch| !batch.is_over()));
    world.advance(ms(100)).await;
    settled(&limiter).await;
    assert_eq!(batch.iter().position(|batch| !batch.is_over()), Some(1));
}

fn with_headroom(limit: u64) -> Limits {
    Limits::new()
        .bucket("a", [Quota::per_hour("tokens", limit)])
        .class("batch", Class::new().headroom(0.1))
}

fn batch(amount: u64) -> Demand {
    tokens(amount).class("batch")
}

async fn s26_headroom_is_left_to_others(world: World) {
    let limiter = world.limiter(with_headroom(100));
    for _ in 0..9 {
        spend(&limiter, batch(10)).await;
    }
    assert!(!passes(&limiter, batch(1)).await);
    let waiting = Waiting::for_(&limiter, batch(1)).await;
    assert!(passes(&limiter, tokens(9)).await, "production passes at once");
    assert!(passes(&limiter, tokens(1)).await);
    assert!(!passes(&limiter, tokens(1)).await);
    assert!(!waiting.is_over());
    waiting.cancel();
    let error = limiter.try_reserve(batch(91)).await.unwrap_err();
    assert!(matches!(error, Throttled::ExceedsCapacity(_)), "{error}");
}

async fn s26_headroom_is_left_to_others_that_wait(world: World) {
    let limiter = world.limiter(with_headroom(100));
    let call = take(&limiter, tokens(8)).await;
    spend(&limiter, tokens(92)).await;
    let mut waiting = Vec::new();
    for _ in 0..20 {
        waiting.push(Waiting::for_(&limiter, batch(5)).await);
    }
    let production = Waiting::for_(&limiter, tokens(5)).await;
    assert!(!production.is_over());
    // 8 come free: within the headroom, so that no demand before it may have them.
    call.release().await.unwrap();
    settled(&limiter).await;
    assert!(waiting.iter().all(|batch| !batch.is_over()));
    assert!(production.is_over());
}
