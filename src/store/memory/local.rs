//! A bucket at hand: one operation at a time, without a batch and without looking its state up.

use std::{fmt, sync::Arc};

use super::{Cell, Inner};
use crate::engine::{Life, Micros, Reserve, Rule, Single, Violation, Window};

/// A bucket of a [`MemoryStore`](super::MemoryStore) at hand, so that it need not be looked up for each operation.
pub struct LocalBucket {
    store: Arc<Inner>,
    cell: Arc<Cell>,
    rules: Arc<[Rule]>,
}

impl LocalBucket {
    pub(super) fn new(store: Arc<Inner>, cell: Arc<Cell>, rules: Arc<[Rule]>) -> Self {
        Self { store, cell, rules }
    }

    /// Whether one operation can be applied to this bucket alone: calendars may have to be looked up first.
    pub(crate) fn is_charted(&self) -> bool {
        !self.rules.iter().any(|rule| matches!(rule.window, Window::Calendar { .. }))
    }

    /// Charges the costs on every quota, or on none; or only says what would happen. Answers when that was, or why it does
    /// not fit.
    #[inline]
    pub(crate) fn reserve(
        &self,
        lane: u64,
        lease: Micros,
        reserve: Reserve<'_>,
    ) -> (Result<Micros, Box<[Violation]>>, Life) {
        // Before the lock, which others then need not wait for while the clock is read.
        let mut wall = self.store.wall();
        let mut state = self.cell.lock();
        if wall < state.now {
            wall = self.store.wall();
        }
        let single = Single { lane, lease, rules: &self.rules };
        let result = single.reserve(&mut state, reserve, wall);
        let life = state.life();
        drop(state);
        self.store.sweep(wall);
        (result, life)
    }

    /// Replaces what a reservation of `reserved` was charged `at`. Answers the state's life if that may have changed.
    #[inline]
    pub(crate) fn settle(
        &self,
        lane: u64,
        lease: Micros,
        at: Micros,
        reserved: &[u64],
        actual: &[u64],
        close: bool,
    ) -> Option<Life> {
        let mut state = self.cell.lock();
        let single = Single { lane, lease, rules: &self.rules };
        let has_changed =
            single.settle(&mut state, at, reserved, actual, close, || self.store.wall());
        has_changed.then(|| state.life())
    }
}

impl fmt::Debug for LocalBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBucket").field("rules", &self.rules).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::{
        thread,
        time::{Duration, Instant},
    };

    use super::*;
    use crate::{
        engine::Mode,
        store::{Bucket, BucketKey, MemoryStore, Store},
    };

    const RESERVE: Reserve<'_> =
        Reserve { costs: &[1], headroom: 0, explain: false, mode: Mode::Try };

    /// Longer than what counts as a step of the clock.
    const LONG: Duration = Duration::from_millis(1_200);

    #[test]
    fn who_was_kept_waiting_takes_no_earlier_time_for_a_step_of_the_clock() {
        let store = MemoryStore::new();
        let window = Window::Sliding { slot: 1_000_000, slots: 60 };
        let rules = [Rule { id: 1, limit: 100, held: false, window }];
        let bucket = Bucket::new(Arc::new(BucketKey::new("", "api")), rules.clone().into());
        let local = store.local(&bucket).expect("it is in this process");

        thread::scope(|scope| {
            let mut state = local.cell.lock();
            let (begins, began) = std::sync::mpsc::channel();
            let waiter = scope.spawn({
                let local = &local;
                move || {
                    begins.send(Instant::now()).expect("somebody listens");
                    local.reserve(1, 1 << 50, RESERVE).0
                }
            });
            let began = began.recv().expect("it begins");
            thread::sleep(LONG.saturating_sub(began.elapsed()));
            let single = Single { lane: 1, lease: 1 << 50, rules: &rules };
            single.reserve(&mut state, RESERVE, store.inner.wall()).expect("it fits");
            let at = state.now;
            drop(state);

            assert!(waiter.join().expect("it ends").expect("it fits") >= at);
        });
        assert_eq!(local.cell.lock().offset, 0, "the clock of the bucket runs with the store's");
    }
}
