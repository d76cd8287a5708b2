//! Batches that the store refused. It would refuse them again as they are, because of one bucket
//! that it cannot read, say, on which the others must not depend. A batch is sent again in halves,
//! until what is refused is about the same buckets; where nothing but refusals comes of that, it is
//! not about buckets at all. What was changed is kept, and sent again from time to time: the reason
//! may be mended.

use std::collections::VecDeque;

use super::batch::Batch;
use crate::{engine::Micros, error::Throttled, limiter::bucket_set::BucketSet};

/// What was refused is sent again after this long, and after twice that each further time.
const FIRST_PAUSE: Micros = 500_000;
const LONGEST_PAUSE: Micros = 5_000_000;
/// What is kept of the same buckets travels together, so much at most.
const MOST_TOGETHER: usize = 1_000;
/// After this many refusals of a batch and its parts, and no answer, all of it is refused.
const MOST_IN_VAIN: usize = 16;

/// Batches to be sent again by themselves.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Parts of a batch, in their order.
    parts: VecDeque<Batch>,
    /// The refusals of that batch and its parts, as long as there is no answer.
    in_vain: usize,
    /// Changes of which all is refused, each on one set of buckets, by the time when they are sent
    /// again. Those on the same buckets stay in their order.
    kept: VecDeque<KeptChanges>,
    /// The one that is being sent again, without its batch.
    again: Option<KeptChanges>,
    /// The last batch was one of these.
    was_kept: bool,
}

#[derive(Debug)]
struct KeptChanges {
    batch: Batch,
    since: Micros,
    pause: Micros,
    at: Micros,
    /// What was told of it last.
    error: Throttled,
}

impl Refusals {
    /// Whether demands are pending here.
    pub(super) fn has_parts(&self) -> bool {
        !self.parts.is_empty()
    }

    /// When there is something to send.
    pub(super) fn due(&self) -> Option<Micros> {
        match self.has_parts() {
            true => Some(0),
            false => self.kept.front().map(|kept| kept.at),
        }
    }

    /// The batch that is to be sent next, in turns with the others if there are any. What was
    /// refused for longer than `longest` is given up.
    pub(super) fn next(&mut self, now: Micros, longest: Micros, has_others: bool) -> Option<Batch> {
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        self.in_vain = 0;
        self.kept.retain(|kept| now < kept.since.saturating_add(longest));
        if std::mem::take(&mut self.was_kept) && has_others {
            return None;
        }
        self.kept.front().filter(|kept| kept.at <= now)?;
        let mut kept = self.kept.pop_front()?;
        let batch = std::mem::take(&mut kept.batch);
        (self.again, self.was_kept) = (Some(kept), true);
        Some(batch)
    }

    /// Changes on these sets of buckets are about to be sent: what is kept of the same buckets goes
    /// before them.
    pub(super) fn hasten<'a>(&mut self, sets: impl Iterator<Item = &'a BucketSet>) {
        if self.kept.is_empty() {
            return;
        }
        for set in sets {
            let is_of_set = |kept: &&mut KeptChanges| kept.batch.buckets().are(set);
            self.kept.iter_mut().filter(is_of_set).for_each(|kept| kept.at = 0);
        }
        self.kept.make_contiguous().sort_by_key(|kept| kept.at);
    }

    pub(super) fn keep_any(&self) -> bool {
        !self.kept.is_empty()
    }

    /// What is told of changes on a set of buckets of which others are kept, if any are. To be sent
    /// before these have reached the store, they would be applied in another order.
    pub(super) fn told_of(&self, set: &BucketSet) -> Option<&Throttled> {
        let last = self.kept.iter().rfind(|kept| kept.batch.buckets().are(set));
        last.map(|kept| &kept.error)
    }

    /// The batch at hand was answered, or is in doubt.
    pub(super) fn answered(&mut self) {
        (self.again, self.in_vain) = (None, 0);
    }

    /// The batch at hand was refused. Returns whether it can be due to one bucket.
    pub(super) fn refused(&mut self) -> bool {
        self.in_vain += 1;
        self.in_vain < MOST_IN_VAIN
    }

    /// Parts of the batch at hand are to be sent first.
    pub(super) fn split(&mut self, first: Batch, second: Batch) {
        self.parts.push_front(second);
        self.parts.push_front(first);
    }

    /// Changes on one set of buckets that were refused, or that did not reach the store.
    pub(super) fn keep(&mut self, mut batch: Batch, error: &Throttled, now: Micros) {
        let last = self.again.take();
        if batch.ops().is_empty() {
            return;
        }
        let is_again = last.is_some();
        let alike = |kept: &&mut KeptChanges| kept.batch.buckets().have_those_of(batch.buckets());
        if let Some(kept) = self.kept.iter_mut().rfind(alike).filter(|_| !is_again) {
            let together = kept.batch.ops().len() + batch.ops().len();
            if together <= MOST_TOGETHER && kept.batch.buckets().are_as(batch.buckets()) {
                kept.batch.append(&mut batch);
                kept.since = now;
                return;
            }
        }
        let since = last.as_ref().map_or(now, |last| last.since);
        let pause = last.map_or(FIRST_PAUSE, |last| (2 * last.pause).min(LONGEST_PAUSE));
        let mut at = now.saturating_add(pause);
        for other in self.kept.iter_mut().filter(alike) {
            match is_again {
                true => other.at = other.at.max(at),
                false => at = at.max(other.at),
            }
        }
        let kept = KeptChanges { batch, since, pause, at, error: error.clone() };
        match is_again {
            true => self.kept.push_front(kept),
            false => self.kept.push_back(kept),
        }
        self.kept.make_contiguous().sort_by_key(|kept| kept.at);
    }

    /// Takes out the parts.
    pub(super) fn take_parts(&mut self) -> VecDeque<Batch> {
        std::mem::take(&mut self.parts)
    }
}
