//! A limiter whose every reservation is followed to its end.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tower_throttle::{Limiter, Limits, Quota, observe::Event};

use crate::probe::charged;

/// Counts what was granted and what was settled.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    granted: Arc<AtomicU64>,
    settled: Arc<AtomicU64>,
}

impl Ledger {
    /// A limiter that is watched: 100 tokens and 10 requests a minute.
    pub(crate) fn limiter() -> (Limiter, Self) {
        Self::watching(
            Limits::new().bucket(
                "api",
                [Quota::per_minute("tokens", 100), Quota::per_minute("requests", 10)],
            ),
        )
    }

    pub(crate) fn watching(limits: Limits) -> (Limiter, Self) {
        let ledger = Self::default();
        let Self { granted, settled } = ledger.clone();
        let observer = move |event: &Event<'_>| {
            match event {
                Event::Granted { .. } => granted.fetch_add(1, Ordering::Relaxed),
                Event::Settled { .. } => settled.fetch_add(1, Ordering::Relaxed),
                _ => 0,
            };
        };
        (Limiter::builder(limits).observer(observer).build().expect("the limits are valid"), ledger)
    }

    /// Granted and settled so far.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (self.granted.load(Ordering::Relaxed), self.settled.load(Ordering::Relaxed))
    }

    /// Everything was settled, once, and this is charged: tokens and requests.
    #[track_caller]
    pub(crate) fn check(&self, charged: (u64, u64, u64), expected: (u64, u64), of: &str) {
        assert_eq!(charged, (expected.0, expected.1, 0), "{of}: tokens, requests, in flight");
        let (granted, settled) = self.counts();
        assert_eq!(granted, settled, "{of}: granted and settled");
    }
}

/// What is charged for tokens and requests, nothing being in flight.
pub(crate) async fn settled(limiter: &Limiter, ledger: &Ledger, expected: (u64, u64), of: &str) {
    ledger.check(charged(limiter).await, expected, of);
}
