//! The layer around services of every temper.

mod bodies;
mod dispatch;
mod probe;
mod respond;
mod statuses;
