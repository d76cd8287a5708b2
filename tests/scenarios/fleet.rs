//! Scenarios 20 to 26, 37 to 39 and 41 across processes: a limiter for each, on one store.
//!
//! `tests/fleet` does the same with real processes on Redis.

use std::time::Duration;

use tokio::time::Instant;
use tower_throttle::{
    Demand, Feedback, Limiter, Limits, Quota, Reservation, Throttled, Usage, limits::Class, usage,
};

use crate::{fleet_api as api, world::*};

on_every_store!(
    s20_a_refund_starts_the_waiter_of_another_process_within_a_hop,
    s22_a_cancelled_waiter_of_another_process_was_never_there,
    s23_an_update_reaches_those_that_wait_in_each_process,
    s25_a_hopeless_wait_behind_another_process_is_refused_at_once,
    s25_a_wait_that_a_refund_elsewhere_could_shorten_is_waited,
    s26_headroom_is_left_to_other_processes,
    s37_flows_of_two_processes_are_served_by_their_weights,
    s37_flows_of_one_process_are_served_by_their_weights,
    s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_another_process,
    s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_its_process,
    s41_a_looping_tenant_does_not_starve_its_sibling_in_one_process,
    s41_a_looping_tenant_does_not_starve_its_sibling_in_another_process,
);

/// Where arrivals or timers of the waiters decide: their clock runs with that of the store.
mod in_step {
    use super::*;

    in_step_on_every_store!(
        s21_first_come_first_served_across_processes,
        s21_small_demands_of_other_processes_do_not_starve_a_large_one,
        s26_a_head_start_passes_those_that_wait_in_other_processes,
    );
}

/// Keeps two arrivals further apart than the 20 ms by which interleaved processes may swap them.
const APART: Duration = Duration::from_millis(25);

/// Lets all that can go on do so, in every process: what one frees, another has seen.
async fn all_settled(limiters: &[&Limiter]) {
    for _ in 0..3 {
        for limiter in limiters {
            settled(limiter).await;
        }
    }
}

/// Lets all go on until this is so, for about a second where time is real. Returns whether it is.
async fn becomes(limiters: &[&Limiter], is_so: impl Fn() -> bool) -> bool {
    for _ in 0..100 {
        if is_so() {
            return true;
        }
        all_settled(limiters).await;
    }
    is_so()
}

fn drained_bucket() -> [Quota; 1] {
    [Quota::token_bucket("tokens", 100, secs(1))]
}

async fn s20_a_refund_starts_the_waiter_of_another_process_within_a_hop(world: World) {
    let quotas = || [Quota::per_hour("tokens", 10)];
    let (one, other) = (world.bucket(quotas()), world.bucket(quotas()));
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        let call = take(&one, tokens(10)).await;
        let waiting = Waiting::for_(&other, tokens(5)).await;
        assert!(!waiting.is_over());
        let before = Instant::now();
        call.settle(usage! { tokens: 0 }).await.unwrap();
        waiting.granted().await.release().await.unwrap();
        shortest = shortest.min(before.elapsed());
    }
    // A poll would come a quarter of a second later, on average.
    assert!(shortest < ms(50), "{shortest:?}");
}

async fn s21_first_come_first_served_across_processes(world: World) {
    let limiters = [0; 3].map(|_| world.bucket(drained_bucket()));
    let all: Vec<_> = limiters.iter().collect();
    spend(all[0], tokens(100)).await;
    let mut waiting = Vec::new();
    for (limiter, amount) in limiters.iter().zip([60, 10, 10]) {
        waiting.push(Waiting::for_(limiter, tokens(amount)).await);
        world.advance(APART).await;
    }
    let passed = 3 * APART.as_millis() as u64;
    for (step, over) in [
        (599 - passed, [false, false, false]),
        (1, [true, false, false]),
        (99, [true, false, false]),
        (1, [true, true, false]),
        (99, [true, true, false]),
        (1, [true, true, true]),
    ] {
        world.advance(ms(step)).await;
        let seen = || [0, 1, 2].map(|index| waiting[index].is_over());
        becomes(&all, || seen() == over).await;
        all_settled(&all).await;
        assert_eq!(seen(), over);
    }
}

async fn s21_small_demands_of_other_processes_do_not_starve_a_large_one(world: World) {
    let limiters = [0; 4].map(|_| world.bucket(drained_bucket()));
    let all: Vec<_> = limiters.iter().collect();
    spend(all[0], tokens(100)).await;
    let large = Waiting::for_(all[0], tokens(100)).await;
    let mut small = Vec::new();
    for step in 0..10 {
        let other = all[1 + step % 3];
        assert!(!passes(other, tokens(1)).await, "a try may not pass one that waits");
        world.advance(ms(99)).await;
        small.push(Waiting::for_(other, tokens(1)).await);
        all_settled(&all).await;
        assert!(!large.is_over() && small.iter().all(|small| !small.is_over()), "step {step}");
    }
    world.advance(ms(10)).await;
    assert!(becomes(&all, || large.is_over()).await, "the large one starves");
    all_settled(&all).await;
    assert!(small.iter().all(|small| !small.is_over()));
    world.advance(ms(100)).await;
    assert!(becomes(&all, || small.iter().all(Waiting::is_over)).await, "the small ones starve");
}

async fn s22_a_cancelled_waiter_of_another_process_was_never_there(world: World) {
    let limiters = [0; 4].map(|_| world.bucket([Quota::per_hour("tokens", 100)]));
    let all: Vec<_> = limiters.iter().collect();
    let call = take(all[0], tokens(30)).await;
    spend(all[0], tokens(70)).await;
    let mut waiting = Vec::new();
    for (limiter, amount) in all[1..].iter().zip([90, 20, 20]) {
        waiting.push(Waiting::for_(limiter, tokens(amount)).await);
        world.advance(APART).await;
    }
    call.release().await.unwrap();
    all_settled(&all).await;
    assert_eq!(waiting.iter().position(Waiting::is_over), None, "passed the front");
    let third = waiting.pop().unwrap();
    let second = waiting.pop().unwrap();
    waiting.pop().unwrap().cancel();
    assert!(becomes(&all, || second.is_over()).await);
    all_settled(&all).await;
    assert!(!third.is_over());
    assert_eq!(left(all[0], "a").await, [10.0]);
    second.granted().await.release().await.unwrap();
    assert!(becomes(&all, || third.is_over()).await);
    assert_eq!(left(all[0], "a").await, [10.0]);
    third.granted().await.release().await.unwrap();
    all_settled(&all).await;
    let status = all[0].status("a").await.unwrap();
    let quota = &status.quotas[0];
    assert_eq!((api::waiting(&status), quota.in_flight, quota.available), (0, 0, 30.0));
}

async fn s23_an_update_reaches_those_that_wait_in_each_process(world: World) {
    let limits = |limit| Limits::new().bucket("a", [Quota::per_hour("tokens", limit)]);
    let (one, other) = (world.limiter(limits(5)), world.limiter(limits(5)));
    let all = [&one, &other];
    spend(&one, tokens(5)).await;
    let waiting = Waiting::for_(&one, tokens(4)).await;
    for limiter in [&other, &one] {
        limiter.update(limits(3)).unwrap();
    }
    let error = waiting.outcome().await.unwrap_err();
    assert!(matches!(error, Throttled::ExceedsCapacity(_)), "{error}");

    all.iter().for_each(|limiter| drop(limiter.update(limits(5)).unwrap()));
    let first = Waiting::for_(&one, tokens(4)).await;
    world.advance(APART).await;
    let second = Waiting::for_(&other, tokens(1)).await;
    assert!(!first.is_over() && !second.is_over());
    all.iter().for_each(|limiter| drop(limiter.update(limits(10)).unwrap()));
    assert!(becomes(&all, || first.is_over() && second.is_over()).await);
    first.granted().await.keep().await.unwrap();
    second.granted().await.keep().await.unwrap();
    assert_eq!(left(&other, "a").await, [0.0]);
}

fn slow_bucket() -> [Quota; 1] {
    [Quota::token_bucket("tokens", 10_000, MINUTE)]
}

async fn s25_a_hopeless_wait_behind_another_process_is_refused_at_once(world: World) {
    let (one, other) = (world.bucket(slow_bucket()), world.bucket(slow_bucket()));
    spend(&one, tokens(10_000)).await;
    let before = Instant::now();
    let error = other.reserve(tokens(1_000).max_wait(secs(5))).await.unwrap_err();
    assert!(before.elapsed() < secs(4), "at once, not after {:?}", before.elapsed());
    assert!(matches!(error, Throttled::Deadline(_)), "{error}");
    assert_eq!(error.retry_after(), Some(secs(6)));

    // It stands behind one of another process: what that one takes has to come back first.
    let first = Waiting::for_(&one, tokens(5_000)).await;
    world.advance(APART).await;
    let before = Instant::now();
    let error = soon(other.reserve(tokens(1_000).max_wait(secs(20)))).await.unwrap_err();
    assert!(before.elapsed() < secs(15), "at once, not after {:?}", before.elapsed());
    assert_eq!(error.retry_after(), Some(secs(36) - APART), "{error}");
    first.cancel();
    all_settled(&[&one, &other]).await;
    let status = other.status("a").await.unwrap();
    assert_eq!((api::waiting(&status), status.quotas[0].in_flight), (0, 0));
}

async fn s25_a_wait_that_a_refund_elsewhere_could_shorten_is_waited(world: World) {
    let (one, other) = (world.bucket(slow_bucket()), world.bucket(slow_bucket()));
    let call = take(&one, tokens(10_000)).await;
    let waiting = Waiting::for_(&other, tokens(1_000).max_wait(secs(5))).await;
    assert!(!waiting.is_over());
    call.settle(usage! { tokens: 0 }).await.unwrap();
    waiting.granted().await.release().await.unwrap();
}

async fn s26_a_head_start_passes_those_that_wait_in_other_processes(world: World) {
    let limits = || {
        let limits = Limits::new().bucket("a", [Quota::concurrency(1)]);
        limits.class("production", Class::new().head_start(secs(30))).class("batch", Class::new())
    };
    let limiters = [0; 3].map(|_| world.limiter(limits()));
    let all: Vec<_> = limiters.iter().collect();
    let held = take(all[0], tokens(1)).await;
    let mut batch = Vec::new();
    for index in 0..20 {
        batch.push(Waiting::for_(all[index % 2], tokens(1).class("batch")).await);
        world.advance(APART).await;
    }
    let production = Waiting::for_(all[2], tokens(1).class("production")).await;
    held.release().await.unwrap();
    let is_next = becomes(&all, || production.is_over()).await;
    let passed = batch.iter().filter(|batch| batch.is_over()).count();
    assert!(is_next && passed == 0, "production granted: {is_next}, batch before it: {passed}");
    production.granted().await.release().await.unwrap();
    for index in 0..20 {
        assert!(becomes(&all, || batch[0].is_over()).await, "the {index}-th is not next");
        assert!(batch[1..].iter().all(|batch| !batch.is_over()), "passed the {index}-th");
        batch.remove(0).granted().await.release().await.unwrap();
    }
}

async fn s26_headroom_is_left_to_other_processes(world: World) {
    let quotas = || Limits::new().bucket("a", [Quota::per_hour("tokens", 100)]);
    let limits = || quotas().class("batch", Class::new().headroom(0.1));
    let (one, other) = (world.limiter(limits()), world.limiter(limits()));
    for index in 0..9 {
        spend([&one, &other][index % 2], tokens(10).class("batch")).await;
    }
    assert!(!passes(&other, tokens(1).class("batch")).await);
    let waiting = Waiting::for_(&one, tokens(1).class("batch")).await;
    assert!(passes(&other, tokens(9)).await, "production passes at once");
    assert!(passes(&one, tokens(1)).await);
    assert!(!passes(&other, tokens(1)).await);
    assert!(!waiting.is_over());
    waiting.cancel();
}

fn flow(name: &str) -> Demand {
    api::share(Demand::new("a", Usage::new()), name)
}

/// Waiters of flows, by the index of their flow.
type Flows = Vec<(usize, Waiting)>;

/// The next that is granted.
async fn next(limiters: &[&Limiter], waiting: &mut Flows) -> (usize, Reservation) {
    for _ in 0..100 {
        if let Some(index) = waiting.iter().position(|(_, waiting)| waiting.is_over()) {
            let (flow, waiting) = waiting.remove(index);
            return (flow, waiting.granted().await);
        }
        all_settled(limiters).await;
    }
    panic!("none of {} waiters is granted", waiting.len());
}

fn weighted() -> Limits {
    let limits = Limits::new().bucket("a", [Quota::concurrency(1)]);
    api::weight(api::weight(limits, "one", 1), "three", 3)
}

/// Weights 1 and 3, both with 100 waiting: after 40 grants of equal cost 10 and 30, within 1.
async fn weights(limiters: [&Limiter; 2]) {
    let mut held = take(limiters[0], flow("holder")).await;
    let mut waiting = Flows::new();
    for _ in 0..100 {
        for (index, name) in ["one", "three"].into_iter().enumerate() {
            waiting.push((index, Waiting::for_(limiters[index], flow(name)).await));
        }
    }
    let mut grants = [0; 2];
    for _ in 0..40 {
        held.release().await.unwrap();
        let (flow, call) = next(&limiters, &mut waiting).await;
        grants[flow] += 1;
        held = call;
    }
    let is_fair = (9..=11).contains(&grants[0]);
    let shares = api::HAS_SHARES;
    assert!(is_fair, "of 40 grants {grants:?}, not 10 and 30 (flows exist: {shares})");
}

async fn s37_flows_of_two_processes_are_served_by_their_weights(world: World) {
    let (one, other) = (world.limiter(weighted()), world.limiter(weighted()));
    weights([&one, &other]).await;
}

async fn s37_flows_of_one_process_are_served_by_their_weights(world: World) {
    let limiter = world.limiter(weighted());
    weights([&limiter, &limiter]).await;
}

/// A flow with 1,000 waiting, another sends one demand: it is granted after at most one more.
async fn one_beside_a_flood(flooding: &Limiter, other: &Limiter) {
    let limiters = [flooding, other];
    let mut held = take(other, flow("holder")).await;
    let mut waiting = Flows::new();
    for _ in 0..1_000 {
        waiting.push((0, Waiting::for_(flooding, flow("flood")).await));
    }
    for round in 0..5 {
        for _ in 0..3 {
            held.release().await.unwrap();
            held = next(&limiters, &mut waiting).await.1;
        }
        let single = Waiting::for_(other, flow("one")).await;
        let mut passed = 0;
        loop {
            held.release().await.unwrap();
            all_settled(&limiters).await;
            if single.is_over() {
                break;
            }
            held = next(&limiters, &mut waiting).await.1;
            passed += 1;
            assert!(
                passed <= 1,
                "round {round}: {passed} of the flood passed (flows exist: {})",
                api::HAS_SHARES
            );
        }
        held = single.granted().await;
    }
    held.release().await.unwrap();
}

async fn s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_another_process(world: World) {
    let quotas = || [Quota::concurrency(1)];
    let (one, other) = (world.bucket(quotas()), world.bucket(quotas()));
    one_beside_a_flood(&one, &other).await;
}

async fn s38_a_flow_with_1000_waiting_does_not_delay_a_flow_of_its_process(world: World) {
    let limiter = world.bucket([Quota::concurrency(1)]);
    one_beside_a_flood(&limiter, &limiter).await;
}

/// Bucket `a` is the parent of tenants `A` and `B`.
fn tenants() -> Limits {
    let child = || [Quota::concurrency(100)];
    Limits::new().bucket("a", [Quota::concurrency(1)]).bucket("A", child()).bucket("B", child())
}

fn tenant(name: &'static str) -> Demand {
    Demand::new(name, Usage::new()).and("a")
}

/// A loops: as soon as it has a grant, it asks again. B's demand is granted after at most one more.
async fn siblings(world: &World, a: &Limiter, b: &Limiter) {
    let limiters = [a, b];
    let mut held = take(a, tenant("A")).await;
    for round in 0..10 {
        world.advance(APART).await;
        let mut next_of_a = Waiting::for_(a, tenant("A")).await;
        world.advance(APART).await;
        let of_b = Waiting::for_(b, tenant("B")).await;
        let mut passed = 0;
        loop {
            world.advance(APART).await;
            held.release().await.unwrap();
            let is_granted = becomes(&limiters, || next_of_a.is_over() || of_b.is_over()).await;
            assert!(is_granted, "round {round}: neither A nor B is granted");
            if of_b.is_over() {
                break;
            }
            passed += 1;
            assert!(passed <= 1, "round {round}: {passed} of A passed");
            held = next_of_a.granted().await;
            next_of_a = Waiting::for_(a, tenant("A")).await;
        }
        of_b.granted().await.release().await.unwrap();
        held = next_of_a.granted().await;
    }
    held.release().await.unwrap();
}

async fn s41_a_looping_tenant_does_not_starve_its_sibling_in_one_process(world: World) {
    let limiter = world.limiter(tenants());
    siblings(&world, &limiter, &limiter).await;
}

async fn s41_a_looping_tenant_does_not_starve_its_sibling_in_another_process(world: World) {
    let (one, other) = (world.limiter(tenants()), world.limiter(tenants()));
    siblings(&world, &one, &other).await;
}

/// How many are over once this much more time has passed.
async fn over_after(world: &World, all: &[&Limiter], waiting: &[Waiting], time: Duration) -> usize {
    // In small steps, since all timers within a step fire at its end.
    let mut left = time;
    while !left.is_zero() {
        let step = left.min(ms(5));
        world.advance(step).await;
        all_settled(all).await;
        left -= step;
    }
    waiting.iter().filter(|waiting| waiting.is_over()).count()
}

/// The one call that goes first, and nothing else for half a second.
async fn probe(world: &World, all: &[&Limiter], waiting: &mut Vec<Waiting>) -> Reservation {
    assert_eq!(over_after(world, all, waiting, ms(20)).await, 1, "calls at the end of the pause");
    // Shorter than the second after which the others follow a probe without an answer.
    for _ in 0..5 {
        let over = over_after(world, all, waiting, ms(100)).await;
        assert_eq!(over, 1, "calls that were made before the first was answered");
    }
    let index = waiting.iter().position(Waiting::is_over).expect("one is over");
    waiting.remove(index).granted().await
}

/// On Redis the thousands of small steps take too long: see `tests/fleet`.
#[tokio::test(start_paused = true)]
async fn s39_one_probe_goes_first_after_a_refusal_and_the_rest_is_spread() {
    let world = World::memory().await;
    let limiters = [0; 4].map(|_| world.bucket([Quota::per_hour("requests", 1_000)]));
    let all: Vec<_> = limiters.iter().collect();
    let refused = Feedback::new().with_retry_after(secs(2));
    let call = take(all[0], requests(1)).await;
    call.feedback(&refused).await.unwrap();
    call.release().await.unwrap();
    let mut waiting = Vec::new();
    for index in 0..100 {
        waiting.push(Waiting::for_(all[index % 4], requests(1)).await);
    }
    assert_eq!(over_after(&world, &all, &waiting, ms(1_990)).await, 0);
    let first = probe(&world, &all, &mut waiting).await;

    // The provider says the same again; the pause is doubled.
    first.feedback(&refused).await.unwrap();
    first.release().await.unwrap();
    assert_eq!(over_after(&world, &all, &waiting, ms(3_990)).await, 0);
    let second = probe(&world, &all, &mut waiting).await;

    api::answered_well(&second).await.unwrap();
    second.keep().await.unwrap();
    assert_eq!(waiting.len(), 98);
    let at_once = over_after(&world, &all, &waiting, ms(1)).await;
    let mut over = vec![at_once];
    for _ in 0..11 {
        over.push(over_after(&world, &all, &waiting, ms(100)).await);
    }
    assert!(at_once < 49, "{over:?}: at once");
    assert!((10..=88).contains(&over[5]), "{over:?}: not spread over about a second");
    assert_eq!(over[11], 98, "{over:?}");
}
