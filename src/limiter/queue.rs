//! What waits in one process for one path: demands in the order of their (dated back) arrival, and everything else
//! that is to travel in the next batch. It decides what to send when; it sends nothing itself.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use super::{
    line::{Front, Lines},
    path::Path,
    reservation::Reservation,
};
use crate::{
    engine::{Costs, Life, Micros, Mode, Op, Verdict, Violation},
    error::{Refusal, Throttled},
    limits::Standing,
    usage::Usage,
};

/// At most this many demands travel in one batch, and as many other operations.
const MAX_BATCH: usize = 256;

/// The longest head start. Arrivals are put off by what is left of it, since time before the start of a machine cannot
/// be told on some.
const LONGEST_HEAD_START: Duration = Duration::from_secs(400 * 86_400);

/// The place in the queue: arrival, put off by what is left of the longest head start, then order of entry.
pub(super) type Rank = (Instant, u64);

/// A demand on its way.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) path: Arc<Path>,
    pub(super) usage: Usage,
    pub(super) costs: Costs,
    pub(super) standing: Standing,
    pub(super) mode: Mode,
    pub(super) deadline: Option<Instant>,
}

impl Ask {
    pub(super) fn op(&self, explain: bool) -> Op {
        let costs = Costs::from_slice(&self.costs);
        Op::Reserve { costs, headroom: self.standing.headroom, explain, mode: self.mode }
    }

    pub(super) fn refusal(&self, violations: &[Violation]) -> Refusal {
        self.path.refusal(violations, &self.costs, self.standing.headroom)
    }

    /// Whether it could be granted in time if everything in flight were refunded.
    fn can_make_it(&self, violations: &[Violation], now: Instant) -> bool {
        let at_best = violations.iter().map(|violation| violation.at_best).max().unwrap_or(0);
        let in_time = |deadline| now < deadline && now + Duration::from_micros(at_best) <= deadline;
        self.deadline.is_none_or(in_time)
    }
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ask: Ask,
    pub(super) arrived: Instant,
    pub(super) position: usize,
    /// It is known that it has to wait.
    pub(super) waits: bool,
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

/// A change of what a reservation is charged.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) path: Arc<Path>,
    pub(super) at: Micros,
    pub(super) reserved: Costs,
    pub(super) actual: Costs,
    pub(super) close: bool,
    pub(super) claim: Option<u64>,
}

impl Change {
    /// As an operation on `path`, which may be another version of the one it was reserved on.
    pub(super) fn op(&self, path: &Arc<Path>) -> Op {
        let translated = |costs: &Costs| match Arc::ptr_eq(path, &self.path) {
            true => Costs::from_slice(costs),
            false => path.translated(costs, &self.path),
        };
        let (reserved, actual) = (translated(&self.reserved), translated(&self.actual));
        Op::Settle { at: self.at, reserved, actual, close: self.close, claim: self.claim }
    }
}

/// Who is told the verdict on an operation that is not a demand.
pub(super) type Report = oneshot::Sender<Result<Verdict, Throttled>>;

/// What an operation of a batch is for.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "most are demands; a box for each costs more than the moves")]
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
    pub(super) lives: SmallVec<[Life; 1]>,
    lines: Lines,
    /// How many demands are in the batch on its way.
    away: usize,
    /// Those of the waiting that no store has seen yet.
    unseen: VecDeque<Rank>,
    others: VecDeque<(Other, Report)>,
    entered: u64,
    look_now: bool,
}

/// An operation that is not a demand.
#[derive(Debug)]
pub(super) enum Other {
    Change(Change),
    Detach {
        path: Arc<Path>,
        claim: u64,
        reserved: Costs,
        lease: Micros,
    },
    Pause(Micros),
    /// About quotas by their ids, which are the same on every version of a path.
    Said(Op),
    Status,
}

impl Other {
    /// As an operation on the path as it is now.
    fn op(self, path: &Arc<Path>) -> Op {
        match self {
            Self::Change(change) => change.op(path),
            Self::Detach { path: from, claim, reserved, lease } => {
                Op::Detach { claim, reserved: path.translated(&reserved, &from), lease }
            }
            Self::Pause(duration) => Op::Pause(duration),
            Self::Said(op) => op,
            Self::Status => Op::Status,
        }
    }
}

impl Queue {
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            lives: SmallVec::new(),
            lines: Lines::default(),
            away: 0,
            unseen: VecDeque::new(),
            others: VecDeque::new(),
            entered: 0,
            look_now: false,
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

    /// Queues a demand that the store has not seen.
    pub(super) fn push(&mut self, rank: Rank, waiter: Waiter) {
        if !self.lines.enter(rank, waiter) {
            self.unseen.push_back(rank);
        }
    }

    /// Whether it is known of a demand in the queue that it has to wait.
    pub(super) fn waits(&self, rank: Rank) -> bool {
        self.lines.get(rank).is_some_and(|waiter| waiter.waits)
    }

    /// Gives back what was granted to nobody.
    pub(super) fn give_back(&mut self, path: &Arc<Path>, costs: Costs, at: Micros) {
        let actual = costs.iter().map(|_| 0).collect();
        let change = Change { path: path.clone(), at, reserved: costs, actual, close: true, claim: None };
        self.push_other(Other::Change(change), oneshot::channel().0);
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

    /// What a demand waits for: how the front of its line was last refused.
    pub(super) fn front_of(&self, rank: Rank) -> Option<&Front> {
        self.lines.front_of(rank)
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
                let lasts = matches!(other, Other::Change(_) | Other::Detach { .. });
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
            match retarget(&mut waiter.ask, &path) {
                Some(refusal) => hopeless.push((waiter, refusal)),
                None => drop(self.lines.enter(rank, waiter)),
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
        let path = self.path.clone();
        let (mut ops, mut jobs) = (Vec::new(), Vec::new());
        for (other, report) in self.others.drain(..self.others.len().min(MAX_BATCH)) {
            ops.push(other.op(&path));
            jobs.push(Job::Tell(report));
        }
        let firsts = self.lines.firsts();
        self.look_now = false;
        for rank in self.demands_to_send() {
            let Some((waiter, _)) = self.lines.remove(rank) else { continue };
            if waiter.answer.is_closed() {
                self.look_now = true;
                continue;
            }
            let explain =
                firsts.contains(&rank) || waiter.ask.deadline.is_some() || waiter.ask.mode != Mode::Wait;
            ops.push(waiter.ask.op(explain));
            jobs.push(Job::Demand(rank, waiter));
            self.away += 1;
        }
        Flight { seq, path, ops, jobs }
    }

    /// Some from the front, and those that the store has not seen, in order.
    fn demands_to_send(&mut self) -> Vec<Rank> {
        let mut ranks = self.lines.to_look_at(MAX_BATCH);
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
        if waiter.ask.mode != Mode::Wait {
            let refusal = Box::new(waiter.ask.refusal(violations));
            return Refused::ForGood(waiter.answer, Throttled::NotNow(refusal));
        }
        if !waiter.ask.can_make_it(violations, now) {
            let refusal = Box::new(waiter.ask.refusal(violations));
            return Refused::ForGood(waiter.answer, Throttled::Deadline(refusal));
        }
        let position = waiter.position;
        let news = !std::mem::replace(&mut waiter.waits, true);
        self.lines.refused(rank, waiter, violations, jitter);
        if news { Refused::HasToWait { position } } else { Refused::Waits }
    }

    /// A demand was granted.
    pub(super) fn granted(&mut self, ask: &Ask) {
        self.lines.granted(ask);
    }

    /// Ends the handling of an answered batch.
    pub(super) fn landed(&mut self) {
        self.away = 0;
        self.lines.landed();
    }
}

/// Counts a demand on another version of its path. Answers why it could never be granted there.
fn retarget(ask: &mut Ask, path: &Arc<Path>) -> Option<Refusal> {
    ask.path = path.clone();
    ask.costs = path.costs(&ask.usage);
    path.beyond_capacity(&ask.costs, ask.standing.headroom)
}

impl Waiter {
    /// Counts it on the queue's path, should that have changed while it was away.
    pub(super) fn follow(&mut self, path: &Arc<Path>) -> Option<Refusal> {
        if Arc::ptr_eq(&self.ask.path, path) { None } else { retarget(&mut self.ask, path) }
    }
}
