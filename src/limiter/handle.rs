//! [`Limiter`]: its public methods.

use std::{error::Error, fmt, sync::Arc, task::Poll, time::Duration};

use futures_util::future::join;

#[cfg(feature = "llm")]
use super::registry::Naming;
use super::{
    bucket_set::GrantedAt,
    builder::LimiterBuilder,
    inner::Inner,
    provider_feedback::Origin,
    registry::Names,
    reservation::Reservation,
    reservation_id::ReservationId,
    settle::Settling,
    status::{BucketInfo, Status, Waiting},
    target::BucketTarget,
};
use crate::{
    demand::Demand,
    engine::{MAX_AMOUNT, MAX_PAUSE, Mode, Op, Settle, Verdict},
    error::{BadDemand, Throttled},
    feedback::Feedback,
    limits::{Limits, LimitsError},
    name::Name,
    quota::micros,
    store::Store,
    usage::Usage,
};

/// Grants demands within the declared limits. A clone is another handle to the same limiter.
///
/// ```
/// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
/// let limiter = Limiter::new(limits)?;
///
/// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
/// // ... the call, which turns out to have used 412 tokens ...
/// reservation.settle(usage! { tokens: 412 }).await?;
///
/// let status = limiter.status("gpt-4o").await?;
/// assert_eq!(status.quotas[0].available, 29_588.0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Limiter {
    pub(super) inner: Arc<Inner>,
}

impl Limiter {
    /// A limiter with its state in this process.
    ///
    /// # Errors
    /// A declaration that makes no sense: which one, and why.
    pub fn new(limits: Limits) -> Result<Self, LimitsError> {
        Self::builder(limits).build()
    }

    /// A limiter with its state in a store, such as one in Redis that many processes share.
    ///
    /// # Errors
    /// A declaration that makes no sense: which one, and why.
    pub fn with_store(limits: Limits, store: impl Store) -> Result<Self, LimitsError> {
        Self::builder(limits).store(store).build()
    }

    /// A limiter with other settings.
    pub fn builder(limits: Limits) -> LimiterBuilder {
        LimiterBuilder::new(limits)
    }

    /// Waits until the demand fits on all its quotas and all that wait for the same have had their
    /// turn, and reserves it.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// // Waits until it fits.
    /// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// println!("waited {:?}", reservation.waited());
    /// // ... the call ...
    /// reservation.settle(usage! { tokens: 412 });
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Throttled`]. A demand that could not be granted within its longest wait, even if
    /// everything in flight were refunded, is refused at once; so is one that is held back by a
    /// wait which the provider asked for and which is longer than
    /// [`LimiterBuilder::longest_pause`]. [`Throttled::NoRuntime`] outside of a tokio runtime,
    /// where nothing can wait and no store but one in memory can be asked.
    ///
    /// # Panics
    /// If it has to wait in a runtime whose timers are not enabled.
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace: it gives up its place in the queue, and a grant on its way
    /// to it is given back.
    pub fn reserve(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<> {
        self.inner.clone().acquire::<true>(demand)
    }

    /// Reserves the demand if it fits now and none that waits needs the same.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, Throttled, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 29_000 })).await?.keep();
    /// match limiter.try_reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await {
    ///     Ok(reservation) => drop(reservation.keep()),
    ///     Err(Throttled::NotNow(refusal)) => println!("again after {:?}", refusal.retry_after()),
    ///     Err(error) => return Err(error.into()),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Throttled::NotNow`] if it does not, and see [`Throttled`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace.
    pub fn try_reserve(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<> {
        self.inner.clone().acquire::<false>(demand)
    }

    /// Reserves the demand if it fits now and none that waits needs the same, without a future and
    /// without a runtime: for state in this process.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, Throttled, usage};
    ///
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 1)]);
    /// let limiter = Limiter::new(limits)?;
    /// let demand = || Demand::new("api", usage! { requests: 1 });
    /// let reservation = limiter.try_reserve_now(demand())?;
    /// assert!(matches!(limiter.try_reserve_now(demand()), Err(Throttled::NotNow(_))));
    /// drop(reservation.keep());
    /// # Ok::<(), tower_throttle::BoxError>(())
    /// ```
    ///
    /// # Errors
    /// [`Throttled::NotNow`] if it does not fit, [`Throttled::NotInProcess`] for any other store
    /// than one in this process, and see [`Throttled`].
    pub fn try_reserve_now(&self, demand: Demand) -> Result<Reservation, Throttled> {
        self.inner.try_reserve_now(&demand)
    }

    /// Charges the demand at once, whether it fits or not, and tells observers what would have
    /// become of it: how long it would have waited, or why it would have been refused.
    ///
    /// So limits can be tried out on real traffic that they do not hold up yet:
    /// [`ThrottleLayer::shadow`](crate::ThrottleLayer::shadow) does this for a layer. A demand that
    /// fits is granted as by [`try_reserve`](Self::try_reserve). For any other there is an
    /// [`Event::Shadowed`](crate::observe::Event::Shadowed), and it is charged all the same: more
    /// than is available becomes a debt. So the state is that of what is really sent, and predicted
    /// waits are those of a limiter that let everything through until now. One call is charged no
    /// more than a settle is: the capacity of a quota and its
    /// [`max_debt`](crate::Quota::max_debt).
    ///
    /// Where other processes enforce the same buckets, they wait for what is charged here.
    ///
    /// ```
    /// use tower_throttle::{
    ///     Demand, Limiter, Limits, Quota,
    ///     observe::{Event, Shadow},
    ///     usage,
    /// };
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 1)]);
    /// let limiter = Limiter::builder(limits)
    ///     .observer(|event: &Event<'_>| {
    ///         if let Event::Shadowed { shadow: Shadow::Wait { predicted, .. }, .. } = event {
    ///             println!("it would have waited {predicted:?}");
    ///         }
    ///     })
    ///     .build()?;
    /// for _ in 0..3 {
    ///     limiter.shadow(Demand::new("api", usage! { requests: 1 })).await?.keep().await?;
    /// }
    /// assert_eq!(limiter.status("api").await?.quotas[0].available, -2.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those that are no lack of quota: see [`Throttled::BadDemand`], [`Throttled::Store`],
    /// [`Throttled::NoRuntime`] and [`Throttled::Closed`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace.
    pub fn shadow(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<> {
        self.inner.clone().shadow(demand, true)
    }

    /// How long the demand would have to wait if nothing were refunded: zero if it fits now,
    /// nothing if that depends on calls in flight. Reserves nothing.
    ///
    /// Those that wait before it are counted in, as far as their sessions have told the store.
    /// Where the provider asked for a wait that is longer than [`LimiterBuilder::longest_pause`],
    /// it is what is left of that.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let demand = || Demand::new("gpt-4o", usage! { tokens: 30_000 });
    /// assert_eq!(limiter.time_until_available(demand()).await?, Some(Duration::ZERO));
    /// limiter.reserve(demand()).await?.keep().await?;
    /// assert!(limiter.time_until_available(demand()).await? > Some(Duration::from_secs(59)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn time_until_available(
        &self,
        demand: Demand,
    ) -> Result<Option<Duration>, Throttled> {
        time_until_available(&self.inner, &demand).await
    }

    /// How the quotas of a bucket stand, and when a demand that comes now would start. While
    /// [`Local`](crate::OnUnavailable::Local) stands in for the store, it is of the quotas there,
    /// which are those that are local.
    ///
    /// A name stands for what [`Limits`] say. A name that is no bucket's may also be a model's,
    /// once a layer of `llm` was made of this limiter: it stands for the bucket that the layer
    /// charges. So does it in demands and wherever else a bucket is named.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 1)]);
    /// let limiter = Limiter::new(limits)?;
    /// assert_eq!(limiter.status("api").await?.predicted, Some(Duration::ZERO));
    ///
    /// limiter.reserve(Demand::new("api", usage! { requests: 1 })).await?.keep().await?;
    /// let status = limiter.status("api").await?;
    /// assert_eq!((status.quotas[0].available, status.waiting), (0.0, 0));
    /// assert!(status.predicted > Some(Duration::from_secs(59)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Throttled::BadDemand`] for a bucket without quotas, [`Throttled::Store`] if the store does
    /// not answer.
    pub async fn status(&self, bucket: &str) -> Result<Status, Throttled> {
        match status(&self.inner, bucket).await {
            Err(Throttled::Store(error)) if error.is_unavailable() => {
                let fallback = self.inner.fallback_of(bucket).ok_or(Throttled::Store(error))?;
                Ok(Status { degraded: true, ..status(&fallback, bucket).await? })
            }
            status => status,
        }
    }

    /// The demands of this limiter that wait, oldest first in each partition: behind how many, for
    /// which quota, and about how long each still has to. It asks no store.
    ///
    /// Its cost grows with how many wait, and the queue stands still meanwhile: it is for
    /// looking at a limiter, not for every call.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 1)]);
    /// let limiter = Limiter::new(limits)?;
    /// let demand = || Demand::new("api", usage! { requests: 1 });
    /// limiter.reserve(demand()).await?.keep().await?;
    ///
    /// let tasks = [0, 1].map(|_| tokio::spawn(limiter.reserve(demand())));
    /// tokio::task::yield_now().await;
    ///
    /// let waiting = limiter.waiting();
    /// assert_eq!(waiting.iter().map(|one| one.position).collect::<Vec<_>>(), [0, 1]);
    /// let binding = waiting[1].binding.as_ref().ok_or("no quota was short")?;
    /// assert_eq!((&*binding.bucket, binding.limit), ("api", 1));
    /// assert!(waiting[0].predicted < waiting[1].predicted);
    /// # tasks.iter().for_each(|task| task.abort());
    /// # Ok(())
    /// # }
    /// ```
    pub fn waiting(&self) -> Vec<Waiting> {
        let mut waiting = self.inner.waiting();
        if let Some(fallback) = self.inner.fallback() {
            waiting.extend(fallback.waiting());
        }
        waiting
    }

    /// The buckets that are declared or in use, by name: those of the limits, and those that a
    /// resolver knows and a demand has named.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, Quota};
    ///
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
    /// let buckets = Limiter::new(limits)?.buckets();
    /// assert_eq!((&*buckets[0].name, buckets[0].is_declared), ("api", true));
    /// assert_eq!(&*buckets[0].quotas[0], "requests per minute");
    /// # Ok::<(), tower_throttle::LimitsError>(())
    /// ```
    pub fn buckets(&self) -> Vec<BucketInfo> {
        self.inner.registry().buckets()
    }

    /// Settles a reservation that was [detached](Reservation::detach), in this process or in
    /// another one. Returns true if this did it: a reservation is settled once, and keeps its
    /// charge after its lease.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// let id = reservation.detach(std::time::Duration::from_secs(3_600)).await?.to_string();
    ///
    /// // Later, in the process that gets the result:
    /// assert!(limiter.settle(&id.parse()?, usage! { tokens: 412 }).await?);
    /// assert!(!limiter.settle(&id.parse()?, usage! { tokens: 412 }).await?, "once");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`Throttled::BadDemand`] for a metric that is not a standard one and that no quota counts;
    /// nothing is settled then. And see [`Throttled`].
    ///
    /// # Cancel safety
    /// A dropped future may or may not have settled it.
    pub async fn settle(&self, id: &ReservationId, actual: Usage) -> Result<bool, Throttled> {
        let names: Names = id.buckets.iter().map(|name| Name::new(name)).collect();
        let Some(target) = self.inner.find(&names)? else { return Ok(false) };
        target.check(&actual)?;
        let set = &target.set;
        let used: Vec<_> =
            id.others.iter().map(|(index, usage)| (*index, usage.corrected(&actual))).collect();
        let at = GrantedAt::new(id.at.iter().copied());
        let settle = Op::Settle(Settle {
            on: set.all(),
            at: at.times(set.buckets().len()),
            reserved: set.costs(&id.usage, &id.others),
            actual: set.costs(&id.usage.corrected(&actual), &used),
            close: true,
            claim: Some(id.claim),
        });
        Ok(target.change(settle, 0, false).verdict().await? != Verdict::NoClaim)
    }

    /// Lets nothing pass on a bucket for at least this long, in all processes that share it:
    /// demands wait for the end of it as they do for quota. A pause never shortens another.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// limiter.pause("gpt-4o", std::time::Duration::from_secs(60)).await?;
    /// assert!(limiter.try_reserve(Demand::new("gpt-4o", usage! { tokens: 1 })).await.is_err());
    /// limiter.resume("gpt-4o").await?;
    /// assert!(limiter.try_reserve(Demand::new("gpt-4o", usage! { tokens: 1 })).await.is_ok());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn pause(&self, bucket: &str, duration: Duration) -> Result<(), Throttled> {
        let lasts = micros(duration).clamp(1, MAX_PAUSE);
        let target = self.inner.find_bucket(bucket)?;
        tell(&target, Op::Pause { bucket: 0, lasts }).await
    }

    /// Ends all pauses of a bucket and of its quotas, those that its provider asked for too. What
    /// the provider said to be left stays as it is.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn resume(&self, bucket: &str) -> Result<(), Throttled> {
        let target = self.inner.find_bucket(bucket)?;
        tell(&target, Op::Pause { bucket: 0, lasts: 0 }).await
    }

    /// Holds all that share a bucket to what its provider said. Where a reservation is at hand,
    /// [`Reservation::feedback`] allows for the time that the response took.
    ///
    /// It is applied, or enqueued, when this returns; the future only reports.
    ///
    /// # Errors
    /// Those of the future: [`Throttled::BadDemand`] for a bucket without quotas,
    /// [`Throttled::Store`] if the store does not answer. It is not sent again then, since the
    /// provider will say it anew.
    pub fn feedback(&self, bucket: &str, feedback: &Feedback) -> Settling {
        match self.inner.find_bucket(bucket) {
            Ok(target) => Origin::new(target, 0, MAX_AMOUNT).feedback(feedback),
            Err(error) => Settling::failed(error),
        }
    }

    /// Replaces the limits, at once also for those that wait. What is charged stays charged.
    ///
    /// Says which buckets in use it dropped: demands on them are refused from now on, or go where
    /// the new limits send undeclared names.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let quotas = || [Quota::per_minute("requests", 5)];
    /// let limiter = Limiter::new(Limits::new().bucket("gpt-4", quotas()))?;
    /// let reservation = limiter.reserve(Demand::new("gpt-4", usage! { requests: 1 })).await?;
    ///
    /// let update = limiter.update(Limits::new().bucket("gpt-4o", quotas()))?;
    /// assert_eq!(&*update.dropped()[0], "gpt-4");
    /// reservation.keep().await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// A declaration that makes no sense: which one, and why. Then nothing changes.
    pub fn update(&self, limits: Limits) -> Result<Update, LimitsError> {
        self.inner.update(&limits).map(|dropped| Update { dropped })
    }

    /// Refuses every demand from now on, and those that wait; then waits until the settles so far
    /// have reached the store, or it does not answer.
    ///
    /// It does not wait for calls in flight, which can still be settled. To end a program: close,
    /// let the tasks end whose calls are in flight, and close again, which sends what they settled.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, Throttled, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// limiter.close().await;
    /// let refused = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1 })).await;
    /// assert!(matches!(refused, Err(Throttled::Closed)));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Cancel safety
    /// It refuses when it is first polled; a dropped future only does not wait for the settles.
    pub async fn close(&self) {
        self.inner.close().await;
    }

    /// Grants or refuses a demand where that can be told at once, without a future.
    pub(crate) fn acquire_at_once(
        &self,
        demand: &Demand,
        mode: Mode,
    ) -> Poll<Result<Reservation, Throttled>> {
        self.inner.acquire_at_once(demand, mode)
    }

    /// Tells the limiter from others for as long as it lives.
    #[cfg(feature = "metrics")]
    pub(crate) fn identity(&self) -> std::sync::Weak<dyn std::any::Any + Send + Sync> {
        let inner: Arc<dyn std::any::Any + Send + Sync> = self.inner.clone();
        Arc::downgrade(&inner)
    }

    /// [`shadow`](Self::shadow) of a demand that waits, or is refused at once.
    pub(crate) fn shadow_of(
        &self,
        demand: Demand,
        waits: bool,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<> {
        self.inner.clone().shadow(demand, waits)
    }

    /// Tells that no demand could be read from a request in shadow mode.
    pub(crate) fn tell_unread(&self, error: &(dyn Error + Send + Sync + 'static)) {
        self.inner.tell_unread(error);
    }

    /// Whether the limits say more of this name than of another one that it could have.
    #[cfg(feature = "llm")]
    pub(crate) fn declares(&self, name: &str, or_rather: &str) -> bool {
        self.inner.registry().table().declares(name, or_rather)
    }

    /// Accepts the names of a layer from now on, too, wherever a bucket is named.
    #[cfg(feature = "llm")]
    pub(crate) fn learn(&self, known_by: &'static str, naming: &Naming) {
        self.inner.learn(known_by, naming);
    }
}

/// What an [update](Limiter::update) of limits changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Update {
    dropped: Vec<Arc<str>>,
}

impl Update {
    /// Returns the buckets in use that are declared no more, or stand for something else now. In
    /// use is a bucket of which a reservation is open in this limiter, or for which a demand waits.
    pub fn dropped(&self) -> &[Arc<str>] {
        &self.dropped
    }
}

impl LimiterBuilder {
    /// The limiter.
    ///
    /// # Errors
    /// A declaration or an option that makes no sense: which one, and why.
    pub fn build(self) -> Result<Limiter, LimitsError> {
        Ok(Limiter { inner: Inner::new(self)? })
    }
}

async fn status(inner: &Inner, bucket: &str) -> Result<Status, Throttled> {
    let target = inner.find_bucket(bucket)?;
    let level = tell(&target, Op::Status { bucket: 0 }).verdict();
    // Both are asked before either is awaited, so that they travel together.
    let (level, predicted) = join(level, predicted(inner, &target, bucket)).await;
    match level? {
        Verdict::Status(level) => Ok(Status { predicted, ..Status::new(&target.set, &level) }),
        _ => Err(Throttled::BadDemand(BadDemand::UnknownBucket(bucket.into()))),
    }
}

/// Time until a demand for one of everything that a bucket counts would start, if that is known.
async fn predicted(inner: &Inner, target: &BucketTarget, bucket: &str) -> Option<Duration> {
    let metrics = target.set.meters().flat_map(|(_, meter)| meter.metrics());
    let usage = metrics.map(|metric| (metric.to_owned(), 1)).collect();
    let demand = Demand::new(bucket, usage);
    let told = time_until_available(inner, &demand).await.ok().flatten()?;
    // The store need not have heard of all that wait here.
    let bucket = target.set.handles().next()?.id();
    Some(told.max(target.session.newcomer(bucket)?))
}

async fn time_until_available(
    inner: &Inner,
    demand: &Demand,
) -> Result<Option<Duration>, Throttled> {
    match inner.ask_dry(demand).await {
        Ok(()) => Ok(Some(Duration::ZERO)),
        Err(Throttled::NotNow(refusal) | Throttled::Paused(refusal)) => Ok(refusal.retry_after()),
        Err(error) => Err(error),
    }
}

/// Sends an operation on the bucket of a set of one.
fn tell(target: &BucketTarget, op: Op) -> Settling {
    target.tell(target.set.handles().next().map_or(0, |handle| handle.id()), op)
}

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("buckets", &self.inner.registry().len())
            .field("options", self.inner.context().options())
            .finish_non_exhaustive()
    }
}
