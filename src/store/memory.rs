//! The engine behind a lock: state for one process.

use std::{
    collections::HashMap,
    fmt,
    hash::{BuildHasherDefault, Hasher},
    sync::{Arc, Mutex, PoisonError},
    time::{SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{Batch, BucketKey, Reply, Store};
use crate::engine::{self, Answer, BucketState, Micros};

/// How often buckets that mean nothing any more are looked for.
const SWEEP_EVERY: Micros = 60_000_000;

/// Keeps the state of buckets in this process: the default, which needs no service.
///
/// Every process has its own: eight workers are eight times the limit. Time is tokio's, so a test can pause it.
/// A bucket that nobody has used for longer than its windows is forgotten.
pub struct MemoryStore {
    started: Instant,
    /// Wall-clock time at `started`.
    epoch: Micros,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    buckets: HashMap<Arc<BucketKey>, BucketState, BuildHasherDefault<Prehashed>>,
    next_sweep: Micros,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryStore {
    /// An empty store, whose clock starts at the system's time and then runs steadily.
    pub fn new() -> Self {
        let epoch = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { started: Instant::now(), epoch: epoch.as_micros() as Micros, state: Mutex::default() }
    }

    /// How many buckets are remembered.
    pub fn len(&self) -> usize {
        self.lock().buckets.len()
    }

    /// Whether no bucket is remembered.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets every bucket, as a flushed server would.
    pub fn clear(&self) {
        self.lock().buckets.clear();
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        // The engine does not panic half-way through a state; should it, a bucket is still better than none.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wall(&self) -> Micros {
        let passed = self.started.elapsed();
        self.epoch + passed.as_secs() * 1_000_000 + Micros::from(passed.subsec_micros())
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
        let mut state = self.lock();
        // Read under the lock: time must not run backwards from one batch to the next.
        let wall = self.wall();
        state.sweep(wall);
        Reply::Now(state.apply(batch, wall))
    }
}

impl State {
    fn apply(&mut self, batch: &Batch<'_>, wall: Micros) -> Answer {
        let Batch { lane, seq, lease, buckets, ops } = *batch;
        if let [bucket] = buckets {
            let rules = &[&*bucket.rules][..];
            let state = match self.buckets.get_mut(&bucket.key) {
                Some(state) => state,
                None => self.buckets.entry(bucket.key.clone()).or_insert_with(BucketState::unused),
            };
            return engine::apply(
                std::slice::from_mut(state),
                &engine::Batch { lane, seq, lease, rules, ops },
                wall,
            );
        }
        let rules: SmallVec<[_; 4]> = buckets.iter().map(|bucket| &*bucket.rules).collect();
        let mut states: SmallVec<[_; 4]> = buckets
            .iter()
            .map(|bucket| self.buckets.remove(&bucket.key).unwrap_or_else(BucketState::unused))
            .collect();
        let answer =
            engine::apply(&mut states, &engine::Batch { lane, seq, lease, rules: &rules, ops }, wall);
        self.buckets.extend(buckets.iter().map(|bucket| bucket.key.clone()).zip(states));
        answer
    }

    fn sweep(&mut self, now: Micros) {
        if now >= self.next_sweep {
            self.buckets.retain(|_, state| !state.is_over(now));
            self.next_sweep = now + SWEEP_EVERY;
        }
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
