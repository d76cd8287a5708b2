//! The layer in stacks: other layers of tower around it and inside it.

#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/frames.rs"]
mod frames;
#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/probe.rs"]
mod probe;

mod attempts;
#[cfg(all(feature = "llm", feature = "reqwest-middleware", feature = "routes"))]
mod documented;
mod errors;
mod hyper_client;
mod ledger;
mod limits;
mod provider;
#[cfg(feature = "reqwest")]
mod reqwest_client;
#[cfg(feature = "reqwest-middleware")]
mod reqwest_middleware;
#[cfg(all(feature = "llm", feature = "reqwest-middleware", feature = "routes"))]
mod retried;
#[cfg(feature = "routes")]
mod routes;
mod scenarios;
#[cfg(all(feature = "llm", feature = "reqwest-middleware", feature = "routes"))]
mod spawned;
mod stacks;
mod wire;
