//! What models run in: a store, and tasks that shuttle schedules.

use std::{
    env,
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    task::Poll,
    time::Duration,
};

use shuttle::{
    Config, Runner,
    future::{JoinHandle, block_on},
    rand::{Rng, thread_rng},
    scheduler::{PctScheduler, RandomScheduler, Scheduler},
};
use tokio::{runtime::Handle, task::yield_now, time};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled, Usage,
    engine::Answer,
    limiter::{LimiterBuilder, Retries},
    store::{Batch, Hint, Listening, MemoryStore, OwnedBatch, Reply, Store, StoreError},
};

/// How many orders a model runs in, half of them with few switches at telling points.
const RUNS: usize = 600;
/// Bugs need few switches between tasks.
const SWITCHES: usize = 3;
/// After this many chances to run, nothing is on its way any more.
const CHANCES: usize = 2_000;

/// Runs a model in many orders.
pub(crate) fn check<F>(model: impl Fn() -> F + Copy + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let runs = env::var("MODEL_RUNS").ok().and_then(|runs| runs.parse().ok()).unwrap_or(RUNS);
    run(RandomScheduler::new_from_seed(1, runs / 2), model);
    run(PctScheduler::new_from_seed(1, SWITCHES, runs / 2), model);
}

fn run<F>(scheduler: impl Scheduler + 'static, model: impl Fn() -> F + Send + Sync + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut config = Config::new();
    config.stack_size = 0x4_0000;
    config.silence_warnings = true;
    Runner::new(scheduler, config).run(move || {
        time::reset();
        let model = Handle::new().spawn(model()).expect("the runtime has not ended");
        block_on(model).expect("the model is not aborted");
    });
}

/// Runs a task in the runtime of this one.
pub(crate) fn spawn<F>(future: F) -> JoinHandle<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    let runtime = Handle::try_current().expect("a model runs in a runtime");
    runtime.spawn(future).expect("it has not ended")
}

/// Waits for tasks.
pub(crate) async fn join<T>(tasks: impl IntoIterator<Item = JoinHandle<T>>) {
    for task in tasks {
        task.await.expect("it is not aborted");
    }
}

/// How a store across a network fares.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Network {
    Works,
    /// One reply in three is lost, and that is noticed.
    Lossy,
    /// Nothing arrives, and that is noticed.
    Down,
}

/// A store across a network: it answers later, and batches of several sessions meet on their way.
#[derive(Clone, Debug)]
struct Remote {
    memory: Arc<MemoryStore>,
    network: Arc<Mutex<Network>>,
}

impl Remote {
    fn network(&self) -> Network {
        *self.network.lock().expect("it is not poisoned")
    }

    async fn request(self, batch: OwnedBatch) -> Result<Answer, StoreError> {
        let broken = || StoreError::Unavailable("the connection is broken".into());
        yield_now().await;
        if self.network() == Network::Down {
            return Err(broken());
        }
        let reply = self.memory.apply(&batch.as_batch());
        yield_now().await;
        if self.network() == Network::Lossy && thread_rng().gen_ratio(1, 3) {
            return Err(broken());
        }
        match reply {
            Reply::Now(answer) => Ok(answer),
            Reply::Later(answer) => answer.await,
        }
    }
}

impl Store for Remote {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        Reply::Later(Box::pin(self.clone().request(batch.into())))
    }

    fn listen(&self, partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        self.memory.listen(partition, session, hint)
    }
}

/// A store, and what is granted in it.
#[derive(Clone)]
pub(crate) struct World {
    memory: Arc<MemoryStore>,
    store: Arc<dyn Store>,
    network: Arc<Mutex<Network>>,
    held: Arc<AtomicU64>,
    /// Those of the last process.
    limits: Arc<Mutex<Limits>>,
}

impl World {
    pub(crate) fn memory() -> Self {
        let (memory, network) =
            (Arc::new(MemoryStore::new()), Arc::new(Mutex::new(Network::Works)));
        Self {
            memory: memory.clone(),
            store: memory,
            network,
            held: Arc::default(),
            limits: Arc::default(),
        }
    }

    pub(crate) fn remote() -> Self {
        Self::across(Network::Works)
    }

    pub(crate) fn lossy() -> Self {
        Self::across(Network::Lossy)
    }

    pub(crate) fn down() -> Self {
        Self::across(Network::Down)
    }

    fn across(network: Network) -> Self {
        let (memory, network) = (Arc::new(MemoryStore::new()), Arc::new(Mutex::new(network)));
        let store = Arc::new(Remote { memory: memory.clone(), network: network.clone() });
        Self { memory, store, network, held: Arc::default(), limits: Arc::default() }
    }

    /// Nothing arrives from now on.
    pub(crate) fn breaks(&self) {
        *self.network.lock().expect("it is not poisoned") = Network::Down;
    }

    /// The network works from now on.
    pub(crate) fn heals(&self) {
        *self.network.lock().expect("it is not poisoned") = Network::Works;
    }

    /// The store loses all that it remembers.
    pub(crate) fn forgets(&self) {
        self.memory.clear();
    }

    /// A process of its own: only the store is shared.
    pub(crate) fn builder(&self, limits: Limits) -> LimiterBuilder {
        *self.limits.lock().expect("it is not poisoned") = limits.clone();
        // Nothing times out while a model lets time pass, and no lease ends.
        Limiter::builder(limits)
            .shared_store(self.store.clone())
            .attempt_timeout(Duration::from_secs(500))
            .lease(Duration::from_secs(600))
            .retries(Retries::none())
    }

    /// A process of its own.
    pub(crate) fn limiter(&self, limits: Limits) -> Limiter {
        self.builder(limits).build().expect("valid limits")
    }

    /// Holds a slot of `a` for a while. No more than `slots` are held at once.
    pub(crate) async fn hold(&self, reservation: Reservation, slots: u64) {
        let held = self.held.fetch_add(1, Ordering::Relaxed);
        assert!(held < slots, "{} of {slots} slots are held", held + 1);
        yield_now().await;
        self.held.fetch_sub(1, Ordering::Relaxed);
        drop(reservation);
    }

    /// Asserts that nothing of `a` is left in flight, and that no demand waits there.
    pub(crate) async fn is_left_clean(&self) {
        self.is_left_with(0).await;
    }

    /// Asserts that so many slots of `a` are left in flight, and that no demand waits there.
    pub(crate) async fn is_left_with(&self, in_flight: u64) {
        let (mut left, wanted) = ((0, 0), (in_flight, 0));
        for _ in 0..CHANCES {
            left = self.left().await;
            if left == wanted {
                return;
            }
            yield_now().await;
        }
        panic!("in flight and waiting at the end: {left:?}, not {wanted:?}");
    }

    /// How many slots of `a` are in flight, and how many demands wait there. The store is asked
    /// with the limits that the models' own limiters have: higher ones would wake its waiters.
    pub(crate) async fn left(&self) -> (u64, usize) {
        let limits = self.limits.lock().expect("it is not poisoned").clone();
        let limiter = Limiter::builder(limits).shared_store(self.memory.clone()).build();
        let status = limiter.expect("valid limits").status("a").await.expect("memory answers");
        (status.quotas[0].in_flight, status.waiting)
    }
}

/// A bucket `a` of this many calls at once.
pub(crate) fn slots(slots: u64) -> Limits {
    Limits::new().bucket("a", [Quota::concurrency(slots)])
}

/// Asks for a slot of `a`.
pub(crate) fn slot() -> Demand {
    Demand::new("a", Usage::new())
}

/// Reserves a slot and drops the future if it is not granted within a number of polls.
pub(crate) async fn within_polls(
    limiter: &Limiter,
    polls: usize,
) -> Option<Result<Reservation, Throttled>> {
    let mut reserve = pin!(limiter.reserve(slot()));
    for _ in 0..polls {
        let polled = std::future::poll_fn(|context| Poll::Ready(reserve.as_mut().poll(context)));
        if let Poll::Ready(outcome) = polled.await {
            return Some(outcome);
        }
        yield_now().await;
    }
    None
}

/// Lets everything run that can.
pub(crate) async fn chances() {
    for _ in 0..CHANCES {
        yield_now().await;
    }
}

/// Lets other tasks come as far as they may.
pub(crate) async fn meanwhile() {
    for _ in 0..thread_rng().gen_range(0..40) {
        yield_now().await;
    }
}

/// Lets time pass.
pub(crate) fn advance(by: Duration) {
    time::advance(by);
}
