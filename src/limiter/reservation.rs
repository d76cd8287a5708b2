//! A granted demand whose call is in flight.

use std::{
    any::Any,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::Stream;

use super::{
    feedback::Origin, id::ReservationId, route::Route, settling::Settling, track::Tracked,
};
use crate::{
    demand::{Demand, Note},
    engine::{Costs, MAX_AMOUNT, Micros, Op},
    error::{BadDemand, Throttled},
    feedback::Feedback,
    observe::Event,
    quota::micros,
    usage::Usage,
};

/// What to charge a call in the end.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Settlement {
    /// This was used; metrics it does not name keep their reserved amount.
    Exact(Usage),
    /// At least this was used: the larger of it and the reserved usage.
    AtLeast(Usage),
    /// What was reserved.
    #[default]
    Keep,
    /// Nothing.
    Release,
}

/// A granted demand whose call is in flight. It is used up by settling it.
///
/// One that is dropped keeps its charge, since its call is presumed to have been made; what it holds of a concurrency
/// limit is free again. One whose grant never reached its caller is released.
#[derive(Debug)]
#[must_use = "a dropped reservation keeps what it reserved: settle it on what was really used"]
pub struct Reservation {
    /// 0 until somebody asks for it.
    id: AtomicU64,
    at: Micros,
    usage: Usage,
    on_drop: OnDrop,
    /// Boxed, since a reservation changes hands several times, and a short one does so faster.
    more: Option<Box<More>>,
    /// Where its usage is charged. Nothing, if it is not or was settled.
    route: Option<Arc<Route>>,
}

/// What becomes of a reservation that is dropped. As wide as what is beside it, since what has gaps is slow to move.
#[derive(Clone, Copy, Debug)]
#[repr(usize)]
enum OnDrop {
    /// It keeps its charge.
    Keep,
    /// It gives everything back.
    Release,
}

/// What there is to tell of few.
#[derive(Debug, Default)]
struct More {
    waited: Duration,
    position: usize,
    note: Note,
    degraded: bool,
}

impl More {
    /// Most demands have no note.
    #[inline]
    fn with(note: &Note) -> Option<Box<Self>> {
        if note.is_some() { Some(Self::noting(note)) } else { None }
    }

    #[cold]
    fn noting(note: &Note) -> Box<Self> {
        Box::new(Self { note: note.clone(), ..Self::default() })
    }
}

impl Reservation {
    /// Of a demand that is granted.
    #[inline(always)]
    pub(super) fn of(demand: &Demand, at: Micros, route: Option<Arc<Route>>) -> Self {
        let (id, more) = (AtomicU64::new(0), More::with(&demand.note));
        Self { id, at, usage: demand.usage.clone(), on_drop: OnDrop::Keep, more, route }
    }

    /// Of a call that nothing limits.
    pub(super) fn uncounted(demand: &Demand) -> Self {
        Self::of(demand, 0, None)
    }

    /// Of a grant that has yet to reach its caller; of no `route`, nothing is charged.
    pub(super) fn on_its_way(usage: Usage, at: Micros, route: Option<Arc<Route>>) -> Self {
        Self { id: AtomicU64::new(0), at, usage, on_drop: OnDrop::Release, more: None, route }
    }

    /// The same, of a demand that was queued.
    pub(super) fn after(mut self, waited: Duration, position: usize) -> Self {
        let more = self.more.get_or_insert_default();
        (more.waited, more.position) = (waited, position);
        self
    }

    /// Tells reservations apart, in logs.
    pub fn id(&self) -> u64 {
        let id = &self.id;
        let made = fastrand::u64(1..MAX_AMOUNT);
        // Whoever asks first makes it.
        match id.compare_exchange(0, made, Ordering::Relaxed, Ordering::Relaxed) {
            Ok(_) => made,
            Err(id) => id,
        }
    }

    /// What is reserved.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// How long the demand waited.
    pub fn waited(&self) -> Duration {
        self.more.as_ref().map_or(Duration::ZERO, |more| more.waited)
    }

    /// How many demands of its process waited before it when it came.
    pub fn position(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.position)
    }

    /// When it was granted, by the store's clock.
    pub fn granted_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.at)
    }

    /// Whether it was granted without the shared state, because that could not be reached.
    pub fn degraded(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.degraded)
    }

    /// What the demand left for whoever settles it: see [`Demand::note`](crate::Demand::note).
    pub fn note<T: Any>(&self) -> Option<&T> {
        self.more.as_ref()?.note.get()
    }

    /// Leaves a note of its demand.
    pub(super) fn leave(&mut self, note: &Note) {
        if note.is_some() {
            self.more.get_or_insert_default().note = note.clone();
        }
    }

    pub(super) fn degrade(mut self) -> Self {
        self.more.get_or_insert_default().degraded = true;
        self
    }

    /// The same, its call having been made.
    pub(crate) fn dispatched(mut self) -> Self {
        self.on_drop = OnDrop::Keep;
        self
    }

    /// Whether a drop gives everything back instead of keeping it: so it is until the call is made.
    pub(crate) fn release_on_drop(&mut self, release: bool) {
        self.on_drop = if release { OnDrop::Release } else { OnDrop::Keep };
    }

    /// Charges what was really used. It is applied, or enqueued, when this returns; the future only reports.
    ///
    /// What `actual` does not name keeps its reserved amount; a metric that no quota of its buckets counts changes nothing.
    pub fn settle(mut self, actual: Usage) -> Settling {
        let actual = self.usage.corrected(&actual);
        self.charge(Some(&actual), false)
    }

    /// Leaves the charge as it was reserved.
    pub fn keep(self) -> Settling {
        self.conclude(Settlement::Keep)
    }

    /// Gives everything back: the call was not made.
    pub fn release(self) -> Settling {
        self.conclude(Settlement::Release)
    }

    /// Charges what a [`Settlement`] says.
    pub fn conclude(mut self, settlement: Settlement) -> Settling {
        self.end(&settlement)
    }

    /// Charges what a settlement says and stays behind as a reservation of nothing.
    pub(crate) fn conclude_early(&mut self, settlement: &Settlement) {
        drop(self.end(settlement));
    }

    /// Replaces the estimate while the call goes on; metrics it does not name stay as they are. It never waits: more
    /// than is available becomes a debt.
    pub fn adjust(&mut self, estimate: Usage) -> Settling {
        let Some(route) = &self.route else { return Settling::done() };
        let usage = self.usage.corrected(&estimate);
        let (reserved, actual) = (route.path.costs(&self.usage), route.path.costs(&usage));
        self.usage = usage;
        route.settle(self.at, &reserved, &actual, false)
    }

    /// Holds all that share its first bucket to what the provider said in the call's response: say it before the call is
    /// settled, so that nobody takes what is given back in between.
    ///
    /// What comes back between the grant and the response is left besides what the provider said, as is what the settle
    /// gives back: of a call that the provider refused and did not count, say what is left once it is released, with
    /// [`Limiter::feedback`](crate::Limiter::feedback). It is applied, or enqueued, when this returns; the future only
    /// reports.
    pub fn feedback(&self, feedback: &Feedback) -> Settling {
        self.origin().map_or_else(Settling::done, |origin| origin.feedback(feedback))
    }

    /// Where feedback on the call goes, also when it has been settled.
    pub(crate) fn origin(&self) -> Option<Origin> {
        self.route.as_ref().map(|route| Origin { route: route.clone(), at: self.at })
    }

    /// Lets another process settle it, once, within `lease`: with [`Limiter::settle`](crate::Limiter::settle) and the
    /// id answered. After the lease it keeps its charge.
    ///
    /// # Errors
    /// [`Throttled::Store`] if the store does not answer; [`Throttled::BadDemand`] for a reservation that is not
    /// counted anywhere.
    ///
    /// # Cancel safety
    /// A dropped future leaves it detached or about to be.
    pub async fn detach(mut self, lease: Duration) -> Result<ReservationId, Throttled> {
        let Some(route) = self.route.take() else {
            return Err(Throttled::BadDemand(BadDemand::InvalidId));
        };
        let id = ReservationId {
            claim: self.id(),
            at: self.at,
            buckets: route.path.specs().iter().map(|spec| spec.name().to_owned()).collect(),
            usage: self.usage.clone(),
        };
        let (reserved, lease) = (route.path.costs(&self.usage), micros(lease).clamp(1, MAX_LEASE));
        route.change(Op::Detach { claim: self.id(), reserved, lease }, true).verdict().await?;
        Ok(id)
    }

    /// Follows a stream of typed items, `usage_of` telling what an item says of the usage so far. When the stream
    /// ends, the last usage told is charged; if it is dropped before, at least that.
    pub fn track<S, F>(self, stream: S, usage_of: F) -> Tracked<S, F>
    where
        S: Stream,
        F: FnMut(&S::Item) -> Option<Usage>,
    {
        Tracked::new(self, stream, usage_of)
    }

    fn end(&mut self, settlement: &Settlement) -> Settling {
        let reserved = &self.usage;
        match settlement {
            Settlement::Exact(actual) => self.charge(Some(&reserved.corrected(actual)), false),
            Settlement::AtLeast(seen) => self.charge(Some(&reserved.at_least(seen)), true),
            Settlement::Keep => self.charge(None, false),
            Settlement::Release => self.charge(Some(&reserved.zeroed()), false),
        }
    }

    /// Charges `actual` instead of what is reserved, or the larger of both on each quota.
    #[inline]
    fn charge(&mut self, actual: Option<&Usage>, at_least: bool) -> Settling {
        let Some(route) = self.route.take() else { return Settling::done() };
        let (usage, observing) = (&self.usage, &route.lane.shared.options.observing);
        let (mut reserved, mut costs) = (Costs::new(), Costs::new());
        route.path.put_costs(&mut reserved, usage);
        match actual {
            Some(actual) => route.path.put_costs(&mut costs, actual),
            None => costs.extend_from_slice(&reserved),
        }
        if at_least {
            costs
                .iter_mut()
                .zip(&reserved)
                .for_each(|(actual, &reserved)| *actual = reserved.max(*actual));
        }
        let settling = route.settle(self.at, &reserved, &costs, true);
        observing.tell(|| Event::Settled {
            bucket: route.path.name(),
            reserved: usage,
            actual: actual.unwrap_or(usage),
        });
        settling
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.route.is_some() {
            drop(match self.on_drop {
                OnDrop::Keep => self.end(&Settlement::Keep),
                OnDrop::Release => self.end(&Settlement::Release),
            });
        }
    }
}

/// The longest that a detached reservation can be settled for: 30 days.
const MAX_LEASE: Micros = 30 * 86_400 * 1_000_000;

#[cfg(test)]
mod tests {
    use std::task::Poll;

    use super::*;
    use crate::{Limiter, Limits, Quota, usage};

    #[test]
    #[cfg(target_pointer_width = "64")]
    fn what_changes_hands_is_short_enough_to_be_moved_without_a_call() {
        assert!(size_of::<Poll<Result<Reservation, Throttled>>>() <= 96);
        assert!(size_of::<Demand>() <= 128);
    }

    #[tokio::test]
    async fn a_reservation_is_told_in_short() {
        let quotas = [
            Quota::per_minute("tokens", 100),
            Quota::per_day("requests", 9),
            Quota::concurrency(2),
        ];
        let limiter = Limiter::new(Limits::new().bucket("a", quotas)).expect("they are valid");
        let reservation =
            limiter.reserve(Demand::new("a", usage! { tokens: 7 })).await.expect("it fits");
        let told = format!("{reservation:?}");
        assert!(told.contains("\"tokens\": 7"), "{told}");
        assert!(told.len() < 200, "{told}");
    }
}
