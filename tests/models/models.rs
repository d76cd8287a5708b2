//! Models of what tasks share in a limiter: each runs a few tasks on the crate's own code, in
//! hundreds of orders. Time stands still unless a model lets it pass, so a wake-up that is lost
//! shows as a deadlock.
//!
//! Three things no model shows. A second driver of a session sends nothing twice, since only one
//! batch is in flight; `tests/limiter/driving.rs` counts the tasks. That `close` has a session
//! driven whose runtime ended a moment before, and that what drives outside of a runtime leaves no
//! waiter behind, each takes a switch between two neighbouring lines that thousands of orders did
//! not bring.
//!
//! A failure prints its schedule, which `shuttle::replay` runs again. `MODEL_RUNS` says how many
//! orders are tried.

mod faults;
mod grants;
mod order;
mod runtimes;
mod store;
mod wakes;
mod world;
