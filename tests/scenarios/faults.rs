//! Scenario 31: replies that get lost.

use std::{
    future::pending,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tower_throttle::{
    Limiter, Limits, Quota,
    store::{Batch, Reply, Store},
    usage,
};

use crate::world::*;

on_every_store!(s31_a_reply_that_is_lost_is_applied_once);

/// Applies everything, and loses the next replies.
#[derive(Clone, Debug)]
struct Losing {
    inner: Arc<dyn Store>,
    lost: Arc<AtomicUsize>,
}

impl Store for Losing {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let reply = self.inner.apply(batch);
        let lost = self.lost.clone();
        Reply::Later(Box::pin(async move {
            let result = match reply {
                Reply::Now(answer) => Ok(answer),
                Reply::Later(answer) => answer.await,
            };
            let loses =
                lost.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if loses.is_ok() { pending().await } else { result }
        }))
    }
}

async fn s31_a_reply_that_is_lost_is_applied_once(world: World) {
    let store = Losing { inner: world.store.clone(), lost: Arc::default() };
    let lost = store.lost.clone();
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 100), Quota::concurrency(5)]);
    let limiter = Limiter::builder(limits).store(store).attempt_timeout(ms(200)).build().unwrap();
    let other = take(&limiter, tokens(10)).await;

    lost.store(2, Ordering::SeqCst);
    let call = soon(limiter.reserve(tokens(40))).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [50.0, 3.0]);
    lost.store(2, Ordering::SeqCst);
    soon(call.settle(usage! { tokens: 15 })).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [75.0, 4.0]);

    // All are lost: the callers are told, and what was granted comes back by itself.
    lost.store(4, Ordering::SeqCst);
    soon(limiter.reserve(tokens(40))).await.unwrap_err();
    lost.store(0, Ordering::SeqCst);
    // The store is left alone for a while; the first demand after that finds everything in order.
    let whole = soon(async {
        loop {
            match limiter.reserve(tokens(75)).await {
                Ok(call) => break call,
                Err(_) => tokio::time::sleep(ms(100)).await,
            }
        }
    });
    whole.await.release().await.unwrap();
    drop(other);
    assert_eq!(left(&limiter, "a").await, [75.0, 5.0]);
}
