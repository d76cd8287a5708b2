//! What a provider said of a quota: it withholds a part of it for a while, or all of it, and never gives any.

use super::{Micros, rule::rescaled, surfaced::Surfaced};

/// What is withheld of one quota.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cap {
    /// In units of the window. In a bucket that drains, what drains while nothing is used drains this.
    withheld: u64,
    withheld_until: Micros,
    /// Everything is withheld until then.
    paused_until: Micros,
    /// Whether that is to be waited out.
    surfaced: Surfaced,
}

impl Cap {
    /// Withholds more than before, or for longer. What would withhold less changes nothing.
    pub(crate) fn withhold(&mut self, amount: u64, until: Micros) {
        if amount > 0 && amount >= self.withheld {
            self.withheld = amount;
            self.withheld_until = self.withheld_until.max(until);
        }
    }

    pub(crate) fn pause(&mut self, until: Micros) {
        self.paused_until = self.paused_until.max(until);
    }

    /// The same; nobody waits that out.
    pub(crate) fn surface(&mut self, until: Micros, asked_until: Micros, now: Micros) {
        self.pause(until);
        self.surfaced.surface(until, asked_until, now);
    }

    /// Ends a pause. A part may be withheld still.
    pub(crate) fn resume(&mut self) {
        (self.paused_until, self.surfaced) = (0, Surfaced::default());
    }

    /// `unused` units have drained of nothing else.
    pub(crate) fn drain(&mut self, unused: u64) {
        self.withheld = self.withheld.saturating_sub(unused);
    }

    /// A call turned out to have used so much more than it had reserved: the provider had counted that already when it
    /// said what is left.
    #[inline]
    pub(crate) fn count(&mut self, more: u64) {
        self.withheld = self.withheld.saturating_sub(more);
    }

    /// Whether nobody said anything, as is the rule.
    #[inline]
    pub(crate) fn is_nothing(&self) -> bool {
        self.withheld_until | self.paused_until == 0
    }

    /// Ends what is over.
    #[inline]
    pub(crate) fn pass(&mut self, now: Micros) {
        if self.is_nothing() {
            return;
        }
        if self.withheld_until <= now || self.withheld == 0 {
            (self.withheld, self.withheld_until) = (0, 0);
        }
        if self.paused_until <= now {
            self.resume();
        }
    }

    /// Follows a change of how many units are in a token.
    pub(crate) fn rescale(&mut self, from: u64, to: u64) {
        self.withheld = rescaled(self.withheld, from, to);
    }

    /// What is withheld from a demand. One that needs nothing is not held up.
    #[inline]
    pub(crate) fn withheld_from(&self, cost: u64) -> u64 {
        if cost == 0 { 0 } else { self.withheld }
    }

    #[inline]
    pub(crate) fn pauses(&self, cost: u64) -> bool {
        cost > 0 && self.paused_until > 0
    }

    /// What is left of a wait that nobody waits out, for a demand of this cost.
    pub(crate) fn asked(&self, cost: u64, now: Micros) -> Option<Micros> {
        if cost == 0 { None } else { self.surfaced.asked(self.paused_until, now) }
    }

    /// Time until no part is withheld any more, should it not drain before.
    #[inline]
    pub(crate) fn lifts_in(&self, now: Micros) -> Micros {
        self.withheld_until.saturating_sub(now)
    }

    #[inline]
    pub(crate) fn paused_for(&self, now: Micros) -> Micros {
        self.paused_until.saturating_sub(now)
    }

    /// Time until this means nothing any more.
    #[inline]
    pub(crate) fn lasts(&self, now: Micros) -> Micros {
        if self.is_nothing() {
            return 0;
        }
        self.lifts_in(now).max(self.paused_for(now))
    }
}
