//! Where a demand is counted: its set of buckets, and the session through which the store is asked.

use std::sync::Arc;

use super::{
    bucket_set::BucketSet,
    session::{Outgoing, Session},
    settle::Settling,
};
use crate::{
    engine::Op,
    error::{BadDemand, Throttled},
    usage::Usage,
};

/// A set of buckets and its session.
#[derive(Debug)]
pub(super) struct BucketTarget {
    pub(super) session: Arc<Session>,
    pub(super) set: Arc<BucketSet>,
}

impl BucketTarget {
    /// Another version of its set.
    pub(super) fn with(&self, set: Arc<BucketSet>) -> Self {
        Self { session: self.session.clone(), set }
    }

    /// Its set as it is declared now; nothing if the names have to be looked up again.
    pub(super) fn refreshed(&self) -> Option<Self> {
        self.set.refreshed().ok().map(|set| self.with(set))
    }

    /// # Errors
    /// A metric that no quota counts, and that is no standard one.
    pub(super) fn check(&self, usage: &Usage) -> Result<(), Throttled> {
        match self.session.context().unknown_metric(usage, self.set.specs()) {
            Some(metric) => Err(Throttled::BadDemand(BadDemand::UnknownMetric(metric.into()))),
            None => Ok(()),
        }
    }

    /// Applies, or sends, a change of a reservation, that names its buckets by their indexes in the
    /// set. `ends` says that the reservation is over with it. `reservation` identifies one that is
    /// changed more than once.
    #[inline]
    pub(super) fn change(&self, op: Op, reservation: u64, ends: bool) -> Settling {
        if self.session.context().in_process() && self.set.is_current() {
            return self.session.settle_directly(&self.set, &op);
        }
        self.session.send(Outgoing::lasting(op, self.set.clone(), reservation), ends)
    }

    /// Applies, or sends, an operation on one bucket that is worth nothing later. The operation
    /// names the bucket by 0.
    pub(super) fn tell(&self, bucket: u64, op: Op) -> Settling {
        match self.set.only(bucket) {
            Some(set) => self.session.send_passing(Outgoing::passing(op, Arc::new(set))),
            None => Settling::done(),
        }
    }
}
