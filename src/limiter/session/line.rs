//! The waiters of one session that one quota holds back, in the order in which they are served: the
//! flow with the smallest tag is next, and inside a flow the oldest demand.

use std::collections::{BTreeMap, BTreeSet};

use smallvec::{SmallVec, smallvec};

use super::waiter::{Ask, Rank};
use crate::engine::{self, Flow, Micros, Violation};

/// Waiters from the front that are looked at first, and after a refusal.
const FIRST_LOOK: usize = 4;
/// The most that are looked at in one batch.
pub(super) const LONGEST_LOOK: usize = 64;
/// The store takes note of this many groups at most.
const MOST_TOLD: usize = 4;

/// The waiters that one quota, or the pause of a bucket, holds back.
#[derive(Debug, Default)]
pub(super) struct QuotaLine {
    groups: SmallVec<[Group; 1]>,
    /// How its front was last refused, and when.
    known: Option<(Violation, Micros)>,
    /// When to look at the front again.
    due: Option<Micros>,
    /// How many from the front are looked at.
    look: usize,
    /// Waiters in the batch in flight, and those of them that were granted.
    sent: usize,
    granted: usize,
}

/// What came of the waiters of a line that were in the batch in flight.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Looked {
    NotAtAll,
    InVain,
    SomeGranted,
    /// What is first now may fit as well, whatever the store said when these were before it.
    AllGranted,
}

/// Waiters of one class and flow.
#[derive(Debug)]
struct Group {
    headroom: u64,
    flow: Flow,
    /// The bucket where the flow takes turns with others.
    space: u64,
    /// The start tag of the flow, once the store has told it.
    tag: Option<f64>,
    /// How far a grant of this cost moves the flow on, as last told.
    part: (f64, u64),
    /// Each with its cost on the quota.
    waiters: BTreeMap<Rank, u64>,
    sum: u64,
    /// Those that the quota would have admitted when they were last looked at. Others held them
    /// back.
    fitting: BTreeSet<Rank>,
}

impl Group {
    fn is_of(&self, ask: &Ask) -> bool {
        self.headroom == ask.headroom() && self.has_flow_of(ask)
    }

    fn has_flow_of(&self, ask: &Ask) -> bool {
        self.flow.id == ask.flow().id && self.space == ask.space()
    }

    /// Whether the flow takes turns with another one, so that their tags say which of two waiters
    /// is next.
    fn takes_turns_with(&self, flow: u64, space: u64, headroom: u64) -> bool {
        self.space == space && self.headroom == headroom && self.flow.id != flow
    }

    fn first(&self) -> Option<(Rank, u64)> {
        self.waiters.first_key_value().map(|(rank, cost)| (*rank, *cost))
    }

    /// The first one that the quota holds back.
    fn first_held(&self) -> Option<(Rank, u64)> {
        let mut waiters = self.waiters.iter().map(|(rank, cost)| (*rank, *cost));
        waiters.find(|(rank, _)| !self.fitting.contains(rank))
    }

    /// What the store is to know of its waiters, which are not in the batch: of those in front that
    /// fit, and of the others.
    fn told(&self, rule: u16, now: Micros) -> impl Iterator<Item = engine::Line> {
        let fit = || self.waiters.iter().take_while(|(rank, _)| self.fitting.contains(rank));
        let (count, sum) = fit().fold((0, 0), |(count, sum), (_, cost)| (count + 1, sum + cost));
        let rest = (self.waiters.len() as u64 - count, self.sum.saturating_sub(sum));
        let last_fit = fit().last().map(|(rank, _)| *rank);
        let last = self.waiters.last_key_value().map(|(rank, _)| *rank);
        let parts = [(self.first(), last_fit, (count, sum)), (self.first_held(), last, rest)];
        parts.into_iter().filter(|(.., (count, _))| *count > 0).filter_map(
            move |(first, last, (count, sum))| {
                let ((first, cost), last) = (first?, last?);
                Some(engine::Line {
                    rule,
                    headroom: self.headroom,
                    flow: self.flow,
                    space: self.space,
                    waiter: first.entry(),
                    age: first.age(now),
                    cost,
                    part: self.part_of(cost),
                    count,
                    sum,
                    last: last.age(now),
                })
            },
        )
    }

    /// How far a grant of this cost moves the flow on, about.
    fn part_of(&self, cost: u64) -> f64 {
        match self.part {
            (_, 0) => 0.0,
            (part, of) => part * cost as f64 / of as f64,
        }
    }
}

impl QuotaLine {
    pub(super) fn new() -> Self {
        Self { look: FIRST_LOOK, ..Self::default() }
    }

    /// Whether it can be forgotten.
    pub(super) fn is_over(&self) -> bool {
        self.groups.is_empty() && self.sent == 0
    }

    pub(super) fn is_empty(&self) -> bool {
        self.groups.is_empty()
    }

    /// Puts a waiter into the line, which the quota would have admitted if it `fits`.
    pub(super) fn insert(&mut self, rank: Rank, ask: &Ask, cost: u64, fits: bool) {
        let index = self.groups.iter().position(|group| group.is_of(ask)).unwrap_or_else(|| {
            let tag =
                self.groups.iter().find(|group| group.has_flow_of(ask)).and_then(|group| group.tag);
            self.groups.push(Group {
                headroom: ask.headroom(),
                flow: ask.flow(),
                space: ask.space(),
                tag,
                part: (0.0, 0),
                waiters: BTreeMap::new(),
                sum: 0,
                fitting: BTreeSet::new(),
            });
            self.groups.len() - 1
        });
        let group = &mut self.groups[index];
        if let Some(before) = group.waiters.insert(rank, cost) {
            group.sum = group.sum.saturating_sub(before);
        }
        group.sum = group.sum.saturating_add(cost);
        if fits {
            group.fitting.insert(rank);
        }
    }

    /// Takes a waiter out. Returns true if it was the first of its class and flow, or the first one
    /// that the quota holds back, as the store may know.
    pub(super) fn remove(&mut self, rank: Rank, ask: &Ask) -> bool {
        let Some(index) = self.groups.iter().position(|group| group.is_of(ask)) else {
            return false;
        };
        let group = &mut self.groups[index];
        let is_it = |(first, _): (Rank, u64)| first == rank;
        let was_first = group.first().is_some_and(is_it) || group.first_held().is_some_and(is_it);
        if let Some(cost) = group.waiters.remove(&rank) {
            group.sum = group.sum.saturating_sub(cost);
            group.fitting.remove(&rank);
        }
        if group.waiters.is_empty() {
            self.groups.swap_remove(index);
        }
        was_first
    }

    /// Whether a waiter goes before a demand of this rank that is not in the line.
    pub(super) fn blocks(&self, rank: Rank, ask: &Ask) -> bool {
        self.goes_before(rank, ask, Group::first)
    }

    /// Whether one that the quota holds back goes before a demand of this rank.
    pub(super) fn holds_back(&self, rank: Rank, ask: &Ask) -> bool {
        self.goes_before(rank, ask, Group::first_held)
    }

    /// Whether the first one of some group, of those that count, goes before a demand of this rank.
    fn goes_before(
        &self,
        rank: Rank,
        ask: &Ask,
        first_of: impl Fn(&Group) -> Option<(Rank, u64)>,
    ) -> bool {
        let tag =
            self.groups.iter().find(|group| group.has_flow_of(ask)).and_then(|group| group.tag);
        self.groups.iter().filter(|group| group.headroom <= ask.headroom()).any(|group| {
            let Some((first, _)) = first_of(group) else { return false };
            if !group.takes_turns_with(ask.flow().id, ask.space(), ask.headroom()) {
                return first < rank;
            }
            // Only the store knows whether a flow is next that did not wait.
            tag.is_some_and(|tag| (group.tag.unwrap_or(0.0), first) < (tag, rank))
        })
    }

    /// How many go before a demand of this rank.
    pub(super) fn position(&self, rank: Rank, ask: &Ask) -> usize {
        let blocking = self.groups.iter().filter(|group| group.headroom <= ask.headroom());
        blocking
            .map(|group| match group.waiters.last_key_value() {
                Some((last, _)) if *last < rank => group.waiters.len(),
                _ => group.waiters.range(..rank).count(),
            })
            .sum()
    }

    /// How many wait, and what they ask of the quota in all.
    pub(super) fn total(&self) -> (usize, u64) {
        self.groups.iter().fold((0, 0), |(count, sum), group| {
            (count + group.waiters.len(), group.sum.saturating_add(sum))
        })
    }

    /// Takes note of what the store said of the flow of a waiter that was refused, if it is the
    /// first of its group. Where flows take turns in another bucket, `is_elsewhere`, it starts one
    /// step of its own behind the first one here at most, as it does in the store.
    pub(super) fn flow_told(
        &mut self,
        rank: Rank,
        ask: &Ask,
        (mut tag, part): (f64, f64),
        cost: u64,
        is_elsewhere: bool,
    ) {
        let is_first = |group: &Group| {
            group.is_of(ask) && group.first().is_some_and(|(first, _)| first == rank)
        };
        if is_elsewhere {
            let takes_turns =
                |group: &&Group| group.takes_turns_with(ask.flow().id, ask.space(), ask.headroom());
            let others = self.groups.iter().filter(takes_turns);
            let next = others.filter_map(|group| group.tag).fold(engine::NO_TAG, f64::min);
            tag = engine::catch_up(tag, part, next);
        }
        if self.groups.iter().any(is_first) {
            for group in self.groups.iter_mut().filter(|group| group.has_flow_of(ask)) {
                group.tag = Some(tag);
                group.part = (part, cost);
            }
        }
    }

    /// A waiter of the batch in flight was granted, which moved its flow on by `part`.
    pub(super) fn granted(&mut self, ask: &Ask, part: f64) {
        self.granted += 1;
        for group in self.groups.iter_mut().filter(|group| group.has_flow_of(ask)) {
            group.tag = group.tag.map(|tag| tag + part);
        }
    }

    /// A waiter was taken into the batch that is about to be sent.
    pub(super) fn sent(&mut self) {
        self.sent += 1;
    }

    /// The batch in flight was answered: looks further if all its waiters were granted, otherwise
    /// only a little.
    pub(super) fn answered(&mut self) -> Looked {
        let (sent, granted) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.granted));
        if sent == 0 {
            return Looked::NotAtAll;
        }
        let look = if granted == sent { self.look * 2 } else { granted + FIRST_LOOK };
        self.look = look.min(LONGEST_LOOK);
        match granted {
            0 => Looked::InVain,
            _ if granted < sent => Looked::SomeGranted,
            _ => Looked::AllGranted,
        }
    }

    /// The classes of its waiters, by the headroom that they leave.
    pub(super) fn classes(&self) -> SmallVec<[u64; 2]> {
        let mut classes: SmallVec<[u64; 2]> =
            self.groups.iter().map(|group| group.headroom).collect();
        classes.sort_unstable();
        classes.dedup();
        classes
    }

    /// The waiters that can block a demand of a class, in order.
    pub(super) fn in_order(&self, headroom: u64) -> impl Iterator<Item = Rank> {
        Order::of(self.groups.iter().filter(move |group| group.headroom <= headroom))
    }

    /// How many from the front are to be looked at.
    pub(super) fn look(&self) -> usize {
        self.look
    }

    /// Of each class, and of those that take turns with each other, the first one that the quota
    /// holds back, with those before it: what these wait for may keep them for long. Oldest first.
    pub(super) fn fronts(&self) -> SmallVec<[Rank; 2]> {
        let (mut order, mut fronts) = (Order::of(self.groups.iter()), SmallVec::new());
        for turns in 0..order.0.len() {
            while let Some((rank, fits)) = order.take_from(turns) {
                fronts.push(rank);
                if !fits {
                    break;
                }
            }
        }
        fronts.sort_unstable();
        fronts
    }

    /// Whether the quota would have admitted a waiter when that was last looked at.
    pub(super) fn fits(&self, rank: Rank, ask: &Ask) -> bool {
        self.groups.iter().any(|group| group.is_of(ask) && group.fitting.contains(&rank))
    }

    /// How many the quota would have admitted when they were last looked at.
    pub(super) fn fitting(&self) -> usize {
        self.groups.iter().map(|group| group.fitting.len()).sum()
    }

    /// Whether the quota holds back any of its waiters.
    pub(super) fn holds_back_any(&self) -> bool {
        self.groups.iter().any(|group| group.first_held().is_some())
    }

    /// How its front was last refused, with what is left of the wait. Nothing if the quota itself
    /// does not hold it back.
    pub(super) fn known(&self, now: Micros) -> Option<Violation> {
        let (violation, at) = self.known?;
        let passed = now.saturating_sub(at);
        let wait = violation.wait.map(|wait| wait.saturating_sub(passed));
        Some(Violation { wait, ..violation })
    }

    /// When its front was to fit, as it was last refused.
    pub(super) fn fits_at(&self) -> Option<Micros> {
        let (violation, at) = self.known?;
        Some(at.saturating_add(violation.wait?))
    }

    /// How many demands of other sessions go before its front.
    pub(super) fn others(&self) -> u64 {
        self.known.map_or(0, |(violation, _)| violation.before)
    }

    /// Its front was refused like this.
    pub(super) fn refused(&mut self, violation: Violation, now: Micros) {
        self.known = Some((violation, now));
    }

    pub(super) fn due(&self) -> Option<Micros> {
        self.due
    }

    pub(super) fn set_due(&mut self, due: Option<Micros>) {
        self.due = due;
    }

    /// The waiters that are heads in the store: one of them may fit that does not come first by
    /// what is known here of the turns of flows.
    pub(super) fn heads(&self) -> impl Iterator<Item = Rank> {
        let of_group = |group: &Group| [group.first(), group.first_held()];
        self.told_groups().into_iter().flat_map(of_group).flatten().map(|(rank, _)| rank)
    }

    /// What the store is to know of the waiters, which are not in the batch.
    pub(super) fn told(&self, rule: u16, now: Micros) -> impl Iterator<Item = engine::Line> {
        self.told_groups().into_iter().flat_map(move |group| group.told(rule, now))
    }

    /// The groups of which the store takes note: the first ones in order.
    fn told_groups(&self) -> SmallVec<[&Group; 4]> {
        let mut groups: SmallVec<[&Group; 4]> = self.groups.iter().collect();
        let place = |group: &Group| (group.tag.unwrap_or(0.0), group.first().map(|(rank, _)| rank));
        groups.sort_by(|one, other| {
            let (one, other) = (place(one), place(other));
            one.0.total_cmp(&other.0).then(one.1.cmp(&other.1))
        });
        groups.truncate(MOST_TOLD);
        groups
    }
}

/// Merges the groups of a line. Flows that take turns are one sequence; of the next ones of all
/// sequences the oldest goes first. So it is an order, whatever is known of turns.
struct Order<'a>(SmallVec<[Turns<'a>; 1]>);

/// Groups of one space and class, whose flows take turns.
struct Turns<'a>(SmallVec<[Cursor<'a>; 1]>);

/// The waiters of a group that are still to come.
struct Cursor<'a> {
    group: &'a Group,
    ahead: std::iter::Peekable<std::collections::btree_map::Iter<'a, Rank, u64>>,
    /// The tag of the flow after those that came.
    tag: f64,
}

impl<'a> Order<'a> {
    fn of(groups: impl Iterator<Item = &'a Group>) -> Self {
        let mut order = Self(SmallVec::new());
        for group in groups {
            let (ahead, tag) = (group.waiters.iter().peekable(), group.tag.unwrap_or(0.0));
            let cursor = Cursor { group, ahead, tag };
            let takes_turns = |turns: &&mut Turns<'_>| {
                let other = turns.0[0].group;
                (other.space, other.headroom) == (group.space, group.headroom)
            };
            match order.0.iter_mut().find(takes_turns) {
                Some(turns) => turns.0.push(cursor),
                None => order.0.push(Turns(smallvec![cursor])),
            }
        }
        order
    }
}

impl<'a> Turns<'a> {
    /// The next one, and the cursor that has it.
    fn next(&mut self) -> Option<(Rank, &mut Cursor<'a>)> {
        let cursors = self.0.iter_mut();
        let turns = cursors.filter_map(|cursor| Some((*cursor.ahead.peek()?.0, cursor)));
        turns.min_by(|(rank, one), (other_rank, other)| {
            one.tag.total_cmp(&other.tag).then(rank.cmp(other_rank))
        })
    }
}

impl Order<'_> {
    /// Takes the next one of those that take turns with each other, and whether it fits.
    fn take_from(&mut self, turns: usize) -> Option<(Rank, bool)> {
        let (_, next) = self.0[turns].next()?;
        let ((&rank, &cost), group) = (next.ahead.next()?, next.group);
        let part = group.part_of(cost);
        let of_flow = |cursor: &&mut Cursor<'_>| {
            (cursor.group.flow.id, cursor.group.space) == (group.flow.id, group.space)
        };
        let cursors = self.0.iter_mut().flat_map(|turns| &mut turns.0);
        cursors.filter(of_flow).for_each(|cursor| cursor.tag += part);
        Some((rank, group.fitting.contains(&rank)))
    }
}

impl Iterator for Order<'_> {
    type Item = Rank;

    fn next(&mut self) -> Option<Rank> {
        let fronts = self.0.iter_mut().map(|turns| turns.next().map(|(rank, _)| rank));
        let fronts = fronts.enumerate().filter_map(|(turns, rank)| Some((rank?, turns)));
        let (_, turns) = fronts.min()?;
        Some(self.take_from(turns)?.0)
    }
}
