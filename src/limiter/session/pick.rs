//! Which waiters travel in the next batch: some from the front of each line that is due, each with
//! all that go before it in its other lines, so that none is passed.

use std::collections::{BTreeMap, HashSet};

use smallvec::SmallVec;

use super::{
    batch::MOST_BUCKETS,
    line::LONGEST_LOOK,
    lines::Lines,
    waiter::{Again, LineId, Rank, Waiter},
};
use crate::{engine::Micros, limiter::bucket_set::BucketSet};

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

    /// Picks from the front of a line. Returns those of its fronts that could not be picked.
    pub(super) fn front_of(&mut self, id: LineId, now: Micros) -> SmallVec<[Rank; 1]> {
        let Some(line) = self.lines.find(id) else { return SmallVec::new() };
        let classes = line.classes().into_iter();
        let left_out = classes.filter_map(|class| {
            let mut front = line.in_order(class).take(line.look());
            front.find(|rank| !self.pick(*rank))
        });
        let mut left_out: SmallVec<[Rank; 1]> = left_out.collect();
        if self.lines.is_hinted(id.bucket) {
            line.heads().for_each(|rank| _ = self.pick(rank));
        }
        for rank in line.fronts() {
            let is_due = due(rank, self.lines, self.waiting).is_some_and(|time| time <= now);
            // Those of other sessions that its front waits for may wait for one of these.
            if !is_due && !line.is_behind() {
                continue;
            }
            let is_picked = self.pick(rank);
            if is_due && !is_picked {
                left_out.push(rank);
            }
        }
        left_out
    }

    /// Picks a waiter if all can be picked that go before it. Returns true if it is picked.
    pub(super) fn pick(&mut self, rank: Rank) -> bool {
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

    /// Picks a waiter without those before it, if there is room. Returns true if it is picked.
    pub(super) fn alone(&mut self, rank: Rank) -> bool {
        if self.all.contains(&rank) {
            return true;
        }
        let waiter = self.waiting.get(&rank).filter(|_| self.all.len() < LONGEST_LOOK);
        let is_picked = waiter.is_some_and(|waiter| (self.has_room)(waiter.ask().set()));
        if is_picked {
            self.all.insert(rank);
            self.picked.push(rank);
        }
        is_picked
    }

    /// Those picked, in order.
    pub(super) fn into_picked(self) -> Vec<Rank> {
        self.picked
    }
}

/// When the front of a line is to be looked at by itself.
pub(super) fn due(
    rank: Rank,
    lines: &Lines,
    waiting: &BTreeMap<Rank, Box<Waiter>>,
) -> Option<Micros> {
    match waiting.get(&rank)?.again() {
        Again::Now => Some(0),
        Again::At(time) => Some(time),
        Again::WhenNext => is_next(rank, lines, waiting).then_some(0),
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

/// True if a waiter and all that go before it, directly or through others, fit in one batch.
pub(super) fn fits_in_a_batch(
    rank: Rank,
    lines: &Lines,
    waiting: &BTreeMap<Rank, Box<Waiter>>,
) -> bool {
    let (mut seen, mut ahead, mut buckets) = (HashSet::from([rank]), vec![rank], HashSet::new());
    while let Some(of) = ahead.pop() {
        let Some(waiter) = waiting.get(&of) else { continue };
        buckets.extend(waiter.ask().set().handles().map(|handle| handle.id()));
        for line in waiter.lines().iter().filter_map(|id| lines.find(*id)) {
            let before = line.in_order(waiter.ask().headroom()).take_while(|before| *before != of);
            ahead.extend(before.take(LONGEST_LOOK).filter(|before| seen.insert(*before)));
        }
        if seen.len() > LONGEST_LOOK || buckets.len() > MOST_BUCKETS {
            return false;
        }
    }
    true
}
