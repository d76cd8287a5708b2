//! A grant reaches its caller or is given back, whenever the caller drops its future.

use tower_throttle::Throttled;

use crate::world::*;

/// Callers that lose patience, beside one that waits.
async fn cancelled(world: World, polls: usize) {
    let limiter = world.limiter(slots(1));
    let mut tasks: Vec<_> = (0..2)
        .map(|_| {
            let (world, limiter) = (world.clone(), limiter.clone());
            spawn(async move {
                if let Some(granted) = within_polls(&limiter, polls).await {
                    world.hold(granted.expect("it is granted"), 1).await;
                }
            })
        })
        .collect();
    tasks.push({
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
        })
    });
    join(tasks).await;
    world.is_left_clean().await;
}

#[test]
fn a_future_dropped_after_one_poll_leaves_nothing() {
    check(|| cancelled(World::memory(), 1));
}

#[test]
fn a_future_dropped_after_three_polls_leaves_nothing() {
    check(|| cancelled(World::memory(), 3));
}

#[test]
fn a_future_dropped_after_one_poll_leaves_nothing_across_a_network() {
    check(|| cancelled(World::remote(), 1));
}

#[test]
fn a_future_dropped_after_three_polls_leaves_nothing_across_a_network() {
    check(|| cancelled(World::remote(), 3));
}

/// A caller loses patience while nothing comes free.
async fn cancelled_beside_a_call(world: World) {
    let limiter = world.limiter(slots(1));
    let held = limiter.reserve(slot()).await.expect("it is free");
    let waiter = {
        let limiter = limiter.clone();
        spawn(async move { assert!(within_polls(&limiter, 3).await.is_none()) })
    };
    join([waiter]).await;
    world.is_left_with(1).await;
    drop(held);
    world.is_left_clean().await;
}

#[test]
fn a_waiter_that_leaves_is_gone_from_the_store() {
    check(|| cancelled_beside_a_call(World::memory()));
}

#[test]
fn a_waiter_that_leaves_is_gone_from_the_store_across_a_network() {
    check(|| cancelled_beside_a_call(World::remote()));
}

/// A limiter is closed while demands enter and wait: each is granted or refused.
async fn closed(world: World) {
    let limiter = world.limiter(slots(1));
    let tasks = (0..2).map(|_| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            match limiter.reserve(slot()).await {
                Ok(granted) => world.hold(granted, 1).await,
                Err(error) => assert!(matches!(error, Throttled::Closed), "{error}"),
            }
        })
    });
    let tasks: Vec<_> = tasks.collect();
    limiter.close().await;
    join(tasks).await;
    world.is_left_clean().await;
}

#[test]
fn a_limiter_that_is_closed_answers_every_demand() {
    check(|| closed(World::memory()));
}

#[test]
fn a_limiter_that_is_closed_answers_every_demand_across_a_network() {
    check(|| closed(World::remote()));
}

/// A limiter is closed while what it was given back is on its way, in several batches.
async fn closed_after_calls(world: World) {
    let limiter = world.limiter(slots(3));
    let mut reserved = Vec::new();
    for _ in 0..3 {
        reserved.push(limiter.reserve(slot()).await.expect("it is free"));
    }
    join(reserved.into_iter().map(|reserved| spawn(async move { drop(reserved) }))).await;
    limiter.close().await;
    assert_eq!(world.left().await, (0, 0), "the store has it when the limiter is closed");
}

#[test]
fn what_was_given_back_has_reached_the_store_when_a_limiter_is_closed() {
    check(|| closed_after_calls(World::remote()));
}
