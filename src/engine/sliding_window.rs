//! At most `limit` in any window of the given length, at any phase.

use super::{Micros, exact::product, ring::Ring, rule::MAX_TAKEN};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    slot: Micros,
    /// The sum of the ring.
    charged: u64,
    ring: Ring,
}

impl SlidingWindow {
    pub(crate) fn new(slot: Micros, slots: u64, now: Micros) -> Self {
        Self { slot, charged: 0, ring: Ring::new(now / slot, slots + 1) }
    }

    #[inline]
    pub(crate) fn advance(&mut self, now: Micros) {
        if now < (self.ring.head() + 1).saturating_mul(self.slot) {
            return;
        }
        let charged = &mut self.charged;
        self.ring.advance(now / self.slot, |left| *charged = charged.saturating_sub(left));
    }

    #[inline]
    fn begin_of(&self, slot: u64) -> Micros {
        product(slot, self.slot)
    }

    #[inline]
    pub(crate) fn charged(&self) -> u64 {
        self.charged
    }

    #[inline]
    pub(crate) fn charge(&mut self, amount: u64) {
        self.add(self.ring.head(), amount);
    }

    #[inline]
    fn add(&mut self, slot: u64, amount: u64) {
        let room = MAX_TAKEN - self.charged;
        self.charged += self.ring.add(slot, amount.min(room));
    }

    /// Replaces what was charged at `at`. A slot that has left the window needs nothing.
    #[inline]
    pub(crate) fn amend(&mut self, at: Micros, reserved: u64, actual: u64, refundable: bool) {
        let head = self.ring.head();
        let slot = if at >= self.begin_of(head) { head } else { at / self.slot };
        if !self.ring.holds(slot) {
            return;
        }
        if actual >= reserved {
            self.add(slot, actual - reserved);
        } else if refundable {
            self.charged -= self.ring.take(slot, reserved - actual);
        }
    }

    /// Time until `amount` of what is charged has left, if that much is charged.
    pub(crate) fn until_left(&self, amount: u64, now: Micros) -> Option<Micros> {
        let mut left = 0;
        for (age, charge) in self.ring.oldest_first() {
            left += charge;
            if left >= amount {
                let leaves = self.begin_of(self.ring.head() + self.ring.len() - age);
                return Some(leaves.saturating_sub(now));
            }
        }
        None
    }

    #[inline]
    pub(crate) fn length(&self) -> Micros {
        product(self.ring.len(), self.slot)
    }
}
