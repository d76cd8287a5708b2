//! The scenarios of a fleet: several processes on one Redis, which are stopped, killed and cut off.
//!
//! The texts of the scenarios are in the tests' names and comments; those of one process are in
//! `tests/scenarios`. A worker is this binary, told to run [`worker_program`] alone.

mod crash;
mod fleet;
#[path = "../support/fleet/mod.rs"]
mod harness;
mod order;
mod probe;
mod refill;
mod shares;
mod waiting;

/// No test: the program of the workers.
#[test]
fn worker_program() {
    if harness::is_worker() {
        harness::serve();
    }
}
