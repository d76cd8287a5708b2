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
    /// something. Callers see it in any order.
    #[inline]
    pub(super) fn saw_only(&self, life: Life) -> bool {
        self.0.first().is_some_and(|known| !known.is_still(life) && known.is_lost_unless_old(life))
    }

    /// Takes note of the states, and names to `lost` the buckets whose state began anew while the old one still meant
    /// something. They are seen one after the other, or `in_any_order`.
    pub(super) fn saw(&self, lives: &[Life], in_any_order: bool, mut lost: impl FnMut(usize)) {
        for (index, (known, &life)) in self.0.iter().zip(lives).enumerate() {
            if known.is_still(life) {
                continue;
            }
            let is_lost =
                if in_any_order { known.is_lost_unless_old(life) } else { known.is_lost(life) };
            if is_lost {
                lost(index);
            }
        }
    }
}

impl Known {
    /// Whether it is the life that was last seen, as is the rule.
    #[inline]
    fn is_still(&self, Life { born, expires }: Life) -> bool {
        let is_still = self.born.load(Ordering::Relaxed) == born;
        if is_still {
            self.expires.store(expires, Ordering::Relaxed);
        }
        is_still
    }

    /// Whether a life ended early with which another one begins.
    fn is_lost(&self, Life { born, expires }: Life) -> bool {
        self.born.store(born, Ordering::Relaxed);
        self.expires.swap(expires, Ordering::Relaxed) > born
    }

    /// The same of a life that may have begun before the one last seen, and be over.
    #[cold]
    fn is_lost_unless_old(&self, Life { born, expires }: Life) -> bool {
        // Only who has brought a new life changes until when the old one was to last.
        let until: Micros = self.expires.load(Ordering::Relaxed);
        if self.born.fetch_max(born, Ordering::Relaxed) >= born {
            self.expires.fetch_max(expires, Ordering::Relaxed);
            return false;
        }
        self.expires.store(expires, Ordering::Relaxed);
        until > born
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

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

    #[test]
    fn who_sees_a_new_life_at_the_same_time_takes_it_for_no_loss() {
        for _ in 0..2_000 {
            let lives: Vec<_> = (0..16).map(|_| Lives::new(1)).collect();
            assert!(lives.iter().all(|lives| !lives.saw_only(Life { born: 10, expires: 40 })));
            let barrier = Barrier::new(2);
            let see = || {
                barrier.wait();
                lives.iter().filter(|lives| lives.saw_only(Life { born: 50, expires: 200 })).count()
            };
            let lost = thread::scope(|scope| {
                let other = scope.spawn(see);
                see() + other.join().expect("it ends")
            });
            assert_eq!(lost, 0, "the old one was over");
        }
    }

    #[test]
    fn a_loss_is_told_also_where_the_clock_is_behind() {
        let lives = Lives::new(1);
        let saw = |born, expires| {
            let mut is_lost = false;
            lives.saw(&[Life { born, expires }], false, |_| is_lost = true);
            is_lost
        };
        assert_eq!(
            [saw(100, 700), saw(99, 699), saw(99, 5_600), saw(5_000, 5_900)],
            [false, true, false, true]
        );
    }
}
