//! Share an API's rate limits between tasks, processes and machines.
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod engine;
pub mod error;
pub mod store;

pub use error::BoxError;
#[cfg(feature = "redis")]
pub use redis;
