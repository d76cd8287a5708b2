//! What tests and benches of the Redis store share: a server of their own.
#![allow(dead_code, unreachable_pub, reason = "each user takes what it needs")]

mod cluster;
mod redis_server;

pub use redis_server::RedisServer;
