//! A server and the workers on it, one fleet at a time.

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use crate::harness::{Lateness, Proxy, RedisServer, Setup, Worker, ms, now};

/// Tests measure times: two fleets at once would slow each other down.
static ALONE: Mutex<()> = Mutex::new(());

pub(crate) struct Fleet {
    pub(crate) server: RedisServer,
    /// How late the machine is.
    pub(crate) lateness: Lateness,
    limits: String,
    _alone: MutexGuard<'static, ()>,
}

impl Fleet {
    /// A server, and these limits for all workers.
    pub(crate) fn start(limits: &str) -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let (server, lateness) = (RedisServer::start(), Lateness::watch());
        Self { server, lateness, limits: limits.into(), _alone: alone }
    }

    pub(crate) fn setup(&self) -> Setup {
        let arguments = ["worker_program", "--exact", "--nocapture", "--quiet"];
        Setup {
            arguments: arguments.map(str::to_owned).to_vec(),
            ..Setup::new(self.server.url(), &self.limits)
        }
    }

    pub(crate) fn worker(&self, name: &str) -> Worker {
        Worker::start(name, &self.setup())
    }

    pub(crate) fn workers<const COUNT: usize>(&self) -> [Worker; COUNT] {
        std::array::from_fn(|index| self.worker(&format!("{index}")))
    }

    /// A proxy to the server, and a worker behind it that does not give up while it is cut off.
    pub(crate) fn worker_through_proxy(&self, name: &str) -> (Proxy, Worker) {
        let proxy = Proxy::to(self.server.port());
        let setup = Setup { url: proxy.url(), retries: 30, ..self.setup() };
        (proxy, Worker::start(name, &setup))
    }
}

/// Runs a scenario whose outcome is not what it should be where a process comes too late. It is run
/// again if the machine was later than `limit` meanwhile, a few times.
pub(crate) fn unless_late(limit: Duration, scenario: impl Fn() -> (Result<(), String>, Duration)) {
    for attempt in 1.. {
        let (result, late) = scenario();
        let Err(failure) = result else { return };
        assert!(late > limit && attempt < 4, "{failure}; the machine was late by {late:?}");
        eprintln!("{failure}; again, since the machine was late by {late:?}");
    }
}

/// Keeps two arrivals further apart than the 20 ms by which interleaved processes may swap them.
pub(crate) fn apart() {
    thread::sleep(ms(25));
}

/// The time between two on the system's clock.
pub(crate) fn since(start: u64, end: u64) -> Duration {
    Duration::from_micros(end.saturating_sub(start))
}

/// Looks until both are equal, or for a second, and returns the last that was seen.
pub(crate) fn eventually<T: PartialEq>(expected: &T, look: impl Fn() -> T) -> T {
    let deadline = now() + 1_000_000;
    loop {
        let seen = look();
        if seen == *expected || now() > deadline {
            return seen;
        }
        thread::sleep(ms(5));
    }
}
