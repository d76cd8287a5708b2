//! Arithmetic that stays exact where numbers are doubles: every amount and time stops at
//! [`MAX_AMOUNT`].

use super::MAX_AMOUNT;

#[inline]
pub(super) fn sum(a: u64, b: u64) -> u64 {
    a.saturating_add(b).min(MAX_AMOUNT)
}

#[inline]
pub(super) fn product(a: u64, b: u64) -> u64 {
    a.saturating_mul(b).min(MAX_AMOUNT)
}
