//! A bucket that drains linearly, settled exactly.
//!
//! `used` is what a reserve reads and writes. A refund must not be taken off `used`: the bucket may have been
//! full in between, and what drained then would be given out twice. So the charges of the last slots are kept
//! in a ring; a settle edits the slot of its reservation, and `used` is lowered to the fold over the ring, in which
//! every slot's charge is counted at its end: never below the truth, and at most one slot of refill above it.

use super::{
    Micros,
    exact::{product, sum},
    ring::Ring,
    rule::TokenBucket,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DrainingBucket {
    /// What the state was last used with; a difference is a live change.
    rate: u64,
    shape: TokenBucket,
    /// Tick up to which `used` has drained.
    at: u64,
    /// Units in use; above the burst it is a debt.
    used: u64,
    /// The fold at the end of the last slot that left the ring.
    base: u64,
    ring: Ring,
    /// A settle has edited the ring since `used` was last lowered to the fold.
    edited: bool,
}

impl DrainingBucket {
    pub(crate) fn new(rate: u64, shape: TokenBucket, now: Micros) -> Self {
        let at = now / shape.tick;
        Self {
            rate,
            shape,
            at,
            used: 0,
            base: 0,
            ring: Ring::new(at / shape.slot, shape.slots),
            edited: false,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    fn drained(&self, ticks: u64) -> u64 {
        product(self.rate, ticks)
    }

    pub(crate) fn advance(&mut self, now: Micros) {
        let at = (now / self.shape.tick).max(self.at);
        self.used = self.used.saturating_sub(self.drained(at - self.at));
        self.at = at;

        let slot_drain = self.drained(self.shape.slot);
        let max_used = self.shape.max_used();
        let mut base = self.base;
        let emptied = self.ring.advance(at / self.shape.slot, |left| {
            base = (base.saturating_sub(slot_drain) + left).min(max_used);
        });
        self.base = base.saturating_sub(product(slot_drain, emptied));
    }

    /// Takes over a changed rate or burst: past use drains at the old rate up to now and is no new debt, and
    /// the ring is closed, since its folds would drain the past at the new rate. Answers whether it changed.
    pub(crate) fn adopt(&mut self, rate: u64, shape: TokenBucket, now: Micros) -> bool {
        if (self.rate, self.shape) == (rate, shape) {
            return false;
        }
        self.advance(now);
        let debt = self.used.saturating_sub(self.shape.burst_units());
        let old_units = self.shape.units;
        let rescale = |used: u64| match shape.units >= old_units {
            true => product(used, shape.units / old_units),
            false => used.div_ceil(old_units / shape.units),
        };
        let allowed = sum(shape.burst_units(), rescale(debt)).min(shape.max_used());
        let used = rescale(self.used).min(allowed);
        *self = Self::new(rate, shape, now);
        self.used = used;
        self.charge_units(used, 0);
        true
    }

    pub(crate) fn charge(&mut self, amount: u64) {
        let units = product(amount, self.shape.units);
        self.charge_units(units, units);
    }

    fn charge_units(&mut self, charge: u64, more: u64) {
        self.ring.add(self.ring.head(), charge);
        self.used = (self.used + more).min(self.shape.max_used());
    }

    /// Replaces what was charged at `at`. What is older than the ring gets no refund; its debit is paid now.
    pub(crate) fn amend(&mut self, at: Micros, reserved: u64, actual: u64, refundable: bool) {
        let slot = (at / self.shape.tick / self.shape.slot).min(self.ring.head());
        let known = refundable && self.ring.holds(slot);
        if actual >= reserved {
            let units = product(actual - reserved, self.shape.units);
            self.ring.add(if known { slot } else { self.ring.head() }, units);
            self.used = (self.used + units).min(self.shape.max_used());
        } else if known {
            self.ring.take(slot, product(reserved - actual, self.shape.units));
        }
        self.edited = true;
    }

    /// Lowers `used` to what the edited ring says: one fold, however many settles came before it.
    pub(crate) fn refold(&mut self) {
        if std::mem::take(&mut self.edited) && self.used > 0 {
            self.used = self.used.min(self.fold());
        }
    }

    fn fold(&self) -> u64 {
        let slot_drain = self.drained(self.shape.slot);
        let head_drain = self.drained(self.at - self.ring.head() * self.shape.slot);
        let max_used = self.shape.max_used();
        self.ring.oldest_first().fold(self.base, |used, (age, charge)| {
            let drain = if age == 0 { head_drain } else { slot_drain };
            (used.saturating_sub(drain) + charge).min(max_used)
        })
    }

    /// Time until `units` have drained.
    pub(crate) fn until_drained(&self, units: u64, now: Micros) -> Micros {
        let ticks = units.div_ceil(self.rate.max(1));
        product(self.at + ticks, self.shape.tick).saturating_sub(now)
    }
}
