//! Notices that the store lost the state of a bucket: it was flushed, evicted, or restored from an
//! older copy.

use crate::{
    engine::{Micros, Seen},
    sync::atomic::{AtomicU64, Ordering},
};

/// What became of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Loss {
    /// There is another one in its place.
    Replaced,
    /// It is the same, as of an earlier time.
    WentBack,
}

/// What was last seen of a bucket's state.
#[derive(Debug, Default)]
pub(super) struct StateLoss {
    /// When the state began; 0 if none was seen yet.
    born: AtomicU64,
    /// Until when it means something.
    expires: AtomicU64,
    /// The latest time of the bucket.
    latest: AtomicU64,
}

impl StateLoss {
    /// Notes what a batch saw. Returns a loss if that is not the state seen before although this
    /// still meant something. Batches come in the order in which they were applied.
    pub(super) fn saw(&self, seen: &Seen) -> Option<Loss> {
        let born = self.born.swap(seen.born, Ordering::Relaxed);
        let expires = self.expires.swap(seen.expires, Ordering::Relaxed);
        let latest = self.latest.swap(seen.now, Ordering::Relaxed);
        if born == 0 {
            return None;
        }
        if born != seen.born {
            return (expires > seen.born).then_some(Loss::Replaced);
        }
        (seen.was < latest && expires > seen.now).then_some(Loss::WentBack)
    }

    /// [`saw`](Self::saw) where batches are seen in any order, of a store whose clock does not step
    /// back and which loses a state as a whole.
    #[inline]
    pub(super) fn saw_in_any_order(&self, seen: &Seen) -> Option<Loss> {
        if self.born.load(Ordering::Relaxed) == seen.born {
            self.expires.store(seen.expires, Ordering::Relaxed);
            return None;
        }
        self.saw_another(seen).then_some(Loss::Replaced)
    }

    /// The state seen may have begun before the one seen last, and be over.
    #[cold]
    fn saw_another(&self, seen: &Seen) -> bool {
        // Only the batch that brings a new state changes until when the old one was to last.
        let expired: Micros = self.expires.load(Ordering::Relaxed);
        if self.born.fetch_max(seen.born, Ordering::Relaxed) >= seen.born {
            self.expires.fetch_max(seen.expires, Ordering::Relaxed);
            return false;
        }
        self.expires.store(seen.expires, Ordering::Relaxed);
        expired > seen.born
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Barrier, thread};

    use super::*;

    fn seen(born: Micros, was: Micros, now: Micros, expires: Micros) -> Seen {
        Seen { born, was, now, expires }
    }

    /// A new state, or one in use, as callers see it that apply their own batches.
    fn state(born: Micros, expires: Micros) -> Seen {
        seen(born, born, born, expires)
    }

    #[test]
    fn a_loss_is_told_once_in_whatever_order_it_is_seen() {
        let loss = StateLoss::default();
        let (first, second) = (state(10, 100), state(50, 200));
        let all = [first, first, second, first, second, second];
        let told = all.map(|seen| loss.saw_in_any_order(&seen).is_some());
        assert_eq!(told, [false, false, true, false, false, false]);
        assert!(loss.saw_in_any_order(&state(60, 210)).is_some());
        assert_eq!(
            loss.saw_in_any_order(&state(300, 400)),
            None,
            "the old state meant nothing any more"
        );
    }

    #[test]
    fn a_new_state_seen_by_two_callers_at_once_is_no_loss() {
        for _ in 0..2_000 {
            let all: Vec<_> = (0..16).map(|_| StateLoss::default()).collect();
            assert!(all.iter().all(|loss| loss.saw_in_any_order(&state(10, 40)).is_none()));
            let barrier = Barrier::new(2);
            let see = || {
                barrier.wait();
                all.iter().filter_map(|loss| loss.saw_in_any_order(&state(50, 200))).count()
            };
            let lost = thread::scope(|scope| {
                let other = scope.spawn(see);
                see() + other.join().expect("it ends")
            });
            assert_eq!(lost, 0, "the old state was over");
        }
    }

    #[test]
    fn a_loss_is_told_also_where_the_clock_is_behind() {
        let loss = StateLoss::default();
        let told = [
            seen(100, 0, 100, 700),
            // A server that is behind, with nothing on it.
            seen(99, 0, 99, 699),
            seen(99, 99, 5_000, 5_600),
            seen(5_000, 0, 5_000, 5_900),
            // It was over.
            seen(6_000, 0, 6_000, 7_000),
        ];
        let expected = [None, Some(Loss::Replaced), None, Some(Loss::Replaced), None];
        assert_eq!(told.map(|seen| loss.saw(&seen)), expected);
    }

    #[test]
    fn a_state_that_went_back_is_lost() {
        let loss = StateLoss::default();
        let told = [
            seen(100, 0, 100, 700),
            seen(100, 100, 150, 700),
            // A copy as of 120 took over.
            seen(100, 120, 160, 700),
            seen(100, 160, 170, 700),
        ];
        let expected = [None, None, Some(Loss::WentBack), None];
        assert_eq!(told.map(|seen| loss.saw(&seen)), expected);
    }
}
