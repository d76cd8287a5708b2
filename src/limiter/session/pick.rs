//! Which waiters travel in the next batch: some from the front of each line that is due, each with
//! all that go before it in its other lines, so that none is passed.

use std::collections::{BTreeMap, HashMap, HashSet};

use smallvec::SmallVec;

use super::{
    batch::MOST_BUCKETS,
    line::LONGEST_LOOK,
    lines::Lines,
    waiter::{LineId, Rank, Waiter},
};
use crate::{engine::Micros, limiter::bucket_set::BucketSet};

/// The waiters of a session and the lines in which they stand.
#[derive(Clone, Copy)]
pub(super) struct Waiters<'a> {
    pub(super) lines: &'a Lines,
    pub(super) waiting: &'a BTreeMap<Rank, Box<Waiter>>,
}

impl<'a> Waiters<'a> {
    /// What goes before a waiter in a line of its own, in order.
    pub(super) fn before(self, waiter: &'a Waiter, id: LineId) -> impl Iterator<Item = Rank> {
        let line = self.lines.find(id).into_iter();
        let in_order = line.flat_map(|line| line.in_order(waiter.ask().headroom()));
        in_order.take_while(|before| *before != waiter.rank())
    }

    /// Visits a waiter and all that go before it, directly or through others, while `goes_on`: it
    /// is told whether a waiter is first in all of its lines, and how many are known so far. Of a
    /// line so many at most are followed. Returns false if it did not go on to the end.
    fn follow(
        self,
        rank: Rank,
        of_line: usize,
        mut goes_on: impl FnMut(&Waiter, bool, usize) -> bool,
    ) -> bool {
        let (mut seen, mut ahead) = (HashSet::from([rank]), vec![rank]);
        while let Some(of) = ahead.pop() {
            let Some(waiter) = self.waiting.get(&of) else { continue };
            let ids = waiter.lines().iter();
            let mut before = ids.flat_map(|id| self.before(waiter, *id).take(of_line)).peekable();
            let is_first = before.peek().is_none();
            ahead.extend(before.filter(|before| seen.insert(*before)));
            if !goes_on(waiter, is_first, seen.len()) {
                return false;
            }
        }
        true
    }

    /// True if no waiter that is first in all of its lines goes before this one, directly or
    /// through others. Otherwise this one is looked at with that one.
    ///
    /// One that is next is first in all of its lines, or stands in a circle: what is known of the
    /// turns of flows differs from line to line, so each of some waiters can be behind another.
    pub(super) fn is_next(self, rank: Rank) -> bool {
        self.follow(rank, 1, |waiter, is_first, _| !is_first || waiter.rank() == rank)
    }

    /// True if a waiter and all that go before it, directly or through others, fit in one batch.
    pub(super) fn fits_in_a_batch(self, rank: Rank) -> bool {
        let mut buckets = HashSet::new();
        self.follow(rank, LONGEST_LOOK, |waiter, _, seen| {
            buckets.extend(waiter.ask().set().handles().map(|handle| handle.id()));
            seen <= LONGEST_LOOK && buckets.len() <= MOST_BUCKETS
        })
    }

    /// When the front of a line is to be looked at by itself.
    pub(super) fn due(self, rank: Rank) -> Option<Micros> {
        let look_at = self.waiting.get(&rank)?.look_at();
        look_at.or_else(|| self.is_next(rank).then_some(0))
    }
}

/// Those picked for a batch.
pub(super) struct Pick<'a, F> {
    waiters: Waiters<'a>,
    /// Whether the buckets of a set can be part of the batch.
    has_room: F,
    /// In order.
    picked: Vec<Rank>,
    /// With them those whose predecessors are being picked.
    all: HashSet<Rank>,
}

impl<'a, F: FnMut(&BucketSet) -> bool> Pick<'a, F> {
    pub(super) fn new(waiters: Waiters<'a>, has_room: F) -> Self {
        Self { waiters, has_room, picked: Vec::new(), all: HashSet::new() }
    }

    /// Picks from the front of a line. Returns those of its fronts that could not be picked.
    pub(super) fn front_of(&mut self, id: LineId, now: Micros) -> SmallVec<[Rank; 1]> {
        let Waiters { lines, .. } = self.waiters;
        let Some(line) = lines.find(id) else { return SmallVec::new() };
        let classes = line.classes().into_iter();
        let left_out = classes.filter_map(|class| {
            let mut front = line.in_order(class).take(line.look());
            front.find(|rank| !self.pick(*rank))
        });
        let mut left_out: SmallVec<[Rank; 1]> = left_out.collect();
        if lines.is_hinted(id.bucket) {
            line.heads().for_each(|rank| _ = self.pick(rank));
        }
        for rank in line.fronts() {
            let is_due = self.waiters.due(rank).is_some_and(|time| time <= now);
            // Those of other sessions that its front waits for may wait for one of these.
            if !is_due && line.others() == 0 {
                continue;
            }
            let is_picked = self.pick(rank);
            if is_due && !is_picked {
                left_out.push(rank);
            }
        }
        left_out
    }

    /// Picks those that the ones picked, or newcomers, would pass, as far as there is room. A
    /// newcomer takes its own first: those that are refused would take it again in each batch.
    pub(super) fn those_passed_by(&mut self, newcomers: &[Box<Waiter>]) {
        let (waiters, mut fronts) = (self.waiters, HashMap::new());
        for newcomer in newcomers {
            if (self.has_room)(newcomer.ask().set()) {
                self.older_than(newcomer, &[], &mut fronts);
            }
        }
        let mut index = 0;
        while let Some(rank) = self.picked.get(index) {
            index += 1;
            if let Some(waiter) = waiters.waiting.get(rank) {
                self.older_than(waiter, waiter.lines(), &mut fronts);
            }
        }
    }

    /// Picks older ones that are first in lines in which a demand does not stand, though it needs
    /// the same: of each as many as are looked at. It may stand in no line before it can use what
    /// that is for, and only the store knows whether the flow of a newcomer is next. Those that are
    /// not in its batch it would pass time and again: to their own session they are no heads.
    fn older_than(
        &mut self,
        demand: &Waiter,
        stands_in: &[LineId],
        fronts: &mut HashMap<(LineId, u64), Vec<Rank>>,
    ) {
        let (lines, rank, ask) = (self.waiters.lines, demand.rank(), demand.ask());
        let lines = ask.set().handles().filter_map(|handle| lines.of_bucket(handle.id()));
        for (id, line) in lines.flat_map(|(_, lines)| lines) {
            if stands_in.contains(&id) || !id.holds_back(ask) {
                continue;
            }
            let front = fronts.entry((id, ask.headroom()));
            let front = front.or_insert_with(|| {
                line.in_order(ask.headroom()).take(line.look()).collect::<Vec<_>>()
            });
            // Those behind one that finds no room find none either.
            if !front.iter().filter(|older| **older < rank).all(|older| self.pick(*older)) {
                front.clear();
            }
        }
    }

    /// Picks a waiter if all can be picked that go before it. Returns true if it is picked.
    pub(super) fn pick(&mut self, rank: Rank) -> bool {
        self.pick_after(rank, true)
    }

    /// Picks a waiter without those before it, if there is room. Returns true if it is picked.
    pub(super) fn alone(&mut self, rank: Rank) -> bool {
        self.pick_after(rank, false)
    }

    fn pick_after(&mut self, rank: Rank, those_before: bool) -> bool {
        // Where flows take turns, two can each be before the other in one of their lines.
        if self.all.contains(&rank) {
            return true;
        }
        let waiters = self.waiters;
        let waiter = waiters.waiting.get(&rank).filter(|_| self.all.len() < LONGEST_LOOK);
        let Some(waiter) = waiter else { return false };
        self.all.insert(rank);
        let mut before = waiter.lines().iter().flat_map(|id| waiters.before(waiter, *id));
        let can_go = !those_before || before.all(|before| self.pick(before));
        let is_picked = can_go && (self.has_room)(waiter.ask().set());
        if is_picked {
            self.picked.push(rank);
        } else {
            self.all.remove(&rank);
        }
        is_picked
    }

    /// Those picked, in order.
    pub(super) fn into_picked(self) -> Vec<Rank> {
        self.picked
    }
}
