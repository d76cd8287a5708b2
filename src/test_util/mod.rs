//! For tests of code that uses a limiter: a clock that only moves when all else waits, a store that
//! does what a script says, and a record of what was reserved and settled.
//!
//! ```
//! use std::time::Duration;
//! use tower_throttle::{
//!     Demand, Limits, Quota,
//!     test_util::{TestLimiter, on_fake_clock},
//!     usage,
//! };
//!
//! on_fake_clock(async {
//!     let limits = Limits::new().bucket("api", [Quota::per_minute("tokens", 100)]);
//!     let test = TestLimiter::new(limits);
//!     let limiter = test.limiter();
//!
//!     for _ in 0..2 {
//!         // The code under test. The second call waits a minute, which takes no time.
//!         let call = limiter.reserve(Demand::new("api", usage! { tokens: 80 })).await.unwrap();
//!         call.settle(usage! { tokens: 70 }).await.unwrap();
//!     }
//!
//!     test.ledger().assert_reserved("api", usage! { tokens: 160 });
//!     test.ledger().assert_settled("api", usage! { tokens: 140 });
//!     test.ledger().assert_nothing_open();
//!     assert!(test.ledger().calls()[1].waited > Duration::from_secs(59));
//! });
//! ```
//!
//! It is for tests: what goes wrong panics.

mod ledger;
mod store;

use std::time::Duration;

pub use self::{
    ledger::{Call, CallState, Ledger},
    store::ScriptedStore,
};
use crate::{
    limiter::{Limiter, LimiterBuilder},
    limits::Limits,
};

/// Runs a test on a clock that stands still while anything can go on, and then jumps to the next
/// time at which something is due. So an hour of waiting takes no time, and the same test does the
/// same each time.
///
/// In a test of tokio, `#[tokio::test(start_paused = true)]` does the same.
///
/// # Panics
/// If no runtime can be made: inside of another one, say.
pub fn on_fake_clock<F: Future>(test: F) -> F::Output {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build();
    runtime.expect("a runtime for a test").block_on(test)
}

/// Lets this much time pass on a fake clock, and everything happen that is due in it.
pub async fn pass(time: Duration) {
    tokio::time::sleep(time).await;
}

/// A limiter for tests, whose store does what a script says, and which keeps a record.
#[derive(Clone, Debug)]
pub struct TestLimiter {
    limiter: Limiter,
    store: ScriptedStore,
    ledger: Ledger,
}

impl TestLimiter {
    /// A limiter with these limits.
    ///
    /// # Panics
    /// If the limits make no sense.
    pub fn new(limits: Limits) -> Self {
        Self::with(limits, |builder| builder)
    }

    /// A limiter with these limits and other options: `set` gets its builder.
    ///
    /// ```
    /// use tower_throttle::{Limits, OnUnavailable, Quota, test_util::TestLimiter};
    ///
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("tokens", 100)]);
    /// let test = TestLimiter::with(limits, |limiter| {
    ///     limiter.on_unavailable(OnUnavailable::Allow)
    /// });
    /// ```
    ///
    /// # Panics
    /// If the limits or options make no sense.
    pub fn with(limits: Limits, set: impl FnOnce(LimiterBuilder) -> LimiterBuilder) -> Self {
        let (store, ledger) = (ScriptedStore::new(), Ledger::new());
        let builder = Limiter::builder(limits).store(store.clone()).observer(ledger.clone());
        let limiter = set(builder).build().unwrap_or_else(|error| panic!("{error}"));
        Self { limiter, store, ledger }
    }

    /// Returns the limiter, for the code under test.
    pub fn limiter(&self) -> Limiter {
        self.limiter.clone()
    }

    /// Returns the store, for the script.
    pub fn store(&self) -> &ScriptedStore {
        &self.store
    }

    /// Returns the record.
    pub fn ledger(&self) -> &Ledger {
        &self.ledger
    }
}
