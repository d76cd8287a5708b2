//! What is given back on one thread while another comes to wait for it.

use std::{
    sync::{Mutex, mpsc},
    thread,
    time::Duration,
};

use tokio::task::yield_now;
use tower_throttle::{
    Demand, Limiter, Limits, Quota,
    store::{Batch, MemoryStore, Operation, Reply, Store},
    usage,
};

/// Memory that holds up settles, before anything is applied.
#[derive(Debug)]
struct HoldsUpSettles {
    inner: MemoryStore,
    arrived: mpsc::Sender<()>,
    go_on: Mutex<mpsc::Receiver<()>>,
}

impl Store for HoldsUpSettles {
    fn in_process(&self) -> bool {
        true
    }

    fn apply(&self, batch: &Batch<'_>) -> Reply {
        if batch.operations().eq([Operation::Settle]) {
            self.arrived.send(()).unwrap();
            self.go_on.lock().unwrap().recv().unwrap();
        }
        self.inner.apply(batch)
    }
}

/// The settle has seen no waiter, the waiter nothing free: one of them has to look again.
#[tokio::test(start_paused = true)]
async fn a_slot_given_back_while_another_comes_to_wait_is_handed_on() {
    let (arrived, has_arrived) = mpsc::channel();
    let (go_on, told_to) = mpsc::channel();
    let store = HoldsUpSettles { inner: MemoryStore::new(), arrived, go_on: Mutex::new(told_to) };
    let limits = Limits::new().bucket("a", [Quota::concurrency(1)]);
    let limiter = Limiter::with_store(limits, store).unwrap();
    let demand = || Demand::new("a", usage! {});

    let call = limiter.reserve(demand()).await.unwrap();
    let settle = thread::spawn(move || drop(call.keep()));
    has_arrived.recv().unwrap();
    let waiter = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.reserve(demand()).await.unwrap() }
    });
    // It is queued and refused.
    for _ in 0..20 {
        yield_now().await;
    }
    assert_eq!(limiter.status("a").await.unwrap().waiting, 1);

    go_on.send(()).unwrap();
    settle.join().unwrap();
    let waited = waiter.await.unwrap();
    go_on.send(()).unwrap();
    assert!(waited.waited() < Duration::from_millis(100), "{:?}", waited.waited());
}
