//! What a session may rely on instead of looking at its waiters by itself, and how often it looks.

use std::time::Duration;

use crate::{
    engine::{Micros, Violation, wait_of},
    quota::micros,
};

/// Where no hint says that a waiter may fit, it is looked at again after this long if it is the
/// front of all sessions.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Otherwise after this long times its rank. The second one is to pass the first within a second,
/// should that have died: the store hints that 300 ms after it was last heard of, when the second
/// one is looked at, and has it passed over when that is looked at 200 ms later.
const LOOK_AGAIN_BY_RANK: Duration = Duration::from_millis(350);
/// Where there are no hints, the front of all sessions is looked at after this long while calls in
/// flight hold it back: 200 ms after one of them ends it is late, and others may pass it.
const LOOK_AGAIN_UNHINTED: Duration = Duration::from_millis(150);
/// A wait whose length is unknown is looked at again at the latest after this long.
const LONGEST_UNKNOWN: Duration = Duration::from_secs(5);
/// And one whose length is known, where hints arrive.
const LONGEST_KNOWN: Duration = Duration::from_secs(30);

/// Whether hints arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hinting {
    /// Hints never get lost.
    Reliable,
    /// Hints arrive, but one may get lost.
    Works,
    /// There are none.
    None,
}

impl Hinting {
    /// When to look again at a demand that was refused like this. A look also keeps its heads
    /// alive, whose `lease` ends without one.
    pub(super) fn look_at(self, violations: &[Violation], now: Micros, lease: Micros) -> Micros {
        let wait = wait_of(violations);
        let alone = violations.iter().filter_map(|violation| violation.alone).max().unwrap_or(0);
        let rank = violations.iter().map(|violation| violation.rank).max().unwrap_or(0);
        let by_rank = match rank {
            0 => micros(LOOK_AGAIN),
            _ => micros(LOOK_AGAIN_BY_RANK).saturating_mul(rank),
        };
        let by_rank = by_rank.min(micros(LONGEST_UNKNOWN));
        let after = match (self, wait) {
            // A call that ends is hinted at where that makes room at once. It is not where it ends
            // with a charge, which comes back with time, or with the lease of what was detached.
            (Self::Reliable, None) if rank == 0 => micros(LONGEST_UNKNOWN),
            (Self::Reliable, Some(wait)) => wait,
            (Self::Works, Some(wait)) if rank == 0 => wait.min(micros(LONGEST_KNOWN)),
            // Those before it may have died, and it would fit without them.
            (Self::Works, Some(wait)) => wait.min(alone.max(by_rank)).min(micros(LONGEST_KNOWN)),
            (Self::None, Some(wait)) => wait.min(by_rank),
            (Self::None, None) if rank == 0 => micros(LOOK_AGAIN_UNHINTED),
            (_, None) => by_rank,
        };
        now.saturating_add(after.min(lease / 3 * 2))
    }
}
