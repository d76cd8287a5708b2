//! Numbers that stand for names in stored state.

use std::fmt::Write;

use sha2::{Digest, Sha256};

use crate::engine::MAX_AMOUNT;

/// FNV-1a, cut to what a double holds. It must never change: it names state that other versions
/// have stored.
pub(crate) fn fingerprint(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let hash = bytes.into_iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (hash ^ (hash >> 53)) & MAX_AMOUNT
}

/// Half of the SHA-256 of a secret, in hexadecimal. It must never change either.
pub(crate) fn secret(secret: &str) -> String {
    let digest = Sha256::digest(secret);
    digest.iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
        // Writing to a text does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// State that another version has stored is found by it.
    #[test]
    fn a_secret_always_has_one_name_and_does_not_show() {
        assert_eq!(secret("abc"), "ba7816bf8f01cfea414140de5dae2223");
        assert_ne!(secret("abc"), secret("abd"));
    }
}
