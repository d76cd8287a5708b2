//! The layer in people's stacks: other layers of tower around it and inside it.

#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/frames.rs"]
mod frames;
#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/probe.rs"]
mod probe;

mod attempts;
mod errors;
mod hyper_client;
mod ledger;
mod limits;
mod provider;
#[cfg(feature = "reqwest")]
mod reqwest_client;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_middleware;
#[cfg(feature = "routes")]
mod routes;
mod scenarios;
mod stacks;
mod wire;
