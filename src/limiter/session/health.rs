//! Whether the store answers this session: a circuit breaker. While it does not answer, demands
//! fail at once instead of waiting for it one after the other.

use std::{sync::Arc, time::Duration};

use tokio::{sync::Notify, time::Instant};

use crate::{
    store::StoreError,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
        lock,
    },
};

/// After a failure the store is left alone for this long, and twice that after the next.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
const LONGEST_BACKOFF: Duration = Duration::from_secs(5);

/// A pause after a failure, twice as long after each further one.
#[derive(Clone, Copy, Debug)]
struct Backoff {
    length: Duration,
    until: Instant,
}

impl Backoff {
    fn after(last: Option<Self>) -> Self {
        let length = last.map_or(FIRST_BACKOFF, |last| (last.length * 2).min(LONGEST_BACKOFF));
        Self { length, until: Instant::now() + length }
    }
}

/// Whether the store answers.
#[derive(Debug, Default)]
pub(in crate::limiter) struct Health {
    /// There are failures. Spares the lock while all is well.
    troubled: AtomicBool,
    failures: Mutex<Failures>,
    recovered: Notify,
}

#[derive(Debug, Default)]
struct Failures {
    /// It did not answer: until the backoff is over nothing is sent, and demands are refused.
    outage: Option<(Arc<StoreError>, Backoff)>,
    /// It refused a batch: until the backoff is over nothing is sent that no caller awaits.
    refusal: Option<Backoff>,
}

impl Health {
    /// Whether the store did not answer when it was last asked.
    pub(super) fn is_degraded(&self) -> bool {
        self.troubled.load(Ordering::Relaxed) && lock(&self.failures).outage.is_some()
    }

    /// Why the store is not to be asked now.
    pub(super) fn down(&self) -> Option<Arc<StoreError>> {
        if !self.troubled.load(Ordering::Relaxed) {
            return None;
        }
        let failures = lock(&self.failures);
        let (error, backoff) = failures.outage.as_ref()?;
        (Instant::now() < backoff.until).then(|| error.clone())
    }

    /// When the store may be asked again, if that is not now. `is_awaited` says whether a caller
    /// waits for it to be asked.
    pub(super) fn resumes_at(&self, is_awaited: impl FnOnce() -> bool) -> Option<Instant> {
        if !self.troubled.load(Ordering::Relaxed) {
            return None;
        }
        let is_awaited = is_awaited();
        let failures = lock(&self.failures);
        let outage = failures.outage.as_ref().map(|(_, backoff)| backoff.until);
        let refusal = failures.refusal.filter(|_| !is_awaited).map(|backoff| backoff.until);
        outage.max(refusal)
    }

    /// The store did not answer, or refused. Returns true if an outage begins with it.
    pub(super) fn failed(&self, error: &Arc<StoreError>) -> bool {
        let mut failures = lock(&self.failures);
        self.troubled.store(true, Ordering::Relaxed);
        if !error.is_unavailable() {
            failures.refusal = Some(Backoff::after(failures.refusal));
            return false;
        }
        let last = failures.outage.as_ref().map(|(_, backoff)| *backoff);
        failures.outage = Some((error.clone(), Backoff::after(last)));
        last.is_none()
    }

    /// The store answered. Returns true if an outage ends with it.
    pub(super) fn answered(&self) -> bool {
        if !self.troubled.load(Ordering::Relaxed) {
            return false;
        }
        let mut failures = lock(&self.failures);
        let ends = std::mem::take(&mut *failures).outage.is_some();
        self.troubled.store(false, Ordering::Relaxed);
        drop(failures);
        if ends {
            self.recovered.notify_waiters();
        }
        ends
    }

    /// Waits for the end of an outage.
    pub(in crate::limiter) async fn recovers(&self) {
        let recovered = self.recovered.notified();
        if self.is_degraded() {
            recovered.await;
        }
    }
}
