//! No wake-up is lost: with the clock standing still, a waiter that is not woken blocks for ever.

use crate::world::*;

/// Tasks that take turns at fewer slots than there are tasks.
async fn turns(world: World, tasks: usize, turns: usize) {
    let limiter = world.limiter(slots(1));
    join((0..tasks).map(|_| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            for _ in 0..turns {
                world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
            }
        })
    }))
    .await;
    world.is_left_clean().await;
}

#[test]
fn a_slot_that_comes_free_wakes_the_next_task() {
    check(|| turns(World::memory(), 3, 2));
}

#[test]
fn a_slot_that_comes_free_wakes_the_next_task_across_a_network() {
    check(|| turns(World::remote(), 3, 2));
}

/// Tasks of two processes that take turns: only hints tell the one what the other gives back.
async fn two_processes(world: World) {
    let limiters = [world.limiter(slots(1)), world.limiter(slots(1))];
    join(limiters.into_iter().flat_map(|limiter| {
        let world = world.clone();
        (0..2).map(move |_| {
            let (world, limiter) = (world.clone(), limiter.clone());
            spawn(async move {
                let reserved = limiter.reserve(slot()).await.expect("it is granted");
                world.hold(reserved, 1).await;
            })
        })
    }))
    .await;
    world.is_left_clean().await;
}

#[test]
fn a_slot_that_comes_free_wakes_another_process() {
    check(|| two_processes(World::memory()));
}

#[test]
fn a_slot_that_comes_free_wakes_another_process_across_a_network() {
    check(|| two_processes(World::remote()));
}

/// A process waits, and all of it sleeps, when another one gives a slot back.
async fn asleep(world: World) {
    let (one, other) = (world.limiter(slots(1)), world.limiter(slots(1)));
    let held = one.reserve(slot()).await.expect("it is free");
    let waiter = {
        let world = world.clone();
        spawn(async move {
            world.hold(other.reserve(slot()).await.expect("it is granted"), 1).await;
        })
    };
    chances().await;
    drop(held);
    join([waiter]).await;
    world.is_left_clean().await;
}

#[test]
fn a_process_that_sleeps_is_woken_by_a_hint() {
    check(|| asleep(World::memory()));
}

#[test]
fn a_process_that_sleeps_is_woken_by_a_hint_across_a_network() {
    check(|| asleep(World::remote()));
}

/// A task waits for a slot that comes free while it enters the queue, beside tries.
async fn beside_tries(world: World) {
    let limiter = world.limiter(slots(1));
    let tries = (0..2).map(|_| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            if let Ok(reserved) = limiter.try_reserve(slot()).await {
                world.hold(reserved, 1).await;
            }
        })
    });
    let tries: Vec<_> = tries.collect();
    world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
    join(tries).await;
    world.is_left_clean().await;
}

#[test]
fn a_slot_that_a_try_gives_back_wakes_a_waiter() {
    check(|| beside_tries(World::memory()));
}

#[test]
fn a_slot_that_a_try_gives_back_wakes_a_waiter_across_a_network() {
    check(|| beside_tries(World::remote()));
}

/// A slot is given back where no runtime is, while a task comes to wait for it.
async fn outside_of_a_runtime(world: World) {
    let limiter = world.limiter(slots(1));
    let held = limiter.reserve(slot()).await.expect("it is free");
    let waiter = {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            world.hold(limiter.reserve(slot()).await.expect("it is granted"), 1).await;
        })
    };
    let released = shuttle::future::spawn(async move { drop(held) });
    join([waiter, released]).await;
    world.is_left_clean().await;
}

#[test]
fn a_slot_that_is_given_back_outside_of_a_runtime_wakes_a_waiter() {
    check(|| outside_of_a_runtime(World::memory()));
}

/// An update gives room to a waiter that enters at the same time.
async fn update(world: World) {
    let limiter = world.limiter(slots(1));
    let first = limiter.reserve(slot()).await.expect("it is free");
    let second = {
        let limiter = limiter.clone();
        spawn(async move { limiter.reserve(slot()).await.expect("two are allowed") })
    };
    limiter.update(slots(2)).expect("valid limits");
    drop(second.await.expect("it is not aborted"));
    drop(first);
    world.is_left_clean().await;
}

#[test]
fn an_update_reaches_a_waiter_that_enters_meanwhile() {
    check(|| update(World::memory()));
}

#[test]
fn an_update_reaches_a_waiter_that_enters_meanwhile_across_a_network() {
    check(|| update(World::remote()));
}
