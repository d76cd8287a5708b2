//! Where no runtime is, or none is left.

use std::{
    future::pending,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Instant,
};

use tokio::runtime::{Builder, Runtime};
use tower_throttle::{
    Limiter, OnUnavailable, Reservation, Throttled,
    limiter::Retries,
    observe::Event,
    store::{Batch, Reply, Store},
    usage,
};

use crate::fake::*;

/// What a future answers without a runtime, which must be at once.
fn at_once<F: Future>(future: F) -> F::Output {
    let Poll::Ready(answer) = pin!(future).poll(&mut Context::from_waker(Waker::noop())) else {
        panic!("it has to wait");
    };
    answer
}

#[test]
fn in_memory_no_runtime_is_needed_after_one_ended_with_a_waiter() {
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

#[test]
fn in_memory_no_runtime_is_needed_to_look_at_a_bucket_or_to_pause_it() {
    let limiter = Limiter::new(limits()).unwrap();
    let call = at_once(limiter.reserve(tokens(10))).unwrap();
    assert_eq!(at_once(limiter.status("a")).unwrap().quotas[0].charged, 10.0);
    at_once(limiter.pause("a", secs(60))).unwrap();
    assert!(matches!(at_once(limiter.try_reserve(tokens(1))), Err(Throttled::NotNow(_))));
    at_once(limiter.resume("a")).unwrap();
    at_once(at_once(limiter.try_reserve(tokens(1))).unwrap().release()).unwrap();
    at_once(call.release()).unwrap();

    let error = at_once(on(&FakeStore::new()).status("a")).unwrap_err();
    assert!(error.to_string().contains("tokio runtime"), "{error}");
}

/// A call that takes all there is. Another one waits behind it, so that this runtime drives the
/// session.
fn all_taken(limiter: &Limiter, runtime: &Runtime) -> Reservation {
    runtime.block_on(async {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        waiting(limiter, tokens(30));
        quiet().await;
        call
    })
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
fn a_demand_outlives_the_runtime_that_drives_its_session() {
    let (store, other) = (FakeStore::new(), runtime());
    let limiter = on(&store);
    let call = all_taken(&limiter, &other);
    runtime().block_on(async {
        let mut demand = pin!(limiter.reserve(tokens(20)));
        assert!(poll(demand.as_mut()).await.is_pending());
        other.shutdown_background();
        drop(call.release());
        demand.await.unwrap().keep().await.unwrap();
        assert_eq!(truth(&store).await, (20.0, 0));
    });
}

#[test]
fn demands_keep_their_order_when_the_runtime_of_another_one_ends() {
    let (limiter, other) = (Limiter::new(limits()).unwrap(), runtime());
    let call = all_taken(&limiter, &other);
    let order = Arc::new(Mutex::new(Vec::new()));
    let local = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    local.block_on(async {
        let mut tasks = Vec::new();
        for index in 0..6 {
            let (limiter, order) = (limiter.clone(), order.clone());
            tasks.push(tokio::spawn(async move {
                let call = limiter.reserve(tokens(100)).await.unwrap();
                order.lock().unwrap().push(index);
                call.release().await.unwrap();
            }));
            tokio::time::sleep(ms(10)).await;
        }
        other.shutdown_background();
        quiet().await;
        call.release().await.unwrap();
        for task in tasks {
            task.await.unwrap();
        }
    });
    assert_eq!(*order.lock().unwrap(), [0, 1, 2, 3, 4, 5]);
}

#[test]
fn a_demand_that_is_served_without_the_store_outlives_another_runtime_too() {
    let (store, other) = (FakeStore::new(), runtime());
    let builder = builder(&store).on_unavailable(OnUnavailable::local(1.0));
    let limiter = builder.retries(Retries::none()).build().unwrap();
    store.always(Fate::Unavailable);
    let call = all_taken(&limiter, &other);
    runtime().block_on(async {
        let mut demand = pin!(limiter.reserve(tokens(20)));
        assert!(poll(demand.as_mut()).await.is_pending());
        quiet().await;
        other.shutdown_background();
        quiet().await;
        drop(call.release());
        assert!(demand.await.unwrap().degraded());
    });
}

/// With a look at all that is to be sent for each of them it would take ten times as long.
#[test]
fn a_runtime_with_many_open_calls_ends_sooner_than_these_were_made() {
    let (limiter, runtime) = (on(&FakeStore::new()), runtime());
    let begun = Instant::now();
    runtime.block_on(async {
        let waits: Vec<_> = (0..20_000).map(|_| waiting(&limiter, tokens(0))).collect();
        for wait in waits {
            let call = wait.await.unwrap().unwrap();
            tokio::spawn(async move {
                let _call = call;
                pending::<()>().await;
            });
        }
    });
    let made = begun.elapsed();
    drop(runtime);
    let (ended, limit) = (begun.elapsed() - made, 2 * made);
    assert!(ended < limit, "made in {made:?}, ended in {ended:?}");
}

/// A store that breaks the task that asks it.
#[derive(Debug, Default)]
struct Broken(Arc<AtomicUsize>);

impl Store for Broken {
    fn apply(&self, _: &Batch<'_>) -> Reply {
        let asked = self.0.clone();
        Reply::Later(Box::pin(async move {
            tokio::task::yield_now().await;
            asked.fetch_add(1, Ordering::Relaxed);
            panic!("a bug");
        }))
    }
}

#[tokio::test]
async fn a_store_that_panics_is_an_outage() {
    let (asked, outages) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let seen = outages.clone();
    let builder = Limiter::builder(limits()).store(Broken(asked.clone())).retries(Retries::none());
    let builder = builder.observer(move |event: &Event<'_>| {
        seen.fetch_add(usize::from(matches!(event, Event::Degraded { .. })), Ordering::Relaxed);
    });
    let limiter = builder.build().unwrap();
    let waits: Vec<_> = (0..3).map(|_| waiting(&limiter, tokens(1))).collect();
    for wait in waits {
        // One of them may have polled the batch, and break with it.
        if let Ok(answer) = wait.await {
            assert!(answer.unwrap_err().to_string().contains("the store"));
        }
    }
    assert_eq!((asked.load(Ordering::Relaxed), outages.load(Ordering::Relaxed)), (1, 1));
}
