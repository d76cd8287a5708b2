//! One batch: its buckets, its operations, and what each of them is for. A batch without an answer
//! is in doubt; sent again under its number it tells what became of it.

use std::sync::Arc;

use smallvec::SmallVec;
use tokio::sync::oneshot;

use super::waiter::Waiter;
use crate::{
    engine::{Costs, Micros, Mode, On, Op, Reserve, Rule, Seen, Settle, Verdict},
    error::Throttled,
    limiter::{
        bucket_handle::BucketHandle,
        bucket_set::{BucketSet, GrantedAt},
        state_loss::Loss,
    },
    limits::BucketSpec,
    store::Bucket,
};

/// At most this many buckets are part of a batch, unless one operation needs more.
pub(super) const MOST_BUCKETS: usize = 64;
/// And so many quotas.
const MOST_QUOTAS: usize = 10_000;

/// Where the verdict on an operation goes that is no demand.
pub(in crate::limiter) type Report = oneshot::Sender<Result<Verdict, Throttled>>;

/// What an operation of a batch is for.
#[derive(Debug)]
pub(super) enum Job {
    /// A pending demand.
    Demand(Box<Waiter>),
    /// These callers await it, if any do.
    Report(SmallVec<[Report; 1]>),
    /// It says who waits for the bucket of this id.
    Heads(u64),
    /// A demand of a batch that went without an answer. Its caller was told; what was granted is
    /// given back.
    Orphan(Arc<BucketSet>, Costs),
}

/// The buckets of a batch, in the order in which operations name them.
#[derive(Debug, Default)]
pub(super) struct BatchBuckets {
    ids: Vec<u64>,
    members: Vec<(Arc<BucketHandle>, Arc<BucketSpec>)>,
    buckets: Vec<Bucket>,
}

impl BatchBuckets {
    pub(super) fn as_slice(&self) -> &[Bucket] {
        &self.buckets
    }

    pub(super) fn ids(&self) -> &[u64] {
        &self.ids
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// Takes in the buckets of a set. Returns their indexes; nothing if there is no room, or if one
    /// is part of the batch under other rules.
    pub(super) fn place(&mut self, set: &BucketSet) -> Option<On> {
        self.place_leaving(0, set)
    }

    /// Takes in the buckets of a set, and leaves room for so many others.
    pub(super) fn place_leaving(&mut self, others: usize, set: &BucketSet) -> Option<On> {
        let (mut on, before) = (On::new(), self.ids.len());
        let most = if before == 0 { usize::MAX } else { MOST_BUCKETS - others };
        for (handle, spec, bucket) in set.parts() {
            match self.place_one(handle, spec, bucket, most) {
                Some(index) => on.push(index),
                None => {
                    self.truncate(before);
                    return None;
                }
            }
        }
        Some(on)
    }

    fn place_one(
        &mut self,
        handle: &Arc<BucketHandle>,
        spec: &Arc<BucketSpec>,
        bucket: &Bucket,
        most: usize,
    ) -> Option<u16> {
        if let Some(index) = self.ids.iter().position(|id| *id == handle.id()) {
            let here = &self.buckets[index];
            let is_same = Arc::ptr_eq(&here.rules, &bucket.rules) || here.rules == bucket.rules;
            return is_same.then_some(index as u16);
        }
        let quotas = || self.buckets.iter().map(|bucket| bucket.rules.len()).sum::<usize>();
        let has_quotas_left = self.ids.is_empty() || quotas() + bucket.rules.len() <= MOST_QUOTAS;
        if self.ids.len() >= most || !has_quotas_left {
            return None;
        }
        let index = u16::try_from(self.ids.len()).ok()?;
        self.ids.push(handle.id());
        self.members.push((handle.clone(), spec.clone()));
        self.buckets.push(bucket.clone());
        Some(index)
    }

    /// Takes in a bucket of another batch. Returns its index.
    fn take_from(&mut self, other: &Self, index: u16) -> u16 {
        let index = usize::from(index);
        let here = self.ids.iter().position(|id| *id == other.ids[index]);
        let here = here.unwrap_or_else(|| {
            self.ids.push(other.ids[index]);
            self.members.push(other.members[index].clone());
            self.buckets.push(other.buckets[index].clone());
            self.ids.len() - 1
        });
        here as u16
    }

    /// Whether it has just the buckets of a set.
    pub(super) fn are(&self, set: &BucketSet) -> bool {
        self.ids.len() == set.buckets().len()
            && set.handles().all(|handle| self.ids.contains(&handle.id()))
    }

    /// Whether another batch has the same ones.
    pub(super) fn have_those_of(&self, other: &Self) -> bool {
        self.ids.len() == other.ids.len() && self.ids.iter().all(|id| other.ids.contains(id))
    }

    /// Whether another batch has the same ones, in the same order and with the same rules.
    pub(super) fn are_as(&self, other: &Self) -> bool {
        let mut buckets = self.buckets.iter().zip(&other.buckets);
        self.ids == other.ids && buckets.all(|(one, other)| one.rules == other.rules)
    }

    fn truncate(&mut self, len: usize) {
        self.ids.truncate(len);
        self.members.truncate(len);
        self.buckets.truncate(len);
    }

    /// Looks the calendars up again, around this time of the store.
    fn chart(&mut self, around: Micros) {
        for ((handle, spec), bucket) in self.members.iter().zip(&mut self.buckets) {
            bucket.rules = spec.rules(around).into_owned();
            handle.chart(spec, around);
        }
    }

    /// Notes what the batch of a session of this name saw of each bucket, and calls `lost` with the
    /// name of each whose state was lost. Returns whether the store may know calls of that session
    /// as in flight that have ended: where a state went back that the session was part of.
    pub(super) fn saw(
        &self,
        seen: &[Seen],
        session: u64,
        in_process: bool,
        mut lost: impl FnMut(&str),
    ) -> bool {
        let mut has_ghosts = false;
        for (((handle, _), bucket), seen) in self.members.iter().zip(&self.buckets).zip(seen) {
            let was_part = handle.named_by(session);
            let Some(loss) = handle.saw(seen, in_process) else { continue };
            let holds = bucket.rules.iter().any(Rule::holds);
            has_ghosts |= loss == Loss::WentBack && was_part && holds;
            lost(handle.name());
        }
        has_ghosts
    }
}

/// A batch on its way to the store.
#[derive(Debug, Default)]
pub(in crate::limiter) struct Batch {
    seq: u64,
    unhinted: bool,
    buckets: BatchBuckets,
    ops: Vec<Op>,
    jobs: Vec<Job>,
    /// When it first went without an answer: it may have been applied.
    doubt_since: Option<Micros>,
}

impl Batch {
    /// Makes room for so many more operations.
    pub(super) fn reserve(&mut self, ops: usize) {
        self.ops.reserve(ops);
        self.jobs.reserve(ops);
    }

    pub(super) fn push(&mut self, op: Op, job: Job) {
        self.ops.push(op);
        self.jobs.push(job);
    }

    /// Numbers it, and says whether no hints reach its session.
    pub(super) fn number(&mut self, seq: u64, unhinted: bool) {
        (self.seq, self.unhinted) = (seq, unhinted);
    }

    pub(super) fn unhinted(&self) -> bool {
        self.unhinted
    }

    pub(super) fn seq(&self) -> u64 {
        self.seq
    }

    /// Takes in what another batch on the same buckets has.
    pub(super) fn append(&mut self, other: &mut Self) {
        self.ops.append(&mut other.ops);
        self.jobs.append(&mut other.jobs);
    }

    /// How many pending demands it has.
    pub(super) fn demands(&self) -> usize {
        self.jobs.iter().filter(|job| matches!(job, Job::Demand(_))).count()
    }

    /// It went without an answer.
    pub(super) fn doubt(&mut self, now: Micros) {
        self.doubt_since.get_or_insert(now);
    }

    pub(super) fn doubt_since(&self) -> Option<Micros> {
        self.doubt_since
    }

    pub(super) fn buckets(&self) -> &BatchBuckets {
        &self.buckets
    }

    pub(super) fn buckets_mut(&mut self) -> &mut BatchBuckets {
        &mut self.buckets
    }

    pub(super) fn ops(&self) -> &[Op] {
        &self.ops
    }

    pub(super) fn chart(&mut self, around: Micros) {
        self.buckets.chart(around);
    }

    /// When a demand was granted by the operation of this index.
    pub(super) fn granted_at(&self, index: usize, seen: &[Seen]) -> GrantedAt {
        let on: &[u16] = match &self.ops[index] {
            Op::Reserve(reserve) => &reserve.on,
            _ => &[],
        };
        GrantedAt::new(
            on.iter().map(|&bucket| seen.get(usize::from(bucket)).map_or(0, |seen| seen.now)),
        )
    }

    pub(super) fn take_jobs(&mut self) -> Vec<Job> {
        std::mem::take(&mut self.jobs)
    }

    /// Makes it what is sent again after it went without an answer. Its demands are no one's now:
    /// if it was not applied the first time they reserve nothing, and nothing waits. Returns the
    /// jobs of the callers that are to be told.
    pub(super) fn give_up(&mut self) -> Vec<Job> {
        let told = std::mem::take(&mut self.jobs);
        self.jobs = self.ops.iter_mut().zip(&told).map(|(op, job)| orphan(op, job)).collect();
        told
    }

    /// Makes it what is sent again after the store refused it: changes that must not get lost.
    /// Returns the jobs of the callers that are to be told.
    pub(super) fn keep_changes(&mut self) -> Vec<Job> {
        self.ops.retain(|op| matches!(op, Op::Settle(_) | Op::Detach { .. }));
        std::mem::replace(
            &mut self.jobs,
            self.ops.iter().map(|_| Job::Report(SmallVec::new())).collect(),
        )
    }

    /// Two batches instead of this one: operations on the same buckets stay together. There is no
    /// second one if all are on the same.
    pub(super) fn halved(self) -> (Self, Option<Self>) {
        let mut groups: Vec<On> = Vec::new();
        for on in self.ops.iter().map(|op| On::from(op.buckets())) {
            if !groups.contains(&on) {
                groups.push(on);
            }
        }
        // Buckets that it only names.
        for index in 0..self.buckets.ids.len() as u16 {
            if !groups.iter().any(|on| on.contains(&index)) {
                groups.push(On::from_elem(index, 1));
            }
        }
        if groups.len() < 2 {
            return (self, None);
        }
        let Self { buckets, ops, jobs, .. } = self;
        let (first, second) = groups.split_at(groups.len() / 2);
        let mut halves = [Self::default(), Self::default()];
        for (half, on) in halves.iter_mut().zip([first, second]) {
            for index in on.iter().flatten() {
                half.buckets.take_from(&buckets, *index);
            }
        }
        for (mut op, job) in ops.into_iter().zip(jobs) {
            let half = &mut halves[usize::from(!first.contains(&op.buckets().into()))];
            rename(&mut op, |index| half.buckets.take_from(&buckets, index));
            half.push(op, job);
        }
        let [first, second] = halves;
        (first, Some(second))
    }

    /// As many batches as it has sets of buckets.
    pub(super) fn parted(self) -> Vec<Self> {
        let (mut parts, mut whole) = (Vec::new(), vec![self]);
        while let Some(batch) = whole.pop() {
            match batch.halved() {
                (first, Some(second)) => whole.extend([second, first]),
                (part, None) => parts.push(part),
            }
        }
        parts
    }
}

/// Gives the buckets of an operation other indexes.
pub(super) fn rename(op: &mut Op, mut to: impl FnMut(u16) -> u16) {
    match op {
        Op::Reserve(Reserve { on, .. }) | Op::Settle(Settle { on, .. }) | Op::Detach { on, .. } => {
            on.iter_mut().for_each(|bucket| *bucket = to(*bucket));
        }
        Op::Waiting { bucket, .. }
        | Op::Pause { bucket, .. }
        | Op::Refused { bucket, .. }
        | Op::Answered { bucket, .. }
        | Op::Cap { bucket, .. }
        | Op::Status { bucket } => *bucket = to(*bucket),
    }
}

fn orphan(op: &mut Op, job: &Job) -> Job {
    match op {
        Op::Reserve(reserve) => reserve.mode = Mode::Dry,
        Op::Waiting { lines, .. } => *lines = Box::default(),
        _ => {}
    }
    match (op, job) {
        (Op::Reserve(reserve), Job::Demand(waiter)) => {
            Job::Orphan(waiter.ask().set().clone(), reserve.costs.clone())
        }
        (_, Job::Orphan(set, costs)) => Job::Orphan(set.clone(), costs.clone()),
        (_, Job::Heads(bucket)) => Job::Heads(*bucket),
        _ => Job::Report(SmallVec::new()),
    }
}
