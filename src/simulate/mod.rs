//! A simulated provider, and what strategies make of its limits: before an account is bought, or a
//! number is put into a limits file.
//!
//! * A [`Trace`] says which calls come when: read from CSV, or made by a [`TraceShape`].
//! * A [`Provider`] enforces [`EnforcedQuota`]s in one of several ways, takes its time to answer,
//!   and may have other users on the same key.
//! * A [`Simulation`] makes the calls by a [`Strategy`], in virtual time, on the real layer,
//!   limiter and memory store: an hour of traffic takes seconds. The same seed gives the same
//!   [`SimulationReport`].
//!
//! ```
//! use std::time::Duration;
//! use tower_throttle::simulate::{EnforcedQuota, Provider, Simulation, Strategy, TraceShape};
//!
//! let minute = Duration::from_secs(60);
//! let provider = Provider::new([
//!     EnforcedQuota::sliding_window("requests", 350, minute),
//!     EnforcedQuota::sliding_window("tokens", 450_000, minute),
//! ]);
//! let trace = TraceShape::new().duration(minute * 2).trace(7);
//! let simulation = Simulation::declared_rightly(provider, trace);
//!
//! let [naive, ours] = [Strategy::RetriesOnly, Strategy::Bound];
//! let (naive, ours) = (simulation.run(naive)?, simulation.run(ours)?);
//! assert_eq!(ours.refused, 0);
//! assert!(naive.refused > 0);
//! # Ok::<_, tower_throttle::simulate::SimulationError>(())
//! ```
//!
//! The provider's side is a plain log that shares no code with the engine. It judges by what calls
//! really use, whatever was reserved for them.

mod admissions;
mod best;
mod chance;
mod client;
mod counters;
mod csv;
mod enforced;
mod provider;
mod provider_side;
mod quota_log;
mod report;
mod run;
mod shape;
mod simulation;
mod strategy;
#[cfg(test)]
mod tests;
mod trace;
mod trace_call;

pub use self::{
    admissions::{Admissions, LimitReached},
    enforced::{Counting, EnforcedQuota, Enforcement},
    provider::Provider,
    report::{Moment, QuotaReport, SimulationReport, WaitReport},
    shape::TraceShape,
    simulation::{Simulation, SimulationError},
    strategy::Strategy,
    trace::Trace,
    trace_call::{TraceCall, TraceError},
};
