//! The store in memory: batches on several buckets, and buckets that are forgotten.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tower_throttle::{Demand, Limiter, Limits, Quota, Usage, observe::Event};

use crate::world::*;

fn on(bucket: &'static str, tokens: u64) -> Demand {
    Demand::new(bucket, Usage::new().with("tokens", tokens))
}

/// Demands on two buckets, named in both orders.
async fn two_buckets(world: World) {
    let limits =
        || Limits::new().bucket("a", [Quota::concurrency(1)]).bucket("b", [Quota::concurrency(1)]);
    let limiter = world.limiter(limits());
    join([("a", "b"), ("b", "a"), ("a", "b")].map(|(one, other)| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            let demand = Demand::new(one, Usage::new()).and(other);
            world.hold(limiter.reserve(demand).await.expect("it is granted"), 1).await;
        })
    }))
    .await;
    world.is_left_clean().await;
}

#[test]
fn demands_on_two_buckets_do_not_block_each_other_for_ever() {
    check(|| two_buckets(World::memory()));
}

async fn charged(limiter: &Limiter, bucket: &str) -> f64 {
    limiter.status(bucket).await.expect("memory answers").quotas[0].charged
}

/// A bucket is charged while unused ones are forgotten.
async fn forgotten(world: World) {
    let limits = Limits::new()
        .bucket("a", [Quota::per_second("tokens", 10)])
        .bucket("b", [Quota::per_second("tokens", 10)]);
    // A state that is over and forgotten is no loss.
    let observer = |event: &Event<'_>| {
        assert!(!matches!(event, Event::StateLost { .. }), "{event:?}");
    };
    let limiter = world.builder(limits).observer(observer).build().expect("valid limits");
    for bucket in ["a", "b"] {
        limiter.reserve(on(bucket, 3)).await.expect("it fits").keep().await.expect("it is kept");
    }
    // Both are over, and it is time to look for such.
    advance(Duration::from_secs(120));
    join([("a", 1), ("b", 1), ("a", 1)].map(|(bucket, tokens)| {
        let limiter = limiter.clone();
        spawn(async move {
            // Batches that are seen in another order than that in which they were applied.
            advance(Duration::from_millis(1));
            let reserved = limiter.reserve(on(bucket, tokens)).await.expect("it fits");
            reserved.keep().await.expect("it is kept");
        })
    }))
    .await;
    assert_eq!((charged(&limiter, "a").await, charged(&limiter, "b").await), (2.0, 1.0));
}

#[test]
fn a_bucket_that_is_charged_while_others_are_forgotten_keeps_its_charge() {
    check(|| forgotten(World::memory()));
}

/// A quota whose state means something for a second.
fn tokens() -> Limits {
    Limits::new().bucket("a", [Quota::per_second("tokens", 1_000)])
}

/// The store forgets a bucket while two tasks use it, whose batches are seen in any order.
async fn lost(world: World) {
    let told = Arc::new(AtomicU64::new(0));
    let tells = told.clone();
    let observer = move |event: &Event<'_>| {
        if matches!(event, Event::StateLost { .. }) {
            tells.fetch_add(1, Ordering::Relaxed);
        }
    };
    let limiter = world.builder(tokens()).observer(observer).build().expect("valid limits");
    let keep = |limiter: Limiter| async move {
        let reserved = limiter.reserve(on("a", 1)).await.expect("it fits");
        reserved.keep().await.expect("it is kept");
    };
    keep(limiter.clone()).await;
    // A state that begins at the same time is the same one.
    advance(Duration::from_millis(1));
    let tasks: Vec<_> = (0..2).map(|_| spawn(keep(limiter.clone()))).collect();
    world.forgets();
    join(tasks).await;
    keep(limiter).await;
    assert_eq!(told.load(Ordering::Relaxed), 1, "of one loss");
}

#[test]
fn a_lost_state_is_told_once_in_memory() {
    check(|| lost(World::memory()));
}

#[test]
fn a_lost_state_is_told_once_across_a_network() {
    check(|| lost(World::remote()));
}
