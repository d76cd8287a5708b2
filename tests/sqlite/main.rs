//! x
#![cfg(feature = "sqlite")]
