//! How a demand comes to be granted: found its route, entered there, or served without the store.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{runtime::Handle, task::yield_now, time::Instant};

use super::{
    Limiter,
    options::OnUnavailable,
    registry::Registry,
    reservation::Reservation,
    route::Route,
    settling::{has_ended, no_runtime},
};
use crate::{
    demand::Demand,
    engine::{Micros, Mode},
    error::{BadDemand, Throttled},
    limits::Standing,
    observe::Event,
    store::StoreError,
};

/// What is asked for, and when it first was.
#[derive(Clone, Copy)]
struct Asked<'a> {
    demand: &'a Demand,
    mode: Mode,
    arrived: Instant,
    deadline: Option<Instant>,
}

/// So many runtimes may end while they carry a demand of another one.
const MAX_RUNTIMES: u32 = 8;

impl Limiter {
    /// Grants a demand, if `WAITS` as soon as it can be. Not an `async fn`, which moves what it is given and what it answers
    /// several times; nor does it remember the mode. Each would take its time.
    #[inline]
    pub(super) fn acquire<const WAITS: bool>(
        &self,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send {
        let (mut demand, mut later, mut is_done) = (demand, None, false);
        poll_fn(move |context| {
            if is_done {
                return Poll::Pending;
            }
            let mode = const { if WAITS { Mode::Wait } else { Mode::Try } };
            let mut answer = match &later {
                None => self.acquire_at_once(&demand, mode),
                Some(_) => Poll::Pending,
            };
            if answer.is_pending() {
                answer = poll_later(&mut later, context, || {
                    self.acquire_later(std::mem::replace(&mut demand, Demand::unlimited()), mode)
                });
            }
            is_done = answer.is_ready();
            answer
        })
    }

    /// The same without a future, where the answer is at hand.
    pub(crate) fn acquire_at_once(
        &self,
        demand: &Demand,
        mode: Mode,
    ) -> Poll<Result<Reservation, Throttled>> {
        match self.grant_at_once(demand, mode) {
            None => Poll::Pending,
            Some(Ok(grant)) => {
                self.tell_granted(demand, Duration::ZERO, false);
                Poll::Ready(Ok(grant.reservation(demand)))
            }
            Some(Err(error)) => {
                self.tell_refused(demand, &error);
                Poll::Ready(Err(error))
            }
        }
    }

    async fn acquire_later(&self, demand: Demand, mode: Mode) -> Result<Reservation, Throttled> {
        let result = self.ask(&demand, mode).await;
        match &result {
            Ok(reservation) => {
                self.tell_granted(&demand, reservation.waited(), reservation.degraded())
            }
            Err(error) => self.tell_refused(&demand, error),
        }
        result
    }

    #[inline]
    fn tell_granted(&self, demand: &Demand, waited: Duration, degraded: bool) {
        self.inner.shared.options.observing.tell(|| Event::Granted {
            bucket: demand.name(),
            reserved: &demand.usage,
            waited,
            degraded,
        });
    }

    #[inline]
    fn tell_refused(&self, demand: &Demand, error: &Throttled) {
        self.inner
            .shared
            .options
            .observing
            .tell(|| Event::Refused { bucket: demand.name(), error });
    }

    #[inline]
    fn grant_at_once(&self, demand: &Demand, mode: Mode) -> Option<Result<Grant, Throttled>> {
        if !self.inner.shared.in_process {
            return None;
        }
        // No lock of the registry is held any more when the route is entered, since observers are told.
        if is_plain(demand)
            && let Some(route) = self.known_route(demand)
        {
            return Grant::of(route, demand, Standing::default(), mode);
        }
        match self.route_of(demand) {
            Ok(Some((route, standing))) => Grant::of(route, demand, standing, mode),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Whether a demand would be granted now. Reserves nothing.
    pub(super) async fn ask_dry(&self, demand: &Demand) -> Result<(), Throttled> {
        match self.grant_at_once(demand, Mode::Dry) {
            Some(result) => result.map(drop),
            None => self.ask(demand, Mode::Dry).await.map(drop),
        }
    }

    /// Asks for what could not be told at once.
    async fn ask(&self, demand: &Demand, mode: Mode) -> Result<Reservation, Throttled> {
        let arrived = Instant::now();
        let deadline = demand.max_wait.and_then(|wait| arrived.checked_add(wait));
        let asked = Asked { demand, mode, arrived, deadline };
        let mut runtimes = 0;
        loop {
            let mut result = self.ask_store(asked).await;
            if let Err(Throttled::Store(error)) = &result
                && error.is_unavailable()
                && !has_ended(error)
            {
                // Boxed, since hardly any demand needs it.
                match Box::pin(self.without_store(asked, error.clone())).await {
                    Some(other) => result = other,
                    None => continue,
                }
            }
            match result {
                // That of somebody else, unless this one is about to end as well.
                Err(Throttled::Store(error)) if has_ended(&error) && runtimes < MAX_RUNTIMES => {
                    runtimes += 1;
                    yield_now().await;
                }
                result => return result,
            }
        }
    }

    /// Asks a limiter with its state in this process.
    async fn ask_here(&self, asked: Asked<'_>) -> Result<Reservation, Throttled> {
        match self.grant_at_once(asked.demand, asked.mode) {
            Some(result) => result.map(|grant| grant.reservation(asked.demand)),
            None => self.ask_store(asked).await,
        }
    }

    async fn ask_store(&self, asked: Asked<'_>) -> Result<Reservation, Throttled> {
        let Asked { demand, mode, arrived, deadline } = asked;
        let Some((route, standing)) = self.route_of(demand)? else {
            return Ok(Reservation::uncounted(demand));
        };
        if Handle::try_current().is_err() {
            return Err(no_runtime());
        }
        let place = route.enter(demand, standing, mode, arrived, deadline)?;
        // Boxed, since most do not wait.
        let mut reservation = Box::pin(place.wait(deadline)).await?;
        reservation.release_on_drop(false);
        reservation.leave(&demand.note);
        Ok(reservation)
    }

    /// What becomes of a demand while the store cannot be reached; nothing if that is over first.
    async fn without_store(
        &self,
        asked: Asked<'_>,
        error: Arc<StoreError>,
    ) -> Option<Result<Reservation, Throttled>> {
        match (self.inner.shared.options.on_unavailable, &self.inner.fallback) {
            (OnUnavailable::Allow, _) => Some(Ok(Reservation::uncounted(asked.demand).degrade())),
            (OnUnavailable::Local { .. }, Some(fallback)) => {
                let local = pin!(fallback.ask_here(asked));
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

    #[inline]
    fn known_route(&self, demand: &Demand) -> Option<Arc<Route>> {
        self.read().find(&demand.buckets).cloned()
    }

    /// The route of a demand and how it stands there; nothing if it is unlimited.
    #[inline(never)]
    fn route_of(&self, demand: &Demand) -> Result<Option<(Arc<Route>, Standing)>, Throttled> {
        let registry = self.read();
        if let Some(route) = registry.find(&demand.buckets) {
            return Ok(Some((route.clone(), standing(&registry, Some(route), demand)?)));
        }
        drop(registry);
        let route = self.find(&demand.buckets)?;
        let standing = standing(&self.read(), route.as_deref(), demand)?;
        Ok(route.map(|route| (route, standing)))
    }
}

/// Begins what cannot be done at once, and goes on with it. Boxed, since what is granted at once would have to carry it
/// around.
#[inline(never)]
fn poll_later<F: Future>(
    later: &mut Option<Pin<Box<F>>>,
    context: &mut Context<'_>,
    begin: impl FnOnce() -> F,
) -> Poll<F::Output> {
    later.get_or_insert_with(|| Box::pin(begin())).as_mut().poll(context)
}

/// A demand granted at once.
struct Grant {
    /// Nothing, if nothing is reserved.
    route: Option<Arc<Route>>,
    at: Micros,
}

impl Grant {
    #[inline(always)]
    fn of(
        route: Arc<Route>,
        demand: &Demand,
        standing: Standing,
        mode: Mode,
    ) -> Option<Result<Self, Throttled>> {
        // Its limits may have been replaced since it was found.
        let route =
            if route.is_current() { route } else { Arc::new(Route::to(route.lane.clone())) };
        match route.enter_directly(demand, standing, mode) {
            None => None,
            Some(Ok(at)) => Some(Ok(Self { route: (mode != Mode::Dry).then_some(route), at })),
            Some(Err(error)) => Some(Err(error)),
        }
    }

    #[inline]
    fn reservation(self, demand: &Demand) -> Reservation {
        Reservation::of(demand, self.at, self.route)
    }
}

/// Whether nothing about a demand can be unknown but its buckets, as is the rule.
fn is_plain(demand: &Demand) -> bool {
    demand.class.is_none() && demand.usage.is_standard()
}

/// What its class means to a demand, if nothing about it is unknown.
fn standing(
    registry: &Registry,
    route: Option<&Route>,
    demand: &Demand,
) -> Result<Standing, Throttled> {
    let class = demand.class.as_deref();
    let Some(standing) = registry.table.standing(class) else {
        return Err(Throttled::BadDemand(BadDemand::UnknownClass(
            class.unwrap_or_default().into(),
        )));
    };
    let specs = route.map_or(&[][..], |route| route.path.specs());
    match registry.table.unknown_metric(&demand.usage, specs) {
        Some(metric) => Err(Throttled::BadDemand(BadDemand::UnknownMetric(metric.into()))),
        None => Ok(standing),
    }
}

#[cfg(test)]
mod tests;
