//! The limiter through its public API: cancelled and unanswered, with bad input and many threads.

mod bad_input;
mod cancel;
mod carrying;
mod changing;
mod clocks;
mod close;
mod concurrency;
mod ended;
mod exactly_once;
mod fake;
mod feedback;
mod handing_on;
mod lanes;
mod life;
mod observer;
mod outage;
mod surfaced;
mod usage;
