//! `serve`: real processes on loopback, between clients and a provider in the test's process.

mod bad_input;
mod documented;
mod limits;
mod mock;
mod outage;
mod passing;
mod sdk;
mod secrets;
mod service;
mod shutdown;
mod tls;
