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
        let mut state = self.cell.lock();
        let wall = self.store.wall();
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
        let has_changed = single.settle(&mut state, at, reserved, actual, close, || self.store.wall());
        has_changed.then(|| state.life())
    }
}

impl fmt::Debug for LocalBucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalBucket").field("rules", &self.rules).finish_non_exhaustive()
    }
}
