//! At most `limit` between two boundaries of a clock or a calendar.

use super::{Micros, exact::sum};

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

    /// Enters the window that begins at `begin`; answers whether it is a new one. Never goes back.
    pub(crate) fn advance(&mut self, begin: Micros) -> bool {
        if begin <= self.begin {
            return false;
        }
        *self = Self::new(begin);
        true
    }

    pub(crate) fn charged(&self) -> u64 {
        self.charged
    }

    pub(crate) fn charge(&mut self, amount: u64) {
        self.charged = sum(self.charged, amount);
    }

    /// Replaces what was charged in this window; what belongs to an earlier one changes nothing.
    pub(crate) fn amend(&mut self, reserved: u64, actual: u64, of_this_window: bool) {
        if of_this_window && actual >= reserved {
            self.charge(actual - reserved);
        } else if of_this_window {
            self.charged = self.charged.saturating_sub(reserved - actual);
        }
    }
}
