//! Shadow mode: what is really sent is charged, whether it fits or not.

use tower_throttle::{Demand, Limiter, Limits, Quota, Reservation, usage};

use crate::world::*;

on_every_store!(
    what_does_not_fit_is_a_debt_that_runs_off,
    a_charge_is_settled_as_any_other,
    calls_in_flight_beyond_the_limit_are_counted_and_end,
    a_pause_holds_no_charge_back,
    a_demand_on_several_buckets_is_charged_on_all,
);

async fn shadow(limiter: &Limiter, demand: Demand) -> Reservation {
    soon(limiter.shadow(demand)).await.expect("nothing is refused")
}

async fn what_does_not_fit_is_a_debt_that_runs_off(world: World) {
    let limiter = world.bucket([
        Quota::per_minute("tokens", 100),
        Quota::token_bucket("tokens", 100, MINUTE),
        Quota::fixed_window("tokens", 100, MINUTE),
    ]);
    for left_over in [20.0, -60.0, -140.0] {
        shadow(&limiter, tokens(80)).await.keep().await.unwrap();
        assert_eq!(left(&limiter, "a").await, [left_over; 3]);
    }
    assert!(!passes(&limiter, tokens(1)).await);
    world.advance(secs(30)).await;
    assert_eq!(left(&limiter, "a").await[1], -90.0);
    world.advance(secs(120)).await;
    assert_eq!(left(&limiter, "a").await, [100.0; 3]);
}

async fn a_charge_is_settled_as_any_other(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 100)]);
    let calls = [shadow(&limiter, tokens(80)).await, shadow(&limiter, tokens(80)).await];
    assert_eq!(left(&limiter, "a").await, [-60.0]);
    for call in calls {
        call.settle(usage! { tokens: 30 }).await.unwrap();
    }
    assert_eq!(left(&limiter, "a").await, [40.0]);
    // More than the limit is charged as far as a settle believes it.
    shadow(&limiter, tokens(10_000)).await.release().await.unwrap();
    assert_eq!(left(&limiter, "a").await, [40.0]);
}

async fn calls_in_flight_beyond_the_limit_are_counted_and_end(world: World) {
    let limiter = world.bucket([Quota::concurrency(1)]);
    let calls = [shadow(&limiter, tokens(1)).await, shadow(&limiter, tokens(1)).await];
    assert_eq!(left(&limiter, "a").await, [-1.0]);
    for call in calls {
        call.keep().await.unwrap();
    }
    assert_eq!(left(&limiter, "a").await, [1.0]);
    assert!(passes(&limiter, tokens(1)).await);
}

async fn a_pause_holds_no_charge_back(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 100)]);
    limiter.pause("a", secs(600)).await.unwrap();
    shadow(&limiter, tokens(10)).await.keep().await.unwrap();
    assert_eq!(left(&limiter, "a").await, [90.0]);
    assert!(!passes(&limiter, tokens(1)).await);
}

async fn a_demand_on_several_buckets_is_charged_on_all(world: World) {
    let limiter = world.limiter(
        Limits::new()
            .bucket("a", [Quota::per_minute("tokens", 10)])
            .bucket("b", [Quota::per_minute("cents", 100)]),
    );
    let both = tokens(80).and_with("b", usage! { cents: 5 });
    shadow(&limiter, both).await.keep().await.unwrap();
    assert_eq!((left(&limiter, "a").await, left(&limiter, "b").await), (vec![-40.0], vec![95.0]));
}
