//! A ring of charges, one per slot of time. It knows slot numbers and amounts, not how long a slot
//! is.

use super::{
    codec::{DecodeError, Decoder, Encoder, ensure},
    exact::sum,
};

/// As many equal charges are written as one at most. It bounds what a few bytes can allocate.
const MAX_RUN: u8 = 64;

/// Slot number `s` lives at index `s % len`; the newest slot is `head`. Where that lives is
/// remembered: a division for every charge is slow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ring {
    head: u64,
    head_index: usize,
    slots: Box<[u64]>,
}

impl Ring {
    pub(crate) fn new(head: u64, len: u64) -> Self {
        let slots = vec![0; usize::try_from(len).unwrap_or(usize::MAX).max(1)].into_boxed_slice();
        Self { head, head_index: (head % slots.len() as u64) as usize, slots }
    }

    #[inline]
    pub(crate) fn head(&self) -> u64 {
        self.head
    }

    #[inline]
    pub(crate) fn len(&self) -> u64 {
        self.slots.len() as u64
    }

    /// Where a slot lives that the ring holds.
    #[inline]
    fn index(&self, slot: u64) -> usize {
        let age = (self.head - slot) as usize;
        if age <= self.head_index {
            self.head_index - age
        } else {
            self.head_index + self.slots.len() - age
        }
    }

    fn next_index(&self) -> usize {
        if self.head_index + 1 == self.slots.len() { 0 } else { self.head_index + 1 }
    }

    /// Whether `slot` is still in the ring. A slot ahead of the head is not.
    #[inline]
    pub(crate) fn holds(&self, slot: u64) -> bool {
        slot <= self.head && self.head - slot < self.len()
    }

    /// Makes `slot` the head and hands every charge that leaves to `left`, oldest first. Answers
    /// how many further slots passed after the ring was already empty. Never moves back.
    pub(crate) fn advance(&mut self, slot: u64, mut left: impl FnMut(u64)) -> u64 {
        let steps = slot.saturating_sub(self.head);
        let within = steps.min(self.len());
        for _ in 0..within {
            self.head_index = self.next_index();
            left(std::mem::take(&mut self.slots[self.head_index]));
        }
        self.head += steps;
        if steps > within {
            self.head_index = (self.head % self.len()) as usize;
        }
        steps - within
    }

    /// Adds to a slot the ring holds. Answers what was added (less than asked only at
    /// `MAX_AMOUNT`).
    #[inline]
    pub(crate) fn add(&mut self, slot: u64, amount: u64) -> u64 {
        let index = self.index(slot);
        let before = self.slots[index];
        self.slots[index] = sum(before, amount);
        self.slots[index] - before
    }

    /// Takes from a slot the ring holds, never below 0. Answers what was taken.
    #[inline]
    pub(crate) fn take(&mut self, slot: u64, amount: u64) -> u64 {
        let index = self.index(slot);
        let taken = amount.min(self.slots[index]);
        self.slots[index] -= taken;
        taken
    }

    /// Charges with their age in slots, oldest first; the last is the head, of age 0.
    pub(crate) fn oldest_first(&self) -> impl Iterator<Item = (u64, u64)> + '_ {
        let (newer, older) = self.slots.split_at(self.next_index());
        (0..self.len()).rev().zip(older.iter().chain(newer).copied())
    }

    /// Writes the charges, oldest first, in runs of equal ones: a number and how often it comes.
    /// Head and length are what the owner of the ring writes.
    pub(crate) fn write(&self, out: &mut Encoder) {
        let mut charges = self.oldest_first().map(|(_, charge)| charge).peekable();
        while let Some(charge) = charges.next() {
            let mut run = 1;
            while run < MAX_RUN && charges.next_if_eq(&charge).is_some() {
                run += 1;
            }
            out.number(charge);
            out.byte(run);
        }
    }

    /// Reads the charges of a ring of this head and length.
    pub(crate) fn read(head: u64, len: u64, from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        // A run takes two bytes at least: nothing is allocated for what cannot be there.
        ensure((1..=from.left() / 2 * u64::from(MAX_RUN)).contains(&len))?;
        let mut ring = Self::new(head, len);
        let mut filled = 0;
        while filled < ring.slots.len() {
            let (charge, run) = (from.number()?, usize::from(from.byte()?));
            ensure((1..=ring.slots.len() - filled).contains(&run))?;
            (filled..filled + run).for_each(|nth| *ring.nth_oldest(nth) = charge);
            filled += run;
        }
        Ok(ring)
    }

    /// The ring of these charges, oldest first.
    #[cfg(feature = "redis")]
    pub(crate) fn of(head: u64, charges: &[u64]) -> Self {
        let mut ring = Self::new(head, charges.len() as u64);
        charges.iter().enumerate().for_each(|(nth, charge)| *ring.nth_oldest(nth) = *charge);
        ring
    }

    /// The oldest one lives behind the newest one.
    fn nth_oldest(&mut self, nth: usize) -> &mut u64 {
        let index = (self.head_index + 1 + nth) % self.slots.len();
        &mut self.slots[index]
    }

    /// The sum of all charges.
    pub(crate) fn sum(&self) -> u64 {
        self.slots.iter().copied().fold(0, sum)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::MAX_AMOUNT, *};

    #[test]
    fn charges_leave_oldest_first_and_a_long_gap_empties_the_ring() {
        let mut ring = Ring::new(10, 3);
        ring.add(10, 1);
        ring.advance(11, |_| {});
        ring.add(11, 2);
        assert_eq!(ring.oldest_first().collect::<Vec<_>>(), [(2, 0), (1, 1), (0, 2)]);

        let mut left = Vec::new();
        assert_eq!(ring.advance(20, |charge| left.push(charge)), 6);
        assert_eq!(left, [0, 1, 2]);
        assert_eq!(ring.head(), 20);
        assert!(ring.holds(18) && !ring.holds(17) && !ring.holds(21));
    }

    #[test]
    fn time_never_moves_back_and_amounts_stay_in_range() {
        let mut ring = Ring::new(10, 3);
        ring.advance(4, |_| panic!("nothing leaves"));
        assert_eq!(ring.head(), 10);
        assert_eq!(ring.add(10, MAX_AMOUNT), MAX_AMOUNT);
        assert_eq!(ring.add(10, 5), 0);
        assert_eq!(ring.take(10, 7), 7);
        assert_eq!(ring.take(9, 7), 0);
    }
}
