//! A batch as it is sent to a store, and applied by the engine.

use std::sync::Arc;

use super::{Answer, BucketState, Micros, Op, Rule, Wakes, apply};
use crate::bucket::BucketKey;

/// Operations of one session, for buckets of one partition.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Batch<'a> {
    /// The session that sends this; below 2^53.
    pub session: u64,
    /// Counts the batches of a session from 1. To a store in this process also 0: the batch comes
    /// once.
    pub seq: u64,
    /// Without another batch for this long, what the session has in flight in a bucket is
    /// abandoned.
    pub lease: Micros,
    /// No hints reach the session, so that it looks at its waiters by itself.
    pub(crate) unhinted: bool,
    /// The buckets, all of one partition and none of them twice.
    pub buckets: &'a [Bucket],
    /// What to do.
    pub(crate) ops: &'a [Op],
}

impl<'a> Batch<'a> {
    /// A batch of `session`, its `seq`-th.
    pub(crate) fn new(
        session: u64,
        seq: u64,
        lease: Micros,
        buckets: &'a [Bucket],
        ops: &'a [Op],
    ) -> Self {
        Self { session, seq, lease, unhinted: false, buckets, ops }
    }

    /// Says whether no hints reach the session.
    pub(crate) fn unhinted(self, unhinted: bool) -> Self {
        Self { unhinted, ..self }
    }

    /// Applies the batch to the states of its buckets, in their order. `wall` is the store's clock:
    /// one for all processes. Returns the answer, and which sessions to give a
    /// [`Hint`](crate::store::Hint).
    ///
    /// The states are to be locked meanwhile, and to be saved before the answer is given away.
    #[inline]
    pub fn apply_to(&self, states: &mut [&mut BucketState], wall: Micros) -> (Answer, Wakes) {
        apply(states, self, wall)
    }
}

/// A bucket as a store sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Bucket {
    /// What the state is found by.
    pub key: Arc<BucketKey>,
    /// What the state must obey.
    pub(crate) rules: Arc<[Rule]>,
    notes: Arc<str>,
}

impl Bucket {
    /// The bucket found by `key`, obeying `rules`.
    pub(crate) fn new(key: Arc<BucketKey>, rules: Arc<[Rule]>) -> Self {
        Self { key, rules, notes: "".into() }
    }

    /// A line for each rule, which tells its name, window and metrics; empty if these are not
    /// known. A store may keep them for programs that look at its buckets. Nothing is decided by
    /// them.
    pub fn notes(&self) -> &str {
        &self.notes
    }

    /// The bucket with a line for each rule, which tells what it is.
    #[must_use]
    pub(crate) fn with_notes(self, notes: Arc<str>) -> Self {
        Self { notes, ..self }
    }
}
