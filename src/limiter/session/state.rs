//! The state machine of a session: what to send next, what an answer means, and what becomes of a
//! batch without one. No I/O, no clock, no store: time is a number, an answer is data, and what is
//! to be told is returned.
//!
//! Its invariant: one batch is in flight at a time, under a number of its own; one without an
//! answer is asked about again before anything else is sent.

use std::{mem, sync::Arc};

use smallvec::SmallVec;

use super::{
    batch::{Batch, Job, Report},
    hinting::Hinting,
    leases::Leases,
    outbox::{Outbox, Outgoing, Taken},
    refusals::Refusals,
    wait_queue::{Told, WaitQueue},
    waiter::{Ask, Outcome, OutcomeSender, Rank, Waiter},
};
use crate::{
    engine::{Costs, Micros, Mode, Op, SESSION_MEMORY, Seen, Settle, Verdict},
    error::Throttled,
    limiter::{
        bucket_set::{BucketSet, GrantedAt},
        settle::runtime_ended,
    },
    store::StoreError,
};

/// A batch without an answer is not sent again after this long: the store remembers its number for
/// twice that.
const DOUBT_ENDS: Micros = SESSION_MEMORY / 2;
/// The driver stays this long after the last batch to a shared store.
const LINGER: Micros = 1_000_000;
/// So many buckets of which the store has to hear come before anything else in a batch: where all
/// batches are full, what is in flight is kept alive all the same.
const NAMED_FIRST: usize = 32;
/// Demands that do not wait leave room for so many buckets of those that do.
const LEFT_TO_WAITERS: usize = 8;
/// While demands wait for hints, it is noticed within this long that these have stopped.
const HINTS_CHECKED: Micros = 500_000;

/// What a session of a store is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Setup {
    pub(super) in_process: bool,
    pub(super) lease: Micros,
    pub(super) max_waiting: usize,
}

/// How things are outside of the state machine.
#[derive(Clone, Copy, Debug)]
pub(super) struct Conditions {
    pub(super) now: Micros,
    pub(super) hinting: Hinting,
    /// The store is not to be asked before.
    pub(super) resumes_at: Option<Micros>,
}

/// What the driver is to do.
#[derive(Debug)]
#[must_use]
pub(in crate::limiter) enum Turn {
    Send(Batch),
    /// Sleeps until it is woken, or until then.
    Sleep(Option<Micros>),
    /// There is nothing to do, and nothing to wait for.
    Stop,
}

/// What came of changes of the state, to be done when no lock is held.
#[derive(Debug)]
pub(super) struct Effects {
    pub(super) told: Vec<Told>,
    pub(super) reports: Vec<(Report, Result<Verdict, Throttled>)>,
    /// The session is to take another name.
    pub(super) rename: bool,
}

/// The state of a session.
#[derive(Debug)]
pub(super) struct State {
    in_process: bool,
    linger: Micros,
    closed: bool,
    queue: WaitQueue,
    outbox: Outbox,
    refusals: Refusals,
    leases: Leases,
    /// The number of the last batch.
    seq: u64,
    /// A batch is in flight.
    sending: bool,
    /// Hints arrived when it was last looked, though one may get lost.
    hinted: bool,
    /// A batch that went without an answer. It may have been applied; sending it again under its
    /// number tells.
    doubt: Option<Batch>,
    /// When the last batch was sent, or answered.
    active: Micros,
    /// What is to be reported when no lock is held.
    reports: Vec<(Report, Result<Verdict, Throttled>)>,
    /// The session is to take another name.
    rename: bool,
}

impl State {
    pub(super) fn new(Setup { in_process, lease, max_waiting }: Setup) -> Self {
        Self {
            in_process,
            linger: LINGER.min(lease / 3),
            closed: false,
            queue: WaitQueue::new(max_waiting, lease),
            outbox: Outbox::default(),
            refusals: Refusals::default(),
            leases: Leases::new(lease),
            seq: 0,
            sending: false,
            hinted: false,
            doubt: None,
            active: 0,
            reports: Vec::new(),
            rename: false,
        }
    }

    /// Whether demands are pending.
    pub(super) fn is_occupied(&self) -> bool {
        !self.queue.is_empty() || self.refusals.has_parts()
    }

    /// Whether everything that was to be sent has reached the store.
    pub(super) fn is_flushed(&self) -> bool {
        let is_sent = self.outbox.is_empty() && !self.refusals.has_parts();
        is_sent && !self.sending && self.doubt.is_none()
    }

    /// Whether a caller waits for something to be sent.
    pub(super) fn is_awaited(&self) -> bool {
        self.queue.has_newcomers() || self.outbox.is_awaited() || self.refusals.has_parts()
    }

    /// Whether a demand may be applied by its own caller: no pending demand that it has to go
    /// behind is unknown to the store.
    pub(super) fn is_registered(&self) -> bool {
        // What is to be sent now is not known to the store, or not as a head.
        !self.sending && self.queue.due() != Some(0)
    }

    /// Whether a demand that arrives now has to wait behind others, so that the store need not look
    /// at it.
    pub(super) fn blocks(&self, ask: &Ask, now: Micros) -> bool {
        self.queue.blocks(Rank::new(now, ask.head_start(), u64::MAX), ask)
    }

    /// Takes out what came of the changes so far.
    pub(super) fn take_effects(&mut self) -> Effects {
        let (reports, rename) = (mem::take(&mut self.reports), mem::take(&mut self.rename));
        Effects { told: self.queue.take_told(), reports, rename }
    }

    fn report(
        &mut self,
        reports: impl IntoIterator<Item = Report>,
        result: impl Fn() -> Result<Verdict, Throttled>,
    ) {
        // Most callers do not listen.
        let heard = reports.into_iter().filter(|report| !report.is_closed());
        self.reports.extend(heard.map(|report| (report, result())));
    }

    /// Takes in a demand, or refuses it: also where the store is not to be asked now, being `down`.
    /// Returns its place.
    pub(super) fn enter(
        &mut self,
        mut ask: Ask,
        arrived: Micros,
        deadline: Option<Micros>,
        answer: OutcomeSender,
        down: Option<Arc<StoreError>>,
    ) -> Rank {
        let rank = self.queue.rank(arrived, &ask);
        let refreshed = match down {
            _ if self.closed => Err(closed()),
            Some(error) => Err(Outcome::Refused(Throttled::Store(error))),
            None => ask.refresh(),
        };
        match refreshed {
            Ok(()) => self.queue.enter(Box::new(Waiter::new(ask, rank, deadline, answer))),
            Err(outcome) => self.queue.tell(answer, outcome),
        }
        rank
    }

    /// The pending demands.
    pub(super) fn queue(&self) -> &WaitQueue {
        &self.queue
    }

    pub(super) fn queue_mut(&mut self) -> &mut WaitQueue {
        &mut self.queue
    }

    /// Takes in an operation. `ends` says that a reservation is over with it.
    pub(super) fn push(&mut self, outgoing: Outgoing, ends: bool) {
        if ends {
            self.leases.close(outgoing.set());
        }
        self.outbox.push(outgoing);
    }

    /// Refuses every demand from now on, and those that wait.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.queue.end_all(closed);
    }

    /// The driver is gone: what is pending has to be asked for again.
    pub(super) fn abandon(&mut self) {
        self.end_all(None);
        self.give_up_parts(None, self.active);
    }

    /// Tells all that is pending and was not sent. Without an error it was the driver that ended,
    /// so that demands may as well be asked for again.
    fn end_all(&mut self, error: Option<&Throttled>) {
        self.queue.end_all(|| outcome_of(error));
        let reports = self.outbox.take_reports();
        self.report(reports, || result_of(error));
    }

    /// Whether there is something to send before a time, or at all.
    pub(super) fn is_due_before(&self, time: Option<Micros>) -> bool {
        let is_earlier = |due: Micros| time.is_none_or(|time| due < time);
        !self.sending && self.due().is_some_and(is_earlier)
    }

    /// Whether there is something to do for a driver.
    pub(super) fn needs_driver(&self) -> bool {
        self.doubt.is_some() || self.is_occupied() || self.due().is_some()
    }

    /// What to do next.
    pub(super) fn turn(&mut self, conditions: Conditions) -> Turn {
        let turn = self.next_turn(conditions);
        if let Turn::Send(batch) = &turn {
            (self.sending, self.active) = (true, conditions.now);
            self.leases.named(batch.buckets().ids(), conditions.now);
        }
        turn
    }

    fn next_turn(&mut self, conditions: Conditions) -> Turn {
        let Conditions { now, resumes_at, hinting } = conditions;
        if self.sending {
            return Turn::Sleep(None);
        }
        if mem::replace(&mut self.hinted, hinting == Hinting::Works) && hinting == Hinting::None {
            // Waits were longer while there were hints.
            self.queue.look_everywhere();
        }
        let doubt_since = self.doubt.as_ref().and_then(Batch::doubt_since);
        if doubt_since.is_some_and(|since| since.saturating_add(DOUBT_ENDS) <= now) {
            // What it reserved leaves the windows by itself, and what it holds ends with the lease
            // of the old name.
            self.take_another_name();
        }
        if let Some(until) = resumes_at.filter(|until| *until > now)
            && (self.doubt.is_some() || !self.outbox.is_empty() || self.queue.due().is_some())
        {
            return Turn::Sleep(Some(until));
        }
        if let Some(batch) = self.doubt.take() {
            return Turn::Send(batch);
        }
        self.refusals.hasten(self.outbox.sets());
        let has_others = !self.outbox.is_empty() || self.queue.due().is_some_and(|due| due <= now);
        if let Some(batch) = self.refusals.next(now, DOUBT_ENDS, has_others) {
            self.queue.sent_again(batch.demands());
            return Turn::Send(self.numbered(batch));
        }
        self.keep_followers(now);
        if self.due().is_some_and(|due| due <= now)
            && let Some(batch) = self.load(now)
        {
            return Turn::Send(self.numbered(batch));
        }
        let lingers = (!self.in_process)
            .then(|| self.active.saturating_add(self.linger))
            .filter(|until| *until > now);
        let check = (self.hinted && self.is_occupied()).then(|| now.saturating_add(HINTS_CHECKED));
        match [self.due(), check].into_iter().flatten().min() {
            Some(due) => Turn::Sleep(Some(due)),
            None if self.is_occupied() => Turn::Sleep(None),
            None => lingers.map_or(Turn::Stop, |until| Turn::Sleep(Some(until))),
        }
    }

    /// Changes on buckets of which earlier ones are kept are kept as well: they must not be applied
    /// before these.
    fn keep_followers(&mut self, now: Micros) {
        let refusals = &self.refusals;
        if !refusals.keep_any() {
            return;
        }
        for outgoing in self.outbox.take_changes(|set| refusals.told_of(set).is_some()) {
            let Some(error) = self.refusals.told_of(outgoing.set()).cloned() else { continue };
            let (batch, reports) = outgoing.into_batch();
            self.refusals.keep(batch, &error, now);
            self.report(reports, || Err(error.clone()));
        }
    }

    /// When there is something to send, if nothing else happens.
    fn due(&self) -> Option<Micros> {
        if !self.outbox.is_empty() {
            return Some(0);
        }
        let heartbeat = self.leases.due().filter(|_| !self.in_process);
        [self.queue.due(), self.refusals.due(), heartbeat].into_iter().flatten().min()
    }

    /// What travels in the next batch: changes, then demands in order, then who else waits, then
    /// questions. It also names the buckets of which the store has to hear.
    fn load(&mut self, now: Micros) -> Option<Batch> {
        let mut batch = Batch::default();
        self.load_heartbeats(&mut batch, NAMED_FIRST, now);
        let Taken { questions, frees, has_older_quotas } = self.outbox.take(&mut batch);
        if frees {
            batch.buckets().ids().iter().for_each(|bucket| self.queue.look(*bucket));
        }
        if !has_older_quotas {
            self.load_demands(&mut batch, now);
        }
        questions.into_iter().for_each(|(op, job)| batch.push(op, job));
        self.load_heartbeats(&mut batch, usize::MAX, now);
        (!batch.buckets().is_empty()).then_some(batch)
    }

    fn numbered(&mut self, mut batch: Batch) -> Batch {
        if !self.in_process {
            self.seq += 1;
            batch.number(self.seq, !self.hinted);
        }
        batch
    }

    fn load_demands(&mut self, batch: &mut Batch, now: Micros) {
        let buckets = batch.buckets_mut();
        let has_room = |set: &BucketSet| buckets.place_leaving(LEFT_TO_WAITERS, set).is_some();
        let (mut asking, behind) = self.queue.take_asking(has_room);
        let has_room = |set: &BucketSet| buckets.place(set).is_some();
        let due = self.queue.take_due(now, has_room);
        batch.reserve(asking.len() + due.len() + behind.len());
        let mut concerned: Vec<u64> = Vec::new();
        for waiter in &due {
            concerned.extend(waiter.ask().set().handles().map(|handle| handle.id()));
        }
        // The store measures what comes later in a batch against all that waits before it. So what
        // only asks goes after the last one that is older, and before the others.
        asking.sort_unstable_by_key(|waiter| waiter.rank());
        let mut asking = asking.into_iter().peekable();
        for waiter in due {
            while let Some(asks) = asking.next_if(|asks| asks.rank() < waiter.rank()) {
                push_asking(batch, asks, now);
            }
            push_demand(batch, waiter, Mode::Wait, now);
        }
        self.queue.tell_heads(batch, concerned, now);
        asking.chain(behind).for_each(|asks| push_asking(batch, asks, now));
    }

    /// Names buckets of which the store has to hear, so many at most.
    fn load_heartbeats(&mut self, batch: &mut Batch, most: usize, now: Micros) {
        if self.in_process {
            return;
        }
        for (index, (bucket, set)) in self.leases.take_due(now).into_iter().enumerate() {
            let is_named = batch.buckets().ids().contains(&bucket);
            let mut has_room =
                || set.only(bucket).is_some_and(|only| batch.buckets_mut().place(&only).is_some());
            if index >= most || !is_named && !has_room() {
                self.leases.name_again(now);
                return;
            }
        }
    }

    /// The batch in flight was applied.
    pub(super) fn applied(
        &mut self,
        mut batch: Batch,
        seen: &[Seen],
        verdicts: impl IntoIterator<Item = Verdict>,
        Conditions { now, hinting, .. }: Conditions,
    ) {
        (self.sending, self.active, self.doubt) = (false, now, None);
        self.refusals.answered();
        let jobs = batch.take_jobs();
        let told: SmallVec<[u64; 4]> = jobs
            .iter()
            .filter_map(|job| if let Job::Heads(bucket) = job { Some(*bucket) } else { None })
            .collect();
        for (index, (job, verdict)) in jobs.into_iter().zip(verdicts).enumerate() {
            match (job, verdict) {
                (Job::Demand(waiter), Verdict::Refused(refused)) => {
                    let is_head = |bucket| told.contains(&bucket);
                    if self.closed {
                        self.queue.gone(&waiter, is_head);
                        self.queue.tell(waiter.into_answer(), closed());
                        continue;
                    }
                    self.queue.refused(waiter, &refused, is_head, hinting, now);
                }
                (Job::Demand(waiter), Verdict::Granted { probe }) => {
                    self.grant(waiter, batch.granted_at(index, seen), probe, now);
                }
                (Job::Demand(waiter), _) if !waiter.ask().waits() => {
                    self.queue.tell(waiter.into_answer(), Outcome::Fits);
                }
                (Job::Demand(waiter), _) if self.closed => {
                    self.queue.tell(waiter.into_answer(), closed());
                }
                (Job::Demand(waiter), _) => self.queue.fits(waiter),
                (Job::Report(reports), verdict) => self.report(reports, || Ok(verdict.clone())),
                (Job::Orphan(set, costs), Verdict::Granted { .. }) => {
                    self.give_back(set, costs, batch.granted_at(index, seen));
                }
                (Job::Heads(_) | Job::Orphan(..), _) => {}
            }
        }
        told.into_iter().for_each(|bucket| self.queue.heads_registered(bucket));
        self.queue.answered();
    }

    fn grant(&mut self, waiter: Box<Waiter>, at: GrantedAt, probe: bool, now: Micros) {
        self.queue.granted(&waiter);
        if !self.in_process {
            self.leases.open(waiter.ask().set(), now);
        }
        let (answer, outcome) = waiter.granted(at, probe);
        self.queue.tell(answer, outcome);
    }

    /// Gives back what was granted to no one.
    fn give_back(&mut self, set: Arc<BucketSet>, reserved: Costs, at: GrantedAt) {
        let settle = Settle::release(&set, reserved, &at);
        self.outbox.push(Outgoing::lasting(settle, set, 0));
    }

    /// The batch in flight went without an answer: all that is pending is told, and the batch is in
    /// doubt. Without an error it was the driver that ended.
    pub(super) fn failed(&mut self, mut batch: Batch, error: Option<&Throttled>, now: Micros) {
        (self.sending, self.active) = (false, now);
        batch.doubt(now);
        let jobs = batch.give_up();
        self.doubt = (!batch.ops().is_empty()).then_some(batch);
        for job in jobs {
            match job {
                Job::Demand(waiter) => self.queue.tell(waiter.into_answer(), outcome_of(error)),
                Job::Report(reports) => self.report(reports, || result_of(error)),
                Job::Heads(bucket) => self.queue.heads_unknown(bucket),
                Job::Orphan(..) => {}
            }
        }
        self.refusals.answered();
        self.give_up_parts(error, now);
        self.end_all(error);
        self.queue.answered();
    }

    /// The store refused the batch at hand, and applied nothing of it. Returns true if that is the
    /// end of it, rather than sent again in parts.
    pub(super) fn refused(&mut self, batch: Batch, error: &Throttled, now: Micros) -> bool {
        if batch.doubt_since().is_some() {
            // An earlier attempt may have been applied: only its number tells.
            self.failed(batch, Some(error), now);
            return true;
        }
        (self.sending, self.active, self.doubt) = (false, now, None);
        let is_of_one = self.refusals.refused();
        let is_over = match batch.halved() {
            (first, Some(second)) if is_of_one => {
                self.refusals.split(first, second);
                false
            }
            (first, second) => {
                for part in [Some(first), second].into_iter().flatten() {
                    self.give_up(part, Some(error), true, now);
                }
                true
            }
        };
        if !is_of_one {
            self.give_up_parts(Some(error), now);
        }
        self.queue.answered();
        is_over
    }

    /// Gives up the demands of a batch that was not applied, and keeps its changes.
    fn give_up(
        &mut self,
        mut batch: Batch,
        error: Option<&Throttled>,
        is_refused: bool,
        now: Micros,
    ) {
        for job in batch.keep_changes() {
            match job {
                Job::Demand(waiter) => self.queue.tell(waiter.into_answer(), outcome_of(error)),
                Job::Report(reports) => self.report(reports, || result_of(error)),
                Job::Heads(bucket) if is_refused => self.queue.heads_refused(bucket),
                // The store may know earlier ones.
                Job::Heads(bucket) => self.queue.heads_unknown(bucket),
                Job::Orphan(..) => {}
            }
        }
        let error = error.cloned().unwrap_or_else(runtime_ended);
        for part in batch.parted() {
            self.refusals.keep(part, &error, now);
        }
    }

    fn give_up_parts(&mut self, error: Option<&Throttled>, now: Micros) {
        for part in self.refusals.take_parts() {
            self.give_up(part, error, false, now);
        }
    }

    /// What the store knows of the session is of no use: it knows a later batch than the one in
    /// doubt, which is given up, or an older state of a bucket. It ends with the session's lease.
    pub(super) fn take_another_name(&mut self) {
        (self.doubt, self.rename) = (None, true);
    }
}

/// What becomes of a demand once the limiter is closed.
fn closed() -> Outcome {
    Outcome::Refused(Throttled::Closed)
}

/// What becomes of a demand that did not reach the store: without an error it was the driver that
/// ended.
fn outcome_of(error: Option<&Throttled>) -> Outcome {
    error.map_or(Outcome::AskAgain, |error| Outcome::Refused(error.clone()))
}

/// What those hear that await another operation.
fn result_of(error: Option<&Throttled>) -> Result<Verdict, Throttled> {
    Err(error.cloned().unwrap_or_else(runtime_ended))
}

/// Puts a demand into a batch that does not wait, or that asks whether it can be granted in time.
fn push_asking(batch: &mut Batch, waiter: Box<Waiter>, now: Micros) {
    let mode = if waiter.ask().waits() { Mode::Dry } else { waiter.ask().mode() };
    push_demand(batch, waiter, mode, now);
}

/// Puts a demand into a batch whose buckets it is part of.
fn push_demand(batch: &mut Batch, waiter: Box<Waiter>, mode: Mode, now: Micros) {
    if let Some(on) = batch.buckets_mut().place(waiter.ask().set()) {
        let reserve = waiter.reserve(on, mode, now);
        batch.push(Op::Reserve(reserve), Job::Demand(waiter));
    }
}

impl Settle {
    /// Gives back what a reservation on this set was charged. Buckets are named by their indexes in
    /// the set.
    pub(in crate::limiter) fn release(set: &BucketSet, reserved: Costs, at: &GrantedAt) -> Op {
        let actual = reserved.iter().map(|_| 0).collect();
        Op::Settle(Self {
            on: set.all(),
            at: at.times(set.buckets().len()),
            reserved,
            actual,
            close: true,
            claim: None,
        })
    }
}

#[cfg(test)]
mod tests;
