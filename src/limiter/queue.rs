//! What waits in one process for one path: demands in the order of their (dated back) arrival, and everything else
//! that is to travel in the next batch. It decides what to send when; it sends nothing itself.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{sync::oneshot, time::Instant};

use super::{path::Path, reservation::Reservation};
use crate::{
    engine::{Costs, Life, Micros, Mode, Op, RefusedBy, Verdict, Violation},
    error::{Refusal, Throttled},
    limits::Standing,
    usage::Usage,
};

/// At most this many demands travel in one batch, and as many other operations.
const MAX_BATCH: usize = 256;
/// Demands from the front of the queue that are looked at again first.
const FIRST_LOOK: usize = 4;
/// The front is looked at again after this long at the latest, whatever was predicted: capacity may have been freed
/// elsewhere.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// The place in the queue: arrival, dated back by the head start, then order of entry.
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
        let costs = self.costs.clone();
        Op::Reserve { costs, headroom: self.standing.headroom, explain, mode: self.mode }
    }

    pub(super) fn refusal(&self, violations: &[Violation]) -> Refusal {
        self.path.refusal(violations, &self.costs, self.standing.headroom)
    }

    /// Whether it could be granted in time if everything in flight were refunded.
    fn can_make_it(&self, violations: &[Violation], now: Instant) -> bool {
        let at_best = violations.iter().map(|violation| violation.at_best).max().unwrap_or(0);
        self.deadline.is_none_or(|deadline| now + Duration::from_micros(at_best) <= deadline)
    }
}

/// What becomes of a demand.
#[derive(Debug)]
pub(super) enum Outcome {
    Granted(Reservation),
    Fits,
}

#[derive(Debug)]
pub(super) struct Waiter {
    pub(super) ask: Ask,
    pub(super) arrived: Instant,
    pub(super) position: usize,
    pub(super) answer: oneshot::Sender<Result<Outcome, Throttled>>,
}

/// A change of what a reservation is charged.
#[derive(Debug)]
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
            true => costs.clone(),
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

/// The front of the queue, as it was last refused.
#[derive(Debug)]
pub(super) struct Front {
    pub(super) refusal: Refusal,
    pub(super) looked_at: Instant,
    /// When to look again.
    again: Instant,
    headroom: u64,
    /// The quotas that refused it; all of them for a pause.
    blocked: SmallVec<[bool; 4]>,
}

#[derive(Debug)]
pub(super) struct Queue {
    pub(super) path: Arc<Path>,
    pub(super) lives: SmallVec<[Life; 1]>,
    waiting: BTreeMap<Rank, Waiter>,
    /// Those of the waiting that no store has seen yet.
    unseen: VecDeque<Rank>,
    others: VecDeque<(Other, Report)>,
    entered: u64,
    /// How many from the front are looked at again.
    look: usize,
    look_now: bool,
    pub(super) front: Option<Front>,
}

/// An operation that is not a demand.
#[derive(Debug)]
pub(super) enum Other {
    Change(Change),
    Detach { path: Arc<Path>, claim: u64, reserved: Costs, lease: Micros },
    Pause(Micros),
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
            Self::Status => Op::Status,
        }
    }
}

impl Queue {
    pub(super) fn new(path: Arc<Path>) -> Self {
        Self {
            path,
            lives: SmallVec::new(),
            waiting: BTreeMap::new(),
            unseen: VecDeque::new(),
            others: VecDeque::new(),
            entered: 0,
            look: FIRST_LOOK,
            look_now: false,
            front: None,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nothing at all is to be sent.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.others.is_empty()
    }

    /// The place that a demand arriving now takes.
    pub(super) fn rank(&mut self, arrived: Instant, standing: Standing) -> Rank {
        self.entered += 1;
        (arrived.checked_sub(standing.head_start).unwrap_or(arrived), self.entered)
    }

    /// Queues a demand that the store has not seen.
    pub(super) fn push(&mut self, rank: Rank, waiter: Waiter) {
        if self.must_be_seen(rank, &waiter.ask) {
            self.unseen.push_back(rank);
        }
        self.waiting.insert(rank, waiter);
    }

    /// Whether the store has to look at a new demand at all, other than when its turn comes: not if it can wait for
    /// ever and a quota it needs refuses one before it.
    fn must_be_seen(&self, rank: Rank, ask: &Ask) -> bool {
        let (Some(front), Some((first, _))) = (&self.front, self.waiting.first_key_value()) else {
            return true;
        };
        let blocked = front.blocked.iter().zip(&ask.costs).any(|(&blocked, &cost)| blocked && cost > 0);
        !blocked
            || rank < *first
            || ask.mode != Mode::Wait
            || ask.deadline.is_some()
            || ask.standing.headroom < front.headroom
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
        let was_first = self.waiting.first_key_value().is_some_and(|(first, _)| *first == rank);
        let removed = self.waiting.remove(&rank)?;
        self.look_now |= was_first;
        Some(removed)
    }

    pub(super) fn take_waiting(&mut self) -> impl Iterator<Item = Waiter> + use<> {
        self.unseen.clear();
        self.front = None;
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Capacity may have been freed.
    pub(super) fn look_now(&mut self) {
        self.look_now = true;
    }

    /// Follows a change of the limits. Answers those that can never be granted now.
    pub(super) fn adopt(&mut self, path: Arc<Path>) -> Vec<(Waiter, Refusal)> {
        self.path = path.clone();
        self.front = None;
        self.look_now = true;
        let mut hopeless = Vec::new();
        for (rank, mut waiter) in std::mem::take(&mut self.waiting) {
            match retarget(&mut waiter.ask, &path) {
                Some(refusal) => hopeless.push((waiter, refusal)),
                None => drop(self.waiting.insert(rank, waiter)),
            }
        }
        hopeless
    }

    /// When there will be something to send, if nothing else happens; `None` if never.
    pub(super) fn due(&self, now: Instant) -> Option<Instant> {
        if !self.others.is_empty() {
            return Some(now);
        }
        if self.waiting.is_empty() {
            return None;
        }
        match &self.front {
            Some(front) if self.unseen.is_empty() && !self.look_now => Some(front.again),
            _ => Some(now),
        }
    }

    /// What is to travel in the next batch, changes first.
    pub(super) fn load(&mut self, seq: u64) -> Flight {
        let path = self.path.clone();
        let (mut ops, mut jobs) = (Vec::new(), Vec::new());
        for (other, report) in self.others.drain(..self.others.len().min(MAX_BATCH)) {
            ops.push(other.op(&path));
            jobs.push(Job::Tell(report));
        }
        for rank in self.demands_to_send() {
            let Some(waiter) = self.waiting.remove(&rank) else { continue };
            if waiter.answer.is_closed() {
                continue;
            }
            let explain = waiter.ask.deadline.is_some() || waiter.ask.mode != Mode::Wait;
            ops.push(waiter.ask.op(explain));
            jobs.push(Job::Demand(rank, waiter));
        }
        self.look_now = false;
        Flight { seq, path, ops, jobs }
    }

    /// Some from the front, and those that the store has not seen, in order.
    fn demands_to_send(&mut self) -> Vec<Rank> {
        let mut ranks: Vec<Rank> = self.waiting.keys().take(self.look).copied().collect();
        let room = MAX_BATCH.saturating_sub(ranks.len());
        ranks.extend(self.unseen.drain(..self.unseen.len().min(room)));
        ranks.sort_unstable();
        ranks.dedup();
        ranks
    }

    /// A demand was refused for now. Answers it if it may not wait, or cannot make it; otherwise it takes its place
    /// again.
    pub(super) fn refused(
        &mut self,
        rank: Rank,
        waiter: Waiter,
        violations: &[Violation],
        jitter: Duration,
    ) -> Option<(Waiter, Throttled)> {
        if waiter.answer.is_closed() {
            self.look_now = true;
            return None;
        }
        let now = Instant::now();
        if waiter.ask.mode != Mode::Wait {
            let refusal = Box::new(waiter.ask.refusal(violations));
            return Some((waiter, Throttled::NotNow(refusal)));
        }
        if !waiter.ask.can_make_it(violations, now) {
            let refusal = Box::new(waiter.ask.refusal(violations));
            return Some((waiter, Throttled::Deadline(refusal)));
        }
        let is_first = self.waiting.first_key_value().is_none_or(|(first, _)| rank < *first);
        if is_first && !violations.is_empty() {
            self.front = Some(Front::new(&waiter.ask, violations, now, jitter));
        }
        self.waiting.insert(rank, waiter);
        None
    }

    /// Ends the handling of an answered batch: how many demands from the front were sent, how many granted.
    pub(super) fn landed(&mut self, sent: usize, granted: usize) {
        if sent > 0 {
            self.look = if granted == sent { self.look * 2 } else { granted + FIRST_LOOK };
            self.look = self.look.min(MAX_BATCH);
        }
        if self.waiting.is_empty() {
            self.front = None;
        } else if granted == sent && sent > 0 {
            self.look_now = true;
        }
    }
}

impl Front {
    fn new(ask: &Ask, violations: &[Violation], now: Instant, jitter: Duration) -> Self {
        let refusal = ask.refusal(violations);
        let wait = refusal.retry_after.map_or(LOOK_AGAIN, |wait| (wait + jitter).min(LOOK_AGAIN));
        let refused = |index| {
            violations.iter().any(|violation| match violation.by {
                RefusedBy::Rule(rule) => rule == index,
                RefusedBy::Pause(_) => true,
            })
        };
        Self {
            blocked: (0..ask.costs.len()).map(refused).collect(),
            headroom: ask.standing.headroom,
            again: now + wait,
            looked_at: now,
            refusal,
        }
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
