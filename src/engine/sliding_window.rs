//! At most `limit` in any window of the given length, at any phase.

use super::{
    Micros,
    codec::{Coded, DecodeError, Decoder, Encoder, ensure},
    exact::product,
    ring::Ring,
    rule::MAX_TAKEN,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SlidingWindow {
    slot: Micros,
    /// When the newest slot began, and how long all of them are: remembered, since both are asked
    /// for at each charge.
    began: Micros,
    length: Micros,
    /// The sum of the ring.
    charged: u64,
    ring: Ring,
}

impl SlidingWindow {
    pub(crate) fn new(slot: Micros, slots: u64, now: Micros) -> Self {
        let ring = Ring::new(now / slot, slots + 1);
        Self {
            slot,
            began: product(ring.head(), slot),
            length: product(ring.len(), slot),
            charged: 0,
            ring,
        }
    }

    /// From the charges of its slots, oldest first.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(slot: Micros, head: u64, charges: &[u64]) -> Self {
        let ring = Ring::of(head, charges);
        let (began, length) = (product(head, slot), product(ring.len(), slot));
        Self { slot, began, length, charged: ring.sum(), ring }
    }

    #[inline]
    pub(crate) fn advance(&mut self, now: Micros) {
        if now >= self.began + self.slot {
            self.begin_slot(now / self.slot);
        }
    }

    fn begin_slot(&mut self, slot: u64) {
        let charged = &mut self.charged;
        self.ring.advance(slot, |left| *charged = charged.saturating_sub(left));
        self.began = self.begin_of(slot);
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
        let slot = if at >= self.began { head } else { at / self.slot };
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
        self.length
    }
}

impl Coded for SlidingWindow {
    fn write(&self, out: &mut Encoder) {
        let Self { slot, began: _, length: _, charged: _, ring } = self;
        out.numbers(&[*slot, ring.head(), ring.len()]);
        ring.write(out);
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let [slot, head, len] = from.numbers()?;
        ensure(slot > 0 && head <= from.now / slot)?;
        let ring = Ring::read(head, len, from)?;
        let charged = ring.sum();
        ensure(charged <= MAX_TAKEN)?;
        Ok(Self { slot, began: product(head, slot), length: product(len, slot), charged, ring })
    }
}
