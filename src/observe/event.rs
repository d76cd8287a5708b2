//! What an observer is told of.

use std::{error::Error, time::Duration};

use super::{Buckets, OtherAmounts};
use crate::{
    error::{Refusal, Throttled},
    store::StoreError,
    usage::Usage,
};

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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
        /// How many wait before it.
        position: usize,
        /// The bucket of the quota that it waits for; empty if that is not known.
        bucket: &'a str,
        /// The quota that it waits for: of those that are short, the one with the longest wait.
        /// `paused` for the pause of a bucket.
        quota: &'a str,
    },
    /// A demand has waited for [long](crate::limiter::LimiterBuilder::long_wait): 5 s, if nothing
    /// else was said. Told once.
    #[non_exhaustive]
    LongWait {
        /// Identifies the demand, and later its reservation.
        id: u64,
        /// Its buckets.
        buckets: Buckets<'a>,
        /// Its class.
        class: Option<&'a str>,
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
        /// Its [share](crate::Demand::share).
        share: Option<&'a str>,
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
