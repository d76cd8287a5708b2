//! No waiter is forgotten: each is granted once there is room, without a new demand to its rescue.

use std::sync::Arc;

use tokio::time::timeout;
use tower_throttle::{Demand, Feedback, Limiter, Limits, Quota, store::MemoryStore, usage};

use crate::fake::*;

fn request(bucket: impl AsRef<str>) -> Demand {
    Demand::new(bucket, usage! { requests: 1 })
}

/// Of two waiters of one session that take turns, the one whose turn it is stands behind others
/// that stand behind the older one.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_though_each_waiter_is_behind_another() {
    let store = Arc::new(MemoryStore::new());
    let limits = ["a", "other"].into_iter().fold(Limits::new(), |limits, name| {
        limits.bucket(name, [Quota::per_minute("requests", 1_000)])
    });
    let limiter =
        |()| Limiter::builder(limits.clone()).shared_store(store.clone()).build().unwrap();
    let [one, two, three] = &[(); 3].map(limiter);
    let of = |share: &str| request("a").share(share);
    // The next turn of the first share is after that of the others.
    one.pause("a", ms(100)).await.unwrap();
    for _ in 0..2 {
        one.reserve(of("first")).await.unwrap().keep().await.unwrap();
    }
    let refused = Feedback::new().with_retry_after(secs(2));
    one.feedback("a", &refused).await.unwrap();
    let mut calls = Vec::new();
    let elsewhere = request("a").and("other");
    for (limiter, demand) in
        [(one, of("first")), (three, elsewhere), (two, of("second")), (one, of("second"))]
    {
        calls.push(waiting(limiter, demand));
        tokio::time::sleep(ms(100)).await;
    }
    for call in calls {
        let call = timeout(secs(10), call).await.expect("it waits").unwrap().unwrap();
        call.settle(usage! {}).await.unwrap();
    }
}
