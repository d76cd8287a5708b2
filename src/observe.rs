//! What happens in a limiter, told to an observer.

use std::{
    error::Error,
    fmt,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use crate::{
    call_span::CallSpan,
    error::{Refusal, Throttled},
    name::Name,
    store::StoreError,
    usage::Usage,
};

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

/// What would have become of a demand, had it not been in shadow mode.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Shadow<'a> {
    /// It would have waited.
    #[non_exhaustive]
    Wait {
        /// The quotas that were short.
        refusal: &'a Refusal,
        /// For how long, about, if nothing is refunded; nothing if that depends on calls in flight.
        predicted: Option<Duration>,
    },
    /// It would have been refused.
    #[non_exhaustive]
    Refuse {
        /// Why.
        error: &'a Throttled,
    },
    /// The extractor could not read a demand from the request, which would have failed.
    #[non_exhaustive]
    Fail {
        /// Why.
        error: &'a (dyn Error + Send + Sync + 'static),
    },
}

impl Shadow<'_> {
    /// A short name that never changes, for metrics and logs: `wait`, `unread` or a
    /// [`Throttled::kind`].
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Wait { .. } => "wait",
            Self::Refuse { error } => error.kind(),
            Self::Fail { .. } => "unread",
        }
    }

    /// Returns the quotas that were short, if some were.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Wait { refusal, .. } => Some(refusal),
            Self::Refuse { error } => error.refusal(),
            Self::Fail { .. } => None,
        }
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

/// What happened.
///
/// Events of one call have the same `id`, which is that of its
/// [`Reservation`](crate::Reservation::id): a grant and its settlement can be paired. A demand that
/// is refused or cancelled never gets a reservation; its events have an id all the same.
///
/// With feature `tracing` each is a `tracing` event as well. What happens to a demand is emitted in
/// the span in which it was asked for, what happens to a reservation in the span in which it is
/// settled or dropped. Besides, each demand has a [span](crate::Reservation::span) of its own.
///
/// ```
/// use std::sync::{Arc, Mutex};
/// use tower_throttle::{Demand, Limiter, Limits, Quota, observe::Event, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let open: Arc<Mutex<Vec<u64>>> = Arc::default();
/// let seen = open.clone();
/// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
/// let limiter = Limiter::builder(limits)
///     .observer(move |event: &Event<'_>| match event {
///         Event::Granted { id, .. } => seen.lock().unwrap().push(*id),
///         Event::Settled { id, .. } => seen.lock().unwrap().retain(|open| open != id),
///         _ => {}
///     })
///     .build()?;
///
/// let reservation = limiter.reserve(Demand::new("api", usage! { requests: 1 })).await?;
/// assert_eq!(*open.lock().unwrap(), [reservation.id()]);
/// reservation.keep().await?;
/// assert!(open.lock().unwrap().is_empty());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A demand has to wait.
    #[non_exhaustive]
    WaitStarted {
        /// Identifies the demand, and later its reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// How many wait before it.
        position: usize,
        /// The bucket of the quota that it waits for; empty if that is not known.
        bucket: &'a str,
        /// The quota that it waits for: of those that are short, the one with the longest wait.
        /// `paused` for the pause of a bucket.
        quota: &'a str,
    },
    /// A demand has waited for long (5 s); told once.
    #[non_exhaustive]
    LongWait {
        /// Identifies the demand, and later its reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// How long it has waited.
        waited: Duration,
        /// How many wait before it now, as far as is known.
        position: usize,
        /// The bucket of the quota that binds; empty if that is not known.
        bucket: &'a str,
        /// The quota that binds: of those that were short when the queue was last looked at, the
        /// one with the longest wait. `paused` for the pause of a bucket.
        quota: &'a str,
        /// How much longer it has to wait, about, if nothing is refunded: see
        /// [`Waiting::predicted`](crate::limiter::Waiting::predicted).
        predicted: Option<Duration>,
    },
    /// A demand was granted.
    #[non_exhaustive]
    Granted {
        /// Identifies the reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// What was reserved.
        reserved: &'a Usage,
        /// What was reserved of buckets that were asked for something else.
        others: OtherAmounts<'a>,
        /// How long it waited.
        waited: Duration,
        /// Whether this was without the shared state.
        degraded: bool,
    },
    /// The estimate of a reservation was [replaced](crate::Reservation::adjust).
    #[non_exhaustive]
    Adjusted {
        /// Identifies the reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// What was reserved before.
        reserved: &'a Usage,
        /// What is reserved now.
        actual: &'a Usage,
        /// Both, of buckets that were asked for something else.
        others: OtherAmounts<'a>,
    },
    /// A reservation was [detached](crate::Reservation::detach): this process has it no more, and
    /// tells nothing more of it.
    #[non_exhaustive]
    Detached {
        /// Identifies the reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
    },
    /// A reservation was settled, kept or released.
    #[non_exhaustive]
    Settled {
        /// Identifies the reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// What was reserved.
        reserved: &'a Usage,
        /// What it is charged now.
        actual: &'a Usage,
        /// Both, of buckets that were asked for something else.
        others: OtherAmounts<'a>,
    },
    /// A demand was refused.
    #[non_exhaustive]
    Refused {
        /// Identifies the demand.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// Why.
        error: &'a Throttled,
    },
    /// A demand does not fit, and nothing is made of that, in shadow mode: see
    /// [`Limiter::shadow`](crate::Limiter::shadow) and
    /// [`ThrottleLayer::shadow`](crate::ThrottleLayer::shadow).
    #[non_exhaustive]
    Shadowed {
        /// Identifies the demand, and later its reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// What would have become of it.
        shadow: Shadow<'a>,
    },
    /// The future of a demand was dropped before the demand was granted or refused.
    #[non_exhaustive]
    Cancelled {
        /// Identifies the demand.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// How long it had waited.
        waited: Duration,
    },
    /// A provider said to wait, and so everything does that shares the bucket, or one of its
    /// quotas; unless it said so for longer than `applied`: then demands are refused at once for as
    /// long as that, with [`Throttled::Paused`].
    ///
    /// Also told where nothing is left of a quota and its reset is further off than `applied`. That
    /// is no wait that was asked for, and no demand is refused for it: of most quotas something is
    /// back long before all is.
    #[non_exhaustive]
    Paused {
        /// The bucket.
        bucket: &'a str,
        /// The quota, if only that is paused.
        quota: Option<&'a str>,
        /// How long the provider said.
        asked: Duration,
        /// For how long it is: no longer than
        /// [`longest_pause`](crate::limiter::LimiterBuilder::longest_pause).
        applied: Duration,
    },
    /// None of the first demands of a bucket has charged one of its quotas, by what it reserved or
    /// by what it used: is its metric misspelt, or does no extractor or inspector give it? Told
    /// once for each quota, when a hundred were settled.
    #[non_exhaustive]
    NeverCharged {
        /// The bucket.
        bucket: &'a str,
        /// The quota.
        quota: &'a str,
        /// How many demands were settled.
        demands: u32,
    },
    /// The store has lost the state of a bucket that still meant something: it starts anew, empty.
    #[non_exhaustive]
    StateLost {
        /// The bucket.
        bucket: &'a str,
    },
    /// The store cannot be reached.
    #[non_exhaustive]
    Degraded {
        /// Why.
        error: &'a StoreError,
    },
    /// The store answers again.
    Recovered,
    /// A limiter was dropped that could not reach the store, and it asks no more: the end of what
    /// began with [`Degraded`](Self::Degraded), without a [`Recovered`](Self::Recovered). It asks
    /// for up to five minutes what became of its last batch.
    DroppedDegraded,
}

/// What was reserved and charged of those buckets of a demand that were
/// [asked for something else](crate::Demand::and_with) than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherAmounts<'a>(SmallVec<[OtherAmount<'a>; 1]>);

/// What was reserved and charged of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherAmount<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// What was reserved.
    pub reserved: &'a Usage,
    /// What it is charged now.
    pub actual: &'a Usage,
}

impl<'a> OtherAmounts<'a> {
    /// Each as its bucket, what was reserved, and what it is charged now.
    pub(crate) fn new(amounts: impl Iterator<Item = (&'a str, &'a Usage, &'a Usage)>) -> Self {
        let amounts =
            amounts.map(|(bucket, reserved, actual)| OtherAmount { bucket, reserved, actual });
        Self(amounts.collect())
    }

    /// Returns that of a bucket; nothing if it was asked for the same as the first.
    pub fn of(&self, bucket: &str) -> Option<&OtherAmount<'a>> {
        self.0.iter().find(|amount| amount.bucket == bucket)
    }

    /// Returns what was reserved and what is charged of a bucket: if it was asked for the same as
    /// the first, these.
    #[cfg(any(feature = "metrics", feature = "test-util"))]
    pub(crate) fn or<'u>(
        &'u self,
        bucket: &str,
        first: (&'u Usage, &'u Usage),
    ) -> (&'u Usage, &'u Usage) {
        self.of(bucket).map_or(first, |other| (other.reserved, other.actual))
    }

    /// Returns each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &OtherAmount<'a>> {
        self.0.iter()
    }
}

/// The names of a demand's buckets, in its order.
///
/// Names of a [family](crate::Limits::family) are those of its bucket. Where a name stands for no
/// bucket, they are as the demand has them.
///
/// It prints as `gpt-4o + all tenants`.
#[derive(Clone, PartialEq, Eq)]
pub struct Buckets<'a>(SmallVec<[&'a str; 2]>);

impl<'a> Buckets<'a> {
    pub(crate) fn new(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Returns the first bucket; empty for a demand without any.
    pub fn first(&self) -> &'a str {
        self.0.first().copied().unwrap_or_default()
    }

    /// Returns each bucket.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a str> {
        self.0.iter().copied()
    }
}

impl fmt::Debug for Buckets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Display for Buckets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if index > 0 { " + " } else { "" })?;
        }
        Ok(())
    }
}

/// What events of a pending demand tell besides its id and its buckets, and where they are emitted.
#[derive(Debug)]
pub(crate) struct Subject {
    class: Option<Name>,
    /// Its own span.
    pub(crate) call: CallSpan,
    /// The span in which the demand was asked for. A task that is not its caller's may tell of it.
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Subject {
    /// A demand of this class that is asked for in the present span.
    pub(crate) fn new(class: Option<Name>, call: CallSpan) -> Self {
        #[cfg(feature = "tracing")]
        return {
            let current = catch_unwind(tracing::Span::current);
            let span = current.unwrap_or_else(|_| tracing::Span::none());
            Self { class, call, span }
        };
        #[cfg(not(feature = "tracing"))]
        Self { class, call }
    }

    pub(crate) fn class(&self) -> Option<&str> {
        self.class.as_ref().map(Name::as_str)
    }

    /// Runs `tell` in the span of the demand's caller.
    pub(crate) fn in_span(&self, tell: impl FnOnce()) {
        // A span is the subscriber's too.
        #[cfg(feature = "tracing")]
        guarded(|| self.span.in_scope(tell));
        #[cfg(not(feature = "tracing"))]
        tell();
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
        guarded(|| trace(event));
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

#[cfg(feature = "tracing")]
fn trace(event: &Event<'_>) {
    use tracing::{debug, error, info, warn};

    match event {
        Event::WaitStarted { id, buckets, class, position, bucket, quota } => {
            debug!(id, %buckets, class, position, bucket, quota, "waiting for quota");
        }
        Event::LongWait { id, buckets, class, waited, position, bucket, quota, predicted } => {
            warn!(
                id,
                %buckets,
                class,
                ?waited,
                position,
                bucket,
                quota,
                ?predicted,
                "still waiting for quota"
            );
        }
        Event::Granted { id, buckets, class, waited, degraded, .. } => {
            debug!(id, %buckets, class, ?waited, degraded, "granted");
        }
        Event::Adjusted { id, buckets, class, actual, .. } => {
            debug!(id, %buckets, class, ?actual, "adjusted");
        }
        Event::Detached { id, buckets, class } => debug!(id, %buckets, class, "detached"),
        Event::Settled { id, buckets, class, actual, .. } => {
            debug!(id, %buckets, class, ?actual, "settled");
        }
        Event::Refused { id, buckets, class, error } => {
            debug!(id, %buckets, class, %error, "refused");
        }
        Event::Shadowed { id, buckets, class, shadow } => match shadow {
            Shadow::Wait { refusal, predicted } => {
                info!(id, %buckets, class, ?predicted, %refusal, "would have waited");
            }
            Shadow::Refuse { error } => {
                info!(id, %buckets, class, %error, "would have been refused");
            }
            Shadow::Fail { error } => info!(id, error, "no demand could be read"),
        },
        Event::Cancelled { id, buckets, class, waited } => {
            debug!(id, %buckets, class, ?waited, "cancelled");
        }
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
        Event::NeverCharged { bucket, quota, demands } => {
            warn!(bucket, quota, demands, "no demand has charged this quota");
        }
        Event::StateLost { bucket } => warn!(bucket, "the store has lost the state of a bucket"),
        Event::Degraded { error } => error!(%error, "degraded"),
        Event::Recovered => info!("recovered"),
        Event::DroppedDegraded => debug!("dropped while degraded"),
    }
}
