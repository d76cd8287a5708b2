//! What happens in a limiter, told to an observer.

mod amounts;
mod buckets;
mod event;
#[cfg(feature = "tracing")]
mod trace;

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

pub use self::{
    amounts::{OtherAmount, OtherAmounts},
    buckets::Buckets,
    event::{Event, Shadow},
};
use crate::store::StoreError;

/// Listens to a limiter.
///
/// It is called where the event happens and with no lock held: a slow one delays the call at hand,
/// and a panic of it is caught and ignored.
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_throttle::{Limiter, Limits, Quota, observe::{Event, Observer}};
///
/// #[derive(Default)]
/// struct Settlements(AtomicU64);
///
/// impl Observer for Settlements {
///     fn on_event(&self, event: &Event<'_>) {
///         if matches!(event, Event::Settled { .. }) {
///             self.0.fetch_add(1, Ordering::Relaxed);
///         }
///     }
/// }
///
/// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
/// let limiter = Limiter::builder(limits).observer(Settlements::default()).build()?;
/// # Ok::<(), tower_throttle::LimitsError>(())
/// ```
pub trait Observer: Send + Sync {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);

    /// The store was asked, or will not answer any more: once for each attempt to send a batch.
    /// Stores in this process are not told of.
    fn on_batch(&self, batch: &StoreBatch<'_>) {
        let _ = batch;
    }
}

/// One attempt to send a batch to a store elsewhere.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct StoreBatch<'a> {
    /// How long the store took to answer, or to fail.
    pub took: Duration,
    /// How many operations were in it: reserves, settles and others.
    pub operations: usize,
    /// How many buckets it was about.
    pub buckets: usize,
    /// Why there is no answer.
    pub error: Option<&'a StoreError>,
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// The observers of a limiter.
#[derive(Clone, Default)]
pub(crate) struct Observing(SmallVec<[Arc<dyn Observer>; 1]>);

impl Observing {
    pub(crate) fn add(&mut self, observer: Arc<dyn Observer>) {
        self.0.push(observer);
    }

    /// Without an observer the event is not even made.
    #[inline]
    pub(crate) fn tell<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if self.is_on() {
            self.tell_all(&event());
        }
    }

    /// Whether events are told at all.
    #[inline]
    pub(crate) fn is_on(&self) -> bool {
        cfg!(feature = "tracing") || self.is_observed()
    }

    /// Whether there is an observer.
    #[inline]
    pub(crate) fn is_observed(&self) -> bool {
        !self.0.is_empty()
    }

    /// Tells of a batch.
    pub(crate) fn tell_batch(&self, batch: &StoreBatch<'_>) {
        self.0.iter().for_each(|observer| guarded(|| observer.on_batch(batch)));
    }

    #[inline(never)]
    fn tell_all(&self, event: &Event<'_>) {
        #[cfg(feature = "tracing")]
        guarded(|| trace::emit(event));
        self.0.iter().for_each(|observer| guarded(|| observer.on_event(event)));
    }
}

/// A broken observer must not break the limiter, and there is no one else to tell.
pub(crate) fn guarded(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observing").field(&self.is_observed()).finish()
    }
}
