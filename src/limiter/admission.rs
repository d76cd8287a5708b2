//! How a demand comes to be granted: found its route, entered there, or served without the store.

use std::{pin::pin, sync::Arc};

use futures_util::future::{Either, select};
use tokio::time::Instant;

use super::{Limiter, options::OnUnavailable, registry::Registry, reservation::Reservation, route::Route};
use crate::{
    demand::Demand,
    engine::Mode,
    error::{BadDemand, Throttled},
    limits::Standing,
    observe::Event,
    store::StoreError,
};

impl Limiter {
    pub(super) async fn acquire(&self, demand: &Demand, mode: Mode) -> Result<Reservation, Throttled> {
        if let Some(result) = self.acquire_at_once(demand, mode) {
            return result;
        }
        // Boxed, since what is granted at once would have to carry it around.
        let mut result = Box::pin(self.ask(demand, mode)).await;
        self.deliver(demand, &mut result);
        result
    }

    /// The same without a future, where the answer is at hand; nothing if it has to be awaited.
    pub(crate) fn acquire_at_once(
        &self,
        demand: &Demand,
        mode: Mode,
    ) -> Option<Result<Reservation, Throttled>> {
        let mut answer = self.at_once(demand, mode);
        if let Some(result) = &mut answer {
            self.deliver(demand, result);
        }
        answer
    }

    #[inline]
    fn at_once(&self, demand: &Demand, mode: Mode) -> Option<Result<Reservation, Throttled>> {
        if !self.inner.shared.in_process {
            return None;
        }
        // No lock of the registry is held any more when the route is entered, since observers are told.
        if is_plain(demand)
            && let Some(route) = self.known_route(demand)
        {
            return route.enter_directly(demand, Standing::default(), mode);
        }
        match self.route_of(demand) {
            Ok(Some((route, standing))) => route.enter_directly(demand, standing, mode),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Hands the demand's note on, and tells observers what came of it.
    #[inline]
    fn deliver(&self, demand: &Demand, result: &mut Result<Reservation, Throttled>) {
        let observing = &self.inner.shared.options.observing;
        let bucket = demand.buckets.first().map_or("", AsRef::as_ref);
        match result {
            Ok(reservation) => {
                reservation.leave(&demand.note);
                observing.tell(Event::Granted {
                    bucket,
                    reserved: reservation.usage(),
                    waited: reservation.waited(),
                    degraded: reservation.degraded(),
                });
            }
            Err(error) => observing.tell(Event::Refused { bucket, error }),
        }
    }

    pub(super) async fn ask(&self, demand: &Demand, mode: Mode) -> Result<Reservation, Throttled> {
        let deadline = demand.max_wait.and_then(|wait| Instant::now().checked_add(wait));
        loop {
            let error = match self.ask_store(demand, deadline, mode).await {
                Err(Throttled::Store(error)) if error.is_unavailable() => error,
                result => return result,
            };
            // Boxed, since hardly any demand needs it.
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
        if let Some(result) = self.at_once(demand, mode) {
            return result;
        }
        let Some((route, standing)) = self.route_of(demand)? else {
            return Ok(Reservation::uncounted(demand.usage.clone(), 0));
        };
        let place = route.enter(demand, standing, mode, deadline)?;
        // Boxed, since most do not wait.
        let mut reservation = Box::pin(place.wait(deadline)).await?;
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

/// Whether nothing about a demand can be unknown but its buckets, as is the rule.
fn is_plain(demand: &Demand) -> bool {
    demand.class.is_none() && demand.usage.is_standard()
}

/// What its class means to a demand, if nothing about it is unknown.
fn standing(registry: &Registry, route: Option<&Route>, demand: &Demand) -> Result<Standing, Throttled> {
    let class = demand.class.as_deref();
    let Some(standing) = registry.table.standing(class) else {
        return Err(Throttled::BadDemand(BadDemand::UnknownClass(class.unwrap_or_default().into())));
    };
    let specs = route.map_or(&[][..], |route| route.path.specs());
    match registry.table.unknown_metric(&demand.usage, specs) {
        Some(metric) => Err(Throttled::BadDemand(BadDemand::UnknownMetric(metric.into()))),
        None => Ok(standing),
    }
}
