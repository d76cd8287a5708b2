//! Many tasks of two limiters on one store reserve, give up at random points, adjust, settle and
//! detach. A model counts what is in flight and what was used: there is never more in flight than
//! may be, and in the end the store agrees.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::{Either, select};
use tokio::{task::yield_now, time::timeout};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled, Usage,
    limiter::ReservationId,
    store::{MemoryStore, Store},
    usage,
};

use crate::fake::FakeStore;

/// Longer than all of it takes on a busy machine.
const HANGS: Duration = Duration::from_secs(120);
const TASKS: u64 = 32;
const BUCKETS: [&str; 2] = ["a", "b"];
/// Calls that may be in flight on each bucket: fewer than there are tasks.
const SLOTS: [u64; 2] = [12, 7];

fn limits() -> Limits {
    BUCKETS.iter().zip(SLOTS).fold(Limits::new(), |limits, (bucket, slots)| {
        let tokens = Quota::per_day("tokens", 100_000_000);
        limits.bucket(*bucket, [tokens, Quota::concurrency(slots)])
    })
}

/// Small numbers that differ from task to task.
struct Random(u64);

impl Random {
    fn below(&mut self, below: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }
}

/// What one bucket has to agree with.
#[derive(Default)]
struct Count {
    in_flight: AtomicU64,
    used: AtomicU64,
}

/// Detached reservations, with the buckets they are on.
type Detached = Vec<(ReservationId, usize)>;

/// What the store has to agree with.
#[derive(Default)]
struct Model {
    counts: [Count; 2],
    detached: Mutex<Detached>,
    granted: AtomicU64,
    given_up: AtomicU64,
}

impl Model {
    /// The buckets that a demand on the `on`-th kind of pair names.
    fn of(&self, on: usize) -> impl Iterator<Item = (usize, &Count)> {
        let names = [0..1, 1..2, 0..2][on].clone();
        self.counts.iter().enumerate().filter(move |(index, _)| names.contains(index))
    }

    fn begins(&self, on: usize) {
        self.granted.fetch_add(1, Ordering::Relaxed);
        for (index, count) in self.of(on) {
            let before = count.in_flight.fetch_add(1, Ordering::SeqCst);
            assert!(before < SLOTS[index], "{} in flight on {}", before + 1, BUCKETS[index]);
        }
    }

    /// Called before the store is told, so that the model never counts more than the store.
    fn ends(&self, on: usize, used: u64) {
        for (_, count) in self.of(on) {
            count.used.fetch_add(used, Ordering::Relaxed);
            count.in_flight.fetch_sub(1, Ordering::SeqCst);
        }
    }

    fn detached(&self) -> Option<(ReservationId, usize)> {
        self.detached.lock().expect("it is not poisoned").pop()
    }
}

fn demand(on: usize, tokens: u64) -> Demand {
    let usage = Usage::new().with("tokens", tokens);
    let demand = Demand::new(BUCKETS[on % 2], usage);
    if on == 2 { demand.and(BUCKETS[1]) } else { demand }
}

/// Reserves, and drops the future after a number of turns.
async fn within(
    limiter: &Limiter,
    demand: Demand,
    turns: u64,
) -> Option<Result<Reservation, Throttled>> {
    let given_up = async {
        for _ in 0..turns {
            yield_now().await;
        }
    };
    match select(pin!(limiter.reserve(demand)), pin!(given_up)).await {
        Either::Left((result, _)) => Some(result),
        Either::Right(_) => None,
    }
}

async fn reserve(limiter: &Limiter, demand: Demand, random: &mut Random) -> Option<Reservation> {
    let result = match random.below(6) {
        0 => limiter.try_reserve(demand).await,
        1 => limiter.reserve(demand.max_wait(Duration::from_millis(random.below(3)))).await,
        2 => within(limiter, demand, random.below(4)).await?,
        3 => within(limiter, demand, random.below(300)).await?,
        _ => Ok(limiter.reserve(demand).await.expect("it is granted in the end")),
    };
    match result {
        Ok(reservation) => Some(reservation),
        Err(Throttled::NotNow(_) | Throttled::Deadline(_)) => None,
        Err(error) => panic!("{error}"),
    }
}

/// Ends a reservation of `tokens` in one of the ways that there are.
async fn end(
    model: &Model,
    mut call: Reservation,
    on: usize,
    mut tokens: u64,
    random: &mut Random,
) {
    if random.below(3) == 0 {
        tokens = random.below(9);
        drop(call.adjust(usage! { tokens: tokens }));
    }
    let actual = random.below(9);
    match random.below(6) {
        0 => {
            model.ends(on, tokens);
            drop(call.keep());
        }
        1 => {
            model.ends(on, 0);
            drop(call.release());
        }
        2 => {
            model.ends(on, tokens);
            drop(call);
        }
        3 => {
            let id = call.detach(Duration::from_secs(600)).await.expect("the store answers");
            model.detached.lock().expect("it is not poisoned").push((id, on));
        }
        4 => {
            model.ends(on, actual);
            call.settle(usage! { tokens: actual }).await.expect("the store answers");
        }
        _ => {
            model.ends(on, actual);
            drop(call.settle(usage! { tokens: actual }));
        }
    }
}

async fn settle_detached(model: &Model, limiter: &Limiter, (id, on): (ReservationId, usize)) {
    model.ends(on, 5);
    let is_settled = limiter.settle(&id, usage! { tokens: 5 }).await.expect("the store answers");
    assert!(is_settled, "a detached reservation is settled once");
}

async fn work(model: Arc<Model>, limiter: Limiter, seed: u64, rounds: u64) {
    let mut random = Random(seed);
    for _ in 0..rounds {
        // Those of other tasks too. Nothing else ends them, and they keep others out.
        while let Some(detached) = model.detached() {
            settle_detached(&model, &limiter, detached).await;
        }
        let (on, tokens) = (random.below(3) as usize, random.below(9));
        let Some(call) = reserve(&limiter, demand(on, tokens), &mut random).await else {
            model.given_up.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        model.begins(on);
        for _ in 0..random.below(3) {
            yield_now().await;
        }
        end(&model, call, on, tokens, &mut random).await;
    }
    while let Some(detached) = model.detached() {
        settle_detached(&model, &limiter, detached).await;
    }
}

/// What is in flight on both quotas of a bucket, how many wait there, and what is charged.
async fn standing(limiter: &Limiter, bucket: &str) -> (u64, u64, usize, f64) {
    let status = limiter.status(bucket).await.expect("the store answers");
    let [tokens, slots] = &status.quotas[..] else { panic!("two quotas") };
    (tokens.in_flight, slots.in_flight, status.waiting, tokens.charged)
}

/// Asks until a bucket stands like this: what was dropped last may still be on its way.
async fn becomes(limiter: &Limiter, bucket: &str, wanted: (u64, u64, usize, f64)) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while standing(limiter, bucket).await != wanted && Instant::now() < deadline {
        yield_now().await;
    }
    assert_eq!(standing(limiter, bucket).await, wanted, "{bucket}");
}

async fn stress(stores: [Arc<dyn Store>; 2], rounds: u64) {
    let model = Arc::new(Model::default());
    let build = |store: &Arc<dyn Store>| {
        let builder = Limiter::builder(limits()).shared_store(store.clone());
        builder.build().expect("the limits are valid")
    };
    let limiters = stores.each_ref().map(build);
    let tasks: Vec<_> = (0..TASKS)
        .map(|seed| {
            let limiter = limiters[seed as usize % 2].clone();
            tokio::spawn(work(model.clone(), limiter, seed, rounds))
        })
        .collect();
    for task in tasks {
        timeout(HANGS, task).await.expect("a task hangs").expect("no task panics");
    }
    for limiter in &limiters {
        timeout(HANGS, limiter.close()).await.expect("it hangs");
    }
    let other = build(&stores[0]);
    for (bucket, count) in BUCKETS.iter().zip(&model.counts) {
        let used = count.used.load(Ordering::Relaxed) as f64;
        becomes(&other, bucket, (0, 0, 0, used)).await;
    }
    let [granted, given_up] =
        [&model.granted, &model.given_up].map(|count| count.load(Ordering::Relaxed));
    assert!(granted > TASKS * rounds / 3, "{granted} granted, {given_up} given up");
    assert!(given_up > TASKS * rounds / 50, "{granted} granted, {given_up} given up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_leak_nothing_in_memory() {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
    stress([store.clone(), store], 300).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_leak_nothing_across_a_network() {
    let store: Arc<dyn Store> = Arc::new(FakeStore::new());
    stress([store.clone(), store], 100).await;
}

#[cfg(feature = "redis")]
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_tasks_leak_nothing_on_redis() {
    use tower_throttle::store::RedisStore;

    let server = crate::support::RedisServer::start();
    let connect = || async {
        let store = RedisStore::connect(&server.url()).await.expect("the server answers");
        Arc::new(store) as Arc<dyn Store>
    };
    stress([connect().await, connect().await], 60).await;
}
