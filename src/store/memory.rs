//! The engine behind locks, one for each bucket: state for one process.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Batch, BucketKey, Hint, Listening, Reply, Store, local_hints::LocalHints};
use crate::{
    engine::{Answer, BucketState, Micros, Wakes},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
        lock,
    },
};

/// How often buckets that mean nothing any more are looked for.
const SWEEP_EVERY: Micros = 60_000_000;

/// Keeps the state of buckets in this process: the default, which needs no service.
///
/// Every process has its own: eight workers are eight times the limit. Time is tokio's, so a test
/// can pause it. A bucket that was not used for longer than its windows is forgotten.
///
/// ```
/// use std::sync::Arc;
/// use tower_throttle::{Limiter, Limits, Quota, store::MemoryStore};
///
/// // Two limiters of one process that share their state.
/// let store = Arc::new(MemoryStore::new());
/// let limits = || Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
/// let one = Limiter::builder(limits()).shared_store(store.clone()).build()?;
/// let other = Limiter::builder(limits()).shared_store(store).build()?;
/// # Ok::<(), tower_throttle::LimitsError>(())
/// ```
pub struct MemoryStore {
    started: Instant,
    /// Wall-clock time at `started`.
    epoch: Micros,
    /// Locked before any of the states.
    cells: Mutex<Cells>,
    hints: LocalHints,
    next_sweep: AtomicU64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, whose clock starts at the system's time and then runs steadily.
    pub fn new() -> Self {
        Self::starting_at(SystemTime::now())
    }

    /// An empty store, whose clock starts at this time and then runs steadily: for tests whose
    /// slots and fixed windows must not depend on the time of day.
    ///
    /// ```
    /// use std::time::{Duration, SystemTime};
    /// use tower_throttle::{Limiter, Limits, Quota, store::MemoryStore};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// // Ten seconds before midnight.
    /// let store = MemoryStore::starting_at(SystemTime::UNIX_EPOCH + Duration::from_secs(86_390));
    /// let day = Duration::from_secs(86_400);
    /// let limits = Limits::new().bucket("api", [Quota::fixed_window("requests", 5, day)]);
    /// let limiter = Limiter::with_store(limits, store)?;
    /// assert_eq!(limiter.status("api").await?.quotas[0].reset.as_secs_f64().ceil(), 10.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A time before the Unix epoch is taken for it.
    pub fn starting_at(time: SystemTime) -> Self {
        let epoch = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        Self {
            started: Instant::now(),
            epoch: epoch.as_micros() as Micros,
            cells: Mutex::default(),
            hints: LocalHints::default(),
            next_sweep: AtomicU64::new(0),
        }
    }

    /// How many buckets are remembered.
    pub fn len(&self) -> usize {
        self.cells().values().filter(|cell| !lock(cell).is_unused()).count()
    }

    /// Whether no bucket is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every bucket, as a flushed server would.
    pub fn clear(&self) {
        self.forget(|_| true);
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

    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let (answer, wakes) = self.apply_now(batch);
        for wake in &wakes {
            if let Some(bucket) = batch.buckets.get(usize::from(wake.bucket)) {
                self.hints.hint(wake.session, bucket.key.name());
            }
        }
        Reply::Now(answer)
    }

    fn listen(&self, _partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        Some(self.hints.listen(session, hint))
    }
}

/// The state of one bucket.
type Cell = Mutex<BucketState>;

type Cells = HashMap<Arc<BucketKey>, Arc<Cell>, BuildHasherDefault<Prehashed>>;

impl MemoryStore {
    fn apply_now(&self, batch: &Batch<'_>) -> (Answer, Wakes) {
        let result = match batch.buckets {
            [only] => {
                let cell = self.cell(&only.key);
                let mut state = lock(&cell);
                batch.apply_to(&mut [&mut *state], self.wall())
            }
            _ => self.apply_to_several(batch),
        };
        self.sweep(result.0.wall);
        result
    }

    fn apply_to_several(&self, batch: &Batch<'_>) -> (Answer, Wakes) {
        let cells: SmallVec<[_; 2]> =
            batch.buckets.iter().map(|bucket| self.cell(&bucket.key)).collect();

        // Several locks are taken in one order, or two batches could wait for each other.
        let mut order: SmallVec<[usize; 2]> = (0..cells.len()).collect();
        order.sort_unstable_by_key(|&index| Arc::as_ptr(&cells[index]));
        let mut locked: SmallVec<[_; 2]> =
            order.into_iter().map(|index| (index, lock(&cells[index]))).collect();
        locked.sort_unstable_by_key(|(index, _)| *index);
        let mut states: SmallVec<[&mut BucketState; 2]> =
            locked.iter_mut().map(|(_, state)| &mut **state).collect();
        batch.apply_to(&mut states, self.wall())
    }

    /// Not to be asked for with a state locked.
    fn cells(&self) -> MutexGuard<'_, Cells> {
        lock(&self.cells)
    }

    fn cell(&self, key: &Arc<BucketKey>) -> Arc<Cell> {
        let mut cells = self.cells();
        if let Some(cell) = cells.get(key) {
            return cell.clone();
        }
        let cell = Arc::new(Cell::new(BucketState::unused()));
        cells.insert(key.clone(), cell.clone());
        cell
    }

    /// Read while the states are locked, so that none of them sees it run backwards.
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
        // Of the batches that find it due, one does it.
        if self.next_sweep.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            self.forget(|state| state.is_over(now));
        }
    }

    fn forget(&self, is_over: impl Fn(&BucketState) -> bool) {
        self.cells().retain(|_, cell| {
            let mut state = lock(cell);
            if is_over(&state) {
                *state = BucketState::unused();
            }
            // A batch that has the cell at hand finds it unused. A cell that only the map knows is
            // about to be used by none.
            !state.is_unused() || Arc::strong_count(cell) > 1
        });
    }
}

/// A [`BucketKey`] brings its hash along, of 53 bits. They are spread, since a map tells keys apart
/// by the highest of 64.
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
        self.0 = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
