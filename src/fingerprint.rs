//! Numbers that stand for names in stored state.

use crate::engine::MAX_AMOUNT;

/// FNV-1a, cut to what a double holds. It must never change: it names state that other versions
/// have stored.
pub(crate) fn fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 53)) & MAX_AMOUNT
}
