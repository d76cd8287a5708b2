//! A bucket that drains linearly, settled exactly.
//!
//! `used` is what a reserve reads and writes. A refund must not be taken off `used`: the bucket may
//! have been full in between, and what drained then would be given out twice. So two rings keep
//! what was charged and what drained in each of the last slots. A settle edits the slot of its
//! reservation, and `used` is lowered to the fold over the rings, in which every slot's charge is
//! counted at its end: never below the truth, and at most one slot of refill above it.
//!
//! A changed limit drains differently from then on. What drained before stays in the ring, so
//! charges from before the change stay editable.

use super::{
    MAX_AMOUNT, Micros,
    codec::{Coded, DecodeError, Decoder, Encoder, coded, ensure},
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
    /// `used` is not believed to be more than this: what the shape says, or a larger debt that it
    /// took over.
    max_used: u64,
    /// Past use that a lowered limit did not make a debt. It is kept, since the limit may rise
    /// again: while processes that disagree take turns, it does so all the time.
    excess: u64,
    /// Units of it that drain per tick: together with the rate as many as when it was used.
    excess_rate: u64,
    /// The fold is not believed to be more than this. It grows with live changes, so that no fold
    /// cuts off past use.
    ceiling: u64,
    /// The fold at the end of the last slot that left the rings.
    base: u64,
    charges: Ring,
    /// What drained in each slot, of the newest one so far.
    drains: Ring,
    /// A settle has edited the ring since `used` was last lowered to the fold.
    edited: bool,
}

impl DrainingBucket {
    pub(crate) fn new(rate: u64, shape: TokenBucket, now: Micros) -> Self {
        Self::at_tick(rate, shape, now / shape.tick)
    }

    fn at_tick(rate: u64, shape: TokenBucket, at: u64) -> Self {
        let ring = || Ring::new(at / shape.slot, shape.slots);
        Self {
            rate,
            shape,
            at,
            used: 0,
            max_used: shape.max_used(),
            excess: 0,
            excess_rate: 0,
            ceiling: shape.max_used(),
            base: 0,
            charges: ring(),
            drains: ring(),
            edited: false,
        }
    }

    /// From numbers by which Redis has it, without what was charged and drained in each slot.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(rate: u64, shape: TokenBucket, at: u64, amounts: [u64; 5]) -> Self {
        let [used, max_used, excess, excess_rate, ceiling] = amounts;
        let empty = Self::at_tick(rate, shape, at);
        Self { used, max_used, excess, excess_rate, ceiling, ..empty }
    }

    pub(crate) fn used(&self) -> u64 {
        self.used
    }

    pub(crate) fn units(&self) -> u64 {
        self.shape.units
    }

    /// Lets time pass. Returns how many units would have drained and were not in use.
    pub(crate) fn advance(&mut self, now: Micros) -> u64 {
        let target = now / self.shape.tick;
        if target <= self.at {
            return 0;
        }
        let mut unused = self.skip_idle_slots(target);
        loop {
            // Not cut as amounts are: a slot that ends later than any time does never ends.
            let end = (self.charges.head() + 1).saturating_mul(self.shape.slot);
            unused = sum(unused, self.drain(target.min(end) - self.at));
            if target < end {
                return unused;
            }
            self.begin_slot();
        }
    }

    /// Where more slots have passed than the rings hold, drains those that leave them at once.
    fn skip_idle_slots(&mut self, target: u64) -> u64 {
        let (slot, len) = (self.shape.slot, self.charges.len());
        let first = (target / slot).saturating_sub(len);
        if first <= self.charges.head() {
            return 0;
        }
        let ticks = first * slot - self.at;
        let (folded, drain) = (self.fold(), self.drain_of(ticks));
        let unused = self.drain(ticks);
        self.base = folded.saturating_sub(drain);
        (self.charges, self.drains) = (Ring::new(first, len), Ring::new(first, len));
        unused
    }

    fn begin_slot(&mut self) {
        let next = self.charges.head() + 1;
        let (mut charge, mut drain) = (0, 0);
        self.charges.advance(next, |left| charge = left);
        self.drains.advance(next, |left| drain = left);
        self.base = (self.base.saturating_sub(drain) + charge).min(self.ceiling);
    }

    /// Units that drain of all that was used, in so many ticks.
    fn drain_of(&self, ticks: u64) -> u64 {
        sum(product(self.rate, ticks), product(self.excess_rate, ticks).min(self.excess))
    }

    fn drain(&mut self, ticks: u64) -> u64 {
        let head = self.drains.head();
        self.drains.add(head, self.drain_of(ticks));
        let drained = product(self.rate, ticks);
        let unused = drained.saturating_sub(self.used);
        let of_excess = product(self.excess_rate, ticks);
        self.excess = self.excess.saturating_sub(of_excess).saturating_sub(unused);
        self.used = self.used.saturating_sub(drained);
        self.at += ticks;
        unused
    }

    /// Takes over a changed rate, burst or shape. Returns whether the charges so far are no longer
    /// editable.
    pub(crate) fn adopt(&mut self, rate: u64, shape: TokenBucket) -> bool {
        if self.rate == rate && self.shape == shape {
            return false;
        }
        let is_laid_out_anew =
            (self.shape.tick, self.shape.units, self.shape.slot, self.shape.slots)
                != (shape.tick, shape.units, shape.slot, shape.slots);
        let (old, old_rate) = (self.shape, self.rate);
        let rescale = |used: u64| rescaled(used, old.units, shape.units);
        // A debt is kept whole, with room above it for what a demand adds.
        let burst = shape.burst_units();
        let debt = rescale(self.used.saturating_sub(old.burst_units()));
        let allowed = burst + debt.min(MAX_AMOUNT.saturating_sub(8 * burst));
        let mut total = sum(self.used, self.excess);
        let fastest = if self.excess > 0 { old_rate + self.excess_rate } else { old_rate };
        if is_laid_out_anew {
            // A longer tick is taken over from its beginning, so that no time is lost or counted
            // twice.
            let at = self.at * old.tick / shape.tick;
            let undrained = product(fastest, self.at - at * shape.tick / old.tick);
            total = rescale(sum(total, undrained));
            *self = Self::at_tick(rate, shape, at);
            self.charges.add(self.charges.head(), total);
        }
        (self.rate, self.shape) = (rate, shape);
        self.used = total.min(allowed);
        self.max_used = shape.max_used().max(self.used);
        self.ceiling = self.ceiling.max(sum(shape.max_used(), total));
        self.excess = total - self.used;
        self.excess_rate = fastest.saturating_sub(rate);
        is_laid_out_anew
    }

    pub(crate) fn charge(&mut self, amount: u64) {
        // What a session leaves behind may add up to more than is believed.
        let units = product(amount.min(self.shape.burst + self.shape.max_debt), self.shape.units);
        self.charges.add(self.charges.head(), units);
        self.used = (self.used + units).min(self.max_used);
    }

    /// Replaces what was charged at `at`. What is older than the ring gets no refund; its debit is
    /// paid now.
    pub(crate) fn amend(&mut self, at: Micros, reserved: u64, actual: u64, refundable: bool) {
        let slot = (at / self.shape.tick / self.shape.slot).min(self.charges.head());
        let known = refundable && self.charges.holds(slot);
        if actual >= reserved {
            let units = product(actual - reserved, self.shape.units);
            self.charges.add(if known { slot } else { self.charges.head() }, units);
            self.used = (self.used + units).min(self.max_used);
        } else if known {
            self.charges.take(slot, product(reserved - actual, self.shape.units));
        }
        self.edited = true;
    }

    /// Lowers what is used to what the edited ring says: one fold, however many settles came before
    /// it.
    pub(crate) fn refold(&mut self) {
        if std::mem::take(&mut self.edited) && self.used + self.excess > 0 {
            let folded = self.fold();
            self.used = self.used.min(folded);
            self.excess = self.excess.min(folded - self.used);
        }
    }

    fn fold(&self) -> u64 {
        let slots = self.charges.oldest_first().zip(self.drains.oldest_first());
        slots.fold(self.base, |used, ((_, charge), (_, drain))| {
            (used.saturating_sub(drain) + charge).min(self.ceiling)
        })
    }

    /// Units in use and past use that is no debt.
    pub(crate) fn total(&self) -> u64 {
        sum(self.used, self.excess)
    }

    /// Time until `units` have drained.
    pub(crate) fn until_drained(&self, units: u64, now: Micros) -> Micros {
        let ticks = units.div_ceil(self.rate.max(1));
        product(self.at + ticks, self.shape.tick).saturating_sub(now)
    }

    /// Time until a whole burst has drained.
    pub(crate) fn horizon(&self) -> Micros {
        product(self.shape.burst_units().div_ceil(self.rate.max(1)), self.shape.tick)
    }
}

coded!(TokenBucket { tick => 1, units => 1, burst, max_debt, slot => 1, slots });

impl Coded for DrainingBucket {
    fn write(&self, out: &mut Encoder) {
        let Self {
            rate,
            shape,
            at,
            used,
            max_used,
            excess,
            excess_rate,
            ceiling,
            base,
            charges,
            drains,
            edited,
        } = self;
        shape.write(out);
        out.numbers(&[*rate, *at, *used, *max_used, *excess, *excess_rate, *ceiling, *base]);
        charges.write(out);
        drains.write(out);
        edited.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let shape: TokenBucket = Coded::read(from)?;
        let [rate, at, used, max_used, excess, excess_rate, ceiling, base] = from.numbers()?;
        ensure(at <= from.now / shape.tick && rate + excess_rate <= MAX_AMOUNT)?;
        let (head, len) = (at / shape.slot, shape.slots.max(1));
        let (charges, drains) = (Ring::read(head, len, from)?, Ring::read(head, len, from)?);
        let edited = Coded::read(from)?;
        Ok(Self {
            rate,
            shape,
            at,
            used,
            max_used,
            excess,
            excess_rate,
            ceiling,
            base,
            charges,
            drains,
            edited,
        })
    }
}
