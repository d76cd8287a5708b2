//! How many may wait.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// How many demands are known to wait, and how many may.
#[derive(Debug)]
pub(super) struct Seats {
    pub(super) most: usize,
    taken: Arc<AtomicUsize>,
}

/// A seat among those that wait, free again when this is dropped.
#[derive(Debug)]
pub(super) struct Seat(Arc<AtomicUsize>);

impl Seats {
    pub(super) fn new(most: usize) -> Self {
        Self { most, taken: Arc::default() }
    }

    /// A free one. Only called under the lock of the lane, so that none is taken twice.
    pub(super) fn take(&self) -> Option<Seat> {
        if self.taken.load(Ordering::Relaxed) >= self.most {
            return None;
        }
        self.taken.fetch_add(1, Ordering::Relaxed);
        Some(Seat(self.taken.clone()))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
