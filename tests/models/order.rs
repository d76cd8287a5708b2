//! No demand passes one that waits for the same.

use std::{
    future::poll_fn,
    pin::pin,
    task::{Context, Poll},
};

use crate::world::*;

/// A try comes after a waiter, while the only slot comes free.
async fn try_after_waiter(world: World) {
    let limiter = world.limiter(slots(1));
    let held = limiter.reserve(slot()).await.expect("it is free");
    let mut waiter = pin!(limiter.reserve(slot()));
    // It arrives with its first poll.
    let polled = poll_fn(|context: &mut Context<'_>| Poll::Ready(waiter.as_mut().poll(context)));
    assert!(polled.await.is_pending());
    let released = spawn(async move { drop(held) });
    let attempt = limiter.try_reserve(slot()).await;
    assert!(attempt.is_err(), "a try passed a waiter");
    drop(waiter.await.expect("it is granted"));
    join([released]).await;
    world.is_left_clean().await;
}

#[test]
fn a_try_never_passes_a_waiter_in_memory() {
    check(|| try_after_waiter(World::memory()));
}

#[test]
fn a_try_never_passes_a_waiter_across_a_network() {
    check(|| try_after_waiter(World::remote()));
}
