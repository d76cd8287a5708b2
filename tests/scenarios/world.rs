//! A store with a clock that the scenario steps, and short words for what scenarios do.

use std::{future::Future, sync::Arc, time::Duration};

use tokio::{task::JoinHandle, time::timeout};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled, Usage,
    store::{MemoryStore, Store},
};

/// Longer than anything should take: what takes longer hangs.
const HANGS: Duration = Duration::from_secs(30);

pub(crate) struct World {
    pub(crate) store: Arc<dyn Store>,
    clock: Clock,
}

enum Clock {
    /// Tokio's, which is paused.
    Paused(Arc<MemoryStore>),
    /// A key that the script reads instead of the server's clock.
    #[cfg(feature = "redis")]
    Stepped(Box<stepped::Clock>),
    /// Such a key, and tokio's clock with it.
    #[cfg(feature = "redis")]
    InStep(Box<stepped::Clock>),
}

impl World {
    pub(crate) async fn memory() -> Self {
        let store = Arc::new(MemoryStore::new());
        Self { store: store.clone(), clock: Clock::Paused(store) }
    }

    #[cfg(feature = "redis")]
    pub(crate) async fn redis() -> Self {
        let clock = Box::new(stepped::Clock::start());
        Self { store: Arc::new(clock.store().await), clock: Clock::Stepped(clock) }
    }

    /// A server whose clock is stepped with tokio's, which is paused: the waiters grow older by
    /// what the store's time goes on.
    #[cfg(feature = "redis")]
    pub(crate) async fn redis_in_step() -> Self {
        let clock = Box::new(stepped::Clock::start_in_step());
        Self { store: Arc::new(clock.store().await), clock: Clock::InStep(clock) }
    }

    /// A process of its own: only the store is shared.
    pub(crate) fn limiter(&self, limits: Limits) -> Limiter {
        // Where the store's clock is stepped no heartbeat keeps pace: leases are as long as can be.
        let builder = Limiter::builder(limits).shared_store(self.store.clone()).lease(secs(600));
        builder.build().expect("the limits are valid")
    }

    /// A limiter with one bucket, `a`.
    pub(crate) fn bucket(&self, quotas: impl IntoIterator<Item = Quota>) -> Limiter {
        self.limiter(Limits::new().bucket("a", quotas))
    }

    pub(crate) async fn advance(&self, by: Duration) {
        match &self.clock {
            Clock::Paused(_) => tokio::time::advance(by).await,
            #[cfg(feature = "redis")]
            Clock::Stepped(clock) => clock.advance(by),
            #[cfg(feature = "redis")]
            Clock::InStep(clock) => {
                clock.advance(by);
                tokio::time::advance(by).await;
            }
        }
    }

    /// Loses everything.
    pub(crate) async fn flush(&self) {
        match &self.clock {
            Clock::Paused(store) => store.clear(),
            #[cfg(feature = "redis")]
            Clock::Stepped(clock) | Clock::InStep(clock) => clock.flush(),
        }
    }

    /// Forgets the script, where there is one.
    pub(crate) fn forget_script(&self) {
        match &self.clock {
            Clock::Paused(_) => {}
            #[cfg(feature = "redis")]
            Clock::Stepped(clock) | Clock::InStep(clock) => clock.forget_script(),
        }
    }
}

#[cfg(feature = "redis")]
mod stepped {
    use std::{
        sync::{Mutex, mpsc},
        time::{Duration, SystemTime, UNIX_EPOCH},
    };

    use tower_throttle::store::RedisStore;

    use crate::support::RedisServer;

    /// Longer than a scenario in step takes. What hangs goes on then, until its time-out.
    const IN_STEP: Duration = Duration::from_secs(60);

    /// A server whose clock stands still but for the steps of the scenario.
    pub(crate) struct Clock {
        server: RedisServer,
        connection: Mutex<redis::Connection>,
        now: Mutex<Duration>,
        /// Tokio's paused clock goes on when this is dropped.
        _still: Option<mpsc::Sender<()>>,
    }

    impl Clock {
        pub(crate) fn start() -> Self {
            let server = RedisServer::start();
            let connection = Mutex::new(server.connection());
            let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("it is after 1970");
            let clock = Self { server, connection, now: Mutex::new(now), _still: None };
            clock.advance(Duration::ZERO);
            clock
        }

        /// Tokio's paused clock stands still too, although tasks wait for the server.
        pub(crate) fn start_in_step() -> Self {
            let (still, ended) = mpsc::channel::<()>();
            // A paused clock does not advance by itself while a blocking task runs.
            drop(tokio::task::spawn_blocking(move || ended.recv_timeout(IN_STEP)));
            Self { _still: Some(still), ..Self::start() }
        }

        pub(crate) async fn store(&self) -> RedisStore {
            let store = RedisStore::connect(&self.server.url()).await.expect("the server answers");
            store.with_clock(
                "local function clock() return tonumber(redis.call('GET', 'test:clock')) end",
            )
        }

        fn send(&self, words: &[&str]) {
            let mut command = redis::cmd(words[0]);
            let connection = &mut self.connection.lock().expect("it is not poisoned");
            command.arg(&words[1..]).exec(connection).expect("it is accepted");
        }

        pub(crate) fn advance(&self, by: Duration) {
            let mut now = self.now.lock().expect("it is not poisoned");
            *now += by;
            self.send(&["SET", "test:clock", &now.as_micros().to_string()]);
        }

        pub(crate) fn flush(&self) {
            self.send(&["FLUSHALL"]);
            self.advance(Duration::ZERO);
        }

        pub(crate) fn forget_script(&self) {
            self.send(&["SCRIPT", "FLUSH"]);
        }
    }
}

/// Runs each scenario on every store, with one clock for the store and those that wait.
macro_rules! in_step_on_every_store {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(crate::world::World::memory().await).await;
                }
            )*
        }

        #[cfg(feature = "redis")]
        mod redis {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(crate::world::World::redis_in_step().await).await;
                }
            )*
        }
    };
}
pub(crate) use in_step_on_every_store;

/// Runs each scenario on every store.
macro_rules! on_every_store {
    ($($scenario:ident),* $(,)?) => {
        mod memory {
            $(
                #[tokio::test(start_paused = true)]
                async fn $scenario() {
                    super::$scenario(crate::world::World::memory().await).await;
                }
            )*
        }

        #[cfg(feature = "redis")]
        mod redis {
            $(
                #[tokio::test]
                async fn $scenario() {
                    super::$scenario(crate::world::World::redis().await).await;
                }
            )*
        }
    };
}
pub(crate) use on_every_store;

pub(crate) fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

pub(crate) fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Asks `a` for these tokens and no request.
pub(crate) fn tokens(amount: u64) -> Demand {
    Demand::new("a", Usage::new().with("tokens", amount).with("requests", 0))
}

/// Asks `a` for these requests.
pub(crate) fn requests(amount: u64) -> Demand {
    Demand::new("a", Usage::new().with("requests", amount))
}

/// Reserves now and keeps what is charged.
pub(crate) async fn spend(limiter: &Limiter, demand: Demand) {
    take(limiter, demand).await.keep().await.expect("it is kept");
}

/// Reserves now.
pub(crate) async fn take(limiter: &Limiter, demand: Demand) -> Reservation {
    limiter.try_reserve(demand).await.expect("it fits")
}

/// Whether it fits now; then it is kept.
pub(crate) async fn passes(limiter: &Limiter, demand: Demand) -> bool {
    match limiter.try_reserve(demand).await {
        Ok(reservation) => {
            reservation.keep().await.expect("it is kept");
            true
        }
        Err(Throttled::NotNow(_)) => false,
        Err(error) => panic!("{error}"),
    }
}

/// What each quota of `bucket` has left.
pub(crate) async fn left(limiter: &Limiter, bucket: &str) -> Vec<f64> {
    let status = limiter.status(bucket).await.expect("the store answers");
    status.quotas.iter().map(|quota| quota.available).collect()
}

/// The refusal of a try that does not fit: the quotas named, and the time until it fits.
pub(crate) async fn refusal(limiter: &Limiter, demand: Demand) -> (Vec<String>, Option<Duration>) {
    let Err(Throttled::NotNow(refusal)) = limiter.try_reserve(demand).await else {
        panic!("it is refused")
    };
    let named = refusal.shortages().iter().map(|s| format!("{}: {}", s.bucket, s.quota)).collect();
    (named, refusal.retry_after())
}

/// Lets tasks that can go on do so: waiters have been looked at once more when this returns.
pub(crate) async fn settled(limiter: &Limiter) {
    for _ in 0..2 {
        limiter.status("a").await.expect("the store answers");
        for _ in 0..8 {
            tokio::task::yield_now().await;
        }
    }
}

/// A demand that waits in a task of its own.
pub(crate) struct Waiting(JoinHandle<Result<Reservation, Throttled>>);

impl Waiting {
    /// Has taken its place when this returns.
    pub(crate) async fn for_(limiter: &Limiter, demand: Demand) -> Self {
        let waiting = {
            let limiter = limiter.clone();
            Self(tokio::spawn(async move { limiter.reserve(demand).await }))
        };
        settled(limiter).await;
        waiting
    }

    pub(crate) fn is_over(&self) -> bool {
        self.0.is_finished()
    }

    pub(crate) async fn outcome(self) -> Result<Reservation, Throttled> {
        soon(self.0).await.expect("it does not panic")
    }

    pub(crate) async fn granted(self) -> Reservation {
        self.outcome().await.expect("it is granted")
    }

    pub(crate) fn cancel(self) {
        self.0.abort();
    }
}

/// The output of something that must not hang.
pub(crate) async fn soon<F: Future>(future: F) -> F::Output {
    timeout(HANGS, future).await.expect("it hangs")
}
