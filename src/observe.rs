//! What happens in a limiter, told to an observer.

use std::{
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use crate::{error::Throttled, store::StoreError, usage::Usage};

/// Listens to a limiter.
///
/// It is called where the event happens and with no lock held: a slow one delays the call at hand,
/// and a panic of it is caught and ignored.
pub trait Observer: Send + Sync {
    /// Something happened.
    fn on_event(&self, event: &Event<'_>);
}

impl<F: Fn(&Event<'_>) + Send + Sync> Observer for F {
    fn on_event(&self, event: &Event<'_>) {
        self(event);
    }
}

/// What happened.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A demand has to wait.
    WaitStarted {
        /// The first of its buckets.
        bucket: &'a str,
        /// How many of its process wait before it.
        position: usize,
    },
    /// A demand has waited for long; told once.
    LongWait {
        /// The first of its buckets.
        bucket: &'a str,
        /// The quota that was short when the queue was last looked at.
        quota: &'a str,
        /// How much longer the front of the queue has to wait, if that is known.
        predicted: Option<Duration>,
    },
    /// A demand was granted.
    Granted {
        /// The first of its buckets.
        bucket: &'a str,
        /// What was reserved.
        reserved: &'a Usage,
        /// How long it waited.
        waited: Duration,
        /// Whether this was without the shared state.
        degraded: bool,
    },
    /// A reservation was settled, kept or released.
    Settled {
        /// The first of its buckets.
        bucket: &'a str,
        /// What was reserved.
        reserved: &'a Usage,
        /// What it is charged now.
        actual: &'a Usage,
    },
    /// A demand was refused.
    Refused {
        /// The first of its buckets.
        bucket: &'a str,
        /// Why.
        error: &'a Throttled,
    },
    /// A provider said to wait, and so everything does that shares the bucket, or one of its
    /// quotas; unless it said so for longer than `applied`: then demands are refused at once for as
    /// long as that, with [`Throttled::Paused`].
    ///
    /// Also told where nothing is left of a quota and its reset is further off than `applied`. That
    /// is no wait that was asked for, and no demand is refused for it: of most quotas something is
    /// back long before all is.
    Paused {
        /// The bucket.
        bucket: &'a str,
        /// The quota, if only that is paused.
        quota: Option<&'a str>,
        /// How long the provider said.
        asked: Duration,
        /// For how long it is: no longer than
        /// [`longest_pause`](crate::LimiterBuilder::longest_pause).
        applied: Duration,
    },
    /// The store has lost the state of a bucket that still meant something: it starts anew, empty.
    StateLost {
        /// The bucket.
        bucket: &'a str,
    },
    /// The store cannot be reached.
    Degraded {
        /// Why.
        error: &'a StoreError,
    },
    /// The store answers again.
    Recovered,
}

/// The observer of a limiter, if it has one.
#[derive(Clone, Default)]
pub(crate) struct Observing(Option<Arc<dyn Observer>>);

impl Observing {
    pub(crate) fn by(observer: Arc<dyn Observer>) -> Self {
        Self(Some(observer))
    }

    /// Without an observer the event is not even made.
    #[inline]
    pub(crate) fn tell<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        if cfg!(feature = "tracing") || self.0.is_some() {
            self.tell_all(&event());
        }
    }

    #[inline(never)]
    fn tell_all(&self, event: &Event<'_>) {
        #[cfg(feature = "tracing")]
        guarded(|| trace(event));
        if let Some(observer) = &self.0 {
            guarded(|| observer.on_event(event));
        }
    }
}

/// A broken observer must not break the limiter, and there is no one else to tell.
fn guarded(tell: impl FnOnce()) {
    let _ = catch_unwind(AssertUnwindSafe(tell));
}

impl fmt::Debug for Observing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observing").field(&self.0.is_some()).finish()
    }
}

#[cfg(feature = "tracing")]
fn trace(event: &Event<'_>) {
    use tracing::{debug, error, info, warn};

    match event {
        Event::WaitStarted { bucket, position } => debug!(bucket, position, "waiting for quota"),
        Event::LongWait { bucket, quota, predicted } => {
            warn!(bucket, quota, ?predicted, "still waiting for quota");
        }
        Event::Granted { bucket, waited, degraded, .. } => {
            debug!(bucket, ?waited, degraded, "granted")
        }
        Event::Settled { bucket, actual, .. } => debug!(bucket, ?actual, "settled"),
        Event::Refused { bucket, error } => debug!(bucket, %error, "refused"),
        Event::Paused { bucket, quota, asked, applied } if applied < asked => {
            warn!(
                bucket,
                quota,
                ?asked,
                ?applied,
                "the provider said to wait, for longer than `longest_pause`"
            );
        }
        Event::Paused { bucket, quota, applied, .. } => {
            info!(bucket, quota, ?applied, "the provider said to wait");
        }
        Event::StateLost { bucket } => warn!(bucket, "the store has lost the state of a bucket"),
        Event::Degraded { error } => error!(%error, "degraded"),
        Event::Recovered => info!("recovered"),
    }
}
