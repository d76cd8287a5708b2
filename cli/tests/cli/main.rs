//! The built program, on servers that the tests start: what it prints, how it ends, and what `top`
//! shows on a terminal.

mod bad_input;
mod cluster;
mod hostile;
mod limits_file;
mod permissions;
mod program;
mod serve;
mod simulate;
mod status;
mod steer;
#[path = "../../../tests/support/mod.rs"]
mod support;
mod tls;
mod top;
mod watch;
