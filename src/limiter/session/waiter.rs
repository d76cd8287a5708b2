//! A pending demand: what it asks, its place in the order, and where its outcome goes.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::sync::oneshot;

use crate::{
    demand::Estimate,
    engine::{Costs, Flow, Micros, Mode, On, RefusedBy, Reserve, Violation},
    error::{Refusal, Throttled},
    limiter::{
        bucket_handle::Outdated,
        bucket_set::{BucketSet, GrantedAt},
        context::Context,
        status::Waiting,
        subject::Subject,
    },
    limits::Standing,
    observe::Event,
    quota::micros,
    usage::Usage,
};

/// A demand as it is asked for on a set of buckets.
#[derive(Debug)]
pub(in crate::limiter) struct Ask {
    set: Arc<BucketSet>,
    usage: Usage,
    others: Box<[(u16, Usage)]>,
    estimate: Estimate,
    costs: Costs,
    headroom: u64,
    head_start: Micros,
    flow: Flow,
    mode: Mode,
    /// Identifies it to observers.
    id: u64,
    /// What else is told of it, if there is more to tell.
    subject: Option<Arc<Subject>>,
}

/// The place of a demand among those of its session: when it arrived, less its head start, and then
/// the order of entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(in crate::limiter) struct Rank {
    time: Micros,
    entry: u64,
}

impl Rank {
    pub(super) fn new(arrived: Micros, head_start: Micros, entry: u64) -> Self {
        Self { time: arrived.saturating_sub(head_start), entry }
    }

    /// Identifies the waiter in its session.
    pub(super) fn entry(self) -> u64 {
        self.entry
    }

    /// How long ago it arrived, with its head start.
    pub(super) fn age(self, now: Micros) -> Micros {
        now.saturating_sub(self.time)
    }
}

impl Ask {
    /// Counts a demand on a set of buckets.
    ///
    /// # Errors
    /// Some quota could never admit it.
    pub(in crate::limiter) fn new(
        set: Arc<BucketSet>,
        usage: Usage,
        others: Box<[(u16, Usage)]>,
        standing: Standing,
        flow: Flow,
        mode: Mode,
    ) -> Result<Self, Throttled> {
        let mut ask = Self {
            set,
            usage,
            others,
            estimate: Estimate::default(),
            costs: Costs::new(),
            headroom: standing.headroom,
            head_start: micros(standing.head_start),
            flow,
            mode,
            id: 0,
            subject: None,
        };
        ask.count()?;
        Ok(ask)
    }

    /// Says what observers are told of it.
    pub(in crate::limiter) fn about(self, id: u64, subject: Option<Arc<Subject>>) -> Self {
        Self { id, subject, ..self }
    }

    /// Says what its usage is estimated by.
    pub(in crate::limiter) fn estimated_by(self, estimate: Estimate) -> Self {
        Self { estimate, ..self }
    }

    fn count(&mut self) -> Result<(), Throttled> {
        let Self { set, usage, others, costs, headroom, mode, .. } = self;
        costs.clear();
        if *mode == Mode::Charge {
            set.put_costs(costs, usage, others);
            return Ok(());
        }
        set.put_demand(costs, usage, others, *headroom)
            .map_err(|refusal| Throttled::ExceedsCapacity(Box::new(refusal)))
    }

    pub(super) fn set(&self) -> &Arc<BucketSet> {
        &self.set
    }

    pub(super) fn headroom(&self) -> u64 {
        self.headroom
    }

    pub(super) fn head_start(&self) -> Micros {
        self.head_start
    }

    pub(super) fn flow(&self) -> Flow {
        self.flow
    }

    /// The bucket where its flow takes turns with others.
    pub(super) fn space(&self) -> u64 {
        self.set.handles().last().map_or(0, |handle| handle.id())
    }

    pub(super) fn waits(&self) -> bool {
        self.mode == Mode::Wait
    }

    /// What it asks of a quota; nothing if the quota is none of its set.
    pub(super) fn cost_on(&self, bucket: u64, rule: u64) -> Option<u64> {
        let index = self.set.quotas().position(|quota| quota == (bucket, rule))?;
        self.costs.get(index).copied()
    }

    /// The operation on its buckets, by their indexes in the batch.
    fn reserve(&self, on: On, mode: Mode, waiter: u64, age: Micros, patience: Micros) -> Reserve {
        let (costs, headroom, flow) = (Costs::from_slice(&self.costs), self.headroom, self.flow);
        Reserve { on, costs, headroom, mode, waiter, age, patience, flow }
    }

    pub(super) fn mode(&self) -> Mode {
        self.mode
    }

    pub(super) fn refusal(&self, violations: &[Violation]) -> Refusal {
        self.set.refusal(violations, &self.costs, self.headroom)
    }

    /// What becomes of it, being refused; nothing, if it is to wait.
    pub(super) fn refused(&self, violations: &[Violation]) -> Option<Throttled> {
        self.set.refused(violations, &self.costs, self.headroom, self.mode)
    }

    /// Counts it on its buckets as they are declared now.
    ///
    /// # Errors
    /// It can be granted no more, or not there.
    pub(super) fn refresh(&mut self) -> Result<(), Outcome> {
        if self.set.is_current() {
            return Ok(());
        }
        self.set = self.set.refreshed().map_err(|outdated| match outdated {
            Outdated::Elsewhere => Outcome::AskAgain,
            Outdated::Gone(error) => Outcome::Refused(error),
        })?;
        self.count().map_err(Outcome::Refused)
    }

    /// Asks for what its usage is estimated to be by now.
    fn reestimate(&mut self) {
        let Some(usage) = self.estimate.instead_of(&self.usage) else { return };
        let before = std::mem::replace(&mut self.usage, usage);
        // What no limit admits is asked for as before, which one did.
        if self.count().is_err() {
            self.usage = before;
            drop(self.count());
        }
    }
}

/// What observers are told of a pending demand.
#[derive(Clone, Debug)]
pub(super) struct About {
    set: Arc<BucketSet>,
    id: u64,
    subject: Option<Arc<Subject>>,
}

impl About {
    pub(super) fn of(ask: &Ask) -> Self {
        Self { set: ask.set.clone(), id: ask.id, subject: ask.subject.clone() }
    }

    fn class(&self) -> Option<&str> {
        self.subject.as_ref()?.class()
    }

    fn share(&self) -> Option<&str> {
        self.subject.as_ref()?.share()
    }

    /// Tells that it has to wait in a line, in the span of its caller.
    pub(super) fn tell_waits(&self, context: &Context, position: usize, line: Option<LineId>) {
        if !context.is_observed() {
            return;
        }
        let named = line.and_then(|line| self.set.quota_named(line.bucket, line.rule));
        let (bucket, quota) = named.unwrap_or_default();
        let (id, buckets) = (self.id, self.set.names());
        let (class, share) = (self.class(), self.share());
        let event = || Event::WaitStarted { id, buckets, class, share, position, bucket, quota };
        match &self.subject {
            Some(subject) => {
                subject.call.waits_for(bucket, quota);
                subject.in_span(|| context.tell(event));
            }
            None => context.tell(event),
        }
    }
}

/// What comes of a demand.
#[derive(Debug)]
pub(in crate::limiter) enum Outcome {
    Granted(Grant),
    /// It only asked whether it would be granted.
    Fits,
    Refused(Throttled),
    /// This session cannot tell: the demand is to be looked up and asked for again.
    AskAgain,
}

/// A grant on its way to its caller: data, which becomes a reservation there. One that does not get
/// there is given back.
#[derive(Debug)]
pub(in crate::limiter) struct Grant {
    pub(in crate::limiter) set: Arc<BucketSet>,
    /// What was asked for in the end, if that was an estimate.
    pub(in crate::limiter) usage: Option<Box<Usage>>,
    pub(in crate::limiter) costs: Costs,
    pub(in crate::limiter) at: GrantedAt,
    pub(in crate::limiter) probe: bool,
    pub(in crate::limiter) position: usize,
}

/// Where the outcome of a demand goes. Boxed, since it is large and a waiter has none yet.
pub(in crate::limiter) type OutcomeSender = oneshot::Sender<Box<Outcome>>;

/// Counts a demand among those that wait for its buckets, until it is dropped.
#[derive(Debug)]
struct Permit(Arc<BucketSet>);

impl Permit {
    /// # Errors
    /// As many wait for this bucket as may.
    fn acquire(set: &Arc<BucketSet>, most: usize) -> Result<Self, Arc<str>> {
        for (index, handle) in set.handles().enumerate() {
            if !handle.start_waiting(most) {
                set.handles().take(index).for_each(|handle| handle.stop_waiting());
                return Err(handle.name().into());
            }
        }
        Ok(Self(set.clone()))
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.0.handles().for_each(|handle| handle.stop_waiting());
    }
}

/// A line that a waiter stands in: the ids of a bucket and of a quota of it, or [`PAUSE`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct LineId {
    pub(super) bucket: u64,
    pub(super) rule: u64,
}

impl LineId {
    /// The line of what refused a demand on this set.
    pub(super) fn of(set: &BucketSet, by: RefusedBy) -> Option<Self> {
        let (bucket, rule) = set.refused_by(by)?;
        Some(Self { bucket, rule: rule.unwrap_or(PAUSE) })
    }

    /// What refuses a demand on this set in the line.
    pub(super) fn refuses_by(self, set: &BucketSet) -> Option<RefusedBy> {
        let Self { bucket, rule } = self;
        match rule {
            PAUSE => set.handles().position(|handle| handle.id() == bucket).map(RefusedBy::Pause),
            _ => set.quotas().position(|quota| quota == (bucket, rule)).map(RefusedBy::Rule),
        }
    }

    /// Whether a demand that needs the same stands behind what is in the line.
    pub(super) fn holds_back(self, ask: &Ask) -> bool {
        self.rule == PAUSE || ask.cost_on(self.bucket, self.rule).is_some_and(|cost| cost > 0)
    }
}

/// In the place of a quota: the pause of a bucket. Quotas' ids are below 2^53.
pub(super) const PAUSE: u64 = u64::MAX;

/// Where a waiter stands.
#[derive(Clone, Debug, Default)]
pub(super) struct QueuePlace {
    /// How many go before it, as far as is known.
    pub(super) position: usize,
    /// Time until it starts, about; nothing if that depends on calls in flight or is not known.
    pub(super) predicted: Option<Micros>,
    /// What it waits for, as of the last look at the front of each of its lines.
    pub(super) refusal: Option<Refusal>,
}

impl QueuePlace {
    /// Why it did not start, and when it would have.
    pub(super) fn into_refusal(self) -> Refusal {
        let mut refusal = self.refusal.unwrap_or_default();
        // Of those before it in its session only the first is part of that.
        let own = self.predicted.map_or(Duration::ZERO, Duration::from_micros);
        refusal.retry_after = refusal.retry_after.map(|first| first.max(own));
        refusal
    }
}

/// A pending demand.
#[derive(Debug)]
pub(super) struct Waiter {
    ask: Ask,
    rank: Rank,
    /// The end of all time if it has none.
    deadline: Micros,
    answer: OutcomeSender,
    permit: Option<Permit>,
    /// How many went before it when it came to wait. Short, since waiters are many.
    position: u32,
    /// When it is to be looked at again in the front of a line, if nothing else happens: 0 if the
    /// store has not seen it there. Nothing if it was left out of a batch for those before it: then
    /// once none has to be looked at before it.
    look_at: Option<Micros>,
    known_to_fit: bool,
    /// How far a grant moves its flow on, as the store last said.
    part: f64,
    lines: SmallVec<[LineId; 2]>,
}

impl Waiter {
    pub(super) fn new(
        ask: Ask,
        rank: Rank,
        deadline: Option<Micros>,
        answer: OutcomeSender,
    ) -> Self {
        let (permit, position, look_at, part, lines) = (None, 0, Some(0), 0.0, SmallVec::new());
        let known_to_fit = false;
        let deadline = deadline.unwrap_or(Micros::MAX);
        Self { ask, rank, deadline, answer, permit, position, look_at, known_to_fit, part, lines }
    }

    pub(super) fn ask(&self) -> &Ask {
        &self.ask
    }

    pub(super) fn rank(&self) -> Rank {
        self.rank
    }

    pub(super) fn has_deadline(&self) -> bool {
        self.deadline < Micros::MAX
    }

    /// Whether its caller has gone.
    pub(super) fn is_abandoned(&self) -> bool {
        self.answer.is_closed()
    }

    /// Whether it is known that it has to wait.
    pub(super) fn is_waiting(&self) -> bool {
        self.permit.is_some()
    }

    /// It has to wait, behind so many demands. Returns true if that was not known before.
    ///
    /// # Errors
    /// As many wait as may.
    pub(super) fn start_waiting(
        &mut self,
        most: usize,
        position: usize,
    ) -> Result<bool, Throttled> {
        if self.is_waiting() {
            return Ok(false);
        }
        let full = |bucket| Throttled::QueueFull { bucket, max_waiting: most };
        self.permit = Some(Permit::acquire(self.ask.set(), most).map_err(full)?);
        self.position = u32::try_from(position).unwrap_or(u32::MAX);
        Ok(true)
    }

    /// The operation on its buckets, by their indexes in the batch.
    pub(super) fn reserve(&self, on: On, mode: Mode, now: Micros) -> Reserve {
        let patience = self.deadline.saturating_sub(now);
        let entry = if mode == Mode::Wait { self.rank.entry() } else { 0 };
        self.ask.reserve(on, mode, entry, self.rank.age(now), patience)
    }

    /// Whether it could be granted in time if everything in flight were refunded.
    pub(super) fn can_make_it(&self, violations: &[Violation], now: Micros) -> bool {
        let at_best = violations.iter().map(|violation| violation.at_best).max().unwrap_or(0);
        !self.has_deadline() || now < self.deadline && now.saturating_add(at_best) <= self.deadline
    }

    /// The store said that it would be granted now, which may be before it is sent.
    pub(super) fn told_to_fit(&mut self) {
        self.known_to_fit = true;
    }

    pub(super) fn is_known_to_fit(&self) -> bool {
        self.known_to_fit
    }

    pub(super) fn look_at(&self) -> Option<Micros> {
        self.look_at
    }

    pub(super) fn set_look_at(&mut self, time: Option<Micros>) {
        self.look_at = time;
    }

    pub(super) fn part(&self) -> f64 {
        self.part
    }

    pub(super) fn set_part(&mut self, part: f64) {
        self.part = part;
    }

    /// The lines it stands in, or stood in when it was last sent.
    pub(super) fn lines(&self) -> &[LineId] {
        &self.lines
    }

    pub(super) fn stand_in(&mut self, lines: SmallVec<[LineId; 2]>) {
        self.lines = lines;
    }

    /// Where it stands, for those that ask.
    pub(super) fn told(&self, place: QueuePlace, now: Micros) -> Waiting {
        let about = About::of(&self.ask);
        let head_start = self.ask.head_start();
        Waiting {
            id: about.id,
            buckets: about.set.names().iter().map(Into::into).collect(),
            class: about.class().map(Into::into),
            share: about.share().map(Into::into),
            waited: Duration::from_micros(self.rank.age(now).saturating_sub(head_start)),
            position: place.position,
            binding: place.refusal.as_ref().and_then(Refusal::binding).cloned(),
            predicted: place.predicted.map(Duration::from_micros),
        }
    }

    /// Counts it on its buckets as they are declared now: see [`Ask::refresh`].
    pub(super) fn refresh(&mut self) -> Result<(), Outcome> {
        self.ask.refresh()
    }

    /// Asks for what its usage is estimated to be by now. It may stand in no line meanwhile.
    pub(super) fn reestimate(&mut self) {
        self.ask.reestimate();
    }

    /// The grant, and where it goes.
    pub(super) fn granted(self, at: GrantedAt, probe: bool) -> (OutcomeSender, Outcome) {
        let (Ask { set, usage, estimate, costs, .. }, position) =
            (self.ask, self.position as usize);
        let usage = estimate.is_some().then(|| Box::new(usage));
        (self.answer, Outcome::Granted(Grant { set, usage, costs, at, probe, position }))
    }

    /// Where another outcome goes.
    pub(super) fn into_answer(self) -> OutcomeSender {
        self.answer
    }
}
