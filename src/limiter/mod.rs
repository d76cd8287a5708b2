//! The limiter: reserve, call, settle; without tower.

mod admission;
mod ask;
mod feedback;
mod health;
mod id;
mod landing;
mod lane;
mod line;
mod lives;
mod names;
mod neighbours;
mod options;
mod path;
mod place;
mod pump;
mod queue;
mod registry;
mod reservation;
mod route;
mod seats;
mod settling;
mod shared;
mod status;
mod surfaced;
mod track;
mod trip;

use std::{
    fmt,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

pub(crate) use self::feedback::Origin;
pub use self::{
    id::ReservationId,
    options::{LimiterBuilder, OnUnavailable, Retries},
    reservation::{Reservation, Settlement},
    settling::Settling,
    status::{QuotaStatus, Status},
    track::Tracked,
};
use self::{
    lane::Lane,
    names::Names,
    options::Options,
    registry::{Found, Registry},
    route::Route,
    shared::Shared,
};
use crate::{
    demand::Demand,
    engine::{MAX_AMOUNT, Op, Verdict},
    error::{BadDemand, Throttled},
    feedback::Feedback,
    limits::{Limits, LimitsError, Table},
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
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    registry: RwLock<Registry>,
    /// Stands in while the store cannot be reached.
    fallback: Option<Limiter>,
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

    fn assemble(
        table: Table,
        store: Arc<dyn Store>,
        options: Options,
        fallback: Option<Self>,
    ) -> Self {
        let shared = Arc::new(Shared::new(store, options));
        let registry = RwLock::new(Registry::new(Arc::new(table)));
        Self { inner: Arc::new(Inner { shared, registry, fallback }) }
    }

    /// Waits in line until the demand fits on all its quotas, and reserves it there.
    ///
    /// # Errors
    /// See [`Throttled`]. A demand that could not be granted within its longest wait, even if everything in flight
    /// were refunded, is refused at once; so is one that would have to wait for what the provider asked to leave alone for
    /// longer than [`LimiterBuilder::longest_pause`]. [`Throttled::Store`] also outside of a tokio runtime, where nothing can
    /// wait and no store but one in memory can be asked.
    ///
    /// # Panics
    /// If it has to wait in a runtime whose timers are not enabled.
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace: it gives up its place, and a grant on its way to it is given back.
    pub fn reserve(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send {
        self.acquire::<true>(demand)
    }

    /// Reserves the demand if it fits now and nobody who waits needs the same.
    ///
    /// # Errors
    /// [`Throttled::NotNow`] if it does not, and see [`Throttled`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace.
    pub fn try_reserve(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send {
        self.acquire::<false>(demand)
    }

    /// How long the demand would have to wait if nothing were refunded: zero if it fits now, nothing if that depends
    /// on calls in flight. Reserves nothing.
    ///
    /// Those that wait before it in this process are counted in, the first hundred of them at least. Where the provider
    /// asked for a wait that nobody waits out, it is what is left of that.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn time_until_available(
        &self,
        demand: Demand,
    ) -> Result<Option<Duration>, Throttled> {
        match self.ask_dry(&demand).await {
            Ok(()) => Ok(Some(Duration::ZERO)),
            Err(Throttled::NotNow(refusal) | Throttled::Paused(refusal)) => {
                Ok(refusal.retry_after())
            }
            Err(error) => Err(error),
        }
    }

    /// How the quotas of a bucket stand; those of [`OnUnavailable::Local`] while that stands in.
    ///
    /// # Errors
    /// [`Throttled::BadDemand`] for a bucket without quotas, [`Throttled::Store`] if the store does not answer.
    pub async fn status(&self, bucket: &str) -> Result<Status, Throttled> {
        match (self.store_status(bucket).await, &self.inner.fallback) {
            (Err(Throttled::Store(error)), Some(fallback)) if error.is_unavailable() => {
                let status = Box::pin(fallback.status(bucket)).await?;
                Ok(Status { degraded: true, ..status })
            }
            (status, _) => status,
        }
    }

    async fn store_status(&self, bucket: &str) -> Result<Status, Throttled> {
        let route = self.route_to(bucket)?;
        match route.say(Op::Status).verdict().await? {
            Verdict::Status(levels, paused) => {
                let status = Status::new(&route.path, &levels, paused);
                Ok(Status { waiting: route.lane.neighbours.waiting(&route.lane), ..status })
            }
            _ => Err(Throttled::BadDemand(BadDemand::UnknownBucket(bucket.into()))),
        }
    }

    /// Settles a reservation that was [detached](Reservation::detach), wherever that was. Answers whether this did it:
    /// a reservation is settled once, and keeps its charge after its lease.
    ///
    /// # Errors
    /// See [`Throttled`].
    ///
    /// # Cancel safety
    /// A dropped future may or may not have settled it.
    pub async fn settle(&self, id: &ReservationId, actual: Usage) -> Result<bool, Throttled> {
        let names: Names = id.buckets.iter().map(|name| name.clone().into()).collect();
        let Some(route) = self.find(&names)? else { return Ok(false) };
        let settle = Op::Settle {
            at: id.at,
            reserved: route.path.costs(&id.usage),
            actual: route.path.costs(&id.usage.corrected(&actual)),
            close: true,
            claim: Some(id.claim),
        };
        Ok(route.change(settle, false).verdict().await? != Verdict::NoClaim)
    }

    /// Lets nothing pass on a bucket for at least this long, in all processes that share it: demands wait for the end of it
    /// as they do for quota. A pause never shortens another.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn pause(&self, bucket: &str, duration: Duration) -> Result<(), Throttled> {
        self.route_to(bucket)?.say(Op::Pause(micros(duration).clamp(1, MAX_PAUSE))).await
    }

    /// Ends all pauses of a bucket and of its quotas, those that its provider asked for too. What the provider said to be left
    /// stays as it is.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn resume(&self, bucket: &str) -> Result<(), Throttled> {
        let route = self.route_to(bucket)?;
        route.say(Op::Pause(0)).await?;
        route.lane.look_now();
        route.lane.neighbours.look_now(&route.lane);
        Ok(())
    }

    /// Holds all that share a bucket to what its provider said. Where a reservation is at hand,
    /// [`Reservation::feedback`] allows for the time that the response took.
    ///
    /// It is applied, or enqueued, when this returns; the future only reports.
    ///
    /// # Errors
    /// Those of the future: [`Throttled::BadDemand`] for a bucket without quotas, [`Throttled::Store`] if the store does
    /// not answer. It is not sent again then, since the provider will say it anew.
    pub fn feedback(&self, bucket: &str, feedback: &Feedback) -> Settling {
        match self.route_to(bucket) {
            Ok(route) => Origin { route, at: MAX_AMOUNT }.feedback(feedback),
            Err(error) => Settling::failed(error),
        }
    }

    /// Replaces the limits, at once also for those that wait. What is charged stays charged.
    ///
    /// # Errors
    /// A declaration that makes no sense: which one, and why. Then nothing changes.
    pub fn update(&self, limits: Limits) -> Result<(), LimitsError> {
        let table = Arc::new(limits.compile()?);
        if let Some(fallback) = &self.inner.fallback
            && let OnUnavailable::Local { share } = self.inner.shared.options.on_unavailable
        {
            fallback.update(limits.scaled(share))?;
        }
        let lanes = self.write().replace(table);
        for names in lanes {
            let name = || names.first().map_or("", AsRef::as_ref).into();
            let error = match self.find(&names) {
                Ok(Some(_)) => continue,
                Ok(None) => Throttled::BadDemand(BadDemand::UnknownBucket(name())),
                Err(error) => error,
            };
            self.read().refuse_waiting(&names, &error);
        }
        Ok(())
    }

    /// Refuses every demand from now on, and those that wait; then waits until the settles so far have reached the
    /// store, or it does not answer.
    pub async fn close(&self) {
        if let Some(fallback) = &self.inner.fallback {
            Box::pin(fallback.close()).await;
        }
        let lanes = self.write().close();
        lanes.iter().for_each(Lane::close);
        for lane in lanes.iter().filter(|lane| !lane.is_idle()) {
            // What could not be told is sent again for as long as the runtime lives.
            let _ = lane.send(Op::Status).verdict().await;
        }
    }

    /// Whether the limits say more of this name than of another one that it could have.
    #[cfg(feature = "llm")]
    pub(crate) fn declares(&self, name: &str, or_rather: &str) -> bool {
        self.read().table.declares(name, or_rather)
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.inner.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, names: &Names) -> Result<Option<Arc<Route>>, Throttled> {
        if let Some(route) = self.read().find(names) {
            return Ok(Some(route.clone()));
        }
        loop {
            let table = self.read().table()?;
            let found = Found::of(names, &table)?;
            if let Ok(entry) = self.write().find_or_make(names, found, &table, &self.inner.shared) {
                return Ok(entry);
            }
        }
    }

    fn route_to(&self, bucket: &str) -> Result<Arc<Route>, Throttled> {
        let names = Names::from_iter([bucket.to_owned().into()]);
        self.find(&names)?
            .ok_or_else(|| Throttled::BadDemand(BadDemand::UnknownBucket(bucket.into())))
    }
}

/// The longest pause: a week.
const MAX_PAUSE: u64 = 7 * 86_400 * 1_000_000;

impl fmt::Debug for Limiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limiter")
            .field("lanes", &self.read().len())
            .field("options", &self.inner.shared.options)
            .finish_non_exhaustive()
    }
}
