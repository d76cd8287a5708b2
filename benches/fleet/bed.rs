//! A server with workers on it, and what it counts.

use std::time::Duration;

use redis::Connection;
use tower_throttle::{Limiter, store::RedisStore};

use crate::harness::{Ran, RedisServer, Run, Setup, Worker, api, limits, now};

/// Commands that only a client sends; all others are also the script's.
const SENT: [&str; 16] = [
    "cmdstat_auth",
    "cmdstat_client|setinfo",
    "cmdstat_client|setname",
    "cmdstat_eval",
    "cmdstat_evalsha",
    "cmdstat_fcall",
    "cmdstat_hello",
    "cmdstat_ping",
    "cmdstat_psubscribe",
    "cmdstat_script|load",
    "cmdstat_select",
    "cmdstat_ssubscribe",
    "cmdstat_subscribe",
    "cmdstat_sunsubscribe",
    "cmdstat_unsubscribe",
    "cmdstat_wait",
];

/// A server of its own.
pub(crate) struct Bed {
    server: RedisServer,
}

impl Bed {
    pub(crate) fn new() -> Self {
        Self { server: RedisServer::start() }
    }

    pub(crate) fn workers(&self, count: usize, limits: &str) -> Vec<Worker> {
        let setup = Setup::new(self.server.url(), limits);
        (0..count).map(|index| Worker::start(&index.to_string(), &setup)).collect()
    }

    /// A limiter in this process.
    pub(crate) async fn limiter(&self, text: &str) -> Limiter {
        let store = RedisStore::connect(&self.server.url()).await.expect("the server is up");
        Limiter::with_store(limits(text), store).expect("the limits are valid")
    }

    /// A limiter in this process whose store's clock [`advance`](Self::advance) moves.
    pub(crate) async fn limiter_ahead(&self, text: &str) -> Limiter {
        let store = RedisStore::connect(&self.server.url()).await.expect("the server is up");
        let store = store.with_clock(api::CLOCK_AHEAD);
        Limiter::with_store(limits(text), store).expect("the limits are valid")
    }

    pub(crate) fn advance(&self, connection: &mut Connection, by: Duration) {
        let by = by.as_micros() as u64;
        redis::cmd("INCRBY").arg(api::AHEAD).arg(by).exec(connection).expect("it is accepted");
    }

    pub(crate) fn connection(&self) -> Connection {
        self.server.connection()
    }

    /// How many commands the server got from clients so far.
    pub(crate) fn commands(&self) -> u64 {
        self.statistics(|name| SENT.contains(&name), "calls=") as u64
    }

    /// How long scripts have run so far.
    pub(crate) fn script_time(&self) -> Duration {
        let is_script = |name: &str| name.starts_with("cmdstat_eval");
        Duration::from_micros(self.statistics(is_script, "usec=") as u64)
    }

    fn statistics(&self, is_counted: impl Fn(&str) -> bool, field: &str) -> f64 {
        let statistics: String = self.server.command(&["INFO", "commandstats"]);
        let of_line = |line: &str| {
            let (name, counts) = line.split_once(':').filter(|(name, _)| is_counted(name))?;
            let _ = name;
            counts
                .split(',')
                .find_map(|count| count.strip_prefix(field)?.trim().parse::<f64>().ok())
        };
        statistics.lines().filter_map(of_line).sum()
    }
}

/// A time from now, on the system's clock: enough for all workers to have their orders by then.
pub(crate) fn start_time() -> u64 {
    now() + 700_000
}

/// What runs that end at this time got.
pub(crate) fn ran(runs: &[Run<'_>], until: u64) -> Vec<Ran> {
    let within = Duration::from_micros(until.saturating_sub(now())) + Duration::from_secs(10);
    runs.iter().map(|run| run.ran(within)).collect()
}
