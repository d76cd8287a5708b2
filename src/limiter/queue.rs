//! What waits in one process for one path: demands in the order of their (dated back) arrival, and everything else
//! that is to travel in the next batch. It decides what to send when; it sends nothing itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

pub(super) use super::ask::Ask;
use super::{
    line::Lines,
    path::Path,
    reservation::Reservation,
    seats::{Seat, Seats},
    surfaced::Surfaced,
};
use crate::{
    engine::{Costs, Micros, Mode, Op, Verdict, Violation},
    error::{Refusal, Throttled},
    limits::Standing,
};

/// At most this many demands travel in one batch, and as many other operations.
const MAX_BATCH: usize = 256;

/// The longest head start. Arrivals are put off by what is left of it, since time before the start of a machine cannot
/// be told on some.
const LONGEST_HEAD_START: Duration = Duration::from_secs(400 * 86_400);

/// The place in the queue: arrival, put off by what is left of the longest head start, then order of entry.
pub(super) type Rank = (Instant, u64);

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ask: Ask,
    pub(super) position: usize,
    /// Its seat, once it is known that it has to wait.
    pub(super) waits: Option<Seat>,
    pub(super) answer: oneshot::Sender<Result<Reservation, Throttled>>,
}

/// What comes of a demand that was refused.
#[derive(Debug)]
pub(super) enum Refused {
    ForGood(oneshot::Sender<Result<Reservation, Throttled>>, Throttled),
    /// It waits, which nobody knew.
    HasToWait {
        position: usize,
    },
    /// It waits on, or has gone.
    Waits,
}

/// Who is told the verdict on an operation that is not a demand.
pub(super) type Report = oneshot::Sender<Result<Verdict, Throttled>>;

/// What an operation of a batch is for.
#[derive(Debug)]
pub(super) enum Job {
    Demand(Rank, Waiter),
    Tell(Report),
    /// A demand of a batch that went unanswered: nobody waits for it any more.
    Orphan(Costs),
    /// Any other operation of such a batch.
    Nothing,
}

/// A batch, with what its operations are for.
#[derive(Debug)]
pub(super) struct Flight {
    pub(super) seq: u64,
    pub(super) path: Arc<Path>,
    pub(super) ops: Vec<Op>,
    pub(super) jobs: Vec<Job>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) path: Arc<Path>,
    lines: Lines,
    seats: Seats,
    /// How many demands are in the batch on its way.
    away: usize,
    /// Those of the waiting that no store has seen yet.
    unseen: VecDeque<Rank>,
    others: VecDeque<(Other, Report)>,
    entered: u64,
    look_now: bool,
    surfaced: Surfaced,
}

/// An operation that is not a demand.
#[derive(Debug)]
pub(super) struct Other {
    op: Op,
    /// What its amounts were counted on.
    path: Option<Arc<Path>>,
}

impl Other {
    /// Something that is worth nothing later.
    pub(super) fn passing(op: Op) -> Self {
        Self { op, path: None }
    }

    /// Something that must not get lost, counted on a path.
    pub(super) fn lasting(op: Op, path: Arc<Path>) -> Self {
        Self { op, path: Some(path) }
    }

    fn lasts(&self) -> bool {
        self.path.is_some()
    }

    /// As an operation on the path as it is now.
    fn op(self, path: &Arc<Path>) -> Op {
        match self.path {
            Some(from) => path.translated_op(self.op, &from),
            None => self.op,
        }
    }
}

impl Queue {
    pub(super) fn new(path: Arc<Path>, max_waiting: usize) -> Self {
        Self {
            path,
            lines: Lines::default(),
            seats: Seats::new(max_waiting),
            away: 0,
            unseen: VecDeque::new(),
            others: VecDeque::new(),
            entered: 0,
            look_now: false,
            surfaced: Surfaced::default(),
        }
    }

    /// How many demands wait, those included that the store is looking at.
    pub(super) fn waiting(&self) -> usize {
        self.lines.len() + self.away
    }

    /// Whether nothing at all is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.lines.is_empty() && self.others.is_empty()
    }

    /// The place that a demand arriving now takes.
    pub(super) fn rank(&mut self, arrived: Instant, standing: Standing) -> Rank {
        self.entered += 1;
        (arrived + LONGEST_HEAD_START.saturating_sub(standing.head_start), self.entered)
    }

    /// Queues a demand that the store has not seen. Answers whether it is known that it has to wait.
    ///
    /// # Errors
    /// It has to wait, and as many as may do so already.
    pub(super) fn push(&mut self, rank: Rank, mut waiter: Waiter) -> Result<bool, Throttled> {
        if self.lines.has_to_wait(rank, &waiter.ask) {
            waiter.waits = Some(self.seats.take().ok_or_else(|| self.is_full())?);
        } else {
            self.unseen.push_back(rank);
        }
        let waits = waiter.waits.is_some();
        self.lines.enter(rank, waiter);
        Ok(waits)
    }

    fn is_full(&self) -> Throttled {
        Throttled::QueueFull { bucket: self.path.name().into(), max_waiting: self.seats.most }
    }

    /// Whether it is known of a demand in the queue that it has to wait.
    pub(super) fn waits(&self, rank: Rank) -> bool {
        self.lines.get(rank).is_some_and(|waiter| waiter.waits.is_some())
    }

    /// Gives back what was granted to nobody.
    pub(super) fn give_back(&mut self, path: &Arc<Path>, costs: Costs, at: Micros) {
        let actual = costs.iter().map(|_| 0).collect();
        let op = Op::Settle { at, reserved: costs, actual, close: true, claim: None };
        self.push_other(Other::lasting(op, path.clone()), oneshot::channel().0);
    }

    pub(super) fn push_other(&mut self, other: Other, report: Report) {
        self.others.push_back((other, report));
    }

    /// Takes a demand out, as if it had never been there.
    pub(super) fn remove(&mut self, rank: Rank) -> Option<Waiter> {
        let (removed, was_first) = self.lines.remove(rank)?;
        self.look_now |= was_first;
        Some(removed)
    }

    /// What a demand waits for, if that is known.
    pub(super) fn waits_for(&self, rank: Rank) -> Option<Refusal> {
        self.lines.waits_for(rank)
    }

    /// Whether somebody waits for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        !self.lines.is_empty() || self.others.iter().any(|(_, report)| !report.is_closed())
    }

    /// Takes out the reports of what is not a demand. What may not get lost stays, reported to nobody.
    pub(super) fn take_reports(&mut self) -> impl Iterator<Item = Report> + use<> {
        let others = std::mem::take(&mut self.others);
        let (lasting, reports): (Vec<_>, Vec<_>) = others
            .into_iter()
            .map(|(other, report)| {
                let lasts = other.lasts();
                (lasts.then(|| (other, oneshot::channel().0)), report)
            })
            .unzip();
        self.others = lasting.into_iter().flatten().collect();
        reports.into_iter()
    }

    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        self.unseen.clear();
        self.lines.take().map(|(_, waiter)| waiter)
    }

    /// Capacity may have been freed.
    pub(super) fn look_now(&mut self) {
        self.look_now = true;
    }

    /// Follows a change of the limits. Answers those that can never be granted now.
    pub(super) fn adopt(&mut self, path: Arc<Path>) -> Vec<(Waiter, Refusal)> {
        self.path = path.clone();
        self.look_now = true;
        let mut hopeless = Vec::new();
        for (rank, mut waiter) in self.lines.take() {
            match waiter.ask.follow(&path) {
                Some(refusal) => hopeless.push((waiter, refusal)),
                None => self.lines.enter(rank, waiter),
            }
        }
        hopeless
    }

    /// When there will be something to send, if nothing else happens; `None` if never.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.others.is_empty() {
            return Some(now);
        }
        let again = self.lines.again(now)?;
        Some(if self.unseen.is_empty() && !self.look_now { again } else { now })
    }

    /// What is to travel in the next batch, changes first.
    pub(super) fn load(&mut self, seq: u64) -> Flight {
        let (path, count) = self.others_to_send();
        let (mut ops, mut jobs) = (Vec::new(), Vec::new());
        for (other, report) in self.others.drain(..count) {
            ops.push(other.op(&path));
            jobs.push(Job::Tell(report));
        }
        if !Arc::ptr_eq(&path, &self.path) {
            return Flight { seq, path, ops, jobs };
        }
        let firsts = self.lines.firsts();
        self.look_now = false;
        for rank in self.demands_to_send() {
            let Some((waiter, _)) = self.lines.remove(rank) else { continue };
            if waiter.answer.is_closed() {
                self.look_now = true;
                continue;
            }
            let explain = firsts.contains(&rank)
                || waiter.ask.deadline.is_some()
                || waiter.ask.mode != Mode::Wait;
            ops.push(waiter.ask.op(explain));
            jobs.push(Job::Demand(rank, waiter));
            self.away += 1;
        }
        Flight { seq, path, ops, jobs }
    }

    /// How many operations that are not demands travel together, and on which path. What was reserved on quotas that
    /// are gone since is still in flight there, and is not to be so for ever should they come back: such a change
    /// takes those quotas along, in a batch without demands, which they must not hold back.
    fn others_to_send(&self) -> (Arc<Path>, usize) {
        let gone = |other: &Other| other.path.clone().filter(|path| self.path.lacks_some_of(path));
        let others = || self.others.iter().take(MAX_BATCH).map(|(other, _)| other);
        match others().next().and_then(gone) {
            Some(path) => {
                let alike = |other: &&Other| {
                    other.path.as_ref().is_some_and(|other| Arc::ptr_eq(other, &path))
                };
                (self.path.with_those_of(&path), others().take_while(alike).count())
            }
            None => (self.path.clone(), others().take_while(|other| gone(other).is_none()).count()),
        }
    }

    /// Some from the front, and those that the store has not seen, in order.
    fn demands_to_send(&mut self) -> Vec<Rank> {
        // How long somebody would have to wait depends on all that wait before him.
        let asks_when =
            |rank: &Rank| self.lines.get(*rank).is_some_and(|waiter| waiter.ask.mode == Mode::Dry);
        let everybody = self.unseen.iter().take(MAX_BATCH).any(asks_when);
        // Those that nobody has looked at get their turn, however many do wait.
        let most = MAX_BATCH - self.unseen.len().min(MAX_BATCH / 2);
        let mut ranks = self.lines.to_look_at(most, everybody);
        let room = MAX_BATCH.saturating_sub(ranks.len());
        ranks.extend(self.unseen.drain(..self.unseen.len().min(room)));
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// A demand was refused for now. It takes its place again unless it may not wait, or cannot make it.
    pub(super) fn refused(
        &mut self,
        rank: Rank,
        mut waiter: Waiter,
        violations: &[Violation],
        jitter: Duration,
    ) -> Refused {
        if waiter.answer.is_closed() {
            self.look_now = true;
            return Refused::Waits;
        }
        let now = Instant::now();
        if let Some(error) = waiter.ask.refused(violations) {
            self.surfaced.note(violations);
            return Refused::ForGood(waiter.answer, error);
        }
        if !waiter.ask.can_make_it(violations, now) {
            let refusal = Box::new(waiter.ask.refusal(violations));
            return Refused::ForGood(waiter.answer, Throttled::Deadline(refusal));
        }
        let position = waiter.position;
        let news = waiter.waits.is_none();
        if news {
            waiter.waits = self.seats.take();
        }
        if waiter.waits.is_none() {
            return Refused::ForGood(waiter.answer, self.is_full());
        }
        self.lines.refused(rank, waiter, violations, jitter);
        if news { Refused::HasToWait { position } } else { Refused::Waits }
    }

    /// A demand was granted.
    pub(super) fn granted(&mut self, ask: &Ask) {
        self.lines.granted(ask);
    }

    /// Takes out those that wait for what the batch, if it was under the limits of now, found to be paused and not to be
    /// waited out.
    pub(super) fn turned_away(&mut self, is_current: bool) -> Vec<(Waiter, Throttled)> {
        let surfaced = std::mem::take(&mut self.surfaced);
        if surfaced.is_empty() || !is_current {
            Vec::new()
        } else {
            self.lines.take_surfaced(&surfaced)
        }
    }

    /// Ends the handling of an answered batch.
    pub(super) fn landed(&mut self) {
        self.away = 0;
        self.lines.landed();
    }
}
