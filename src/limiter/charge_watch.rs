//! Notices quotas that no demand charges: a misspelt metric makes a quota that never bites.

use std::sync::atomic::{AtomicU64, Ordering};

use smallvec::SmallVec;

/// So many demands are looked at.
pub(super) const WATCHED: u32 = 100;
/// Bits for the number of demands; the others are for quotas.
const COUNT_BITS: u32 = 8;
const COUNT: u64 = (1 << COUNT_BITS) - 1;
/// Every quota was charged, or what was not was told.
const OVER: u64 = u64::MAX;

/// Which quotas of a bucket its first demands charged.
///
/// One word, since every settle looks at it: how many demands were settled, and above that a bit
/// for each quota that was charged. Quotas beyond the width of the word are not watched.
#[derive(Debug, Default)]
pub(super) struct ChargeWatch(AtomicU64);

impl ChargeWatch {
    /// Whether it still watches.
    #[inline]
    pub(super) fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed) != OVER
    }

    /// Other quotas are declared.
    pub(super) fn begin_anew(&self) {
        self.0.store(0, Ordering::Relaxed);
    }

    /// A demand was settled that charged these quotas. Returns which were never charged, if there
    /// are any: once, when enough demands were settled.
    pub(super) fn settled(&self, charged: &[bool]) -> Option<SmallVec<[bool; 8]>> {
        let bits = |quotas: &[bool]| {
            let all = quotas.iter().take((u64::BITS - COUNT_BITS) as usize);
            all.rev().fold(0, |bits: u64, is_charged| bits << 1 | u64::from(*is_charged))
        };
        let (now, all) = (bits(charged), bits(&vec![true; charged.len()]));
        let mut missing = 0;
        let result = self.0.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |word| {
            if word == OVER {
                return None;
            }
            let (count, seen) = ((word & COUNT) + 1, word >> COUNT_BITS | now);
            missing = if count >= u64::from(WATCHED) { all & !seen } else { 0 };
            let is_over = seen & all == all || count >= u64::from(WATCHED);
            Some(if is_over { OVER } else { seen << COUNT_BITS | count })
        });
        (result.is_ok() && missing != 0).then(|| {
            (0..charged.len()).map(|index| index < 56 && missing >> index & 1 == 1).collect()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_never_charged_is_told_once() {
        let watch = ChargeWatch::default();
        for _ in 1..WATCHED {
            assert_eq!(watch.settled(&[true, false, false]), None);
            assert!(watch.is_on());
        }
        let told = watch.settled(&[false, true, false]).expect("enough were settled");
        assert_eq!(told.to_vec(), [false, false, true]);
        assert!(!watch.is_on());
        assert_eq!(watch.settled(&[false; 3]), None);
    }

    #[test]
    fn it_ends_when_all_quotas_were_charged() {
        let watch = ChargeWatch::default();
        assert_eq!(watch.settled(&[true, false]), None);
        assert_eq!(watch.settled(&[false, true]), None);
        assert!(!watch.is_on());
        watch.begin_anew();
        assert!(watch.is_on());
    }

    #[test]
    fn more_quotas_than_it_has_room_for_are_not_watched() {
        let watch = ChargeWatch::default();
        let told = (0..WATCHED).find_map(|_| watch.settled(&[false; 70]));
        let told = told.expect("enough were settled");
        assert_eq!((told.len(), told.iter().filter(|is_missing| **is_missing).count()), (70, 56));
    }
}
