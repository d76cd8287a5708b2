//! Chance: the same for one attempt of a call in every run of one seed, whatever happened before.

/// What is left to chance in an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chance {
    /// How long its way to the provider takes, then how long its answer.
    Latency = 1,
    /// How much longer a caller pauses after it.
    Pause = 2,
}

/// The numbers for one attempt of the call at this place of the trace.
pub(super) fn chance(seed: u64, index: usize, attempt: u32, what: Chance) -> fastrand::Rng {
    let place = (index as u64) << 20 ^ u64::from(attempt) << 4 ^ what as u64;
    let mixed = place.wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(31);
    fastrand::Rng::with_seed(seed ^ mixed)
}
