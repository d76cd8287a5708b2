//! Whether the store answers. While it does not, demands are not made to wait for it one after the other.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

use crate::store::StoreError;

/// After a failure the store is left alone for this long, and twice that after the next.
const FIRST_REST: Duration = Duration::from_millis(500);
const LONGEST_REST: Duration = Duration::from_secs(5);

/// A pause after a failure, twice as long after each further one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    length: Duration,
    pub(super) until: Instant,
}

impl Rest {
    pub(super) fn after(last: Option<Self>) -> Self {
        let length = last.map_or(FIRST_REST, |last| (last.length * 2).min(LONGEST_REST));
        Self { length, until: Instant::now() + length }
    }
}

#[derive(Debug, Default)]
pub(super) struct Health {
    degraded: AtomicBool,
    outage: Mutex<Option<Outage>>,
    /// Told at the end of an outage.
    back: Notify,
}

#[derive(Debug)]
struct Outage {
    error: Arc<StoreError>,
    rest: Rest,
}

impl Health {
    fn outage(&self) -> MutexGuard<'_, Option<Outage>> {
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the store did not answer when it was last asked.
    pub(super) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Why the store is not to be asked now.
    pub(super) fn is_down(&self) -> Option<Arc<StoreError>> {
        if !self.is_degraded() {
            return None;
        }
        let outage = self.outage();
        outage
            .as_ref()
            .filter(|outage| Instant::now() < outage.rest.until)
            .map(|outage| outage.error.clone())
    }

    /// When the store may be asked again.
    pub(super) fn rests_until(&self) -> Option<Instant> {
        self.outage().as_ref().map(|outage| outage.rest.until)
    }

    /// The store did not answer. Answers whether that is news.
    pub(super) fn failed(&self, error: &Arc<StoreError>) -> bool {
        let mut outage = self.outage();
        let rest = Rest::after(outage.as_ref().map(|outage| outage.rest));
        *outage = Some(Outage { error: error.clone(), rest });
        !self.degraded.swap(true, Ordering::Relaxed)
    }

    /// The store answered. Answers whether that is news.
    pub(super) fn answered(&self) -> bool {
        if !self.is_degraded() {
            return false;
        }
        *self.outage() = None;
        let is_news = self.degraded.swap(false, Ordering::Relaxed);
        self.back.notify_waiters();
        is_news
    }

    /// Waits for the end of an outage.
    pub(super) async fn is_back(&self) {
        let told = self.back.notified();
        if self.is_degraded() {
            told.await;
        }
    }
}
