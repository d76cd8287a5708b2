//! The layer around services of every temper.

mod bodies;
mod dispatch;
mod frames;
mod probe;
mod respond;
mod statuses;
