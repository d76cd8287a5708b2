//! The layer in people's stacks: other layers of tower around it and inside it.

#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/frames.rs"]
mod frames;
#[allow(dead_code, reason = "shared with the tests of the layer")]
#[path = "../layer/probe.rs"]
mod probe;

mod attempts;
mod errors;
mod ledger;
mod limits;
mod scenarios;
mod stacks;
