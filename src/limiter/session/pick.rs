//! Which waiters travel in the next batch: some from the front of each line that is due, each with
//! all that go before it in its other lines, so that none is passed.

use std::collections::{BTreeMap, HashSet};

use super::{
    line::LONGEST_LOOK,
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

    /// Picks a waiter without those before it, if there is room.
    pub(super) fn alone(&mut self, rank: Rank) {
        let is_new = self.all.len() < LONGEST_LOOK && !self.all.contains(&rank);
        let Some(waiter) = self.waiting.get(&rank).filter(|_| is_new) else { return };
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

/// True if no waiter that is first in all of its lines goes before this one, directly or through
/// others. Otherwise this one is looked at with that one.
///
/// One that is next is first in all of its lines, or stands in a circle: what is known of the turns
/// of flows differs from line to line, so each of some waiters can be behind another of them.
pub(super) fn is_next(rank: Rank, lines: &Lines, waiting: &BTreeMap<Rank, Box<Waiter>>) -> bool {
    let (mut seen, mut ahead) = (HashSet::from([rank]), vec![rank]);
    while let Some(of) = ahead.pop() {
        let Some(waiter) = waiting.get(&of) else { continue };
        let firsts = waiter.lines().iter().filter_map(|id| {
            lines.find(*id)?.in_order(waiter.ask().headroom()).next().filter(|first| *first != of)
        });
        let mut is_first = true;
        for first in firsts {
            is_first = false;
            if seen.insert(first) {
                ahead.push(first);
            }
        }
        if is_first && of != rank {
            return false;
        }
    }
    true
}
