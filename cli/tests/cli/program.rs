//! Runs the program, and makes what it is to see.

use std::{
    env, fs,
    path::PathBuf,
    process::{Command, Output, Stdio},
};

use tower_throttle::{Demand, Limiter, Limits, Quota, store::RedisStore, usage};

use crate::support::RedisServer;

/// A file for as long as the value lives.
pub(crate) struct File(PathBuf);

impl File {
    pub(crate) fn new(name: &str, text: &str) -> Self {
        let path = env::temp_dir().join(format!("throttle-cli-{}-{name}", std::process::id()));
        fs::write(&path, text).expect("it is written");
        Self(path)
    }

    pub(crate) fn path(&self) -> &str {
        self.0.to_str().expect("a text")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        // A file that is left behind does no harm.
        let _ = fs::remove_file(&self.0);
    }
}

/// What the program printed, and how it ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Self {
            code: output.status.code().expect("it was not killed"),
            out: text(&output.stdout),
            err: text(&output.stderr),
        }
    }
}

/// The program with these arguments, and none of the variables that it reads.
pub(crate) fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tower-throttle"));
    command.args(arguments).env_remove("REDIS_URL").stdin(Stdio::null());
    command
}

pub(crate) fn run(arguments: &[&str]) -> Ended {
    program(arguments).output().expect("it starts").into()
}

/// Runs it on a server.
pub(crate) fn run_on(server: &RedisServer, arguments: &[&str]) -> Ended {
    run_at(&server.url(), arguments)
}

pub(crate) fn run_at(url: &str, arguments: &[&str]) -> Ended {
    program(arguments).env("REDIS_URL", url).output().expect("it starts").into()
}

/// A limiter on a server, with a few buckets.
pub(crate) async fn limiter(server: &RedisServer) -> Limiter {
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let limits = Limits::new()
        .bucket("gpt-4o", [Quota::per_minute("requests", 500), Quota::per_minute("tokens", 30_000)])
        .bucket("claude", [Quota::per_minute("requests", 10), Quota::concurrency(2)])
        .bucket("idle", [Quota::per_hour("requests", 1_000)]);
    Limiter::with_store(limits, store).expect("limits that make sense")
}

/// Charges a request and tokens to a bucket.
pub(crate) async fn charge(limiter: &Limiter, bucket: &str, tokens: u64) {
    let demand = Demand::new(bucket, usage! { requests: 1, tokens: tokens });
    let reservation = limiter.reserve(demand).await.expect("it fits");
    reservation.keep().await.expect("it is kept");
}
