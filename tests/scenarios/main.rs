//! The black-box scenarios, by number, each on every store.

mod arithmetic;
mod faults;
mod feedback;
mod fleet;
#[path = "../support/fleet_api.rs"]
mod fleet_api;
#[cfg(feature = "redis")]
mod leaving;
mod life;
#[cfg(feature = "redis")]
mod outage;
mod predictions;
mod several;
mod shadow;
mod sliding;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod waiting;
mod world;
