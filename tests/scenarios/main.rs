//! The black-box scenarios, by number, each on every store.

mod arithmetic;
mod faults;
mod feedback;
#[cfg(feature = "redis")]
mod leaving;
mod life;
#[cfg(feature = "redis")]
mod outage;
mod predictions;
mod several;
mod sliding;
#[cfg(feature = "redis")]
#[path = "../support/mod.rs"]
mod support;
mod waiting;
mod world;
