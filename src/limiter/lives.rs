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
    /// Callers may come late, in any order: each new life is lost to one of them, and an old one seen again is nothing new.
    #[inline]
    fn is_lost(&self, Life { born, expires }: Life) -> bool {
        if self.born.load(Ordering::Relaxed) == born {
            self.expires.store(expires, Ordering::Relaxed);
            return false;
        }
        self.is_new(Life { born, expires })
    }

    #[cold]
    fn is_new(&self, Life { born, expires }: Life) -> bool {
        let known_until: Micros = self.expires.load(Ordering::Relaxed);
        if self.born.fetch_max(born, Ordering::Relaxed) >= born {
            return false;
        }
        self.expires.store(expires, Ordering::Relaxed);
        known_until > born
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loss_is_told_once_in_whatever_order_it_is_seen() {
        let lives = Lives::new(1);
        let (first, second) = (Life { born: 10, expires: 100 }, Life { born: 50, expires: 200 });
        let told = [first, first, second, first, second, second].map(|life| lives.saw_only(life));
        assert_eq!(told, [false, false, true, false, false, false]);
        assert!(lives.saw_only(Life { born: 60, expires: 210 }));
        assert!(!lives.saw_only(Life { born: 300, expires: 400 }), "it meant nothing any more");
    }
}
