//! How a quota stands in amounts of what it counts, whatever units it is charged in: for those who
//! look.

use super::{Level, Rule, Window};

/// What a quota admits, and what of it is taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct QuotaAmounts {
    /// What it admits per window; for a token bucket, at once.
    pub(crate) limit: u64,
    pub(crate) charged: f64,
    /// Held by reservations, to be charged when they are settled.
    pub(crate) held: u64,
    pub(crate) withheld: f64,
    /// What it has left; negative in debt.
    pub(crate) available: f64,
}

impl QuotaAmounts {
    pub(crate) fn of(rule: &Rule, level: &Level) -> Self {
        let units = if let Window::TokenBucket(bucket) = &rule.window { bucket.units } else { 1 };
        let limit = rule.capacity(0);
        let charged = level.charged as f64 / units as f64;
        let withheld = level.withheld as f64 / units as f64;
        let held = if rule.holds() { level.in_flight } else { 0 };
        let available = limit as f64 - charged - held as f64 - withheld;
        Self { limit, charged, held, withheld, available }
    }
}
