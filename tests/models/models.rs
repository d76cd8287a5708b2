//! Models of what tasks share in a limiter: each runs a few tasks on the crate's own code, in
//! hundreds of orders. Time stands still unless a model lets it pass, so a wake-up that is lost
//! shows as a deadlock.
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
