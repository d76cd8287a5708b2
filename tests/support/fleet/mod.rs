//! A fleet under test: real processes that take orders by lines, on a Redis server of their own.
//!
//! [`Worker`] is a process that runs [`serve`]: the test or bench binary, executed once more.
//! A test writes orders to it and expects answers. A [`Proxy`] before the server can be cut.
#![allow(dead_code, unreachable_pub, unused_imports, reason = "each user takes what it needs")]

#[path = "../fleet_api.rs"]
pub mod api;
mod ask;
mod lateness;
mod message;
mod process;
mod proxy;
#[path = "../redis_server.rs"]
mod redis_server;
mod run;
mod worker;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use self::{
    ask::{Ask, limits},
    lateness::Lateness,
    message::Message,
    process::{Call, Grant, Ran, Run, Runs, Setup, Standing, Worker},
    proxy::Proxy,
    redis_server::RedisServer,
    worker::{is_worker, serve},
};

/// Microseconds since 1970, as the server on this machine has them too.
pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros_of)
}

pub fn micros_of(duration: Duration) -> u64 {
    duration.as_micros() as u64
}

pub fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}
