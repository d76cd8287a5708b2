//! A granted demand whose call is in flight.

use std::{
    any::Any,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;

use super::{
    bucket_set::GrantedAt, context::Context, provider_feedback::Origin,
    reservation_id::ReservationId, settle::Settling, target::BucketTarget,
};
use crate::{
    call_span::CallSpan,
    demand::{Demand, Note},
    drawn,
    engine::{Costs, Micros, Op, Settle, Verdict},
    error::{BadDemand, Throttled},
    feedback::Feedback,
    name::Name,
    observe::{Buckets, Event, OtherAmounts},
    quota::micros,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    usage::Usage,
};

/// What to charge a call in the end.
///
/// ```
/// use tower_throttle::{Settlement, usage};
///
/// /// What becomes of a call to a service that says what it used.
/// fn settlement(rows: Option<u64>) -> Settlement {
///     rows.map_or(Settlement::Keep, |rows| Settlement::Exact(usage! { rows: rows }))
/// }
/// ```
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
/// One that is dropped keeps its charge, since its call is presumed to have been made; what it
/// holds of a concurrency limit is free again. One whose grant never reached its caller is
/// released.
///
/// ```
/// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
/// let limiter = Limiter::new(limits)?;
/// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
/// assert_eq!(reservation.usage().get("tokens"), Some(1_500));
/// drop(reservation);
/// assert_eq!(limiter.status("gpt-4o").await?.quotas[0].charged, 1_500.0);
/// # Ok(())
/// # }
/// ```
#[must_use = "a dropped reservation keeps what it reserved: settle it on what was really used"]
pub struct Reservation {
    /// 0 until it is needed.
    id: AtomicU64,
    at: GrantedAt,
    usage: Usage,
    /// A drop gives everything back instead of keeping it: so it is until the call is made.
    releases: bool,
    /// Microseconds that its demand waited: as many bytes as leave no gap, which is slow to move.
    waited: [u8; 7],
    /// Boxed, since a reservation changes hands several times, and a short one does so faster.
    more: Option<Box<RareParts>>,
    /// Where its usage is charged. Nothing, if it is not or was settled.
    target: Option<Arc<BucketTarget>>,
}

/// The rare parts of a reservation.
#[derive(Debug, Default)]
struct RareParts {
    position: usize,
    note: Note,
    degraded: bool,
    class: Option<Name>,
    share: Option<Name>,
    /// Usages of buckets that are charged another one, by the index of their names in the demand.
    others: Box<[(u16, Usage)]>,
    /// The index of the name that stands for the provider's account, if that is not the last one.
    account: Option<usize>,
    /// It is the first call after a provider's refusal, and nothing is known of its response yet.
    probe: AtomicBool,
    /// It ends when the reservation is settled.
    call: CallSpan,
    /// Where observers are told of its end, if it is counted nowhere.
    uncounted: Option<Uncounted>,
}

/// What observers are told of a reservation that is counted nowhere.
#[derive(Debug)]
struct Uncounted {
    context: Arc<Context>,
    names: SmallVec<[Name; 1]>,
}

impl RareParts {
    /// Most demands have none of it.
    #[inline]
    fn of(demand: &Demand) -> Option<Box<Self>> {
        if demand.is_short() { None } else { Some(Self::make(demand)) }
    }

    #[cold]
    fn make(demand: &Demand) -> Box<Self> {
        let others = demand.other_usages().into();
        Box::new(Self {
            note: demand.left_note(),
            others,
            account: demand.account_index(),
            class: demand.class.clone(),
            share: demand.share_asked().cloned(),
            ..Self::default()
        })
    }
}

impl Reservation {
    /// Of a demand that is granted.
    #[inline(always)]
    pub(super) fn new(demand: &Demand, at: GrantedAt, target: Option<Arc<BucketTarget>>) -> Self {
        let (id, usage, more) = (AtomicU64::new(0), demand.usage.clone(), RareParts::of(demand));
        Self { id, at, usage, releases: false, waited: [0; 7], more, target }
    }

    /// Of a call that nothing limits.
    pub(crate) fn uncounted(demand: &Demand) -> Self {
        Self::new(demand, GrantedAt::All(0), None)
    }

    /// Marks a reservation as the first call after a provider's refusal.
    #[inline]
    pub(super) fn probing(mut self, is_probe: bool) -> Self {
        if is_probe {
            self.more.get_or_insert_default().probe = AtomicBool::new(true);
        }
        self
    }

    /// Gives it the id of its demand, and what that asked for in the end, if it is another usage.
    pub(super) fn asked_as(mut self, id: u64, usage: Option<Box<Usage>>) -> Self {
        *self.id.get_mut() = id;
        if let Some(usage) = usage {
            self.usage = *usage;
        }
        self
    }

    /// Takes its span along, if a subscriber wants that, and has observers told of its end, if it
    /// is counted nowhere.
    #[inline]
    pub(super) fn told_in(
        mut self,
        call: CallSpan,
        context: &Arc<Context>,
        demand: &Demand,
    ) -> Self {
        if !call.is_off() {
            self.more.get_or_insert_default().call = call;
        }
        if self.target.is_none() {
            let (context, names) = (context.clone(), demand.buckets.clone());
            self.more.get_or_insert_default().uncounted = Some(Uncounted { context, names });
        }
        self
    }

    /// What is reserved of buckets with a usage of their own, as observers are told.
    pub(super) fn other_amounts(&self) -> OtherAmounts<'_> {
        let target = self.target.as_ref();
        target.map_or_else(OtherAmounts::default, |target| {
            target.set.other_amounts(self.others(), self.others())
        })
    }

    /// Its span, for its call.
    pub(crate) fn call_span(&self) -> CallSpan {
        self.more.as_ref().map_or_else(CallSpan::default, |more| more.call.clone())
    }

    /// Its buckets, as observers are told; nothing if it is not counted, or was settled.
    pub(super) fn buckets(&self) -> Option<Buckets<'_>> {
        self.target.as_ref().map(|target| target.set.names())
    }

    /// Notes how long its demand waited, and behind how many others.
    pub(super) fn after(mut self, waited: Duration, position: usize) -> Self {
        let [waited @ .., _] = micros(waited).to_le_bytes();
        self.waited = waited;
        if position > 0 {
            self.more.get_or_insert_default().position = position;
        }
        self
    }

    /// Tells reservations apart, in logs and in [events](crate::observe::Event). Another process
    /// settles it by the id that [`detach`](Self::detach) returns.
    pub fn id(&self) -> u64 {
        let id = &self.id;
        let made = new_id();
        // The first call makes it.
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
        let mut bytes = [0; 8];
        bytes[..7].copy_from_slice(&self.waited);
        Duration::from_micros(u64::from_le_bytes(bytes))
    }

    /// How many demands that need the same waited before it when it came, as far as was known:
    /// those of its process, and of other processes those that wait for the same quota.
    pub fn position(&self) -> usize {
        self.more.as_ref().map_or(0, |more| more.position)
    }

    /// When it was granted, by the store's clock.
    pub fn granted_at(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_micros(self.at.of(0))
    }

    /// Whether it was granted without the shared state, because that could not be reached.
    pub fn degraded(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.degraded)
    }

    /// What the demand left for the inspector: see [`Demand::note`](crate::Demand::note).
    pub fn note<T: Any>(&self) -> Option<&T> {
        self.more.as_ref()?.note.get()
    }

    /// Returns its span, which began when it was asked for and ends when it is settled; one that is
    /// disabled where no subscriber wants it.
    ///
    /// The span is named `reservation`, of level `INFO` and target `tower_throttle`. Its fields are
    /// the `id` and the `buckets`, `class` and `share` of the demand; how long it `waited`, in
    /// seconds, and the `quota` for which it began to wait; what was `reserved` and `settled`;
    /// whether it is `degraded`; of a demand without a reservation, why it was `refused`
    /// ([`Throttled::kind`](crate::Throttled::kind)).
    ///
    /// A [layer](crate::ThrottleLayer) makes its call in it. Elsewhere instrument the call, so that
    /// the call's own spans are its children:
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    /// use tracing::Instrument;
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
    /// let limiter = Limiter::new(limits)?;
    /// let reservation = limiter.reserve(Demand::new("api", usage! { requests: 1 })).await?;
    /// # assert!(reservation.span().is_disabled());
    /// let answer = async { "42" }.instrument(reservation.span().clone()).await;
    /// reservation.keep().await?;
    /// # assert_eq!(answer, "42");
    /// # Ok(())
    /// # }
    /// ```
    #[cfg(feature = "tracing")]
    pub fn span(&self) -> &tracing::Span {
        static NONE: tracing::Span = tracing::Span::none();
        self.more.as_ref().map_or(&NONE, |more| more.call.span())
    }

    pub(super) fn degrade(mut self, waited: Duration) -> Self {
        let position = self.position();
        self.more.get_or_insert_default().degraded = true;
        self.after(waited, position)
    }

    /// Marks its call as made.
    pub(crate) fn dispatched(mut self) -> Self {
        self.releases = false;
        self
    }

    /// Has a drop give everything back, until the call is made.
    pub(crate) fn release_on_drop(&mut self) {
        self.releases = true;
    }

    /// Charges what was really used. It is applied, or enqueued, when this returns; the future only
    /// reports.
    ///
    /// What `actual` does not name keeps its reserved amount; a metric that no quota of its buckets
    /// counts changes nothing.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// reservation.settle(usage! { tokens: 412 }).await?;
    /// assert_eq!(limiter.status("gpt-4o").await?.quotas[0].charged, 412.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the future: [`Throttled::BadDemand`] for a metric that is not a standard one and
    /// that no quota of the limiter counts, as in [`reserve`](crate::Limiter::reserve); what else
    /// is named is charged all the same. And see [`Settling`].
    pub fn settle(mut self, actual: Usage) -> Settling {
        self.end(&Settlement::Exact(actual))
    }

    /// Leaves the charge as it was reserved.
    ///
    /// # Errors
    /// Those of the future: see [`Settling`].
    pub fn keep(self) -> Settling {
        self.conclude(Settlement::Keep)
    }

    /// Gives everything back: the call was not made.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let reservation = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// reservation.release().await?;
    /// assert_eq!(limiter.status("gpt-4o").await?.quotas[0].charged, 0.0);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the future: see [`Settling`].
    pub fn release(self) -> Settling {
        self.conclude(Settlement::Release)
    }

    /// Charges what a [`Settlement`] says.
    ///
    /// # Errors
    /// Those of the future: see [`Settling`].
    pub fn conclude(mut self, settlement: Settlement) -> Settling {
        self.end(&settlement)
    }

    /// Charges what a settlement says and stays behind as a reservation of nothing.
    pub(crate) fn conclude_early(&mut self, settlement: &Settlement) {
        drop(self.end(settlement));
    }

    /// Replaces the estimate while the call goes on; metrics it does not name stay as they are. It
    /// never waits: more than is available becomes a debt.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let mut call = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// // It turns out to be longer than expected.
    /// call.adjust(usage! { tokens: 4_000 }).await?;
    /// assert_eq!(limiter.status("gpt-4o").await?.quotas[0].charged, 4_000.0);
    /// call.settle(usage! { tokens: 3_900 }).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the future: [`Throttled::BadDemand`] for a metric that is not a standard one and
    /// that no quota of the limiter counts; nothing changes then. And see [`Settling`].
    pub fn adjust(&mut self, estimate: Usage) -> Settling {
        let Some(target) = self.target.clone() else { return Settling::done() };
        if let Err(error) = target.check(&estimate) {
            return Settling::failed(error);
        }
        let (reserved, before) = (self.costs(&target), self.usage.clone());
        self.usage = self.usage.corrected(&estimate);
        let others_before: Box<[_]> = self.others().into();
        if let Some(more) = &mut self.more {
            more.others.iter_mut().for_each(|(_, usage)| *usage = usage.corrected(&estimate));
        }
        target.session.context().tell(|| Event::Adjusted {
            id: self.id(),
            buckets: target.set.names(),
            class: self.class_name(),
            share: self.share_name(),
            reserved: &before,
            actual: &self.usage,
            others: target.set.other_amounts(&others_before, self.others()),
        });
        let settle = self.op(&target, reserved, self.costs(&target), false);
        target.change(settle, self.id(), false)
    }

    /// Says that the provider answered the call well, by its status: do not wait for the end of a
    /// streamed body. After a provider's refusal one call goes first, as a probe; the others follow
    /// when this was said of it, or when it was settled without feedback on a wait, or after a
    /// second. Of any other call this changes nothing.
    ///
    /// It is applied, or enqueued, when this returns; the future only reports.
    ///
    /// # Errors
    /// Those of the future: see [`Settling`].
    pub fn answered(&self) -> Settling {
        let Some(target) = self.target.as_ref().filter(|_| self.ends_probe()) else {
            return Settling::done();
        };
        let handles = target.set.handles().enumerate();
        let answers = handles.map(|(index, handle)| {
            target.tell(handle.id(), Op::Answered { bucket: 0, at: self.at.of(index) })
        });
        answers.last().unwrap_or_else(Settling::done)
    }

    /// Returns true once, if this is a probe.
    #[inline]
    fn ends_probe(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.probe.swap(false, Ordering::Relaxed))
    }

    /// Holds all that share its account's bucket to what the provider said in the call's response:
    /// say it before the call is settled, so that no other call takes what is given back in
    /// between. The bucket is the one that [`Demand::account`](crate::Demand::account) names, or
    /// else the last one.
    ///
    /// What comes back between the grant and the response is left besides what the provider said,
    /// as is what the settle gives back: of a call that the provider refused and did not count, say
    /// what is left once it is released, with [`Limiter::feedback`](crate::Limiter::feedback). It
    /// is applied, or enqueued, when this returns; the future only reports.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Feedback, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let call = limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?;
    /// // The response: 429, "retry-after: 20".
    /// call.feedback(&Feedback::new().with_retry_after(Duration::from_secs(20))).await?;
    /// call.release().await?;
    /// assert!(limiter.status("gpt-4o").await?.paused_until.is_some());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// Those of the future: [`Throttled::Store`] if the store does not answer. It is not sent again
    /// then, since the provider will say it anew.
    pub fn feedback(&self, feedback: &Feedback) -> Settling {
        if feedback.retry_after().is_some() {
            self.ends_probe();
        }
        self.origin().map_or_else(Settling::done, |origin| origin.feedback(feedback))
    }

    /// Gives everything back and holds all that share its account's bucket to what the provider
    /// said, for a call that was refused and not counted (429, say).
    ///
    /// Both are said in the right order: how long to wait before anything is free again, and what
    /// is left once it is. With [`feedback`](Self::feedback) and [`release`](Self::release) one
    /// after the other, what the release gives back would be left besides.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, Feedback, Limiter, Limits, Named, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new().bucket("api", [Quota::per_minute("tokens", 30_000)]);
    /// let limiter = Limiter::new(limits)?;
    /// let reservation = limiter.reserve(Demand::new("api", usage! { tokens: 1_500 })).await?;
    ///
    /// // "429, x-ratelimit-remaining-tokens: 0, x-ratelimit-reset-tokens: 30"
    /// let reset = Some(Duration::from_secs(30));
    /// let feedback = Feedback::new().with_left(Named::metric("tokens"), 0, reset);
    /// reservation.refused(&feedback).await?;
    /// let quota = &limiter.status("api").await?.quotas[0];
    /// // What the call gave back is not left besides.
    /// assert_eq!((quota.in_flight, quota.available), (0, 0.0));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It is applied, or enqueued, when this returns; the future only reports.
    ///
    /// # Errors
    /// Those of the future: see [`Settling`].
    pub fn refused(mut self, feedback: &Feedback) -> Settling {
        if feedback.retry_after().is_some() {
            self.ends_probe();
        }
        let origin = self.origin().map(Origin::of_refusal);
        let wait = origin.as_ref().and_then(|origin| origin.wait(feedback));
        let released = self.end(&Settlement::Release);
        let left = origin.as_ref().and_then(|origin| origin.left(feedback));
        // A release that does not arrive is what matters most.
        let _ = (wait, left);
        released
    }

    /// Where feedback on the call goes, also when it has been settled.
    pub(crate) fn origin(&self) -> Option<Origin> {
        let target = self.target.as_ref()?;
        let account = match self.more.as_ref().and_then(|more| more.account) {
            // Nothing limits it, so there is nothing to hold to what is said.
            Some(named) => target.set.index_of_named(named)?,
            None => target.set.handles().len().saturating_sub(1),
        };
        Some(Origin::new(target.clone(), account, self.at.of(account)))
    }

    /// Lets another process settle it, once, within `lease` (at most 30 days): with
    /// [`Limiter::settle`](crate::Limiter::settle) and the id returned. After the lease it keeps
    /// its charge, and gives up what it holds: what waits for that looks within five seconds in
    /// memory, and within one in a shared store.
    ///
    /// # Errors
    /// [`Throttled::Store`] if the store does not answer; [`Throttled::BadDemand`] for a
    /// reservation that is not counted anywhere.
    ///
    /// # Cancel safety
    /// A dropped future leaves it detached or about to be.
    pub async fn detach(mut self, lease: Duration) -> Result<ReservationId, Throttled> {
        let Some(target) = self.target.take() else {
            return Err(Throttled::BadDemand(BadDemand::InvalidId));
        };
        let set = &target.set;
        target.session.context().tell(|| Event::Detached {
            id: self.id(),
            buckets: set.names(),
            class: self.class_name(),
            share: self.share_name(),
        });
        let others = self.others().iter().filter_map(|(named, usage)| {
            let index = set.index_of_named((*named).into())?;
            Some((u16::try_from(index).ok()?, usage.clone()))
        });
        let id = ReservationId {
            claim: self.id(),
            at: self.at.times(set.buckets().len()).to_vec(),
            buckets: set.specs().map(|spec| spec.name().to_owned()).collect(),
            usage: self.usage.clone(),
            others: others.collect(),
        };
        let (reserved, lease) = (self.costs(&target), micros(lease).clamp(1, MAX_LEASE));
        let detach = Op::Detach { on: set.all(), claim: self.id(), reserved, lease };
        match target.change(detach, 0, true).verdict().await? {
            // The id of a session: ids are drawn.
            Verdict::NoClaim => Err(Throttled::BadDemand(BadDemand::InvalidId)),
            _ => Ok(id),
        }
    }

    fn class_name(&self) -> Option<&str> {
        self.more.as_ref()?.class.as_ref().map(Name::as_str)
    }

    fn share_name(&self) -> Option<&str> {
        self.more.as_ref()?.share.as_ref().map(Name::as_str)
    }

    fn others(&self) -> &[(u16, Usage)] {
        self.more.as_ref().map_or(&[], |more| &more.others)
    }

    /// What it is charged now.
    #[inline]
    fn costs(&self, target: &BucketTarget) -> Costs {
        target.set.costs(&self.usage, self.others())
    }

    #[inline]
    fn op(&self, target: &BucketTarget, reserved: Costs, actual: Costs, close: bool) -> Op {
        let (on, at) = (target.set.all(), self.at.times(target.set.buckets().len()));
        Op::Settle(Settle { on, at, reserved, actual, close, claim: None })
    }

    #[inline]
    fn end(&mut self, settlement: &Settlement) -> Settling {
        match settlement {
            Settlement::Exact(actual) => {
                let is_known = self.check(actual);
                let settling = self.charge(|reserved| reserved.corrected(actual), false);
                is_known.map_or_else(Settling::failed, |()| settling)
            }
            Settlement::AtLeast(seen) => {
                let is_known = self.check(seen);
                let settling = self.charge(|reserved| reserved.at_least(seen), true);
                is_known.map_or_else(Settling::failed, |()| settling)
            }
            Settlement::Keep => self.charge(Usage::clone, false),
            Settlement::Release => {
                // It was not called, so that nothing is known of the provider.
                self.ends_probe();
                self.charge(Usage::zeroed, false)
            }
        }
    }

    /// # Errors
    /// A metric that no quota counts. A standard one costs nothing to check.
    #[inline]
    fn check(&self, usage: &Usage) -> Result<(), Throttled> {
        match &self.target {
            Some(target) if !usage.is_standard() => target.check(usage),
            _ => Ok(()),
        }
    }

    /// Charges another usage instead of what is reserved, or the larger of both on each quota.
    #[inline]
    fn charge(&mut self, actual: impl Fn(&Usage) -> Usage, at_least: bool) -> Settling {
        if self.more.is_some() {
            drop(self.answered());
        }
        let used = actual(&self.usage);
        let Some(target) = self.target.take() else {
            self.end_uncounted(&used);
            return Settling::done();
        };
        let reserved = self.costs(&target);
        // Empty for most, and then not allocated.
        let others: Vec<_> =
            self.others().iter().map(|(named, usage)| (*named, actual(usage))).collect();
        let mut costs = target.set.costs(&used, &others);
        if at_least {
            costs
                .iter_mut()
                .zip(&reserved)
                .for_each(|(actual, &reserved)| *actual = reserved.max(*actual));
        }
        target.set.watch([&reserved, &costs], |bucket, quota, demands| {
            target.session.context().tell(|| Event::NeverCharged { bucket, quota, demands });
        });
        if let Some(more) = &mut self.more {
            more.call.settled(&used);
        }
        let op = self.op(&target, reserved, costs, true);
        let settling = target.change(op, *self.id.get_mut(), true);
        target.session.context().tell(|| Event::Settled {
            id: self.id(),
            buckets: target.set.names(),
            class: self.class_name(),
            share: self.share_name(),
            reserved: &self.usage,
            actual: &used,
            others: target.set.other_amounts(self.others(), &others),
        });
        if let Some(more) = &mut self.more {
            more.call = CallSpan::default();
        }
        settling
    }

    /// Tells that a reservation which is counted nowhere has ended, unless that was told.
    fn end_uncounted(&mut self, used: &Usage) {
        let Some(more) = &mut self.more else { return };
        let (call, uncounted) = (std::mem::take(&mut more.call), more.uncounted.take());
        call.settled(used);
        let Some(Uncounted { context, names }) = uncounted else { return };
        context.tell(|| Event::Settled {
            id: self.id(),
            buckets: Buckets::new(names.iter().map(Name::as_str)),
            class: self.class_name(),
            share: self.share_name(),
            reserved: &self.usage,
            actual: used,
            others: OtherAmounts::default(),
        });
    }

    /// Whether its end is to be told, although it is counted nowhere.
    #[inline]
    fn is_told(&self) -> bool {
        self.more.as_ref().is_some_and(|more| more.uncounted.is_some())
    }
}

/// In short: it is part of errors of users' tests.
impl fmt::Debug for Reservation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reservation")
            .field("id", &self.id)
            .field("at", &self.at)
            .field("usage", &self.usage)
            .field("waited", &self.waited())
            .field("target", &self.target)
            .finish_non_exhaustive()
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.target.is_some() || self.is_told() {
            let kept = if self.releases { Settlement::Release } else { Settlement::Keep };
            drop(self.end(&kept));
        }
    }
}

/// Ids of reservations are drawn, since no two of any process may be alike.
pub(super) fn new_id() -> u64 {
    drawn::name()
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
