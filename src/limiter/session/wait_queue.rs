//! All pending demands of one session, in one order whatever buckets they name. A waiter stands in
//! the line of each quota that blocks it, in a wider bucket only once it can use that; what goes
//! before it in any of its lines is looked at before it, or with it.
//!
//! It decides which waiters are looked at when; it sends nothing itself.
//!
//! Its invariant: a pending demand is in one place. It waits, in all of its lines; or it is new; or
//! it asks; or it is in the batch in flight.

// A waiter is moved from one collection to another many times, and is large.
#![allow(clippy::vec_box)]

mod places;

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::{
    batch::{Batch, Job},
    hinting::Hinting,
    line::{Looked, QuotaLine},
    lines::{LineIds, Lines},
    pick::{Pick, Waiters},
    surfaced::Surfaced,
    waiter::{About, Ask, LineId, Outcome, OutcomeSender, PAUSE, Rank, Waiter},
};
use crate::{
    engine::{Micros, Refused, Violation},
    error::{Refusal, Throttled},
    limiter::bucket_set::BucketSet,
};

/// At most this many waiting demands travel in one batch, and as many that only ask.
const MOST_SENT: usize = 256;

/// The pending demands of a session.
#[derive(Debug, Default)]
pub(super) struct WaitQueue {
    max_waiting: usize,
    /// The store forgets the heads of a session that does not name them for longer.
    lease: Micros,
    entered: u64,
    /// Those that stand in lines.
    waiting: BTreeMap<Rank, Box<Waiter>>,
    /// Those that the store has not looked at and that nothing in the queue blocks.
    newcomers: VecDeque<Box<Waiter>>,
    /// Those that do not wait, and those that have yet to learn whether they can be granted in
    /// time.
    asking: VecDeque<Box<Waiter>>,
    /// How many are in the batch in flight, and when that was made up.
    away: usize,
    sent_at: Micros,
    lines: Lines,
    /// Those that the last batch had no room for, the first in the next one, and whether they go
    /// without what is before them.
    left_out: Vec<(Rank, bool)>,
    /// Lines that the batch in flight, or its answer, concerns.
    touched: Vec<LineId>,
    /// A demand of the answer at hand went away that the store still put before the others of its
    /// batch.
    gone: bool,
    /// As the answer at hand told them.
    surfaced: Surfaced,
    /// What is to be told once no lock is held.
    told: Vec<Told>,
}

impl WaitQueue {
    pub(super) fn new(max_waiting: usize, lease: Micros) -> Self {
        Self { max_waiting, lease, ..Self::default() }
    }

    /// Whether no demand is pending, here or in the batch in flight.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.away == 0 && !self.has_newcomers()
    }

    /// Whether there are demands that the store has not looked at.
    pub(super) fn has_newcomers(&self) -> bool {
        !self.newcomers.is_empty() || !self.asking.is_empty()
    }

    /// When there will be something to send, if nothing else happens.
    pub(super) fn due(&self) -> Option<Micros> {
        match self.has_newcomers() || !self.left_out.is_empty() {
            true => Some(0),
            false => self.lines.due(),
        }
    }

    /// The place that a demand takes that arrived then.
    pub(super) fn rank(&mut self, arrived: Micros, ask: &Ask) -> Rank {
        self.entered += 1;
        Rank::new(arrived, ask.head_start(), self.entered)
    }

    /// Whether a demand has to wait behind others.
    pub(super) fn blocks(&self, rank: Rank, ask: &Ask) -> bool {
        !self.lines.blocking(rank, ask).is_empty()
    }

    /// Takes in a demand that the store has not looked at, and puts it where it belongs.
    pub(super) fn enter(&mut self, mut waiter: Box<Waiter>) {
        if !waiter.ask().waits() {
            return self.asking.push_back(waiter);
        }
        let blocking = self.lines.blocking(waiter.rank(), waiter.ask());
        if blocking.is_empty() {
            return self.newcomers.push_back(waiter);
        }
        if waiter.has_deadline() && !waiter.is_waiting() && !waiter.is_known_to_fit() {
            // It is told at once if it cannot be granted in time, which the store knows.
            return self.asking.push_back(waiter);
        }
        if waiter.is_known_to_fit() {
            // So may what goes before it.
            blocking.iter().for_each(|id| self.lines.look_at(*id, 0));
        }
        let position = self.position(&waiter, &blocking, &[]);
        let line = blocking[0];
        match waiter.start_waiting(self.max_waiting, position) {
            Ok(true) => self.tell_wait(&waiter, position, Some(line)),
            Ok(false) => {}
            Err(error) => return self.tell(waiter.into_answer(), Outcome::Refused(error)),
        }
        // In a wider bucket it would keep others from what it cannot use yet.
        let first = blocking.into_iter().filter(|id| id.bucket == line.bucket);
        self.file_behind(waiter, first.collect());
    }

    /// Tells the caller of a demand what comes of it.
    pub(super) fn tell(&mut self, answer: OutcomeSender, outcome: Outcome) {
        self.told.push(Told::Outcome(answer, outcome));
    }

    /// Tells that a demand has to wait behind so many, for what a line is of.
    fn tell_wait(&mut self, waiter: &Waiter, position: usize, line: Option<LineId>) {
        self.told.push(Told::HasToWait { about: About::of(waiter.ask()), position, line });
    }

    /// Takes out what is to be told.
    pub(super) fn take_told(&mut self) -> Vec<Told> {
        std::mem::take(&mut self.told)
    }

    /// How many demands go before one that is to stand in these lines, as far as is known.
    fn position(&self, waiter: &Waiter, lines: &[LineId], violations: &[Violation]) -> usize {
        let told = violations.iter().map(|violation| violation.before).max();
        let lines = lines.iter().filter_map(|id| self.lines.find(*id));
        let position = |line: &QuotaLine| {
            line.position(waiter.rank(), waiter.ask()) + told.unwrap_or(line.others()) as usize
        };
        lines.map(position).max().unwrap_or(0)
    }

    /// Puts a waiter into lines at which the store has not looked yet. That is done now if these
    /// quotas hold back nothing that goes before it: they may have room for it as well.
    fn file_behind(&mut self, waiter: Box<Waiter>, lines: LineIds) {
        let (rank, ask) = (waiter.rank(), waiter.ask());
        let holds_back =
            |id: &LineId| self.lines.find(*id).is_some_and(|line| line.holds_back(rank, ask));
        let is_front = !lines.iter().any(holds_back);
        self.file(waiter, lines.clone(), |_| false);
        for id in lines {
            let look_at = if is_front { Some(0) } else { self.passable_at(id) };
            look_at.into_iter().for_each(|time| self.lines.look_at(id, time));
        }
    }

    /// When those behind the first one that the quota of a line holds back may pass it: it may fit
    /// there then, though others hold it back for longer.
    fn passable_at(&self, id: LineId) -> Option<Micros> {
        // A time before the last batch is of one that is gone.
        self.lines.find(id)?.fits_at().filter(|time| *time > self.sent_at)
    }

    /// Puts a waiter into lines: see [`Lines::insert`].
    fn file(&mut self, mut waiter: Box<Waiter>, lines: LineIds, fits: impl Fn(LineId) -> bool) {
        waiter.stand_in(lines);
        self.lines.insert(&waiter, fits);
        self.waiting.insert(waiter.rank(), waiter);
    }

    /// Takes a waiter out whose caller has gone, if it is there: what it was the first of is looked
    /// at, since more may fit without it.
    pub(super) fn drop_waiter(&mut self, rank: Rank) -> Option<()> {
        let (waiter, led) = self.take(rank)?;
        led.into_iter().for_each(|bucket| self.look(bucket));
        waiter.lines().iter().for_each(|id| self.lines.forget_line(*id));
        Some(())
    }

    /// Takes a waiter out. Returns the buckets in which it was the first of a class and flow, too.
    fn take(&mut self, rank: Rank) -> Option<(Box<Waiter>, SmallVec<[u64; 2]>)> {
        let waiter = self.waiting.remove(&rank)?;
        let led = self.lines.remove(&waiter);
        Some((waiter, led))
    }

    /// What a waiter waits for, as of the last look at the front of each of its lines.
    pub(super) fn waits_for(&self, rank: Rank, now: Micros) -> Option<Refusal> {
        let waiter = self.waiting.get(&rank)?;
        let known = |id: &LineId| {
            let violation = self.lines.find(*id)?.known(now)?;
            Some(Violation { by: id.refuses_by(waiter.ask().set())?, ..violation })
        };
        let violations: SmallVec<[Violation; 2]> =
            waiter.lines().iter().filter_map(known).collect();
        (!violations.is_empty()).then(|| waiter.ask().refusal(&violations))
    }

    /// Capacity of a bucket may have been freed: its lines are looked at now.
    pub(super) fn look(&mut self, bucket: u64) {
        self.lines.look(bucket, self.away > 0);
    }

    /// The store hints that a demand may fit in a bucket.
    pub(super) fn hinted(&mut self, bucket: u64, now: Micros) {
        self.lines.hinted(bucket, now, self.away > 0);
    }

    /// All lines are looked at now.
    pub(super) fn look_everywhere(&mut self) {
        self.lines.look_everywhere(self.away > 0);
    }

    /// Notes when a line is to be looked at by itself, given its fronts, and forgets it if nothing
    /// is left of it.
    fn reschedule(&mut self, id: LineId) {
        let Some(line) = self.lines.find(id) else { return };
        let fronts = line.fronts();
        let has_more = line.total().0 > fronts.len();
        let passable = has_more.then(|| self.passable_at(id)).flatten();
        let times = fronts.into_iter().filter_map(|rank| self.waiters().due(rank));
        let due = times.chain(passable).min();
        self.lines.reschedule(id, due);
    }

    /// Takes out what is to be looked at now, in order. `has_room` says whether the buckets of a
    /// set can be part of the batch.
    pub(super) fn take_due(
        &mut self,
        now: Micros,
        mut has_room: impl FnMut(&BucketSet) -> bool,
    ) -> Vec<Box<Waiter>> {
        self.sent_at = now;
        if !self.left_out.is_empty() {
            // Those that were counted under other limits would have no room together.
            self.follow_limits();
        }
        let newcomers = self.admit_newcomers();
        let picked = self.pick(now, &newcomers, &mut has_room);
        let mut due = Vec::with_capacity(picked.len() + newcomers.len());
        for rank in picked {
            if self.waiting.get(&rank).is_some_and(|waiter| waiter.is_abandoned()) {
                self.drop_waiter(rank);
                continue;
            }
            let Some((waiter, _)) = self.take(rank) else { continue };
            if waiter.look_at().is_none() {
                // It may be refused where it stepped aside.
                self.lines.expect(waiter.ask().set());
            }
            for id in waiter.lines() {
                self.touched.push(*id);
                if let Some(line) = self.lines.find_mut(*id) {
                    line.sent();
                }
            }
            due.push(waiter);
        }
        for waiter in newcomers {
            if due.len() < MOST_SENT && has_room(waiter.ask().set()) {
                due.push(waiter);
            } else {
                self.newcomers.push_back(waiter);
            }
        }
        // New ones as well: one that is asked for again waited before.
        due.iter_mut().for_each(|waiter| waiter.reestimate());
        // The store has those that take turns change places.
        due.sort_unstable_by_key(|waiter| waiter.rank());
        self.away += due.len();
        due
    }

    /// The newcomers that nothing in the queue blocks. Others came to be blocked since they
    /// entered: they wait.
    fn admit_newcomers(&mut self) -> Vec<Box<Waiter>> {
        let (mut admitted, mut newcomers) = (Vec::new(), std::mem::take(&mut self.newcomers));
        // One that asked first comes back behind younger ones.
        newcomers.make_contiguous().sort_unstable_by_key(|waiter| waiter.rank());
        for mut waiter in newcomers {
            if waiter.is_abandoned() {
                continue;
            }
            if let Err(outcome) = waiter.refresh() {
                self.tell(waiter.into_answer(), outcome);
            } else if self.blocks(waiter.rank(), waiter.ask()) {
                self.enter(waiter);
            } else {
                admitted.push(waiter);
            }
        }
        admitted
    }

    /// The waiters to be looked at now, and those that go along with newcomers.
    fn pick(
        &mut self,
        now: Micros,
        newcomers: &[Box<Waiter>],
        has_room: impl FnMut(&BucketSet) -> bool,
    ) -> Vec<Rank> {
        let due: Vec<LineId> = std::iter::from_fn(|| self.lines.pop_due(now)).collect();
        due.iter().for_each(|id| self.step_aside(*id));
        let taken = std::mem::take(&mut self.left_out);
        let waiters = self.waiters();
        let mut pick = Pick::new(waiters, has_room);
        let mut left_out = Vec::new();
        for (rank, goes_alone) in taken {
            let is_picked = if goes_alone { pick.alone(rank) } else { pick.pick(rank) };
            if !is_picked && self.waiting.contains_key(&rank) {
                left_out.push(rank);
            }
        }
        left_out.extend(due.into_iter().flat_map(|id| pick.front_of(id, now)));
        left_out.sort_unstable();
        left_out.dedup();
        // The order of those in a circle contradicts itself: the store says whose turn it is. What
        // is next goes in the next batch at the latest, whatever this one tells of turns.
        let (next, behind): (Vec<_>, Vec<_>) =
            left_out.into_iter().partition(|rank| waiters.is_next(*rank));
        let next = next.into_iter().filter(|rank| !pick.alone(*rank));
        let mut left_out: Vec<_> = next.map(|rank| (rank, true)).collect();
        pick.those_passed_by(&newcomers[..newcomers.len().min(MOST_SENT)]);
        let picked = pick.into_picked();
        for rank in behind.into_iter().filter(|rank| !picked.contains(rank)) {
            if self.waiters().fits_in_a_batch(rank) {
                left_out.push((rank, false));
            } else if let Some(waiter) = self.waiting.get_mut(&rank) {
                // It would be looked at over and over. It is looked at with those before it.
                waiter.set_look_at(None);
            }
        }
        self.left_out = left_out;
        picked
    }

    /// Takes those from the front of a line that have more before them elsewhere than a batch has
    /// room for: what is behind them need not wait for all of these. They come back to the line if
    /// its quota refuses them.
    fn step_aside(&mut self, id: LineId) {
        while let Some(rank) = self.far_back(id) {
            let Some(waiter) = self.waiting.get(&rank) else { return };
            let (left, kept): (LineIds, LineIds) =
                waiter.lines().iter().copied().partition(|id| self.is_first(waiter, *id));
            let fitting: LineIds =
                kept.iter().copied().filter(|id| self.fits_on(waiter, *id)).collect();
            let Some((mut waiter, _)) = self.take(rank) else { return };
            waiter.set_look_at(None);
            self.file(waiter, kept, |id| fitting.contains(&id));
            left.into_iter().for_each(|id| self.reschedule(id));
        }
    }

    fn waiters(&self) -> Waiters<'_> {
        Waiters { lines: &self.lines, waiting: &self.waiting }
    }

    /// Whether none goes before a waiter in a line of its own.
    fn is_first(&self, waiter: &Waiter, id: LineId) -> bool {
        self.waiters().before(waiter, id).next().is_none()
    }

    /// Whether the quota of a line would have admitted a waiter when that was last looked at.
    fn fits_on(&self, waiter: &Waiter, id: LineId) -> bool {
        self.lines.find(id).is_some_and(|line| line.fits(waiter.rank(), waiter.ask()))
    }

    /// One of the first of a line that has more before it elsewhere than a batch takes.
    fn far_back(&self, id: LineId) -> Option<Rank> {
        let fronts = self.lines.find(id)?.fronts();
        fronts.into_iter().find(|rank| {
            let Some(waiter) = self.waiting.get(rank) else { return false };
            // What comes first for one class may not for its own, where flows take turns.
            waiter.lines().len() > 1
                && self.is_first(waiter, id)
                && !self.waiters().fits_in_a_batch(*rank)
                && !self.waiters().is_next(*rank)
        })
    }

    /// Takes out the demands that only ask: first those that nothing in the queue blocks, and then
    /// the others, those that wait asking whether they can be granted in time. One that waits and
    /// is no longer blocked is a newcomer: younger ones must not pass it while it asks.
    pub(super) fn take_asking(
        &mut self,
        mut has_room: impl FnMut(&BucketSet) -> bool,
    ) -> (Vec<Box<Waiter>>, Vec<Box<Waiter>>) {
        let (mut free, mut behind) = (Vec::new(), Vec::new());
        while free.len() + behind.len() < MOST_SENT
            && let Some(mut waiter) = self.asking.pop_front()
        {
            if waiter.is_abandoned() {
                continue;
            }
            if let Err(outcome) = waiter.refresh() {
                self.tell(waiter.into_answer(), outcome);
                continue;
            }
            let is_blocked = self.blocks(waiter.rank(), waiter.ask());
            if waiter.ask().waits() && !is_blocked {
                self.newcomers.push_back(waiter);
            } else if !has_room(waiter.ask().set()) {
                self.asking.push_front(waiter);
                break;
            } else if is_blocked {
                behind.push(waiter);
            } else {
                free.push(waiter);
            }
        }
        self.away += free.len() + behind.len();
        (free, behind)
    }

    /// Says in a batch who waits for the buckets that waiting demands of it ask, and for those of
    /// which that has changed.
    pub(super) fn tell_heads(&mut self, batch: &mut Batch, mut asked: Vec<u64>, now: Micros) {
        for (bucket, set) in self.lines.changed() {
            if let Some(only) = set.only(bucket)
                && batch.buckets_mut().place(&only).is_some()
            {
                asked.push(bucket);
            }
        }
        asked.sort_unstable();
        asked.dedup();
        for bucket in asked {
            let ids = batch.buckets().ids();
            let Some(index) = ids.iter().position(|id| *id == bucket) else { continue };
            let rules = &batch.buckets().as_slice()[index].rules;
            if let Some(heads) = self.lines.heads(bucket, index as u16, rules, now) {
                batch.push(heads, Job::Heads(bucket));
            }
        }
    }

    /// The store has answered what a batch said of a bucket. Called once all that it refused is
    /// back.
    pub(super) fn heads_registered(&mut self, bucket: u64) {
        self.lines.heads_registered(bucket);
    }

    /// The store does not take what a batch said of a bucket.
    pub(super) fn heads_refused(&mut self, bucket: u64) {
        self.lines.heads_refused(bucket);
    }

    /// It is unknown whether the store knows what a batch said of a bucket.
    pub(super) fn heads_unknown(&mut self, bucket: u64) {
        self.lines.heads_unknown(bucket);
    }

    /// A demand of the batch in flight was granted.
    pub(super) fn granted(&mut self, waiter: &Waiter) {
        for id in waiter.lines() {
            if let Some(line) = self.lines.find_mut(*id) {
                line.granted(waiter.ask(), waiter.part());
            }
        }
    }

    /// A demand of the batch in flight, that only asked whether it can be granted in time, would be
    /// granted now.
    pub(super) fn fits(&mut self, mut waiter: Box<Waiter>) {
        waiter.told_to_fit();
        self.newcomers.push_back(waiter);
    }

    /// A demand of the batch in flight was refused. It waits, unless it may not or need not.
    /// `is_head` says of a bucket whether the store has registered it there as a head.
    pub(super) fn refused(
        &mut self,
        mut waiter: Box<Waiter>,
        refused: &Refused,
        is_head: impl Fn(u64) -> bool,
        hinting: Hinting,
        now: Micros,
    ) {
        let violations = &refused.violations;
        self.touched.extend_from_slice(waiter.lines());
        if waiter.is_abandoned() {
            return self.gone(&waiter, is_head);
        }
        let is_current = waiter.ask().set().is_current();
        if waiter.ask().waits() && !is_current {
            // Of the limits as they are now this says nothing.
            self.gone(&waiter, is_head);
            match waiter.refresh() {
                Ok(()) => self.newcomers.push_back(waiter),
                Err(outcome) => self.tell(waiter.into_answer(), outcome),
            }
            return;
        }
        if let Some(error) = waiter.ask().refused(violations) {
            self.surfaced.note(waiter.ask(), violations);
            return self.tell(waiter.into_answer(), Outcome::Refused(error));
        }
        let is_late = !waiter.can_make_it(violations, now);
        if is_late && self.gone {
            // Perhaps only for those that it was measured behind.
            self.gone(&waiter, is_head);
            return self.newcomers.push_back(waiter);
        }
        let holding = holding(waiter.ask().set(), violations);
        let lines = self.lines_of(&waiter, violations, &holding);
        match self.start_waiting(&mut waiter, &lines, violations, now) {
            Ok(Some(position)) => {
                // An unknown end is taken for later than any known one.
                let last = |violation: &&Violation| violation.wait.unwrap_or(Micros::MAX);
                let by = violations.iter().max_by_key(last);
                let line = by.and_then(|by| LineId::of(waiter.ask().set(), by.by));
                self.tell_wait(&waiter, position, line);
            }
            Ok(None) => {}
            Err(error) => {
                // The store knows how long it may wait.
                if waiter.can_make_it(violations, self.sent_at) {
                    self.gone(&waiter, is_head);
                }
                return self.tell(waiter.into_answer(), Outcome::Refused(error));
            }
        }
        let registered = !self.gone && lines.iter().all(|id| is_head(id.bucket));
        let look_at = if registered { hinting.look_at(violations, now, self.lease) } else { 0 };
        waiter.set_look_at(Some(look_at));
        waiter.set_part(refused.part);
        self.note_front(&waiter, &lines, violations, now);
        self.touched.extend_from_slice(&lines);
        let rank = waiter.rank();
        self.file(waiter, lines, |id| !is_in(id, &holding));
        self.note_flow(rank, refused);
    }

    /// A demand that was refused has to wait in these lines. Returns its position, if that is news.
    ///
    /// # Errors
    /// It cannot be granted in time, or as many wait as may.
    fn start_waiting(
        &self,
        waiter: &mut Waiter,
        lines: &[LineId],
        violations: &[Violation],
        now: Micros,
    ) -> Result<Option<usize>, Throttled> {
        if !waiter.can_make_it(violations, now) {
            return Err(Throttled::Deadline(Box::new(waiter.ask().refusal(violations))));
        }
        if waiter.is_waiting() {
            return Ok(None);
        }
        let position = self.position(waiter, lines, violations);
        Ok(waiter.start_waiting(self.max_waiting, position)?.then_some(position))
    }

    /// A refused demand does not wait after all. The store may have registered it as a head, and
    /// has put it before others.
    pub(super) fn gone(&mut self, waiter: &Waiter, is_head: impl Fn(u64) -> bool) {
        self.gone = true;
        for handle in waiter.ask().set().handles() {
            if is_head(handle.id()) {
                self.heads_unknown(handle.id());
            }
        }
    }

    /// The lines that a demand is to stand in that was refused: those of the quotas that hold back
    /// what comes after it, and of those that would admit it those in which others go before it.
    /// Where it only keeps its place, not if many do; but it stands in one.
    fn lines_of(&self, waiter: &Waiter, violations: &[Violation], holding: &[LineId]) -> LineIds {
        let set = waiter.ask().set();
        let mut lines = self.lines.blocking(waiter.rank(), waiter.ask());
        let keeps_none = |line: &LineId| {
            violations.iter().any(|by| !by.holds && LineId::of(set, by.by) == Some(*line))
        };
        lines.retain(|line| !keeps_none(line));
        for violation in violations.iter().filter(|violation| violation.holds) {
            let Some(id) = LineId::of(set, violation.by) else { continue };
            // What a pause holds back is a head on all quotas of the bucket that it needs, so that
            // the store knows the order and how many wait.
            let needed = |&(bucket, rule): &(u64, u64)| {
                let line = LineId { bucket, rule };
                id.rule == PAUSE
                    && bucket == id.bucket
                    && line.holds_back(waiter.ask())
                    && !keeps_none(&line)
            };
            let behind = set.quotas().filter(needed).map(|(bucket, rule)| LineId { bucket, rule });
            for id in std::iter::once(id).chain(behind) {
                if !lines.contains(&id) {
                    lines.push(id);
                }
            }
        }
        let has_place = |id: &LineId| is_in(*id, holding) || self.lines.has_room_for_fitting(*id);
        if lines.iter().any(has_place) {
            lines.retain(|id| has_place(id));
        }
        lines
    }

    /// Notes what the store said of a waiter on the lines that it comes to be the front of.
    fn note_front(
        &mut self,
        waiter: &Waiter,
        lines: &[LineId],
        violations: &[Violation],
        now: Micros,
    ) {
        let ask = waiter.ask();
        for violation in violations {
            let id = LineId::of(ask.set(), violation.by).filter(|id| lines.contains(id));
            let line = id.and_then(|id| self.lines.find_or_make(ask.set(), id));
            let Some(line) = line.filter(|line| !line.holds_back(waiter.rank(), ask)) else {
                continue;
            };
            if violation.holds_back() || !line.holds_back_any() {
                line.refused(*violation, now);
            }
        }
    }

    /// Notes what the store said of the flow of a waiter on the lines that it stands in.
    fn note_flow(&mut self, rank: Rank, refused: &Refused) {
        let Some(waiter) = self.waiting.get(&rank) else { return };
        let ask = waiter.ask();
        for id in waiter.lines() {
            if let Some(line) = self.lines.find_mut(*id) {
                let cost = ask.cost_on(id.bucket, id.rule).unwrap_or(0);
                let is_elsewhere = id.bucket != ask.space();
                line.flow_told(rank, ask, (refused.tag, refused.part), cost, is_elsewhere);
            }
        }
    }

    /// So many are in the batch in flight, a part of one that was refused.
    pub(super) fn sent_again(&mut self, demands: usize) {
        self.away += demands;
    }

    /// The batch in flight has been dealt with.
    pub(super) fn answered(&mut self) {
        (self.away, self.gone) = (0, false);
        self.refuse_surfaced();
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for of_bucket in touched.chunk_by(|one, other| one.bucket == other.bucket) {
            let mut most = Looked::NotAtAll;
            for id in of_bucket {
                let looked = self.lines.find_mut(*id).map_or(most, QuotaLine::answered);
                most = most.max(looked);
                self.reschedule(*id);
                if looked == Looked::AllGranted {
                    self.lines.look_at(*id, 0);
                }
            }
            self.lines.looked(of_bucket[0].bucket, most);
        }
        touched.into_iter().for_each(|id| self.lines.look_if_freed(id.bucket));
    }

    /// Refuses those that a pause holds back which is not to be waited out.
    fn refuse_surfaced(&mut self) {
        let surfaced = std::mem::take(&mut self.surfaced);
        if surfaced.is_empty() {
            return;
        }
        let refused = self
            .waiting
            .iter()
            .filter_map(|(rank, waiter)| Some((*rank, surfaced.refusal_of(waiter.ask())?)));
        for (rank, error) in refused.collect::<Vec<_>>() {
            let Some((waiter, _)) = self.take(rank) else { continue };
            self.touched.extend_from_slice(waiter.lines());
            self.tell(waiter.into_answer(), Outcome::Refused(error));
        }
    }

    /// Follows a change of the limits: counts every waiter anew that is concerned.
    pub(super) fn follow_limits(&mut self) {
        let is_stale = |waiter: &Waiter| !waiter.ask().set().is_current();
        let stale: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiter)| is_stale(waiter))
            .map(|(rank, _)| *rank)
            .collect();
        // What the batch in flight has touched is looked at when that is answered.
        let mut touched = Vec::new();
        for rank in stale {
            let Some((mut waiter, _)) = self.take(rank) else { continue };
            touched.extend_from_slice(waiter.lines());
            if let Err(outcome) = waiter.refresh() {
                self.tell(waiter.into_answer(), outcome);
                continue;
            }
            let set = waiter.ask().set();
            let lines = waiter.lines().iter().copied();
            let lines: LineIds = lines.filter(|id| id.refuses_by(set).is_some()).collect();
            waiter.set_look_at(Some(0));
            match lines.is_empty() {
                true => self.newcomers.push_back(waiter),
                false => self.file(waiter, lines, |_| false),
            }
        }
        touched.into_iter().for_each(|id| self.reschedule(id));
    }

    /// Takes out every demand, and tells the caller of each what comes of it.
    pub(super) fn end_all(&mut self, outcome: impl Fn() -> Outcome) {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        let all = waiting.chain(self.newcomers.drain(..)).chain(self.asking.drain(..));
        self.told.extend(all.map(|waiter| Told::Outcome(waiter.into_answer(), outcome())));
        self.left_out.clear();
        self.lines.clear();
    }
}

/// The lines, and pauses, in which a demand does not fit that was refused.
fn holding(set: &BucketSet, violations: &[Violation]) -> LineIds {
    let holding = violations.iter().filter(|violation| violation.holds_back());
    holding.filter_map(|violation| LineId::of(set, violation.by)).collect()
}

/// Whether a line, or a pause of its bucket, is among these.
fn is_in(id: LineId, holding: &[LineId]) -> bool {
    holding.contains(&id) || holding.contains(&LineId { rule: PAUSE, ..id })
}

/// What is to be told once no lock is held.
#[derive(Debug)]
pub(super) enum Told {
    Outcome(OutcomeSender, Outcome),
    /// A demand has to wait, which was not known.
    HasToWait {
        about: About,
        position: usize,
        /// What it waits for.
        line: Option<LineId>,
    },
}
