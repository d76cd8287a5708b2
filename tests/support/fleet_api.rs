//! The calls of the fleet's API that a test or bench may need before the crate has them.
//!
//! Each function is one call. Switching over means to replace its body; nothing else changes.
#![allow(dead_code, unreachable_pub, reason = "each user takes what it needs")]

use tower_throttle::{
    Demand, Limits, Reservation,
    limiter::{Settling, Status},
};

/// Whether the crate has flows. Results say so where it has not.
pub const HAS_SHARES: bool = true;

/// The flow of a demand. Becomes `demand.share(flow)`.
pub fn share(demand: Demand, flow: &str) -> Demand {
    demand.share(flow)
}

/// The weight of a flow. Becomes `limits.weight(flow, weight)`.
pub fn weight(limits: Limits, flow: &str, weight: u32) -> Limits {
    limits.weight(flow, weight)
}

/// How many demands wait for a bucket in the whole fleet. Today it counts one process.
pub fn waiting(status: &Status) -> usize {
    status.waiting
}

/// Says that the response of a call was no refusal, before its stream ends.
pub fn answered_well(reservation: &Reservation) -> Settling {
    reservation.answered()
}

/// The key that [`CLOCK_AHEAD`] reads: microseconds.
pub const AHEAD: &str = "test:ahead";

/// The script's clock, for `RedisStore::with_clock`: the server's, ahead by what a key says.
/// Minutes pass in seconds then.
pub const CLOCK_AHEAD: &str = "local function clock() \
    local time = redis.call('TIME') \
    return time[1] * 1000000 + time[2] + tonumber(redis.call('GET', 'test:ahead') or '0') end";
