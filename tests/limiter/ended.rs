//! Where no runtime is, or none is left.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
};

use tokio::runtime::{Builder, Runtime};
use tower_throttle::{Event, Limiter, Throttled, usage};

use crate::fake::*;

/// What a future answers without a runtime, which must be at once.
fn at_once<F: Future>(future: F) -> F::Output {
    let Poll::Ready(answer) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it has to wait");
    };
    answer
}

#[test]
fn in_memory_no_runtime_is_needed_after_one_has_ended_while_somebody_waited() {
    let limiter = Limiter::new(limits()).unwrap();
    let runtime = runtime();
    let (call, waits) = runtime.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = waiting(&limiter, tokens(30));
        quiet().await;
        (call, waits)
    });
    drop(runtime);
    assert!(waits.is_finished());

    at_once(call.release()).unwrap();
    let call = at_once(limiter.try_reserve(tokens(90))).unwrap();
    assert!(matches!(at_once(limiter.try_reserve(tokens(20))), Err(Throttled::NotNow(_))));
    at_once(call.settle(usage! { tokens: 70 })).unwrap();
    at_once(at_once(limiter.try_reserve(tokens(30))).unwrap().keep()).unwrap();
}

#[test]
fn what_has_to_wait_says_that_it_needs_a_runtime() {
    let limiters = [Limiter::new(limits()).unwrap(), on(&FakeStore::new())];
    for (limiter, amount) in limiters.iter().zip([100, 0]) {
        // In memory only what has to wait needs one.
        let _call = (amount > 0).then(|| at_once(limiter.reserve(tokens(amount))).unwrap());
        let error = at_once(limiter.reserve(tokens(1))).unwrap_err();
        assert!(error.to_string().contains("tokio runtime"), "{error}");
    }
}

fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn what_a_runtime_leaves_on_its_way_is_no_outage() {
    let store = FakeStore::new();
    let outages = Arc::new(AtomicUsize::new(0));
    let seen = outages.clone();
    let limiter = builder(&store).observer(move |event: &Event<'_>| {
        seen.fetch_add(usize::from(matches!(event, Event::Degraded { .. })), Ordering::Relaxed);
    });
    let limiter = limiter.build().unwrap();
    for _ in 0..3 {
        runtime().block_on(async {
            let call = limiter.reserve(tokens(10)).await.unwrap();
            store.hold();
            drop(call.settle(usage! { tokens: 5 }));
            quiet().await;
        });
        store.let_go();
    }
    let charged = runtime().block_on(async {
        // Behind what was left.
        limiter.reserve(tokens(1)).await.unwrap().release().await.unwrap();
        truth(&store).await
    });
    assert_eq!((charged, outages.load(Ordering::Relaxed)), ((15.0, 0), 0));
}

#[test]
fn a_demand_outlives_the_runtime_that_would_have_carried_it() {
    let (store, other) = (FakeStore::new(), runtime());
    let limiter = on(&store);
    let call = other.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        waiting(&limiter, tokens(30));
        quiet().await;
        call
    });
    runtime().block_on(async {
        let mut demand = pin!(limiter.reserve(tokens(20)));
        assert!(poll(demand.as_mut()).await.is_pending());
        other.shutdown_background();
        drop(call.release());
        demand.await.unwrap().keep().await.unwrap();
        assert_eq!(truth(&store).await, (20.0, 0));
    });
}
