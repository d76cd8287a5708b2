//! What a provider said of a quota: a part of it is withheld for a while, or it is paused. This
//! never gives anything.

use super::{Micros, codec::coded, gate::Gate, rule::rescaled};

/// What is withheld of one quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cap {
    /// In units of the window. In a token bucket, what drains while nothing is used drains this.
    withheld: u64,
    withheld_until: Micros,
    gate: Gate,
}

impl Cap {
    /// From the numbers by which Redis has it.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(withheld: u64, withheld_until: Micros, gate: Gate) -> Self {
        Self { withheld, withheld_until, gate }
    }

    /// Withholds more than before, or for longer. What would withhold less changes nothing.
    pub(crate) fn withhold(&mut self, amount: u64, until: Micros) {
        if amount > 0 && amount >= self.withheld {
            self.withheld = amount;
            self.withheld_until = self.withheld_until.max(until);
        }
    }

    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    pub(crate) fn gate_mut(&mut self) -> &mut Gate {
        &mut self.gate
    }

    /// Withholds so many units less.
    pub(crate) fn lower(&mut self, units: u64) {
        self.withheld = self.withheld.saturating_sub(units);
    }

    /// Ends what is over, `waiting` demands waiting. Returns whether anything is left.
    pub(crate) fn pass(&mut self, waiting: u64, now: Micros) -> bool {
        if self.withheld_until <= now || self.withheld == 0 {
            (self.withheld, self.withheld_until) = (0, 0);
        }
        self.gate.pass(waiting, now);
        self.withheld > 0 || !self.gate.is_gone()
    }

    /// Follows a change of how many units are in a token.
    pub(crate) fn rescale(&mut self, from: u64, to: u64) {
        self.withheld = rescaled(self.withheld, from, to);
    }

    pub(crate) fn withheld(&self) -> u64 {
        self.withheld
    }

    /// Time until no part is withheld any more, should it not drain before.
    pub(crate) fn lifts_in(&self, now: Micros) -> Micros {
        self.withheld_until.saturating_sub(now)
    }

    /// Time until this means nothing any more.
    pub(crate) fn lasts(&self, now: Micros) -> Micros {
        self.lifts_in(now).max(self.gate.lasts(now))
    }
}

coded!(Cap { withheld, withheld_until, gate });
