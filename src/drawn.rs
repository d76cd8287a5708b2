//! Names that are drawn, since no two may be alike in all processes that share a store.

use std::{
    cell::RefCell,
    hash::{BuildHasher, RandomState},
};

use fastrand::Rng;

use crate::engine::MAX_AMOUNT;

thread_local! {
    /// Not the random numbers that all crates of a program share: a program that seeds those, for
    /// the sake of its tests, would draw the same names in each of its processes.
    static RANDOM: RefCell<Rng> = RefCell::new(Rng::with_seed(RandomState::new().hash_one(())));
}

/// Draws a name.
pub(crate) fn name() -> u64 {
    RANDOM.with_borrow_mut(|random| random.u64(1..MAX_AMOUNT))
}

/// Has this thread draw the same names again.
#[cfg(feature = "simulate")]
pub(crate) fn seed(seed: u64) {
    RANDOM.with_borrow_mut(|random| random.seed(seed));
}
