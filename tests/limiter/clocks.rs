//! Scenario 33: the clocks of clients decide nothing. And calendars that never reach to the store's
//! present.

use std::{
    collections::HashMap,
    future::ready,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::runtime::Runtime;
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled,
    engine::BucketState,
    store::{Batch, BucketKey, Reply, Store},
    usage,
};

use crate::observer::Recorder;

/// A store elsewhere, with a clock of its own.
#[derive(Debug, Default)]
struct Elsewhere {
    wall: AtomicU64,
    states: Mutex<HashMap<Arc<BucketKey>, BucketState>>,
}

impl Store for Elsewhere {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let mut states = self.states.lock().unwrap();
        let mut taken: Vec<_> = batch
            .buckets
            .iter()
            .map(|bucket| states.remove(&bucket.key).unwrap_or_else(BucketState::unused))
            .collect();
        let mut borrowed: Vec<_> = taken.iter_mut().collect();
        let (answer, _) = batch.apply_to(&mut borrowed, self.wall.load(Ordering::SeqCst));
        states.extend(batch.buckets.iter().map(|bucket| bucket.key.clone()).zip(taken));
        Reply::Later(Box::pin(ready(Ok(answer))))
    }
}

/// A process whose clock is off by so much.
struct Client {
    runtime: Runtime,
    limiter: Limiter,
    open: Vec<Reservation>,
}

impl Client {
    fn new(store: &Arc<Elsewhere>, off: Duration) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let quotas = [
            Quota::per_minute("tokens", 100),
            Quota::token_bucket("requests", 10, Duration::from_secs(60)),
            Quota::fixed_window("tokens", 150, Duration::from_secs(120)),
        ];
        let limits = Limits::new().bucket("a", quotas);
        let limiter = runtime.block_on(async {
            tokio::time::advance(off).await;
            Limiter::builder(limits).shared_store(store.clone()).build().unwrap()
        });
        Self { runtime, limiter, open: Vec::new() }
    }

    /// Tries, or settles what is open; answers what came of it.
    fn act(&mut self, n: u64) -> String {
        if n % 3 == 2
            && let Some(call) = self.open.pop()
        {
            self.runtime.block_on(call.settle(usage! { tokens: n % 7 })).unwrap();
        }
        let demand = Demand::new("a", usage! { tokens: 1 + n % 40 });
        match self.runtime.block_on(self.limiter.try_reserve(demand)) {
            Ok(call) => {
                let granted_at = call.granted_at();
                self.open.push(call);
                format!("{granted_at:?}")
            }
            Err(Throttled::NotNow(refusal)) => format!("{refusal:?}"),
            Err(error) => panic!("{error}"),
        }
    }
}

/// The answers to two clients that take turns on one store; the clock of the second is off.
fn decisions(off: Duration) -> Vec<String> {
    let store = Arc::new(Elsewhere::default());
    store.wall.store(1_700_000_000_000_000, Ordering::SeqCst);
    let mut clients = [Client::new(&store, Duration::ZERO), Client::new(&store, off)];
    let mut told = Vec::new();
    for n in 0..400 {
        told.push(clients[n as usize % 2].act(n));
        store.wall.fetch_add(1_000 * (n * n % 1_999), Ordering::SeqCst);
    }
    told
}

#[test]
fn s33_clients_whose_clocks_differ_decide_alike() {
    let together = decisions(Duration::ZERO);
    assert!(together.iter().any(|told| told.contains("retry_after")));
    assert!(together.iter().any(|told| told.contains("tv_sec")));
    assert_eq!(together, decisions(Duration::from_secs(61)));
}

/// No calendar reaches to its present: its clock is in another decade at every look.
#[cfg(feature = "timezone")]
#[derive(Debug)]
struct Never {
    in_process: bool,
    looks: AtomicU64,
}

#[cfg(feature = "timezone")]
impl Store for Never {
    fn in_process(&self) -> bool {
        self.in_process
    }

    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let decades = 1 + self.looks.fetch_add(1, Ordering::SeqCst) % 2;
        let wall = decades * 10 * 365 * 86_400 * 1_000_000;
        let mut unused: Vec<_> = batch.buckets.iter().map(|_| BucketState::unused()).collect();
        Reply::Now(batch.apply_to(&mut unused.iter_mut().collect::<Vec<_>>(), wall).0)
    }
}

#[cfg(feature = "timezone")]
#[test]
fn a_calendar_that_never_reaches_is_an_error() {
    for in_process in [true, false] {
        let (tell, told) = std::sync::mpsc::channel();
        // A thread can be left behind if it never ends.
        std::thread::spawn(move || {
            let limits =
                Limits::new().bucket("a", [Quota::per_month("tokens", 100).in_time_zone("UTC")]);
            let store = Never { in_process, looks: AtomicU64::new(0) };
            let limiter = Limiter::with_store(limits, store).unwrap();
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let outcome = runtime.block_on(limiter.reserve(Demand::new("a", usage! {})));
            tell.send(outcome.map(drop)).unwrap();
        });
        let outcome = told.recv_timeout(Duration::from_secs(20)).expect("it hangs");
        assert!(matches!(outcome, Err(Throttled::Store(_))), "{outcome:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s32_a_loss_is_told_also_where_the_next_server_s_clock_is_behind() {
    let store = Arc::new(Elsewhere::default());
    let recorder = Recorder::default();
    let limits = Limits::new().bucket("a", [Quota::per_minute("tokens", 100)]);
    let limiter = Limiter::builder(limits)
        .shared_store(store.clone())
        .observer(recorder.clone())
        .build()
        .unwrap();
    let ask_at = async |seconds: u64| {
        store.wall.store(1_700_000_000_000_000 + seconds * 1_000_000, Ordering::SeqCst);
        limiter
            .reserve(Demand::new("a", usage! { tokens: 1 }))
            .await
            .unwrap()
            .keep()
            .await
            .unwrap();
        recorder.count("StateLost")
    };
    let lose = || store.states.lock().unwrap().clear();

    assert_eq!((ask_at(2).await, ask_at(3).await), (0, 0));
    // It fails over to an empty one two seconds behind, which is flushed when it has been in use
    // for half an hour.
    lose();
    assert_eq!(ask_at(1).await, 1);
    for seconds in (10..1_800).step_by(10) {
        assert_eq!(ask_at(seconds).await, 1);
    }
    lose();
    assert_eq!(ask_at(1_801).await, 2);
}
