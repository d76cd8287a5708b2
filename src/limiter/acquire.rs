//! How a demand comes to be granted: at once, after a wait, or without the store.

use std::{error::Error, pin::pin, sync::Arc, task::Poll};

use futures_util::{
    FutureExt,
    future::{Either, select},
};
use tokio::{runtime::Handle, task::yield_now, time::Instant};

use super::{
    bucket_set::GrantedAt,
    builder::OnUnavailable,
    inner::Inner,
    registry::Registry,
    reservation::{Reservation, new_id},
    session::{
        Ask, Grant, Outcome,
        ticket::{Query, Ticket},
    },
    settle::{no_runtime, runtime_ended},
    subject::Subject,
    target::BucketTarget,
};
use crate::{
    call_span::CallSpan,
    demand::Demand,
    engine::{Costs, Flow, MAX_AMOUNT, Mode, Reserve, Verdict},
    error::{BadDemand, Throttled},
    limits::Standing,
    observe::{Buckets, Event, Shadow},
    quota::micros,
    store::StoreError,
};

/// What the class and the share of a demand mean.
#[derive(Clone, Copy, Default)]
struct Terms {
    standing: Standing,
    flow: Flow,
}

impl<'a> Query<'a> {
    fn new(demand: &'a Demand, mode: Mode) -> Self {
        let arrived = Instant::now();
        let deadline = demand.max_wait.and_then(|wait| arrived.checked_add(wait));
        Self { id: new_id(), demand, mode, arrived, deadline, call: CallSpan::default() }
    }

    /// Begins the span of its reservation.
    fn traced(mut self, inner: &Inner) -> Self {
        // An alias goes by the name of its bucket.
        let found = cfg!(feature = "tracing").then(|| inner.find(&self.demand.buckets).ok());
        let target = found.flatten().flatten();
        let buckets = || names(target.as_deref(), self.demand);
        self.call = CallSpan::begin(|| self.id, self.demand, buckets);
        self
    }
}

/// A demand whose outcome is awaited. Observers are told if its caller gives up.
struct Pending<'a> {
    inner: &'a Inner,
    asked: &'a Query<'a>,
    is_over: bool,
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        let (&Query { id, demand, mode, arrived, .. }, context) =
            (self.asked, self.inner.context());
        if self.is_over || mode == Mode::Dry || !context.is_observed() {
            return;
        }
        let target = self.inner.known_target(demand);
        let buckets = names(target.as_deref(), demand);
        let (class, share) = (demand.class_name(), demand.share_name());
        let waited = arrived.elapsed();
        context.tell(|| Event::Cancelled { id, buckets, class, share, waited });
    }
}

/// The store could not be reached.
struct Outage {
    error: Arc<StoreError>,
    target: Arc<BucketTarget>,
}

/// So many runtimes may end while they drive the session of a demand of another one.
const MAX_RUNTIMES: u32 = 8;

impl Inner {
    /// Grants a demand, if `WAITS` as soon as it can be. Not an `async fn`, which would hold the
    /// demand twice; nor does it remember the mode.
    #[inline]
    pub(super) fn acquire<const WAITS: bool>(
        self: Arc<Self>,
        demand: Demand,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + use<WAITS> {
        let mode = const { if WAITS { Mode::Wait } else { Mode::Try } };
        let acquiring = async move {
            if let Poll::Ready(result) = self.acquire_at_once(&demand, mode) {
                return result;
            }
            // Boxed, since what is granted at once would have to carry it around.
            Box::pin(self.ask(Query::new(&demand, mode).traced(&self))).await
        };
        acquiring.fuse()
    }

    /// Grants or refuses a demand where that can be told at once.
    pub(super) fn acquire_at_once(
        &self,
        demand: &Demand,
        mode: Mode,
    ) -> Poll<Result<Reservation, Throttled>> {
        match self.grant_at_once(demand, mode) {
            None => Poll::Pending,
            Some(result) => Poll::Ready(self.told_at_once(demand, result)),
        }
    }

    /// Charges a demand whether it fits or not, and tells what would have become of it.
    pub(super) async fn shadow(
        self: Arc<Self>,
        demand: Demand,
        waits: bool,
    ) -> Result<Reservation, Throttled> {
        // It does not wait: what it would have waited is compared afterwards.
        let mut asked = demand.clone();
        asked.max_wait = None;
        let query = Query::new(&asked, Mode::Try).traced(&self);
        let error = match self.ask_quietly(&query).await {
            Ok(reservation) => return Ok(self.granted(&asked, reservation, query.call.clone())),
            Err(error) => error,
        };
        self.tell_shadowed(query.id, &demand, waits, &error);
        if error.refusal().is_none() {
            return Err(error);
        }
        Box::pin(self.ask(Query { mode: Mode::Charge, ..query })).await
    }

    /// Asks, and tells nothing.
    async fn ask_quietly(&self, asked: &Query<'_>) -> Result<Reservation, Throttled> {
        if let Some(result) = self.grant_at_once(asked.demand, asked.mode) {
            return result;
        }
        match self.ask_store(asked).await {
            Ok(result) => result,
            Err(outage) => self.ask_in(outage, asked).await,
        }
    }

    /// Tells that a demand which did not fit would have waited, or been refused.
    fn tell_shadowed(&self, id: u64, demand: &Demand, waits: bool, error: &Throttled) {
        let late;
        let target = self.known_target(demand);
        let buckets = names(target.as_deref(), demand);
        let (class, share) = (demand.class_name(), demand.share_name());
        let shadow = match error {
            Throttled::NotNow(refusal) if waits => {
                let predicted = refusal.retry_after();
                if demand.max_wait.is_some_and(|most| predicted > Some(most)) {
                    late = Throttled::Deadline(refusal.clone());
                    Shadow::Refuse { error: &late }
                } else {
                    Shadow::Wait { refusal, predicted }
                }
            }
            error => Shadow::Refuse { error },
        };
        self.context().tell(|| Event::Shadowed { id, buckets, class, share, shadow });
    }

    /// Tells that no demand could be read from a request.
    pub(super) fn tell_unread(&self, error: &(dyn Error + Send + Sync + 'static)) {
        let (id, buckets, shadow) = (new_id(), Buckets::new([]), Shadow::Fail { error });
        self.context().tell(|| Event::Shadowed { id, buckets, class: None, share: None, shadow });
    }

    /// Tells what came of a demand at once.
    #[inline]
    fn told_at_once(
        &self,
        demand: &Demand,
        result: Result<Reservation, Throttled>,
    ) -> Result<Reservation, Throttled> {
        match result {
            Ok(reservation) => {
                let buckets = || reservation.buckets().unwrap_or_else(|| demand.names());
                let call = CallSpan::begin(|| reservation.id(), demand, buckets);
                Ok(self.granted(demand, reservation, call))
            }
            Err(error) => {
                let (id, target) = (new_id(), self.known_target(demand));
                let buckets = || names(target.as_deref(), demand);
                self.tell_refused(id, demand, &error, &CallSpan::begin(|| id, demand, buckets));
                Err(error)
            }
        }
    }

    /// Tells of a grant, whose reservation takes its span along.
    #[inline]
    fn granted(&self, demand: &Demand, reservation: Reservation, call: CallSpan) -> Reservation {
        if self.context().is_observed() {
            call.granted(reservation.waited(), reservation.usage(), reservation.degraded());
            self.tell_granted(demand, &reservation);
            return reservation.told_in(call, self.context(), demand);
        }
        reservation
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
        self.told_at_once(demand, result)
    }

    #[inline]
    fn tell_granted(&self, demand: &Demand, reservation: &Reservation) {
        self.context().tell(|| Event::Granted {
            id: reservation.id(),
            buckets: reservation.buckets().unwrap_or_else(|| demand.names()),
            class: demand.class_name(),
            share: demand.share_name(),
            reserved: reservation.usage(),
            others: reservation.other_amounts(),
            waited: reservation.waited(),
            degraded: reservation.degraded(),
        });
    }

    #[inline]
    fn tell_refused(&self, id: u64, demand: &Demand, error: &Throttled, call: &CallSpan) {
        if self.context().is_observed() {
            call.refused(error);
            let target = self.known_target(demand);
            let buckets = names(target.as_deref(), demand);
            let (class, share) = (demand.class_name(), demand.share_name());
            self.context().tell(|| Event::Refused { id, buckets, class, share, error });
        }
    }

    #[inline]
    fn grant_at_once(&self, demand: &Demand, mode: Mode) -> Option<Result<Reservation, Throttled>> {
        if !self.context().in_process() {
            return None;
        }
        // The lock of the registry is not held any more when the demand is tried, since observers
        // are told.
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
            None => self.ask(Query::new(demand, Mode::Dry)).await.map(drop),
        }
    }

    /// Asks for what could not be told at once.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn ask<'a>(
        &'a self,
        asked: Query<'a>,
    ) -> impl Future<Output = Result<Reservation, Throttled>> + Send + 'a {
        async move {
            let mut pending = Pending { inner: self, asked: &asked, is_over: false };
            let outage = match self.ask_store(&asked).await {
                Ok(result) => return self.told(&mut pending, result),
                Err(outage) => outage,
            };
            // Boxed, since hardly any demand needs it.
            let result = Box::pin(self.ask_in(outage, &asked)).await;
            self.told(&mut pending, result)
        }
    }

    /// Tells what came of a demand, unless it only asked.
    fn told(
        &self,
        pending: &mut Pending<'_>,
        result: Result<Reservation, Throttled>,
    ) -> Result<Reservation, Throttled> {
        pending.is_over = true;
        let &Query { id, demand, mode, ref call, .. } = pending.asked;
        match result {
            _ if mode == Mode::Dry => result,
            Ok(reservation) => Ok(self.granted(demand, reservation, call.clone())),
            Err(error) => {
                self.tell_refused(id, demand, &error, call);
                Err(error)
            }
        }
    }

    /// Asks during an outage, and again when it is over.
    async fn ask_in(
        &self,
        mut outage: Outage,
        asked: &Query<'_>,
    ) -> Result<Reservation, Throttled> {
        loop {
            if let Some(result) = self.without_store(asked, outage).await {
                return result;
            }
            outage = match self.ask_store(asked).await {
                Ok(result) => return result,
                Err(outage) => outage,
            };
        }
    }

    /// Asks the store, again and again if the runtime ends that drives the session: that of another
    /// caller, unless this one is about to end as well.
    ///
    /// What is alive over an await is part of every waiter, so the outcome is not.
    ///
    /// # Errors
    /// The store cannot be reached.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn ask_store(
        &self,
        asked: &Query<'_>,
    ) -> impl Future<Output = Result<Result<Reservation, Throttled>, Outage>> + Send {
        async move {
            for _ in 0..MAX_RUNTIMES {
                let (target, terms) = match self.target_of(asked.demand) {
                    Ok(Some(found)) => found,
                    Ok(None) => return Ok(Ok(Reservation::uncounted(asked.demand))),
                    Err(error) => return Ok(Err(error)),
                };
                if Handle::try_current().is_err() {
                    return Ok(Err(no_runtime()));
                }
                let mut ticket = match enter(&target, asked, terms) {
                    Ok(ticket) => ticket,
                    Err(error) => return Ok(Err(error)),
                };
                let outcome = ticket.outcome().await;
                drop(ticket);
                if let Some(result) = concluded(outcome, &target, asked) {
                    return result;
                }
                yield_now().await;
            }
            Ok(Err(runtime_ended()))
        }
    }

    /// What becomes of a demand while the store cannot be reached; nothing if that is over first.
    async fn without_store(
        &self,
        asked: &Query<'_>,
        Outage { error, target }: Outage,
    ) -> Option<Result<Reservation, Throttled>> {
        match (self.on_unavailable(asked.demand, &target), self.fallback()) {
            (OnUnavailable::Allow, _) => {
                let waited = asked.arrived.elapsed();
                Some(Ok(Reservation::uncounted(asked.demand).degrade(waited)))
            }
            (OnUnavailable::Local { .. }, Some(fallback)) => {
                // Boxed, since it may come back here.
                let local = Box::pin(fallback.ask_quietly(asked));
                let recovers = pin!(target.session.health().recovers());
                let Either::Left((result, _)) = select(local, recovers).await else { return None };
                Some(match result {
                    Ok(reservation) => Ok(reservation.degrade(asked.arrived.elapsed())),
                    // Too much for the share is not too much for ever.
                    Err(Throttled::ExceedsCapacity(_)) => Err(Throttled::Store(error)),
                    Err(other) => Err(other),
                })
            }
            _ => Some(Err(Throttled::Store(error))),
        }
    }

    /// What becomes of a demand while the store cannot be reached.
    fn on_unavailable(&self, demand: &Demand, target: &BucketTarget) -> OnUnavailable {
        let costs = target.set.costs(&demand.usage, demand.other_usages());
        target.set.on_unavailable(&costs, self.context().options().on_unavailable)
    }

    #[inline]
    fn known_target(&self, demand: &Demand) -> Option<Arc<BucketTarget>> {
        self.registry().find(&demand.buckets).cloned()
    }

    /// Where a demand is counted, and on what terms; nothing if it is unlimited.
    #[inline]
    fn target_of(&self, demand: &Demand) -> Result<Option<(Arc<BucketTarget>, Terms)>, Throttled> {
        let target = self.find(&demand.buckets)?;
        if demand.is_plain() {
            return Ok(target.map(|target| (target, Terms::default())));
        }
        let terms = terms(&self.registry(), target.as_deref(), demand)?;
        Ok(target.map(|target| (target, terms)))
    }
}

/// Grants or refuses a demand where the store is in this process; nothing if it has to be queued.
#[inline]
fn try_on(
    target: Arc<BucketTarget>,
    demand: &Demand,
    Terms { standing, flow }: Terms,
    mode: Mode,
) -> Option<Result<Reservation, Throttled>> {
    // Its limits may have been replaced since it was found.
    let target = if target.set.is_current() { target } else { Arc::new(target.refreshed()?) };
    let (set, others) = (&target.set, demand.other_usages());
    let mut costs = Costs::new();
    if mode == Mode::Charge {
        set.put_costs(&mut costs, &demand.usage, others);
    } else if let Err(refusal) =
        set.put_demand(&mut costs, &demand.usage, others, standing.headroom)
    {
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
    let (headroom, age, patience) = (standing.headroom, micros(standing.head_start), MAX_AMOUNT);
    let reserve = Reserve { on: set.all(), costs, headroom, mode, waiter: 0, age, patience, flow };
    match target.session.reserve_directly(set, reserve)? {
        Ok((Verdict::Granted { probe }, seen)) => {
            let at = GrantedAt::new(seen.iter().map(|seen| seen.now));
            Some(Ok(Reservation::new(demand, at, Some(target)).probing(probe)))
        }
        Ok((Verdict::Refused(refused), _)) => {
            let mut costs = Costs::new();
            // They are the same as before.
            let _ = set.put_demand(&mut costs, &demand.usage, others, headroom);
            set.refused(&refused.violations, &costs, headroom, mode).map(Err)
        }
        Ok(_) => Some(Ok(Reservation::uncounted(demand))),
        Err(error) => Some(Err(error)),
    }
}

/// Whether a demand that waits stands behind others.
#[cold]
fn blocks(target: &BucketTarget, demand: &Demand, terms: Terms) -> bool {
    ask(target, demand, terms, Mode::Wait).is_ok_and(|ask| target.session.blocks(&ask))
}

/// The buckets of a demand, by their own names if it is known where it is counted.
fn names<'a>(target: Option<&'a BucketTarget>, demand: &'a Demand) -> Buckets<'a> {
    target.map_or_else(|| demand.names(), |target| target.set.names())
}

fn ask(target: &BucketTarget, demand: &Demand, terms: Terms, mode: Mode) -> Result<Ask, Throttled> {
    let (usage, others) = (demand.usage.clone(), demand.other_usages().into());
    let ask = Ask::new(target.set.clone(), usage, others, terms.standing, terms.flow, mode)?;
    Ok(ask.estimated_by(demand.estimate()))
}

/// Queues a demand.
///
/// # Errors
/// Some quota could never admit it.
fn enter<'a>(
    target: &BucketTarget,
    asked: &'a Query<'a>,
    terms: Terms,
) -> Result<Ticket<'a>, Throttled> {
    let ask = ask(target, asked.demand, terms, asked.mode)?;
    let class = asked.demand.class.clone();
    let share = asked.demand.share_asked().cloned();
    let is_told = class.is_some() || share.is_some() || target.session.context().is_observed();
    let subject = is_told.then(|| Arc::new(Subject::new(class, share, asked.call.clone())));
    Ok(Ticket::new(target.session.clone(), ask.about(asked.id, subject), asked))
}

/// What the outcome of a demand comes to; nothing if it has to be asked for again.
fn concluded(
    outcome: Outcome,
    target: &Arc<BucketTarget>,
    asked: &Query<'_>,
) -> Option<Result<Result<Reservation, Throttled>, Outage>> {
    Some(match outcome {
        Outcome::AskAgain => return None,
        Outcome::Refused(Throttled::Store(error)) if error.is_unavailable() => {
            Err(Outage { error, target: target.clone() })
        }
        Outcome::Refused(error) => Ok(Err(error)),
        Outcome::Fits => Ok(Ok(Reservation::uncounted(asked.demand))),
        Outcome::Granted(grant) => Ok(Ok(reservation(grant, target, asked))),
    })
}

/// What a grant becomes where its caller receives it.
fn reservation(grant: Grant, target: &Arc<BucketTarget>, asked: &Query<'_>) -> Reservation {
    let Grant { set, usage, at, probe, position, .. } = grant;
    let is_same = Arc::ptr_eq(&set, &target.set);
    let target = if is_same { target.clone() } else { Arc::new(target.with(set)) };
    Reservation::new(asked.demand, at, Some(target))
        .asked_as(asked.id, usage)
        .probing(probe)
        .after(asked.arrived.elapsed(), position)
}

/// The terms of a demand, if nothing about it is unknown.
fn terms(
    registry: &Registry,
    target: Option<&BucketTarget>,
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
