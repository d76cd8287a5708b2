//! Batches that the store refused. It would refuse them again as they are, because of one bucket
//! that it cannot read, say, on which the others must not depend. A batch is sent again in halves,
//! until what is refused is about the same buckets. What that changed is kept, and sent again from
//! time to time: the reason may be mended.

use std::collections::VecDeque;

use super::batch::Batch;
use crate::engine::Micros;

/// What was refused is sent again after this long, and after twice that each further time.
const FIRST_PAUSE: Micros = 500_000;
const LONGEST_PAUSE: Micros = 5_000_000;

/// Batches to be sent again by themselves.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    /// Parts of a batch, in their order.
    parts: VecDeque<Batch>,
    /// Changes of which all is refused, by the time when they are sent again.
    kept: VecDeque<KeptChanges>,
    /// The one that is being sent again, without its batch.
    again: Option<KeptChanges>,
}

#[derive(Debug)]
struct KeptChanges {
    batch: Batch,
    since: Micros,
    pause: Micros,
    at: Micros,
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

    /// The batch that is to be sent before anything else. What was refused for longer than
    /// `longest` is given up.
    pub(super) fn next(&mut self, now: Micros, longest: Micros) -> Option<Batch> {
        if let Some(part) = self.parts.pop_front() {
            return Some(part);
        }
        self.kept.retain(|kept| now < kept.since.saturating_add(longest));
        self.kept.front().filter(|kept| kept.at <= now)?;
        let mut kept = self.kept.pop_front()?;
        let batch = std::mem::take(&mut kept.batch);
        self.again = Some(kept);
        Some(batch)
    }

    /// The batch at hand was answered.
    pub(super) fn answered(&mut self) {
        self.again = None;
    }

    /// Parts of the batch at hand are to be sent first.
    pub(super) fn split(&mut self, first: Batch, second: Batch) {
        self.parts.push_front(second);
        self.parts.push_front(first);
    }

    /// Changes that were refused, or that did not reach the store.
    pub(super) fn keep(&mut self, batch: Batch, now: Micros) {
        let last = self.again.take();
        let since = last.as_ref().map_or(now, |last| last.since);
        let pause = last.map_or(FIRST_PAUSE, |last| (2 * last.pause).min(LONGEST_PAUSE));
        let at = now.saturating_add(pause);
        let place = self.kept.partition_point(|kept| kept.at <= at);
        self.kept.insert(place, KeptChanges { batch, since, pause, at });
    }

    /// Takes out the parts.
    pub(super) fn take_parts(&mut self) -> VecDeque<Batch> {
        std::mem::take(&mut self.parts)
    }
}
