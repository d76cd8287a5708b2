//! At most `limit` between two boundaries of a clock or a calendar.

use super::{Micros, rule::MAX_TAKEN};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    /// Beginning of the window that `charged` belongs to.
    begin: Micros,
    charged: u64,
}

impl FixedWindow {
    pub(crate) fn new(begin: Micros) -> Self {
        Self { begin, charged: 0 }
    }

    /// Enters the window from `begin` to `next`; answers whether it is a new one.
    ///
    /// Where the clock was stepped back, the window in use is ahead of it and stays in use; but no further
    /// ahead than the next one, or a clock that was wrong by a year would block for a year.
    pub(crate) fn advance(&mut self, (begin, next): (Micros, Micros)) -> bool {
        if begin <= self.begin {
            self.begin = self.begin.min(next);
            return false;
        }
        *self = Self::new(begin);
        true
    }

    /// The end of the window in use, where the clock is in the one from `begin` to `next`.
    pub(crate) fn end(&self, (begin, next): (Micros, Micros)) -> Micros {
        if self.begin >= next { next + (next - begin) } else { next }
    }

    pub(crate) fn charged(&self) -> u64 {
        self.charged
    }

    pub(crate) fn charge(&mut self, amount: u64) {
        self.charged = (self.charged + amount).min(MAX_TAKEN);
    }

    /// Replaces what was charged in this window; what belongs to an earlier one changes nothing.
    pub(crate) fn amend(&mut self, reserved: u64, actual: u64, of_this_window: bool) {
        if of_this_window {
            self.charged = (self.charged + actual).saturating_sub(reserved).min(MAX_TAKEN);
        }
    }
}
