//! A runtime that drives a session ends, with all its tasks: those of another one go on.

use std::time::Duration;

use tokio::{runtime::Handle, task::yield_now};

use crate::world::*;

/// Two tasks wait, one of them in a runtime that is shut down meanwhile.
async fn shut_down(world: World) {
    let limiter = world.limiter(slots(1));
    let other = Handle::new();
    // Aborted or done: either is all right.
    drop({
        let limiter = limiter.clone();
        other.spawn(async move {
            let reserved = limiter.reserve(slot()).await;
            yield_now().await;
            drop(reserved);
        })
    });
    let task = {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
        })
    };
    other.shut_down();
    join([task]).await;
    // A session without demands is driven again once it is used.
    drop(limiter.try_reserve(slot()).await);
    world.is_left_clean().await;
}

#[test]
fn a_waiter_outlives_the_runtime_that_drives_its_session() {
    check(|| shut_down(World::memory()));
}

#[test]
fn a_waiter_outlives_the_runtime_that_drives_its_session_across_a_network() {
    check(|| shut_down(World::remote()));
}

/// The only waiter of a session is in a runtime that is shut down.
async fn last_waiter(world: World) {
    let limiter = world.limiter(slots(1));
    let held = limiter.reserve(slot()).await.expect("it is free");
    let other = Handle::new();
    drop({
        let limiter = limiter.clone();
        other.spawn(async move { drop(limiter.reserve(slot()).await) })
    });
    meanwhile().await;
    other.shut_down();
    chances().await;
    // The slot is free only when the waiter is gone from the store.
    drop(held);
    world.is_left_clean().await;
}

#[test]
fn a_waiter_whose_runtime_ends_leaves_nothing() {
    check(|| last_waiter(World::memory()));
}

/// A reservation is given back in a runtime that is shut down, and the limiter is closed in
/// another one.
async fn closed_elsewhere(world: World) {
    let limiter = world.limiter(slots(1));
    let other = Handle::new();
    let reserved = limiter.reserve(slot()).await.expect("it is free");
    // As long as the first driver stays where there is nothing to do.
    advance(Duration::from_secs(1));
    chances().await;
    drop(other.spawn(async move { drop(reserved) }));
    meanwhile().await;
    other.shut_down();
    chances().await;
    limiter.close().await;
    world.is_left_clean().await;
}

#[test]
fn what_a_runtime_that_ends_leaves_to_be_sent_is_sent_when_the_limiter_is_closed() {
    check(|| closed_elsewhere(World::remote()));
}

/// The runtime that drives a session ends while the limiter is closed in another one. What it had
/// to send could not be sent so far.
async fn closed_meanwhile(world: World) {
    let limiter = world.limiter(slots(1));
    let other = Handle::new();
    let reserved = limiter.reserve(slot()).await.expect("it is free");
    // As long as the first driver stays where there is nothing to do.
    advance(Duration::from_secs(1));
    chances().await;
    world.breaks();
    drop(other.spawn(async move { drop(reserved) }));
    chances().await;
    world.heals();
    advance(Duration::from_secs(10));
    let ends = spawn(async move { other.shut_down() });
    limiter.close().await;
    join([ends]).await;
    // What was not sent before the runtime ended is sent by the next use.
    limiter.close().await;
    world.is_left_clean().await;
}

#[test]
fn a_limiter_can_be_closed_while_the_runtime_ends_that_drives_it() {
    check(|| closed_meanwhile(World::remote()));
}

/// The driver of an idle session stops while demands enter.
async fn lingers(world: World) {
    let limiter = world.limiter(slots(1));
    drop(limiter.reserve(slot()).await.expect("it is free"));
    let tasks = (0..2).map(|_| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
        })
    });
    let tasks: Vec<_> = tasks.collect();
    // As long as a driver stays where there is nothing to do.
    advance(Duration::from_secs(1));
    join(tasks).await;
    world.is_left_clean().await;
}

#[test]
fn a_demand_that_enters_while_the_driver_stops_is_driven() {
    check(|| lingers(World::remote()));
}
