//! Operations that are no demands and wait to be sent: settles, feedback, questions. They travel in
//! the order in which they came.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use super::batch::{Batch, Job, Report, rename};
use crate::{engine::Op, limiter::bucket_set::BucketSet};

/// At most this many travel in one batch.
const MOST_SENT: usize = 256;
/// They leave room for so many buckets of demands.
const LEFT: usize = 16;

/// An operation to be sent. It names its buckets by their indexes in a set.
#[derive(Debug)]
pub(in crate::limiter) struct Outgoing {
    op: Op,
    set: Arc<BucketSet>,
    /// Whether it must not get lost when the store does not answer.
    lasts: bool,
    /// The reservation that it adjusts or settles, if that may be adjusted more than once; 0
    /// otherwise.
    reservation: u64,
    reports: SmallVec<[Report; 1]>,
}

impl Outgoing {
    /// One that is worth nothing later.
    pub(in crate::limiter) fn passing(op: Op, set: Arc<BucketSet>) -> Self {
        Self { op, set, lasts: false, reservation: 0, reports: SmallVec::new() }
    }

    /// One that must not get lost, of a reservation.
    pub(in crate::limiter) fn lasting(op: Op, set: Arc<BucketSet>, reservation: u64) -> Self {
        Self { op, set, lasts: true, reservation, reports: SmallVec::new() }
    }

    pub(super) fn set(&self) -> &Arc<BucketSet> {
        &self.set
    }

    pub(super) fn report_to(&mut self, report: Report) {
        self.reports.push(report);
    }

    /// A batch of its own, with those that it is reported to.
    pub(super) fn into_batch(mut self) -> (Batch, SmallVec<[Report; 1]>) {
        let (reports, mut batch) = (std::mem::take(&mut self.reports), Batch::default());
        let (mut op, set) = self.into_present();
        if let Some(on) = batch.buckets_mut().place(&set) {
            rename(&mut op, |index| on[usize::from(index)]);
            batch.push(op, Job::Report(SmallVec::new()));
        }
        (batch, reports)
    }

    /// The operation with the set that it is to be applied on. Its amounts may have been counted
    /// under older limits.
    pub(super) fn into_present(mut self) -> (Op, Arc<BucketSet>) {
        let set = self.set.for_settling();
        if !Arc::ptr_eq(&set, &self.set) {
            set.translate(&mut self.op, &self.set);
        }
        (self.op, set)
    }
}

/// Operations to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queue: VecDeque<Outgoing>,
    /// How many were taken out so far.
    taken: u64,
    /// The number of the last adjustment of each reservation that is in the queue.
    adjusted: HashMap<u64, u64, RandomState>,
    /// How many at the front have no reports, and must not get lost. A runtime that shuts down
    /// asks for the reports after each reservation that it drops.
    unheard: usize,
}

/// What comes of putting operations into a batch.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Those that only ask, which belong at the end, with what they are for.
    pub(super) questions: Vec<(Op, Job)>,
    /// Whether demands may fit afterwards.
    pub(super) frees: bool,
    /// Whether there are quotas among the buckets' that they are declared with no more, which must
    /// not hold demands back.
    pub(super) has_older_quotas: bool,
}

impl Outbox {
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The sets of buckets that the next ones are about.
    pub(super) fn sets(&self) -> impl Iterator<Item = &BucketSet> {
        self.queue.iter().take(MOST_SENT).map(|outgoing| &*outgoing.set)
    }

    /// Whether a caller waits for an answer.
    pub(super) fn is_awaited(&self) -> bool {
        self.queue.iter().any(|outgoing| outgoing.reports.iter().any(|report| !report.is_closed()))
    }

    /// Takes in an operation. A change of a reservation replaces one that was not sent yet.
    pub(super) fn push(&mut self, mut outgoing: Outgoing) {
        if outgoing.reservation == 0 {
            return self.queue.push_back(outgoing);
        }
        let number = self.adjusted.get(&outgoing.reservation).copied();
        let queued = number
            .and_then(|number| self.queue.get_mut(usize::try_from(number - self.taken).ok()?));
        if let Some(queued) = queued
            && Arc::ptr_eq(&queued.set, &outgoing.set)
            && let (Op::Settle(first), Op::Settle(last)) = (&mut queued.op, &mut outgoing.op)
        {
            first.actual = std::mem::take(&mut last.actual);
            first.close = last.close;
            queued.reports.append(&mut outgoing.reports);
            if first.close {
                self.adjusted.remove(&outgoing.reservation);
            }
            return;
        }
        if matches!(&outgoing.op, Op::Settle(settle) if !settle.close) {
            self.adjusted.insert(outgoing.reservation, self.taken + self.queue.len() as u64);
        }
        self.queue.push_back(outgoing);
    }

    /// Puts into a batch what can be part of it.
    pub(super) fn take(&mut self, batch: &mut Batch) -> Taken {
        let mut taken = Taken::default();
        batch.reserve(self.queue.len().min(MOST_SENT));
        for _ in 0..MOST_SENT {
            let Some(outgoing) = self.queue.front() else { break };
            let set = outgoing.set.for_settling();
            let Some(on) = batch.buckets_mut().place_leaving(LEFT, &set) else { break };
            let Some(mut outgoing) = self.queue.pop_front() else { break };
            self.taken += 1;
            self.unheard = self.unheard.saturating_sub(1);
            if outgoing.reservation != 0 {
                self.adjusted.remove(&outgoing.reservation);
            }
            if !Arc::ptr_eq(&set, &outgoing.set) {
                set.translate(&mut outgoing.op, &outgoing.set);
                taken.has_older_quotas |= set.has_older_quotas();
            }
            taken.frees |= frees(&outgoing.op);
            rename(&mut outgoing.op, |index| on[usize::from(index)]);
            let job = Job::Report(outgoing.reports);
            match outgoing.op {
                Op::Status { .. } => taken.questions.push((outgoing.op, job)),
                op => batch.push(op, job),
            }
        }
        taken
    }

    /// Takes out the changes on such sets of buckets that must not get lost.
    pub(super) fn take_changes(&mut self, on: impl Fn(&BucketSet) -> bool) -> VecDeque<Outgoing> {
        let is_one = |outgoing: &Outgoing| {
            matches!(outgoing.op, Op::Settle(_) | Op::Detach { .. }) && on(&outgoing.set)
        };
        if !self.queue.iter().any(is_one) {
            return VecDeque::new();
        }
        let (changes, others) = std::mem::take(&mut self.queue).into_iter().partition(is_one);
        // Their numbers are others now.
        (self.queue, self.unheard) = (others, 0);
        self.adjusted.clear();
        changes
    }

    /// Takes out the reports. What must not get lost stays, and is reported to no one.
    pub(super) fn take_reports(&mut self) -> Vec<Report> {
        let mut reports = Vec::new();
        for mut outgoing in self.queue.split_off(self.unheard) {
            reports.extend(std::mem::take(&mut outgoing.reports));
            if outgoing.lasts {
                self.queue.push_back(outgoing);
            }
        }
        self.unheard = self.queue.len();
        // Their numbers are others now.
        self.adjusted.clear();
        reports
    }
}

/// Whether demands may fit after an operation, or are to be refused. A question is answered with
/// what they find.
pub(in crate::limiter) fn frees(op: &Op) -> bool {
    !matches!(op, Op::Reserve(_) | Op::Detach { .. } | Op::Waiting { .. })
}
