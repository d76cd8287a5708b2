//! What a lane knows of the states that the store has of its buckets.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

use crate::engine::{Life, Micros};

/// When the state of each bucket began and until when it means something, as last told.
#[derive(Debug)]
pub(super) struct Lives(SmallVec<[Known; 1]>);

#[derive(Debug, Default)]
struct Known {
    born: AtomicU64,
    expires: AtomicU64,
}

impl Lives {
    pub(super) fn new(buckets: usize) -> Self {
        Self((0..buckets).map(|_| Known::default()).collect())
    }

    /// Takes note of the state of the only bucket, and answers whether it began anew while the old one still meant
    /// something.
    #[inline]
    pub(super) fn saw_only(&self, life: Life) -> bool {
        self.0.first().is_some_and(|known| known.is_lost(life))
    }

    /// Takes note of the states, and names to `lost` the buckets whose state began anew while the old one still meant
    /// something.
    pub(super) fn saw(&self, lives: &[Life], mut lost: impl FnMut(usize)) {
        for (index, (known, life)) in self.0.iter().zip(lives).enumerate() {
            if known.is_lost(*life) {
                lost(index);
            }
        }
    }
}

impl Known {
    #[inline]
    fn is_lost(&self, Life { born, expires }: Life) -> bool {
        if self.born.load(Ordering::Relaxed) == born {
            self.expires.store(expires, Ordering::Relaxed);
            return false;
        }
        let before: Micros = self.expires.swap(expires, Ordering::Relaxed);
        self.born.swap(born, Ordering::Relaxed) != born && before > born
    }
}
