//! Which waiters travel in the next batch: some from the front of each line that is due, each with
//! all that go before it in its other lines, so that none is passed.

use std::collections::{BTreeMap, HashSet};

use super::{
    line::{LONGEST_LOOK, QuotaLine},
    lines::Lines,
    waiter::{LineId, Rank, Waiter},
};
use crate::limiter::bucket_set::BucketSet;

/// Those picked for a batch.
pub(super) struct Pick<'a, F> {
    lines: &'a Lines,
    waiting: &'a BTreeMap<Rank, Box<Waiter>>,
    /// Whether the buckets of a set can be part of the batch.
    has_room: F,
    /// In order.
    picked: Vec<Rank>,
    /// With them those whose predecessors are being picked.
    all: HashSet<Rank>,
}

impl<'a, F: FnMut(&BucketSet) -> bool> Pick<'a, F> {
    pub(super) fn new(
        lines: &'a Lines,
        waiting: &'a BTreeMap<Rank, Box<Waiter>>,
        has_room: F,
    ) -> Self {
        Self { lines, waiting, has_room, picked: Vec::new(), all: HashSet::new() }
    }

    /// Picks from the front of a line. Returns one that could not be picked, if there is one.
    pub(super) fn front_of(&mut self, id: LineId) -> Option<Rank> {
        let line = self.lines.find(id)?;
        let mut left_out = None;
        for class in line.classes() {
            let mut front = line.in_order(class).take(line.look());
            left_out = front.find(|rank| !self.pick(*rank)).or(left_out);
        }
        left_out
    }

    /// Picks a waiter if all can be picked that go before it. Returns true if it is picked.
    fn pick(&mut self, rank: Rank) -> bool {
        // Where flows take turns, two can each be before the other in one of their lines.
        if self.all.contains(&rank) {
            return true;
        }
        let waiter = self.waiting.get(&rank).filter(|_| self.all.len() < LONGEST_LOOK);
        let Some(waiter) = waiter else { return false };
        self.all.insert(rank);
        let lines = self.lines;
        let are_before_it = waiter.lines().iter().all(|id| {
            let line = lines.find(*id).into_iter();
            let mut before = line
                .flat_map(|line| line.in_order(waiter.ask().headroom()))
                .take_while(|before| *before != rank);
            before.all(|before| self.pick(before))
        });
        let is_picked = are_before_it && (self.has_room)(waiter.ask().set());
        if is_picked {
            self.picked.push(rank);
        } else {
            self.all.remove(&rank);
        }
        is_picked
    }

    /// Whether a waiter is the first of a line in which one stands that is the first of another of
    /// its lines. Each waits for the other then, and only flows do that: what is known of their
    /// turns differs from line to line. Nothing else would ever look at them if more stand between
    /// them than a batch takes.
    pub(super) fn is_contradicted(&self, rank: Rank) -> bool {
        let Some(waiter) = self.waiting.get(&rank) else { return false };
        let fronts_of = |id: &LineId| self.lines.find(*id).map(QuotaLine::fronts);
        let fronts = waiter.lines().iter().filter_map(fronts_of).flatten();
        fronts.filter(|front| *front != rank).any(|front| {
            let Some(other) = self.waiting.get(&front) else { return false };
            let mut both = waiter.lines().iter().filter(|id| other.lines().contains(id));
            both.any(|id| fronts_of(id).is_some_and(|fronts| fronts.contains(&rank)))
        })
    }

    /// Picks a waiter without those before it.
    pub(super) fn alone(&mut self, rank: Rank) {
        let waiter = self.waiting.get(&rank).filter(|_| !self.all.contains(&rank));
        let Some(waiter) = waiter else { return };
        if (self.has_room)(waiter.ask().set()) {
            self.all.insert(rank);
            self.picked.push(rank);
        }
    }

    /// Those picked, in order.
    pub(super) fn into_picked(self) -> Vec<Rank> {
        self.picked
    }
}
