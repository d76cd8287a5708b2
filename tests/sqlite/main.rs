//! A file that processes share, through the limiter. Processes are this binary, executed once more.
#![cfg(feature = "sqlite")]

mod killed;
mod process;
mod shared;
