//! A store across a network that tests control: requests and replies can be late, lost, doubled or
//! refused.

use std::{
    collections::VecDeque,
    future::pending,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::Poll,
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled, Usage,
    engine::Answer,
    limiter::LimiterBuilder,
    store::{Batch, Bucket, MemoryStore, Operation, OwnedBatch, Reply, Store, StoreError},
};

/// What becomes of one request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Fate {
    Answered,
    /// It never arrives.
    RequestLost,
    /// It is applied; the answer never arrives.
    ReplyLost,
    /// It does not arrive, and that is noticed.
    Unavailable,
    /// It is applied, and then the connection breaks.
    AppliedUnavailable,
    /// The store does not want it.
    Rejected,
    /// It arrives twice; the second answer comes back.
    Twice,
}

/// One batch as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Sent {
    pub(crate) session: u64,
    pub(crate) seq: u64,
    pub(crate) ops: Vec<Operation>,
    batch: OwnedBatch,
}

#[derive(Clone, Debug)]
pub(crate) struct FakeStore {
    pub(crate) inner: Arc<MemoryStore>,
    plan: Arc<Mutex<Plan>>,
    gate: Arc<watch::Sender<bool>>,
}

#[derive(Debug)]
struct Plan {
    delay: Duration,
    next: VecDeque<Fate>,
    then: Fate,
    /// A batch that names this bucket is rejected.
    unreadable: Option<&'static str>,
    sent: Vec<Sent>,
    /// Batches that are neither answered nor given up.
    open: usize,
    most_open: usize,
}

/// A batch on its way, for as long as it is waited for.
struct OnItsWay(FakeStore);

impl Drop for OnItsWay {
    fn drop(&mut self) {
        self.0.plan().open -= 1;
    }
}

impl FakeStore {
    pub(crate) fn new() -> Self {
        let plan = Plan {
            delay: Duration::ZERO,
            next: VecDeque::new(),
            then: Fate::Answered,
            unreadable: None,
            sent: Vec::new(),
            open: 0,
            most_open: 0,
        };
        Self {
            inner: Arc::new(MemoryStore::new()),
            plan: Arc::new(Mutex::new(plan)),
            gate: Arc::new(watch::Sender::new(true)),
        }
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.plan.lock().unwrap()
    }

    /// How long a request and its reply take.
    pub(crate) fn delay(&self, delay: Duration) {
        self.plan().delay = delay;
    }

    /// What becomes of the next requests.
    pub(crate) fn next(&self, fates: impl IntoIterator<Item = Fate>) {
        self.plan().next.extend(fates);
    }

    /// What becomes of all others.
    pub(crate) fn always(&self, fate: Fate) {
        self.plan().then = fate;
    }

    /// The store can no longer read a bucket.
    pub(crate) fn spoil(&self, bucket: &'static str) {
        self.plan().unreadable = Some(bucket);
    }

    /// Nothing goes wrong any more.
    pub(crate) fn heal(&self) {
        let mut plan = self.plan();
        plan.unreadable = None;
        plan.next.clear();
        plan.then = Fate::Answered;
    }

    /// Applies requests and keeps their replies back.
    pub(crate) fn hold(&self) {
        self.gate.send_replace(false);
    }

    pub(crate) fn let_go(&self) {
        self.gate.send_replace(true);
    }

    /// What was sent since the last call.
    pub(crate) fn sent(&self) -> Vec<Sent> {
        std::mem::take(&mut self.plan().sent)
    }

    /// The most batches that were on their way at once.
    pub(crate) fn most_open(&self) -> usize {
        self.plan().most_open
    }

    /// Applies a batch as it was sent, under the session and the number that it tells.
    pub(crate) fn apply_now(&self, sent: &Sent) -> Answer {
        let mut batch = sent.batch.as_batch();
        (batch.session, batch.seq) = (sent.session, sent.seq);
        match self.inner.apply(&batch) {
            Reply::Now(answer) => answer,
            Reply::Later(_) => panic!("memory answers at once"),
        }
    }

    async fn request(self, fate: Fate, delay: Duration, sent: Sent) -> Result<Answer, StoreError> {
        let _on_its_way = OnItsWay(self.clone());
        trip(delay).await;
        let broken = || StoreError::Unavailable("the connection is broken".into());
        match fate {
            Fate::RequestLost => return pending().await,
            Fate::Unavailable => return Err(broken()),
            Fate::Rejected => return Err(StoreError::Rejected("WRONGPASS".into())),
            _ => {}
        }
        let mut answer = self.apply_now(&sent);
        match fate {
            Fate::ReplyLost => return pending().await,
            Fate::AppliedUnavailable => return Err(broken()),
            Fate::Twice => answer = self.apply_now(&sent),
            _ => {}
        }
        trip(delay).await;
        let mut gate = self.gate.subscribe();
        gate.wait_for(|open| *open).await.expect("the store lives");
        Ok(answer)
    }
}

/// A sleep of no time is still one.
async fn trip(delay: Duration) {
    if !delay.is_zero() {
        sleep(delay / 2).await;
    }
}

impl Store for FakeStore {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let (session, seq, ops) = (batch.session, batch.seq, batch.operations().collect());
        let sent = Sent { session, seq, ops, batch: OwnedBatch::from(batch) };
        let mut plan = self.plan();
        plan.sent.push(sent.clone());
        plan.open += 1;
        plan.most_open = plan.most_open.max(plan.open);
        let is_unreadable =
            |bucket: &Bucket| plan.unreadable.is_some_and(|name| bucket.key.name() == name);
        let fate = match batch.buckets.iter().any(is_unreadable) {
            true => Fate::Rejected,
            false => plan.next.pop_front().unwrap_or(plan.then),
        };
        let delay = plan.delay;
        drop(plan);
        Reply::Later(Box::pin(self.clone().request(fate, delay, sent)))
    }
}

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// A limiter with one bucket, `a`, of 100 tokens an hour unless said otherwise.
pub(crate) fn limits() -> Limits {
    Limits::new().bucket("a", [Quota::per_hour("tokens", 100)])
}

pub(crate) fn builder(store: &FakeStore) -> LimiterBuilder {
    Limiter::builder(limits()).store(store.clone())
}

pub(crate) fn on(store: &FakeStore) -> Limiter {
    builder(store).build().unwrap()
}

pub(crate) fn tokens(amount: u64) -> Demand {
    Demand::new("a", Usage::new().with("tokens", amount))
}

/// Waits in a task of its own.
pub(crate) fn waiting(
    limiter: &Limiter,
    demand: Demand,
) -> tokio::task::JoinHandle<Result<Reservation, Throttled>> {
    let limiter = limiter.clone();
    tokio::spawn(async move { limiter.reserve(demand).await })
}

/// Charged, in flight and waiting of the first quota of `a`, as the store itself has it.
pub(crate) async fn truth(store: &FakeStore) -> (f64, u64) {
    let limiter = Limiter::builder(limits()).shared_store(store.inner.clone()).build().unwrap();
    let quota = limiter.status("a").await.unwrap().quotas[0].clone();
    (quota.charged, quota.in_flight)
}

/// Lets every task that can go on do so, without time going on.
pub(crate) async fn quiet() {
    for _ in 0..50 {
        tokio::task::yield_now().await;
    }
}

/// Polls once.
pub(crate) async fn poll<F: Future + ?Sized>(mut future: Pin<&mut F>) -> Poll<F::Output> {
    std::future::poll_fn(|context| Poll::Ready(future.as_mut().poll(context))).await
}
