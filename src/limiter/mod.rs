//! The limiter: reserve, call, settle; without tower.

mod health;
mod lane;
mod line;
mod neighbours;
mod options;
mod path;
mod place;
mod pump;
mod queue;
mod registry;
mod reservation;
mod settling;
mod status;
mod track;

use std::{
    fmt,
    pin::pin,
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::time::Instant;

use self::{
    lane::{Entered, Lane, Shared},
    options::Options,
    queue::{Ask, Change, Other},
    registry::{Entry, Names, Registry},
};
pub use self::{
    options::{LimiterBuilder, OnUnavailable, Retries},
    reservation::{Reservation, ReservationId, Settlement},
    settling::Settling,
    status::{QuotaStatus, Status},
    track::Tracked,
};
use crate::{
    demand::Demand,
    engine::{Mode, Verdict},
    error::{BadDemand, Throttled},
    limits::{Limits, LimitsError, Standing, Table},
    observe::Event,
    quota::micros,
    store::{Store, StoreError},
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

    fn assemble(table: Table, store: Arc<dyn Store>, options: Options, fallback: Option<Self>) -> Self {
        let shared = Arc::new(Shared::new(store, options));
        let registry = RwLock::new(Registry::new(Arc::new(table)));
        Self { inner: Arc::new(Inner { shared, registry, fallback }) }
    }

    /// Waits in line until the demand fits on all its quotas, and reserves it there.
    ///
    /// # Errors
    /// See [`Throttled`]. A demand that could not be granted within its longest wait, even if everything in flight
    /// were refunded, is refused at once.
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace: it gives up its place, and a grant on its way to it is given back.
    pub async fn reserve(&self, demand: Demand) -> Result<Reservation, Throttled> {
        self.acquire(&demand, Mode::Wait).await
    }

    /// Reserves the demand if it fits now and nobody who waits needs the same.
    ///
    /// # Errors
    /// [`Throttled::NotNow`] if it does not, and see [`Throttled`].
    ///
    /// # Cancel safety
    /// A dropped future leaves no trace.
    pub async fn try_reserve(&self, demand: Demand) -> Result<Reservation, Throttled> {
        self.acquire(&demand, Mode::Try).await
    }

    /// How long the demand would have to wait if nothing were refunded: zero if it fits now, nothing if that depends
    /// on calls in flight. Reserves nothing.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn time_until_available(&self, demand: Demand) -> Result<Option<Duration>, Throttled> {
        match self.ask(&demand, Mode::Dry).await {
            Ok(_) => Ok(Some(Duration::ZERO)),
            Err(Throttled::NotNow(refusal)) => Ok(refusal.retry_after()),
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
        let Entry { lane, path, .. } = self.lane_of(bucket)?;
        match lane.send(Other::Status).verdict().await? {
            Verdict::Status(levels, paused_until) => {
                let status = Status::new(&path, &levels, paused_until);
                Ok(Status { waiting: lane.neighbours.waiting(&lane), ..status })
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
        let Some(Entry { lane, path, .. }) = self.find(&names)? else { return Ok(false) };
        let change = Change {
            at: id.at,
            reserved: path.actual_costs(&id.usage),
            actual: path.actual_costs(&id.usage.corrected(&actual)),
            close: true,
            claim: Some(id.claim),
            path,
        };
        Ok(lane.change(&change).verdict().await? != Verdict::NoClaim)
    }

    /// Refuses everything on a bucket for at least this long, in all processes that share it. A pause never
    /// shortens another.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn pause(&self, bucket: &str, duration: Duration) -> Result<(), Throttled> {
        let lane = self.lane_of(bucket)?.lane;
        lane.send(Other::Pause(micros(duration).clamp(1, MAX_PAUSE))).await
    }

    /// Ends a pause.
    ///
    /// # Errors
    /// See [`Throttled`].
    pub async fn resume(&self, bucket: &str) -> Result<(), Throttled> {
        let lane = self.lane_of(bucket)?.lane;
        lane.send(Other::Pause(0)).await?;
        lane.look_now();
        lane.neighbours.look_now(&lane);
        Ok(())
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
        self.write().update(table);
        Ok(())
    }

    /// Refuses every demand from now on, and those that wait; then waits until the settles so far have reached the
    /// store, or it does not answer.
    pub async fn close(&self) {
        if let Some(fallback) = &self.inner.fallback {
            Box::pin(fallback.close()).await;
        }
        let lanes = self.read().lanes();
        self.write().close();
        lanes.iter().for_each(Lane::close);
        for lane in lanes.iter().filter(|lane| !lane.is_idle()) {
            // What could not be told is sent again for as long as the runtime lives.
            let _ = lane.send(Other::Status).verdict().await;
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, Registry> {
        self.inner.registry.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Registry> {
        self.inner.registry.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, names: &Names) -> Result<Option<Entry>, Throttled> {
        if let Some(entry) = self.read().find(names) {
            return Ok(Some(entry.clone()));
        }
        self.write().find_or_make(names, &self.inner.shared)
    }

    fn lane_of(&self, bucket: &str) -> Result<Entry, Throttled> {
        let names = Names::from_iter([bucket.to_owned().into()]);
        self.find(&names)?.ok_or_else(|| Throttled::BadDemand(BadDemand::UnknownBucket(bucket.into())))
    }

    async fn acquire(&self, demand: &Demand, mode: Mode) -> Result<Reservation, Throttled> {
        let result = self.ask(demand, mode).await.map(|reservation| reservation.leave(&demand.note));
        let observing = &self.inner.shared.options.observing;
        let bucket = demand.buckets.first().map_or("", AsRef::as_ref);
        match &result {
            Ok(reservation) => observing.tell(Event::Granted {
                bucket,
                reserved: reservation.usage(),
                waited: reservation.waited(),
                degraded: reservation.degraded(),
            }),
            Err(error) => observing.tell(Event::Refused { bucket, error }),
        }
        result
    }

    async fn ask(&self, demand: &Demand, mode: Mode) -> Result<Reservation, Throttled> {
        let deadline = demand.max_wait.and_then(|wait| Instant::now().checked_add(wait));
        loop {
            let error = match self.ask_store(demand, deadline, mode).await {
                Err(Throttled::Store(error)) if error.is_unavailable() => error,
                result => return result,
            };
            // Boxed, since hardly any demand needs it and all would have to carry it around.
            if let Some(result) = Box::pin(self.without_store(demand, deadline, mode, error)).await {
                return result;
            }
        }
    }

    async fn ask_store(
        &self,
        demand: &Demand,
        deadline: Option<Instant>,
        mode: Mode,
    ) -> Result<Reservation, Throttled> {
        let mut reservation = match self.enter(demand, deadline, mode)? {
            Entered::Granted(reservation) => reservation,
            // Boxed, since most do not wait.
            Entered::Waiting(place) => Box::pin(place.wait(deadline)).await?,
        };
        reservation.release_on_drop(false);
        Ok(reservation)
    }

    /// What becomes of a demand while the store cannot be reached; nothing if that is over first.
    async fn without_store(
        &self,
        demand: &Demand,
        deadline: Option<Instant>,
        mode: Mode,
        error: Arc<StoreError>,
    ) -> Option<Result<Reservation, Throttled>> {
        match (self.inner.shared.options.on_unavailable, &self.inner.fallback) {
            (OnUnavailable::Allow, _) => Some(Ok(Reservation::uncounted(demand.usage.clone(), 0).degrade())),
            (OnUnavailable::Local { .. }, Some(fallback)) => {
                let local = pin!(fallback.ask_store(demand, deadline, mode));
                let back = pin!(self.inner.shared.health.is_back());
                let Either::Left((result, _)) = select(local, back).await else { return None };
                Some(match result {
                    Ok(reservation) => Ok(reservation.degrade()),
                    // Too much for the share is not too much for ever.
                    Err(Throttled::ExceedsCapacity(_)) => Err(Throttled::Store(error)),
                    Err(other) => Err(other),
                })
            }
            _ => Some(Err(Throttled::Store(error))),
        }
    }

    /// The lane of a demand and what it asks there, if its lane is known.
    fn admit_known(
        &self,
        demand: &Demand,
        deadline: Option<Instant>,
        mode: Mode,
    ) -> Result<Option<Admitted>, Throttled> {
        let registry = self.read();
        let entry = registry.find(&demand.buckets);
        entry.map(|entry| admit(&registry.table, Some(entry), demand, deadline, mode)).transpose()
    }

    /// Enters a demand in its lane, if it is not unlimited. No lock is held there, since observers are told.
    fn enter(&self, demand: &Demand, deadline: Option<Instant>, mode: Mode) -> Result<Entered, Throttled> {
        let admitted = match self.admit_known(demand, deadline, mode)? {
            Some(admitted) => admitted,
            None => {
                let mut registry = self.write();
                let entry = registry.find_or_make(&demand.buckets, &self.inner.shared)?;
                admit(&registry.table, entry.as_ref(), demand, deadline, mode)?
            }
        };
        match admitted {
            Some((lane, ask)) => lane.enter(ask),
            None => Ok(Entered::Granted(Reservation::uncounted(demand.usage.clone(), 0))),
        }
    }
}

/// Where a demand goes and what it asks there; nothing if it is unlimited.
type Admitted = Option<(Arc<Lane>, Ask)>;

fn admit(
    table: &Table,
    entry: Option<&Entry>,
    demand: &Demand,
    deadline: Option<Instant>,
    mode: Mode,
) -> Result<Admitted, Throttled> {
    let standing = standing(table, entry, demand)?;
    let Some(Entry { lane, path, .. }) = entry else { return Ok(None) };
    let costs = path.costs(&demand.usage);
    if let Some(refusal) = path.beyond_capacity(&costs, standing.headroom) {
        return Err(Throttled::ExceedsCapacity(Box::new(refusal)));
    }
    let (path, usage) = (path.clone(), demand.usage.clone());
    Ok(Some((lane.clone(), Ask { path, usage, costs, standing, mode, deadline })))
}

/// What its class means to a demand, if nothing about it is unknown.
fn standing(table: &Table, entry: Option<&Entry>, demand: &Demand) -> Result<Standing, Throttled> {
    let class = demand.class.as_deref();
    let Some(standing) = table.standing(class) else {
        return Err(Throttled::BadDemand(BadDemand::UnknownClass(class.unwrap_or_default().into())));
    };
    let specs = entry.map_or(&[][..], |entry| entry.path.specs());
    match table.unknown_metric(&demand.usage, specs) {
        Some(metric) => Err(Throttled::BadDemand(BadDemand::UnknownMetric(metric.into()))),
        None => Ok(standing),
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
