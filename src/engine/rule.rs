//! A quota as the engine sees it: integers only. `Quota` is what a user writes, a `Rule` is what it
//! compiles to.

use std::sync::Arc;

use super::exact::{product, sum};

/// Microseconds: of a duration, or since the Unix epoch.
pub type Micros = u64;

/// The largest integer that is exact in a double, which is what a number in a Lua script is.
pub(crate) const MAX_AMOUNT: u64 = (1 << 53) - 1;

/// The most that a window or the calls in flight are taken to hold: what is added up of such
/// amounts and of a few limits stays exact.
pub(crate) const MAX_TAKEN: u64 = 1 << 51;

/// The longest pause that a user can ask for: a week.
pub(crate) const MAX_PAUSE: Micros = 7 * 86_400 * 1_000_000;

/// Headroom is counted in parts of this.
pub(crate) const HEADROOM_PARTS: u64 = 10_000;

/// One quota, compiled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rule {
    /// Stable across processes and across changes of the limit; below 2^53.
    pub(crate) id: u64,
    /// Amount per window; calls in flight for [`Window::InFlight`].
    pub(crate) limit: u64,
    /// Whether a reservation is held until it is settled and counts from then on
    /// (`charge_at(End)`).
    pub(crate) held: bool,
    /// How amounts come back.
    pub(crate) window: Window,
}

/// How the amounts charged to a quota come back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Window {
    /// At most `limit` in any window: a charge counts for `slots` whole slots after its own.
    Sliding {
        /// Length of a slot.
        slot: Micros,
        /// Slots kept besides the current one.
        slots: u64,
    },
    /// A bucket that drains linearly.
    TokenBucket(TokenBucket),
    /// Windows of equal length on the clock.
    Fixed {
        /// Length of a window.
        length: Micros,
        /// Some instant at which a window begins, below `length`.
        anchor: Micros,
    },
    /// Windows that begin at the given instants: those around the present, in order.
    Calendar {
        /// The beginnings; the window after the last is not known.
        boundaries: Arc<[Micros]>,
    },
    /// Nothing is charged; only calls in flight count.
    InFlight,
}

/// The integers of a token bucket. One token is `units` units, and `limit` units drain per tick.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TokenBucket {
    /// Length of a tick.
    pub(crate) tick: Micros,
    /// Ticks in the window, which is also the units in a token.
    pub(crate) units: u64,
    /// Tokens that an unused bucket admits at once.
    pub(crate) burst: u64,
    /// Tokens of debt beyond which an actual usage is not believed.
    pub(crate) max_debt: u64,
    /// Length of a slot of the ring of charges, in ticks.
    pub(crate) slot: u64,
    /// Slots of the ring of charges.
    pub(crate) slots: u64,
}

impl TokenBucket {
    /// The integers of a bucket that refills `limit` tokens per `window`, holding the charges of
    /// the last `span`.
    pub(crate) fn new(
        tick: Micros,
        window: Micros,
        burst: u64,
        max_debt: u64,
        span: Micros,
        slots: u64,
    ) -> Self {
        let units = window.div_ceil(tick).max(1);
        let slot = span.div_ceil(tick).div_ceil(slots).max(1);
        // The current slot is one more.
        Self { tick, units, burst, max_debt, slot, slots: slots + 1 }
    }

    pub(crate) fn burst_units(&self) -> u64 {
        product(self.burst, self.units)
    }

    pub(crate) fn max_used(&self) -> u64 {
        product(sum(self.burst, self.max_debt), self.units)
    }
}

/// Units of a token bucket that counts `from` units in a token, in one that counts `to`.
pub(crate) fn rescaled(amount: u64, from: u64, to: u64) -> u64 {
    match to >= from {
        true => product(amount, to.div_ceil(from)),
        false => amount.div_ceil(from / to),
    }
}

/// `whole - whole * headroom / HEADROOM_PARTS`, with nothing in between that is not exact. Few
/// demands leave any, and divisions are slow.
#[inline(never)]
fn less_headroom(whole: u64, headroom: u64) -> u64 {
    whole - whole / HEADROOM_PARTS * headroom - whole % HEADROOM_PARTS * headroom / HEADROOM_PARTS
}

impl Rule {
    /// What one demand can get at most, of a class that leaves `headroom` (in [`HEADROOM_PARTS`])
    /// to others.
    #[inline]
    pub(crate) fn capacity(&self, headroom: u64) -> u64 {
        let whole = match &self.window {
            Window::TokenBucket(bucket) => bucket.burst,
            _ => self.limit,
        };
        if headroom == 0 { whole } else { less_headroom(whole, headroom.min(HEADROOM_PARTS)) }
    }

    /// What a demand of this cost can get: one that needs nothing is not held up by what is left to
    /// others, only by a debt.
    #[inline]
    pub(crate) fn capacity_for(&self, cost: u64, headroom: u64) -> u64 {
        self.capacity(if cost == 0 { 0 } else { headroom })
    }

    /// Whether reservations in flight take from what is available by themselves.
    #[inline]
    pub(crate) fn holds(&self) -> bool {
        self.held || matches!(self.window, Window::InFlight)
    }

    /// The beginning of the fixed window that `wall` is in and the beginning of the next one, if
    /// known.
    pub(crate) fn window_at(&self, wall: Micros) -> Option<(Micros, Micros)> {
        match &self.window {
            Window::Fixed { length, anchor } => {
                let begin = wall.saturating_sub((wall + length - anchor) % length);
                Some((begin, begin + length))
            }
            Window::Calendar { boundaries } => {
                let next = boundaries.iter().position(|&boundary| boundary > wall)?;
                let begin = next.checked_sub(1)?;
                Some((boundaries[begin], boundaries[next]))
            }
            _ => None,
        }
    }

    /// Whether this is a calendar that does not reach to `wall`.
    pub(crate) fn is_uncharted(&self, wall: Micros) -> bool {
        matches!(self.window, Window::Calendar { .. }) && self.window_at(wall).is_none()
    }
}
