//! How a demand comes to be granted: at once, after a wait, or without the store.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::{Either, select};
use tokio::{runtime::Handle, task::yield_now, time::Instant};

use super::{
    builder::OnUnavailable,
    inner::Inner,
    registry::Registry,
    reservation::{Reservation, new_id},
    session::{Ask, Grant, Outcome, ticket::Ticket},
    settle::{no_runtime, runtime_ended},
    target::Target,
};
use crate::{
    demand::Demand,
    engine::{Costs, Flow, Mode, Reserve},
    error::{BadDemand, Throttled},
    limits::Standing,
    observe::{Buckets, Event, Subject},
    quota::micros,
    store::StoreError,
};

/// What is asked for, and when it first was.
#[derive(Clone, Copy)]
struct Asked<'a> {
    /// Identifies it to observers; the id of its reservation.
    id: u64,
    demand: &'a Demand,
    mode: Mode,
    arrived: Instant,
    deadline: Option<Instant>,
}

impl<'a> Asked<'a> {
    /// What is asked for as of now.
    fn new(demand: &'a Demand, mode: Mode) -> Self {
        let arrived = Instant::now();
        let deadline = demand.max_wait.and_then(|wait| arrived.checked_add(wait));
        Self { id: new_id(), demand, mode, arrived, deadline }
    }
}

/// A demand whose outcome is awaited. Observers are told if its caller gives up.
struct Pending<'a> {
    inner: &'a Inner,
    asked: Asked<'a>,
    is_done: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let (Asked { id, demand, arrived, .. }, context) = (self.asked, self.inner.context());
        if !self.is_done && context.is_observed() {
            let target = self.inner.known_target(demand);
            let (buckets, class) = (names(target.as_deref(), demand), demand.class_name());
            let waited = arrived.elapsed();
            context.tell(|| Event::Cancelled { id, buckets, class, waited });
        }
    }
}

/// What the class and the share of a demand mean.
#[derive(Clone, Copy, Default)]
struct Terms {
    standing: Standing,
    flow: Flow,
}

/// So many runtimes may end while they drive the session of a demand of another one.
const MAX_RUNTIMES: u32 = 8;

impl Inner {
    /// Grants a demand, if `WAITS` as soon as it can be. Not an `async fn`, which moves what it is
    /// given and what it returns several times; nor does it remember the mode. Each would take its
    /// time.
    #[inline]
    pub(super) fn acquire<const WAITS: bool>(
        self: Arc<Self>,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<WAITS> {
        let (mut demand, mut later, mut is_done) = (demand, None, false);
        let mode = const { if WAITS { Mode::Wait } else { Mode::Try } };
        poll_fn(move |context| {
            if is_done {
                return Poll::Pending;
            }
            let mut answer = match &later {
                None => self.acquire_at_once(&demand, mode),
                Some(_) => Poll::Pending,
            };
            if answer.is_pending() {
                answer = poll_later(&mut later, context, || {
                    self.clone()
                        .acquire_later(std::mem::replace(&mut demand, Demand::unlimited()), mode)
                });
            }
            is_done = answer.is_ready();
            answer
        })
    }

    /// Grants or refuses a demand where that can be told at once.
    pub(super) fn acquire_at_once(
        &self,
        demand: &Demand,
        mode: Mode,
    ) -> Poll<Result<Reservation, Throttled>> {
        let result = self.grant_at_once(demand, mode);
        match &result {
            None => return Poll::Pending,
            Some(Ok(reservation)) => self.tell_granted(demand, reservation),
            Some(Err(error)) => self.tell_refused(new_id(), demand, error),
        }
        result.map_or(Poll::Pending, Poll::Ready)
    }

    /// Grants or refuses a demand at once.
    pub(super) fn try_reserve_now(&self, demand: &Demand) -> Result<Reservation, Throttled> {
        if let Poll::Ready(result) = self.acquire_at_once(demand, Mode::Try) {
            return result;
        }
        let result = if !self.context().in_process() {
            Err(Throttled::NotInProcess)
        } else if self.find(&demand.buckets)?.is_none() {
            Ok(Reservation::uncounted(demand))
        } else {
            // Demands came before it that the store has not looked at.
            Err(Throttled::NotNow(Box::default()))
        };
        match &result {
            Ok(reservation) => self.tell_granted(demand, reservation),
            Err(error) => self.tell_refused(new_id(), demand, error),
        }
        result
    }

    async fn acquire_later(
        self: Arc<Self>,
        demand: Demand,
        mode: Mode,
    ) -> Result<Reservation, Throttled> {
        let asked = Asked::new(&demand, mode);
        let mut pending = Pending { inner: &self, asked, is_done: false };
        let result = self.ask(asked).await;
        pending.is_done = true;
        match &result {
            Ok(reservation) => self.tell_granted(&demand, reservation),
            Err(error) => self.tell_refused(asked.id, &demand, error),
        }
        result
    }

    #[inline]
    fn tell_granted(&self, demand: &Demand, reservation: &Reservation) {
        if self.context().is_observed() {
            self.context().tell(|| Event::Granted {
                id: reservation.id(),
                buckets: reservation.buckets().unwrap_or_else(|| demand.names()),
                class: demand.class_name(),
                reserved: &demand.usage,
                waited: reservation.waited(),
                degraded: reservation.degraded(),
            });
        }
    }

    #[inline]
    fn tell_refused(&self, id: u64, demand: &Demand, error: &Throttled) {
        if self.context().is_observed() {
            let (target, class) = (self.known_target(demand), demand.class_name());
            let buckets = names(target.as_deref(), demand);
            self.context().tell(|| Event::Refused { id, buckets, class, error });
        }
    }

    #[inline]
    fn grant_at_once(&self, demand: &Demand, mode: Mode) -> Option<Result<Reservation, Throttled>> {
        if !self.context().in_process() {
            return None;
        }
        // The lock of the registry is not held any more when the demand is tried, since observers
        // are told.
        if demand.is_plain()
            && let Some(target) = self.known_target(demand)
        {
            return try_on(target, demand, Terms::default(), mode);
        }
        match self.target_of(demand) {
            Ok(Some((target, terms))) => try_on(target, demand, terms, mode),
            Ok(None) => None,
            Err(error) => Some(Err(error)),
        }
    }

    /// Whether a demand would be granted now. Reserves nothing.
    pub(super) async fn ask_dry(&self, demand: &Demand) -> Result<(), Throttled> {
        match self.grant_at_once(demand, Mode::Dry) {
            Some(result) => result.map(drop),
            None => self.ask(Asked::new(demand, Mode::Dry)).await.map(drop),
        }
    }

    /// Asks for what could not be told at once.
    async fn ask(&self, asked: Asked<'_>) -> Result<Reservation, Throttled> {
        loop {
            let (result, target) = self.ask_store(asked).await;
            match (result, target) {
                (Err(Throttled::Store(error)), Some(target)) if error.is_unavailable() => {
                    // Boxed, since hardly any demand needs it.
                    if let Some(result) = Box::pin(self.without_store(asked, &target, error)).await
                    {
                        return result;
                    }
                }
                (result, _) => return result,
            }
        }
    }

    /// Asks the store, again and again if the runtime ends that drives the session: that of another
    /// caller, unless this one is about to end as well. Returns where it asked, too.
    async fn ask_store(
        &self,
        asked: Asked<'_>,
    ) -> (Result<Reservation, Throttled>, Option<Arc<Target>>) {
        for _ in 0..MAX_RUNTIMES {
            let (target, terms) = match self.target_of(asked.demand) {
                Ok(Some(found)) => found,
                Ok(None) => return (Ok(Reservation::uncounted(asked.demand)), None),
                Err(error) => return (Err(error), None),
            };
            if Handle::try_current().is_err() {
                return (Err(no_runtime()), None);
            }
            match ask_on(&target, asked, terms).await {
                Outcome::AskAgain => yield_now().await,
                Outcome::Refused(error) => return (Err(error), Some(target)),
                Outcome::Fits => return (Ok(Reservation::uncounted(asked.demand)), Some(target)),
                Outcome::Granted(grant) => {
                    return (Ok(reservation(grant, &target, asked)), Some(target));
                }
            }
        }
        (Err(runtime_ended()), None)
    }

    /// Asks a limiter with its state in this process.
    async fn ask_here(&self, asked: Asked<'_>) -> Result<Reservation, Throttled> {
        match self.grant_at_once(asked.demand, asked.mode) {
            Some(result) => result,
            None => self.ask_store(asked).await.0,
        }
    }

    /// What becomes of a demand while the store cannot be reached; nothing if that is over first.
    async fn without_store(
        &self,
        asked: Asked<'_>,
        target: &Target,
        error: Arc<StoreError>,
    ) -> Option<Result<Reservation, Throttled>> {
        match (self.context().options().on_unavailable, self.fallback()) {
            (OnUnavailable::Allow, _) => Some(Ok(Reservation::uncounted(asked.demand).degrade())),
            (OnUnavailable::Local { .. }, Some(fallback)) => {
                let local = pin!(fallback.ask_here(asked));
                let recovers = pin!(target.session.health().recovers());
                let Either::Left((result, _)) = select(local, recovers).await else { return None };
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
    fn known_target(&self, demand: &Demand) -> Option<Arc<Target>> {
        self.registry().find(&demand.buckets).cloned()
    }

    /// Where a demand is counted, and on what terms; nothing if it is unlimited.
    #[inline(never)]
    fn target_of(&self, demand: &Demand) -> Result<Option<(Arc<Target>, Terms)>, Throttled> {
        let target = self.find(&demand.buckets)?;
        let terms = terms(&self.registry(), target.as_deref(), demand)?;
        Ok(target.map(|target| (target, terms)))
    }
}

/// Begins what cannot be done at once, and goes on with it. Boxed, since what is granted at once
/// would have to carry it around.
#[inline(never)]
fn poll_later<F: Future>(
    later: &mut Option<Pin<Box<F>>>,
    context: &mut Context<'_>,
    begin: impl FnOnce() -> F,
) -> Poll<F::Output> {
    later.get_or_insert_with(|| Box::pin(begin())).as_mut().poll(context)
}

/// Grants or refuses a demand where the store is in this process; nothing if it has to be queued.
#[inline]
fn try_on(
    target: Arc<Target>,
    demand: &Demand,
    Terms { standing, flow }: Terms,
    mode: Mode,
) -> Option<Result<Reservation, Throttled>> {
    // Its limits may have been replaced since it was found.
    let target = if target.set.is_current() { target } else { Arc::new(target.refreshed()?) };
    let (set, others) = (&target.set, demand.other_usages());
    let mut costs = Costs::new();
    if let Err(refusal) = set.put_demand(&mut costs, &demand.usage, others, standing.headroom) {
        return Some(Err(Throttled::ExceedsCapacity(Box::new(refusal))));
    }
    if target.session.is_closed() {
        return Some(Err(Throttled::Closed));
    }
    if mode == Mode::Wait
        && target.session.is_occupied()
        && blocks(&target, demand, Terms { standing, flow })
    {
        return None;
    }
    let (headroom, age) = (standing.headroom, micros(standing.head_start));
    let reserve = Reserve { on: set.all(), costs, headroom, mode, waiter: 0, age, flow };
    match target.session.reserve_directly(set, reserve)? {
        Ok(_) if mode == Mode::Dry => Some(Ok(Reservation::uncounted(demand))),
        Ok((at, probe)) => Some(Ok(Reservation::new(demand, at, Some(target)).probing(probe))),
        Err(Ok(refused)) => {
            let mut costs = Costs::new();
            // They are the same as before.
            let _ = set.put_demand(&mut costs, &demand.usage, others, headroom);
            set.refused(&refused.violations, &costs, headroom, mode).map(Err)
        }
        Err(Err(error)) => Some(Err(error)),
    }
}

/// Whether a demand that waits stands behind others.
#[cold]
fn blocks(target: &Target, demand: &Demand, terms: Terms) -> bool {
    ask(target, demand, terms, Mode::Wait).is_ok_and(|ask| target.session.blocks(&ask))
}

/// The buckets of a demand, by their own names if it is known where it is counted.
fn names<'a>(target: Option<&'a Target>, demand: &'a Demand) -> Buckets<'a> {
    target.map_or_else(|| demand.names(), |target| target.set.names())
}

fn ask(target: &Target, demand: &Demand, terms: Terms, mode: Mode) -> Result<Ask, Throttled> {
    let (usage, others) = (demand.usage.clone(), demand.other_usages().into());
    Ask::new(target.set.clone(), usage, others, terms.standing, terms.flow, mode)
}

/// Queues a demand and waits for what comes of it.
async fn ask_on(target: &Arc<Target>, asked: Asked<'_>, terms: Terms) -> Outcome {
    let ask = match ask(target, asked.demand, terms, asked.mode) {
        Ok(ask) => ask,
        Err(error) => return Outcome::Refused(error),
    };
    let subject = Arc::new(Subject::new(asked.id, asked.demand.class.clone()));
    let ask = ask.about(subject);
    match Ticket::new(target.session.clone(), ask, asked.arrived, asked.deadline) {
        // Boxed, since most do not wait.
        Ok(ticket) => Box::pin(ticket.outcome(asked.deadline)).await,
        Err(outcome) => outcome,
    }
}

/// What a grant becomes where its caller receives it.
fn reservation(grant: Grant, target: &Arc<Target>, asked: Asked<'_>) -> Reservation {
    let Grant { set, at, probe, position, .. } = grant;
    let is_same = Arc::ptr_eq(&set, &target.set);
    let target = if is_same { target.clone() } else { Arc::new(target.with(set)) };
    Reservation::new(asked.demand, at, Some(target))
        .probing(probe)
        .identified(asked.id)
        .after(asked.arrived.elapsed(), position)
}

/// The terms of a demand, if nothing about it is unknown.
fn terms(
    registry: &Registry,
    target: Option<&Target>,
    demand: &Demand,
) -> Result<Terms, Throttled> {
    let (table, class) = (registry.table(), demand.class_name());
    let Some(standing) = table.standing(class) else {
        return Err(Throttled::BadDemand(BadDemand::UnknownClass(
            class.unwrap_or_default().into(),
        )));
    };
    let specs = target.into_iter().flat_map(|target| target.set.specs());
    let usages = demand.other_usages().iter().map(|(_, usage)| usage).chain([&demand.usage]);
    for usage in usages {
        if let Some(metric) = table.unknown_metric(usage, specs.clone()) {
            return Err(Throttled::BadDemand(BadDemand::UnknownMetric(metric.into())));
        }
    }
    Ok(Terms { standing, flow: table.flow(demand.share_name()) })
}

#[cfg(test)]
mod tests;
