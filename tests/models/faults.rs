//! The network breaks: what was granted unseen is given back, and callers go on when it heals.

use std::time::Duration;

use tokio::task::yield_now;
use tower_throttle::{OnUnavailable, Throttled};

use crate::world::*;

/// Longer than the pause after a failure.
const PAUSE: Duration = Duration::from_secs(10);

/// Two tasks reserve while replies get lost.
async fn lost_replies(world: World) {
    let limiter = world.limiter(slots(2));
    join((0..2).map(|_| {
        let (world, limiter) = (world.clone(), limiter.clone());
        spawn(async move {
            match limiter.reserve(slot()).await {
                Ok(granted) => world.hold(granted, 2).await,
                Err(error) => assert!(matches!(error, Throttled::Store(_)), "{error}"),
            }
        })
    }))
    .await;
    world.heals();
    // The batch in doubt is sent again after the first pause.
    for _ in 0..3 {
        advance(PAUSE);
        chances().await;
    }
    world.is_left_clean().await;
}

#[test]
fn a_grant_whose_reply_is_lost_is_given_back() {
    check(|| lost_replies(World::lossy()));
}

/// A demand waits for the local share of an outage that ends meanwhile.
async fn recovers(world: World) {
    let local = OnUnavailable::local(1.0);
    let limiter = world.builder(slots(1)).on_unavailable(local).build().expect("valid limits");
    let first = limiter.reserve(slot()).await.expect("the local share is free");
    assert!(first.degraded());
    let second = {
        let limiter = limiter.clone();
        spawn(async move { limiter.reserve(slot()).await.expect("the store has room") })
    };
    meanwhile().await;
    world.heals();
    for _ in 0..10 {
        advance(PAUSE);
        // The first batch that is answered ends the outage.
        drop(limiter.status("a").await);
        if second.is_finished() {
            break;
        }
        yield_now().await;
    }
    drop(second.await.expect("it is not aborted"));
    drop(first);
    world.is_left_clean().await;
}

#[test]
fn a_demand_on_the_local_share_returns_to_a_store_that_recovers() {
    check(|| recovers(World::down()));
}
