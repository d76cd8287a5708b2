//! At most `limit` between two boundaries of a clock or a calendar.

use super::{Micros, codec::coded, rule::MAX_TAKEN};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FixedWindow {
    /// When the window in use ends.
    end: Micros,
    charged: u64,
}

impl FixedWindow {
    /// The window from `begin` to `next`.
    pub(crate) fn new((_, next): (Micros, Micros)) -> Self {
        Self { end: next, charged: 0 }
    }

    /// From the numbers by which Redis has it.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(end: Micros, charged: u64) -> Self {
        Self { end, charged }
    }

    /// Enters the window from `begin` to `next`, which `wall` is in, if the one in use has ended.
    /// Returns whether it has.
    ///
    /// Where the clock was stepped back, the window in use goes on, but no longer than a whole one:
    /// a clock that was wrong by a year must not block for a year.
    pub(crate) fn advance(&mut self, (begin, next): (Micros, Micros), wall: Micros) -> bool {
        let has_ended = wall >= self.end;
        if has_ended {
            *self = Self::new((begin, next));
        }
        self.end = self.end.min(wall + (next - begin));
        has_ended
    }

    /// When the window in use ends.
    pub(crate) fn end(&self) -> Micros {
        self.end
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

coded!(FixedWindow { end, charged <= MAX_TAKEN });
