//! What all lanes of a limiter have in common.

use std::{
    hash::RandomState,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use super::{health::Health, options::Options};
use crate::{engine::Micros, quota::micros, store::Store};

/// In-process state cannot outlive its process, so neither can a lease in it.
const ENDLESS: Micros = 1 << 50;

/// What all lanes of a limiter have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) in_process: bool,
    pub(super) options: Options,
    pub(super) health: Health,
    /// Turns the names of a lane's buckets into its id: the same in one limiter, others in every other.
    pub(super) ids: RandomState,
    /// Batches sent so far: numbers that only grow, whatever lane they are of.
    batches: AtomicU64,
    /// How long a lane may be silent before the store takes what it has in flight for abandoned.
    pub(super) lease: Micros,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, options: Options) -> Self {
        let in_process = store.in_process();
        let lease = if in_process { ENDLESS } else { micros(options.lease) };
        let (health, ids, batches) = (Health::default(), RandomState::new(), AtomicU64::new(0));
        Self { store, in_process, options, health, ids, batches, lease }
    }

    /// The number of the next batch.
    pub(super) fn next_seq(&self) -> u64 {
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }
}
