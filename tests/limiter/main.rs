//! The limiter through its public API: cancelled and unanswered, with bad input and many threads.

mod bad_input;
mod cancel;
mod changing;
mod clocks;
mod close;
mod concurrency;
mod driving;
mod ended;
mod exactly_once;
mod fake;
mod feedback;
mod handing_on;
mod hints;
mod life;
mod liveness;
mod observer;
mod outage;
mod places;
mod queueing;
mod stress;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod surfaced;
mod turns;
mod usage;
