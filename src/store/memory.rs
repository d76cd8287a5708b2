//! The engine behind locks, one for each bucket: state for one process.

mod local;

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;
use tokio::time::Instant;

pub use self::local::LocalBucket;
use super::{Batch, Bucket, BucketKey, Reply, Store};
use crate::engine::{self, BucketState, Micros};

/// How often buckets that mean nothing any more are looked for.
const SWEEP_EVERY: Micros = 60_000_000;

/// Keeps the state of buckets in this process: the default, which needs no service.
///
/// Every process has its own: eight workers are eight times the limit. Time is tokio's, so a test can pause it.
/// A bucket that nobody has used for longer than its windows is forgotten.
pub struct MemoryStore {
    inner: Arc<Inner>,
}

struct Inner {
    started: Instant,
    /// Wall-clock time at `started`.
    epoch: Micros,
    /// Locked before any of the states.
    cells: Mutex<Cells>,
    next_sweep: AtomicU64,
}

/// The state of one bucket.
struct Cell(Mutex<BucketState>);

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, whose clock starts at the system's time and then runs steadily.
    pub fn new() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let inner = Inner {
            started: Instant::now(),
            epoch: epoch.as_micros() as Micros,
            cells: Mutex::default(),
            next_sweep: AtomicU64::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// How many buckets are remembered.
    pub fn len(&self) -> usize {
        self.inner.cells().values().filter(|cell| !cell.lock().is_unused()).count()
    }

    /// Whether no bucket is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every bucket, as a flushed server would.
    pub fn clear(&self) {
        self.inner.forget(|_| true);
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("buckets", &self.len()).finish_non_exhaustive()
    }
}

impl Store for MemoryStore {
    fn in_process(&self) -> bool {
        true
    }

    fn local(&self, bucket: &Bucket) -> Option<LocalBucket> {
        let cell = self.inner.cell(&bucket.key);
        Some(LocalBucket::new(self.inner.clone(), cell, bucket.rules.clone()))
    }

    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let Batch { lane, seq, lease, buckets, ops } = *batch;
        let cells: SmallVec<[_; 4]> =
            buckets.iter().map(|bucket| self.inner.cell(&bucket.key)).collect();
        let rules: SmallVec<[_; 4]> = buckets.iter().map(|bucket| &*bucket.rules).collect();

        // Whoever takes several locks takes them in one order, or two could wait for each other.
        let mut order: SmallVec<[_; 4]> = (0..cells.len()).collect();
        order.sort_unstable_by_key(|&index| Arc::as_ptr(&cells[index]));
        order.dedup_by_key(|index| Arc::as_ptr(&cells[*index]));
        let mut locked: SmallVec<[_; 4]> =
            order.into_iter().map(|index| (index, cells[index].lock())).collect();
        locked.sort_unstable_by_key(|(index, _)| *index);

        let mut states: SmallVec<[_; 4]> =
            locked.iter_mut().map(|(_, state)| take(state)).collect();
        let batch = engine::Batch { lane, seq, lease, rules: &rules, ops };
        let answer = engine::apply(&mut states, &batch, self.inner.wall());
        locked.iter_mut().zip(states).for_each(|((_, cell), state)| **cell = state);
        drop(locked);
        self.inner.sweep(answer.wall);
        Reply::Now(answer)
    }
}

/// Leaves an unused state behind.
fn take(state: &mut BucketState) -> BucketState {
    std::mem::replace(state, BucketState::unused())
}

type Cells = HashMap<Arc<BucketKey>, Arc<Cell>, BuildHasherDefault<Prehashed>>;

impl Inner {
    /// Not to be asked for with a state locked.
    fn cells(&self) -> MutexGuard<'_, Cells> {
        self.cells.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cell(&self, key: &Arc<BucketKey>) -> Arc<Cell> {
        let mut cells = self.cells();
        if let Some(cell) = cells.get(key) {
            return cell.clone();
        }
        let cell = Arc::new(Cell(Mutex::new(BucketState::unused())));
        cells.insert(key.clone(), cell.clone());
        cell
    }

    /// A state must not see it run backwards: it is read while that is locked, or again if somebody was quicker. Who waits for
    /// the lock meanwhile is granted as of then, as if he had been interrupted after the grant.
    #[inline]
    fn wall(&self) -> Micros {
        let passed = self.started.elapsed();
        self.epoch + passed.as_secs() * 1_000_000 + Micros::from(passed.subsec_micros())
    }

    /// Forgets the buckets that mean nothing any more, once in a while.
    #[inline]
    fn sweep(&self, now: Micros) {
        let due = self.next_sweep.load(Ordering::Relaxed);
        if now < due {
            return;
        }
        let next = now + SWEEP_EVERY;
        // One of those that find it due does it.
        if self.next_sweep.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.forget(|state| state.is_over(now));
        }
    }

    fn forget(&self, is_over: impl Fn(&BucketState) -> bool) {
        self.cells().retain(|_, cell| {
            let mut state = cell.lock();
            if is_over(&state) {
                drop(take(&mut state));
            }
            // What a limiter has at hand it finds unused; a cell that only the map knows nobody can be about to use.
            !state.is_unused() || Arc::strong_count(cell) > 1
        });
    }
}

impl Cell {
    #[inline]
    fn lock(&self) -> MutexGuard<'_, BucketState> {
        // The engine does not panic half-way through a state; should it, a bucket is still better than none.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A [`BucketKey`] brings its hash along.
#[derive(Debug, Default)]
struct Prehashed(u64);

impl Hasher for Prehashed {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0 = bytes.iter().fold(self.0, |hash, &byte| hash.rotate_left(8) ^ u64::from(byte));
    }

    fn write_u64(&mut self, hash: u64) {
        self.0 = hash;
    }
}
