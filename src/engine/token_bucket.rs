//! A bucket that drains linearly, settled exactly.
//!
//! `used` is what a reserve reads and writes. A refund must not be taken off `used`: the bucket may have been
//! full in between, and what drained then would be given out twice. So the charges of the last slots are kept
//! in a ring; a settle edits the slot of its reservation, and `used` is lowered to the fold over the ring, in
//! which every slot's charge is counted at its end: never below the truth, and at most one slot of refill
//! above it.
//!
//! What takes more than a few instructions is not inlined, or it would crowd out what other quotas need.

use super::{
    MAX_AMOUNT, Micros,
    exact::{product, sum},
    ring::Ring,
    rule::{TokenBucket, rescaled},
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
    /// `used` is not believed to be more than this: what the shape says, or a larger debt that it took over.
    max_used: u64,
    /// Past use that a lowered limit did not make a debt. It is not forgotten, since the limit may rise
    /// again: while processes that disagree take turns, it does so all the time.
    excess: u64,
    /// Units of it that drain per tick, together with the rate as many as when it was used.
    excess_rate: u64,
    /// The fold at the end of the last slot that left the ring.
    base: u64,
    ring: Ring,
    /// A settle has edited the ring since `used` was last lowered to the fold.
    edited: bool,
}

impl DrainingBucket {
    pub(crate) fn new(rate: u64, shape: TokenBucket, now: Micros) -> Self {
        Self::at_tick(rate, shape, now / shape.tick)
    }

    fn at_tick(rate: u64, shape: TokenBucket, at: u64) -> Self {
        Self {
            rate,
            shape,
            at,
            used: 0,
            max_used: shape.max_used(),
            excess: 0,
            excess_rate: 0,
            base: 0,
            ring: Ring::new(at / shape.slot, shape.slots),
            edited: false,
        }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn excess(&self) -> u64 {
        self.excess
    }

    fn drained(&self, ticks: u64) -> u64 {
        product(self.rate, ticks)
    }

    pub(crate) fn units(&self) -> u64 {
        self.shape.units
    }

    /// Lets time pass. Answers how many units would have drained and were not in use.
    #[inline(never)]
    pub(crate) fn advance(&mut self, now: Micros) -> u64 {
        let at = (now / self.shape.tick).max(self.at);
        let unused = self.drain(at - self.at);
        self.at = at;
        if at < (self.ring.head() + 1).saturating_mul(self.shape.slot) {
            return unused;
        }
        let slot_drain = self.drained(self.shape.slot);
        let max_used = self.max_used;
        let mut base = self.base;
        let emptied = self.ring.advance(at / self.shape.slot, |left| {
            base = (base.saturating_sub(slot_drain) + left).min(max_used);
        });
        self.base = base.saturating_sub(product(slot_drain, emptied));
        unused
    }

    fn drain(&mut self, ticks: u64) -> u64 {
        let drained = self.drained(ticks);
        let of_excess = product(self.excess_rate, ticks);
        let unused = drained.saturating_sub(self.used);
        self.excess = self.excess.saturating_sub(of_excess).saturating_sub(unused);
        self.used = self.used.saturating_sub(drained);
        unused
    }

    pub(crate) fn follows(&self, rate: u64, shape: &TokenBucket) -> bool {
        self.rate == rate && self.shape == *shape
    }

    /// Takes over a changed rate or burst: past use has drained at the old rate up to now and is no new debt,
    /// and the ring is closed, since its folds would drain the past at the new rate. Answers whether it
    /// changed.
    pub(crate) fn adopt(&mut self, rate: u64, shape: TokenBucket) -> bool {
        if self.follows(rate, &shape) {
            return false;
        }
        let debt = self.used.saturating_sub(self.shape.burst_units());
        let old_units = self.shape.units;
        let rescale = |used: u64| rescaled(used, old_units, shape.units);
        // A debt is kept whole, with room above it for what a demand adds.
        let burst = shape.burst_units();
        let allowed = burst + rescale(debt).min(MAX_AMOUNT.saturating_sub(8 * burst));
        // A longer tick is taken over from its beginning, so that no time is lost or counted twice.
        let at = self.at * self.shape.tick / shape.tick;
        let undrained = self.drained(self.at - at * shape.tick / self.shape.tick);
        let total = rescale(sum(sum(self.used, self.excess), undrained));
        let fastest = if self.excess > 0 { self.rate + self.excess_rate } else { self.rate };
        *self = Self::at_tick(rate, shape, at);
        self.used = total.min(allowed);
        self.max_used = self.max_used.max(self.used);
        self.excess = total - self.used;
        self.excess_rate = fastest.saturating_sub(rate);
        self.charge_units(self.used, 0);
        true
    }

    #[inline(never)]
    pub(crate) fn charge(&mut self, amount: u64) {
        // What a lane leaves behind may add up to more than is believed.
        let units = product(amount.min(self.shape.burst + self.shape.max_debt), self.shape.units);
        self.charge_units(units, units);
    }

    fn charge_units(&mut self, charge: u64, more: u64) {
        self.ring.add(self.ring.head(), charge);
        self.used = (self.used + more).min(self.max_used);
    }

    /// Replaces what was charged at `at`. What is older than the ring gets no refund; its debit is paid now.
    #[inline(never)]
    pub(crate) fn amend(&mut self, at: Micros, reserved: u64, actual: u64, refundable: bool) {
        let slot = (at / self.shape.tick / self.shape.slot).min(self.ring.head());
        let known = refundable && self.ring.holds(slot);
        if actual >= reserved {
            let units = product(actual - reserved, self.shape.units);
            self.ring.add(if known { slot } else { self.ring.head() }, units);
            self.used = (self.used + units).min(self.max_used);
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

    #[inline(never)]
    fn fold(&self) -> u64 {
        let slot_drain = self.drained(self.shape.slot);
        let head_drain = self.drained(self.at - self.ring.head() * self.shape.slot);
        let max_used = self.max_used;
        self.ring.oldest_first().fold(self.base, |used, (age, charge)| {
            let drain = if age == 0 { head_drain } else { slot_drain };
            (used.saturating_sub(drain) + charge).min(max_used)
        })
    }

    /// Time until `units` have drained.
    #[inline(never)]
    pub(crate) fn until_drained(&self, units: u64, now: Micros) -> Micros {
        let ticks = units.div_ceil(self.rate.max(1));
        product(self.at + ticks, self.shape.tick).saturating_sub(now)
    }
}
