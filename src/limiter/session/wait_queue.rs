//! All pending demands of one session, in one order whatever buckets they name. A waiter stands in
//! the line of each quota that blocks it; what goes before it in any of its lines is looked at
//! before it, or with it.
//!
//! It decides which waiters are looked at when; it sends nothing itself.

// A waiter is moved from one collection to another many times, and is large.
#![allow(clippy::vec_box)]

mod places;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use smallvec::SmallVec;

use super::{
    line::{LONGEST_LOOK, Line, due_of},
    waiter::{About, Again, Ask, LineId, Outcome, OutcomeSender, PAUSE, Rank, Waiter},
};
use crate::{
    engine::{self, Micros, Op, Refused, RefusedBy, Violation},
    error::{Refusal, Throttled},
    limiter::bucket_set::BucketSet,
    quota::micros,
};

/// At most this many waiting demands travel in one batch, and as many that only ask.
const MOST_SENT: usize = 256;
/// Where no hint says that a waiter may fit, it is looked at again after this long if it is the
/// front of all sessions.
const LOOK_AGAIN: Duration = Duration::from_millis(500);
/// Otherwise after this long times its rank. The second one must pass the first within a second,
/// should that have died: no sooner than 200 ms after its hint, which may come right after a look.
const LOOK_AGAIN_BY_RANK: Duration = Duration::from_millis(350);
/// A wait whose length is unknown is looked at again at the latest after this long.
const LONGEST_UNKNOWN: Duration = Duration::from_secs(5);
/// And one whose length is known, where hints arrive.
const LONGEST_KNOWN: Duration = Duration::from_secs(30);

/// What a session may rely on instead of looking.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hints {
    /// Hints never get lost.
    Reliable,
    /// Hints arrive, but one may get lost.
    Work,
    /// There are none.
    None,
}

impl Hints {
    /// When to look again at a demand that was refused like this.
    fn look_again(self, violations: &[Violation], now: Micros) -> Again {
        let waits = violations.iter().map(|violation| violation.wait);
        let wait = waits.reduce(|one, other| Some(one?.max(other?))).flatten();
        let rank = violations.iter().map(|violation| violation.rank).max().unwrap_or(0);
        let unknown = match rank {
            0 => micros(LOOK_AGAIN),
            rank => micros(LOOK_AGAIN_BY_RANK).saturating_mul(rank.saturating_add(1)),
        };
        let unknown = unknown.min(micros(LONGEST_UNKNOWN));
        let after = match (self, wait) {
            // Behind another session's head, which may have gone: that is no news to hint at.
            (Self::Reliable, None) if rank == 0 => return Again::WhenTold,
            (Self::Reliable, Some(wait)) => wait,
            (Self::Work, Some(wait)) => wait.min(micros(LONGEST_KNOWN)),
            (Self::None, Some(wait)) => wait.min(unknown),
            (_, None) => unknown,
        };
        Again::At(now.saturating_add(after))
    }
}

/// A bucket that demands of the session wait for, or that the store thinks they do.
#[derive(Debug)]
struct WaitedFor {
    /// A set that it is part of.
    set: Arc<BucketSet>,
    /// By the ids of their quotas.
    lines: SmallVec<[(u64, Line); 1]>,
    /// Whether the store knows heads of this session here.
    registered: bool,
    /// Whether these are no longer its heads.
    changed: bool,
    /// Capacity may have been freed since the batch in flight was sent.
    freed: bool,
}

impl WaitedFor {
    fn line(&mut self, rule: u64) -> Option<&mut Line> {
        self.lines.iter_mut().find(|(id, _)| *id == rule).map(|(_, line)| line)
    }

    fn is_waited_for(&self) -> bool {
        self.lines.iter().any(|(_, line)| !line.is_empty())
    }
}

/// The pending demands of a session.
#[derive(Debug)]
pub(super) struct WaitQueue {
    max_waiting: usize,
    entered: u64,
    /// Those that stand in lines.
    waiting: BTreeMap<Rank, Box<Waiter>>,
    /// Those that the store has not looked at and that nothing in the queue blocks, in the order in
    /// which they came.
    newcomers: VecDeque<Box<Waiter>>,
    /// Those that do not wait, and those that have yet to learn whether they can be granted in
    /// time.
    asking: VecDeque<Box<Waiter>>,
    /// How many are in the batch in flight.
    away: usize,
    buckets: HashMap<u64, WaitedFor>,
    /// The lines to be looked at by themselves, by time.
    due: BTreeSet<(Micros, LineId)>,
    /// The buckets whose heads have changed.
    changed: Vec<u64>,
    /// Lines that the batch in flight, or its answer, concerns.
    touched: Vec<LineId>,
    /// A demand of the answer at hand went away that the store still put before the others of its
    /// batch.
    gone: bool,
    /// Pauses that are not to be waited out, as the answer at hand told them.
    surfaced: Vec<(LineId, Violation)>,
}

/// What came of a demand that entered, or that the store looked at.
#[derive(Debug)]
pub(super) enum Entered {
    /// It is to be sent.
    ToSend,
    /// It has to wait, behind so many.
    Waits { position: usize },
}

impl WaitQueue {
    pub(super) fn new(max_waiting: usize) -> Self {
        Self {
            max_waiting,
            entered: 0,
            waiting: BTreeMap::new(),
            newcomers: VecDeque::new(),
            asking: VecDeque::new(),
            away: 0,
            buckets: HashMap::new(),
            due: BTreeSet::new(),
            changed: Vec::new(),
            touched: Vec::new(),
            gone: false,
            surfaced: Vec::new(),
        }
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
        if self.has_newcomers() || !self.changed.is_empty() {
            return Some(0);
        }
        self.due.first().map(|(time, _)| *time)
    }

    /// The place that a demand takes that arrived then.
    pub(super) fn rank(&mut self, arrived: Micros, ask: &Ask) -> Rank {
        self.entered += 1;
        Rank::new(arrived, ask.head_start(), self.entered)
    }

    /// The place of a demand that arrives now and does not enter.
    pub(super) fn rank_of_newcomer(&self, now: Micros, ask: &Ask) -> Rank {
        Rank::new(now, ask.head_start(), u64::MAX)
    }

    /// Whether a demand has to wait behind others.
    pub(super) fn blocks(&self, rank: Rank, ask: &Ask) -> bool {
        !self.buckets.is_empty() && !self.blocking(rank, ask).is_empty()
    }

    /// The lines of which a waiter goes before a demand that is in none.
    fn blocking(&self, rank: Rank, ask: &Ask) -> SmallVec<[LineId; 2]> {
        let mut blocking = SmallVec::new();
        for handle in ask.set().handles() {
            let Some(bucket) = self.buckets.get(&handle.id()) else { continue };
            for (rule, _) in bucket.lines.iter().filter(|(_, line)| line.blocks(rank, ask)) {
                let id = LineId { bucket: handle.id(), rule: *rule };
                if *rule == PAUSE || ask.cost_on(id.bucket, *rule).is_some_and(|cost| cost > 0) {
                    blocking.push(id);
                }
            }
        }
        blocking
    }

    /// Takes in a demand that the store has not looked at.
    ///
    /// # Errors
    /// It has to wait, and as many wait as may.
    pub(super) fn enter(
        &mut self,
        rank: Rank,
        ask: Ask,
        deadline: Option<Micros>,
        answer: OutcomeSender,
    ) -> Result<Entered, Throttled> {
        let waiter = Box::new(Waiter::new(ask, rank, deadline, answer));
        self.place(waiter).map_err(|(_, error)| error)
    }

    /// Puts a demand where it belongs that the store has not looked at.
    fn place(&mut self, mut waiter: Box<Waiter>) -> Result<Entered, (OutcomeSender, Throttled)> {
        if !waiter.ask().waits() {
            self.asking.push_back(waiter);
            return Ok(Entered::ToSend);
        }
        let blocking = self.blocking(waiter.rank(), waiter.ask());
        if blocking.is_empty() {
            self.newcomers.push_back(waiter);
            return Ok(Entered::ToSend);
        }
        if waiter.has_deadline() && !waiter.is_waiting() {
            // It is told at once if it cannot be granted in time, which the store knows.
            self.asking.push_back(waiter);
            return Ok(Entered::ToSend);
        }
        let position = self.position(&waiter, &blocking, &[]);
        match waiter.start_waiting(self.max_waiting, position) {
            Ok(is_news) => {
                self.file(waiter, blocking);
                Ok(if is_news { Entered::Waits { position } } else { Entered::ToSend })
            }
            Err(error) => Err((waiter.into_answer(), error)),
        }
    }

    /// How many demands go before one that is to stand in these lines, as far as is known.
    fn position(&self, waiter: &Waiter, lines: &[LineId], violations: &[Violation]) -> usize {
        let own = lines.iter().filter_map(|id| {
            let line = self.find(*id)?;
            let told = line.known().map_or(0, |(violation, _)| violation.before);
            let others = violations.iter().map(|violation| violation.before).max().unwrap_or(told);
            Some(
                line.position(waiter.rank(), waiter.ask())
                    + usize::try_from(others).unwrap_or(usize::MAX),
            )
        });
        own.max().unwrap_or(0)
    }

    fn find(&self, id: LineId) -> Option<&Line> {
        let lines = &self.buckets.get(&id.bucket)?.lines;
        lines.iter().find(|(rule, _)| *rule == id.rule).map(|(_, line)| line)
    }

    fn find_mut(&mut self, id: LineId) -> Option<&mut Line> {
        self.buckets.get_mut(&id.bucket)?.line(id.rule)
    }

    /// Puts a waiter into lines.
    fn file(&mut self, mut waiter: Box<Waiter>, lines: SmallVec<[LineId; 2]>) {
        let (rank, ask) = (waiter.rank(), waiter.ask());
        for id in &lines {
            let cost = ask.cost_on(id.bucket, id.rule).unwrap_or(0);
            if let Some(line) = self.line_of(ask.set(), *id) {
                line.insert(rank, ask, cost);
            }
        }
        waiter.stand_in(lines);
        self.waiting.insert(rank, waiter);
    }

    /// A line of a bucket of this set, which is made if it is not there.
    fn line_of(&mut self, set: &Arc<BucketSet>, id: LineId) -> Option<&mut Line> {
        let bucket = self.buckets.entry(id.bucket).or_insert_with(|| WaitedFor {
            set: set.clone(),
            lines: SmallVec::new(),
            registered: false,
            changed: false,
            freed: false,
        });
        if bucket.line(id.rule).is_none() {
            bucket.lines.push((id.rule, Line::new()));
        }
        bucket.line(id.rule)
    }

    /// Takes a waiter out whose caller has gone: what it was the first of is looked at, since more
    /// may fit without it.
    fn drop_waiter(&mut self, rank: Rank) -> Option<()> {
        let (waiter, led) = self.take(rank)?;
        led.into_iter().for_each(|bucket| self.look(bucket));
        waiter.lines().iter().for_each(|id| self.forget_line(*id));
        Some(())
    }

    /// Takes a waiter out of its lines. Returns the buckets in which it was the first of a class
    /// and flow, too.
    fn take(&mut self, rank: Rank) -> Option<(Box<Waiter>, SmallVec<[u64; 2]>)> {
        let (waiter, mut led) = (self.waiting.remove(&rank)?, SmallVec::new());
        for id in waiter.lines() {
            let Some(bucket) = self.buckets.get_mut(&id.bucket) else { continue };
            if !bucket.line(id.rule).is_some_and(|line| line.remove(rank, waiter.ask())) {
                continue;
            }
            led.push(id.bucket);
            if bucket.registered && !bucket.changed {
                bucket.changed = true;
                self.changed.push(id.bucket);
            }
        }
        Some((waiter, led))
    }

    /// Takes a waiter out whose caller gives up. Returns what it waited for.
    pub(super) fn leave(&mut self, rank: Rank, now: Micros) -> Option<Refusal> {
        let refusal = self.waits_for(rank, now);
        self.drop_waiter(rank)?;
        Some(refusal.unwrap_or_default())
    }

    /// Whether it is known of a demand in the queue that it has to wait.
    pub(super) fn is_waiting(&self, rank: Rank) -> bool {
        self.waiting.contains_key(&rank)
    }

    /// What a waiter waits for, as of the last look at the front of each of its lines.
    pub(super) fn waits_for(&self, rank: Rank, now: Micros) -> Option<Refusal> {
        let waiter = self.waiting.get(&rank)?;
        let known = |id: &LineId| {
            let (violation, at) = self.find(*id)?.known()?;
            let passed = now.saturating_sub(*at);
            let wait = violation.wait.map(|wait| wait.saturating_sub(passed));
            Some(Violation { by: by(waiter.ask().set(), *id)?, wait, ..*violation })
        };
        let violations: SmallVec<[Violation; 2]> =
            waiter.lines().iter().filter_map(known).collect();
        (!violations.is_empty()).then(|| waiter.ask().refusal(&violations))
    }

    /// Capacity of a bucket may have been freed: its lines are looked at now.
    pub(super) fn look(&mut self, bucket: u64) {
        let Some(waited_for) = self.buckets.get_mut(&bucket) else { return };
        waited_for.freed = self.away > 0;
        for (rule, line) in waited_for.lines.iter_mut().filter(|(_, line)| !line.is_empty()) {
            set_due(&mut self.due, LineId { bucket, rule: *rule }, line, Some(0));
        }
    }

    /// All lines are looked at now.
    pub(super) fn look_everywhere(&mut self) {
        let buckets: Vec<u64> = self.buckets.keys().copied().collect();
        buckets.into_iter().for_each(|bucket| self.look(bucket));
    }

    /// Notes when a line is to be looked at by itself, given its fronts, and forgets it if nothing
    /// is left of it.
    fn reschedule(&mut self, id: LineId) {
        let Some(line) = self.buckets.get_mut(&id.bucket).and_then(|bucket| bucket.line(id.rule))
        else {
            return;
        };
        let fronts = line.fronts();
        let due =
            due_of(fronts.iter().filter_map(|rank| self.waiting.get(rank).map(AsRef::as_ref)));
        set_due(&mut self.due, id, line, due);
        self.forget_line(id);
    }

    /// Forgets a line that is over.
    fn forget_line(&mut self, id: LineId) {
        let Some(bucket) = self.buckets.get_mut(&id.bucket) else { return };
        if let Some(line) = bucket.line(id.rule).filter(|line| line.is_over()) {
            set_due(&mut self.due, id, line, None);
            bucket.lines.retain(|(rule, _)| *rule != id.rule);
        }
        self.forget(id.bucket);
    }

    /// Forgets a bucket that is not waited for, once the store knows that too.
    fn forget(&mut self, bucket: u64) {
        let is_over =
            |bucket: &WaitedFor| bucket.lines.is_empty() && !bucket.registered && !bucket.changed;
        if self.buckets.get(&bucket).is_some_and(is_over) {
            self.buckets.remove(&bucket);
        }
    }

    /// Takes out what is to be looked at now, in order. `has_room` says whether the buckets of a
    /// set can be part of the batch. What becomes of demands that are not sent after all goes to
    /// `told`.
    pub(super) fn take_due(
        &mut self,
        now: Micros,
        mut has_room: impl FnMut(&BucketSet) -> bool,
        told: &mut Vec<Told>,
    ) -> Vec<Box<Waiter>> {
        let newcomers = self.admit_newcomers(told);
        let picked = self.pick(now, &mut has_room);
        let mut due = Vec::with_capacity(picked.len() + newcomers.len());
        for rank in picked {
            if self.waiting.get(&rank).is_some_and(|waiter| waiter.is_abandoned()) {
                self.drop_waiter(rank);
                continue;
            }
            let Some((waiter, _)) = self.take(rank) else { continue };
            for id in waiter.lines() {
                self.touched.push(*id);
                if let Some(line) = self.find_mut(*id) {
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
        // Between flows only the store knows who is next: what was picked is in order, newcomers
        // are after it.
        let flow = due.first().map(|waiter| waiter.ask().flow().id);
        if due.iter().all(|waiter| Some(waiter.ask().flow().id) == flow) {
            due.sort_unstable_by_key(|waiter| waiter.rank());
        }
        self.away += due.len();
        due
    }

    /// The newcomers that nothing in the queue blocks. Others came to be blocked since they
    /// entered: they wait.
    fn admit_newcomers(&mut self, told: &mut Vec<Told>) -> Vec<Box<Waiter>> {
        let mut admitted = Vec::new();
        for mut waiter in std::mem::take(&mut self.newcomers) {
            if waiter.is_abandoned() {
                continue;
            }
            if let Err(outcome) = waiter.refresh() {
                told.push(Told::Outcome(waiter.into_answer(), outcome));
            } else if self.blocks(waiter.rank(), waiter.ask()) {
                let about = About::of(waiter.ask());
                match self.place(waiter) {
                    Ok(Entered::Waits { position }) => {
                        told.push(Told::HasToWait { about, position })
                    }
                    Ok(Entered::ToSend) => {}
                    Err((answer, error)) => {
                        told.push(Told::Outcome(answer, Outcome::Refused(error)))
                    }
                }
            } else {
                admitted.push(waiter);
            }
        }
        admitted
    }

    /// The waiters to be looked at now: some from the front of each line that is due, and all that
    /// go before them in their other lines.
    fn pick(&mut self, now: Micros, has_room: &mut impl FnMut(&BucketSet) -> bool) -> Vec<Rank> {
        let mut picked = Picked::default();
        while let Some((time, id)) = self.due.first().copied()
            && time <= now
        {
            self.due.pop_first();
            let Some(line) = self.find_mut(id) else { continue };
            line.set_due(None);
            let Some(line) = self.find(id) else { continue };
            let mut left_out = None;
            for class in line.classes() {
                for rank in line.in_order(class).take(line.look()) {
                    if !self.pick_with_those_before(rank, &mut picked, has_room) {
                        left_out = Some(rank);
                        break;
                    }
                }
            }
            // It would be looked at over and over. It is looked at with those before it in its
            // other lines.
            if let Some(waiter) = left_out.and_then(|rank| self.waiting.get_mut(&rank)) {
                waiter.look_again(Again::WhenTold);
            }
        }
        picked.ranks
    }

    /// Picks a waiter if all can be picked that go before it. Returns true if it is picked.
    fn pick_with_those_before(
        &self,
        rank: Rank,
        picked: &mut Picked,
        has_room: &mut impl FnMut(&BucketSet) -> bool,
    ) -> bool {
        // Where flows take turns, two can each be before the other in one of their lines.
        if picked.all.contains(&rank) {
            return true;
        }
        let Some(waiter) = self.waiting.get(&rank).filter(|_| picked.all.len() < LONGEST_LOOK)
        else {
            return false;
        };
        picked.all.insert(rank);
        let are_before_it = waiter.lines().iter().all(|id| {
            let line = self.find(*id);
            let mut before =
                line.into_iter().flat_map(|line| line.in_order(waiter.ask().headroom()));
            before
                .by_ref()
                .take_while(|before| *before != rank)
                .all(|before| self.pick_with_those_before(before, picked, has_room))
        });
        let is_picked = are_before_it && has_room(waiter.ask().set());
        if is_picked {
            picked.ranks.push(rank);
        } else {
            picked.all.remove(&rank);
        }
        is_picked
    }

    /// Takes out the demands that only ask, those that wait asking whether they can be granted in
    /// time.
    pub(super) fn take_asking(
        &mut self,
        mut has_room: impl FnMut(&BucketSet) -> bool,
        told: &mut Vec<Told>,
    ) -> Vec<Box<Waiter>> {
        let mut asking = Vec::new();
        while asking.len() < MOST_SENT
            && let Some(mut waiter) = self.asking.pop_front()
        {
            if waiter.is_abandoned() {
                continue;
            }
            if let Err(outcome) = waiter.refresh() {
                told.push(Told::Outcome(waiter.into_answer(), outcome));
            } else if has_room(waiter.ask().set()) {
                asking.push(waiter);
            } else {
                self.asking.push_front(waiter);
                break;
            }
        }
        self.away += asking.len();
        asking
    }

    /// The buckets whose heads have changed, which no batch has said yet, each with a set that it
    /// is part of.
    pub(super) fn changed(&self) -> impl Iterator<Item = (u64, &Arc<BucketSet>)> {
        self.changed.iter().filter_map(|id| Some((*id, &self.buckets.get(id)?.set)))
    }

    /// What a batch has to say of a bucket: who waits for it and is not in the batch. Nothing, if
    /// no demand waits for it as far as the session and the store know. `rules` are those of the
    /// bucket in the batch.
    pub(super) fn heads(
        &mut self,
        bucket: u64,
        index: u16,
        rules: &[engine::Rule],
        now: Micros,
    ) -> Option<Op> {
        let waited_for = self.buckets.get_mut(&bucket)?;
        if std::mem::take(&mut waited_for.changed) {
            self.changed.retain(|id| *id != bucket);
        }
        waited_for.registered = true;
        let rule_of = |id: u64| rules.iter().position(|rule| rule.id == id);
        let lines = waited_for.lines.iter().filter_map(|(id, line)| {
            let rule = u16::try_from(rule_of(*id)?).ok()?;
            Some(line.told(rule, now))
        });
        Some(Op::Waiting { bucket: index, lines: lines.flatten().collect() })
    }

    /// The store has answered what a batch said of a bucket. Called once all that it refused is
    /// back.
    pub(super) fn heads_registered(&mut self, bucket: u64) {
        if let Some(waited_for) = self.buckets.get_mut(&bucket) {
            // Heads that left meanwhile are known to the store until the next batch.
            waited_for.registered = waited_for.changed || waited_for.is_waited_for();
            self.forget(bucket);
        }
    }

    /// It is unknown whether the store knows what a batch said of a bucket.
    pub(super) fn heads_unknown(&mut self, bucket: u64) {
        if let Some(waited_for) = self.buckets.get_mut(&bucket) {
            waited_for.registered = true;
            if !std::mem::replace(&mut waited_for.changed, true) {
                self.changed.push(bucket);
            }
        }
    }

    /// A demand of the batch in flight was granted.
    pub(super) fn granted(&mut self, waiter: &Waiter) {
        for id in waiter.lines() {
            if let Some(line) = self.find_mut(*id) {
                line.granted(waiter.ask(), waiter.part());
            }
        }
    }

    /// A demand of the batch in flight, that only asked whether it can be granted in time, would be
    /// granted now.
    pub(super) fn fits(&mut self, waiter: Box<Waiter>) {
        self.newcomers.push_back(waiter);
    }

    /// A demand of the batch in flight was refused. It waits, unless it may not or need not.
    /// `is_head` says of a bucket whether the store has registered it there as a head.
    pub(super) fn refused(
        &mut self,
        mut waiter: Box<Waiter>,
        refused: &Refused,
        is_head: impl Fn(u64) -> bool,
        hints: Hints,
        now: Micros,
        told: &mut Vec<Told>,
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
                Err(outcome) => told.push(Told::Outcome(waiter.into_answer(), outcome)),
            }
            return;
        }
        if let Some(error) = waiter.ask().refused(violations) {
            self.note_surfaced(waiter.ask(), violations);
            return told.push(Told::Outcome(waiter.into_answer(), Outcome::Refused(error)));
        }
        let lines = self.lines_of(&waiter, violations);
        match self.start_waiting(&mut waiter, &lines, violations, now) {
            Ok(Some(position)) => {
                told.push(Told::HasToWait { about: About::of(waiter.ask()), position })
            }
            Ok(None) => {}
            Err(error) => {
                self.gone(&waiter, is_head);
                return told.push(Told::Outcome(waiter.into_answer(), Outcome::Refused(error)));
            }
        }
        let registered = !self.gone && lines.iter().all(|id| is_head(id.bucket));
        waiter.look_again(if registered { hints.look_again(violations, now) } else { Again::Now });
        waiter.set_part(refused.part);
        self.note_front(&waiter, &lines, violations, now);
        self.touched.extend_from_slice(&lines);
        let rank = waiter.rank();
        self.file(waiter, lines);
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
    fn gone(&mut self, waiter: &Waiter, is_head: impl Fn(u64) -> bool) {
        self.gone = true;
        for handle in waiter.ask().set().handles() {
            if is_head(handle.id()) {
                self.heads_unknown(handle.id());
            }
        }
    }

    /// The lines that a demand is to stand in that was refused: those of the quotas that hold back
    /// what comes after it, and those in which others go before it.
    fn lines_of(&self, waiter: &Waiter, violations: &[Violation]) -> SmallVec<[LineId; 2]> {
        let set = waiter.ask().set();
        let mut lines = self.blocking(waiter.rank(), waiter.ask());
        let holds_any = violations.iter().any(|violation| violation.holds);
        for violation in violations.iter().filter(|violation| violation.holds || !holds_any) {
            let Some(id) = line_id(set, violation.by) else { continue };
            // What a pause holds back is a head on all quotas of the bucket that it needs, so that
            // the store knows the order and how many wait.
            let needed = |&(bucket, rule): &(u64, u64)| {
                id.rule == PAUSE
                    && bucket == id.bucket
                    && waiter.ask().cost_on(bucket, rule).is_some_and(|cost| cost > 0)
            };
            let behind = set.quotas().filter(needed).map(|(bucket, rule)| LineId { bucket, rule });
            for id in std::iter::once(id).chain(behind) {
                if !lines.contains(&id) {
                    lines.push(id);
                }
            }
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
            let id = line_id(ask.set(), violation.by).filter(|id| lines.contains(id));
            let line = id.and_then(|id| self.line_of(ask.set(), id));
            if let Some(line) = line.filter(|line| !line.blocks(waiter.rank(), ask)) {
                line.set_known(Some((*violation, now)));
            }
        }
    }

    /// Notes what the store said of the flow of a waiter on the lines that it stands in.
    fn note_flow(&mut self, rank: Rank, refused: &Refused) {
        let Some(waiter) = self.waiting.get(&rank) else { return };
        let ask = waiter.ask();
        for id in waiter.lines() {
            let line = self.buckets.get_mut(&id.bucket).and_then(|bucket| bucket.line(id.rule));
            if let Some(line) = line {
                let cost = ask.cost_on(id.bucket, id.rule).unwrap_or(0);
                line.flow_told(rank, ask, (refused.tag, refused.part), cost);
            }
        }
    }

    /// The batch in flight has been dealt with.
    pub(super) fn answered(&mut self, told: &mut Vec<Told>) {
        (self.away, self.gone) = (0, false);
        self.refuse_surfaced(told);
        let mut touched = std::mem::take(&mut self.touched);
        touched.sort_unstable();
        touched.dedup();
        for id in &touched {
            if let Some(line) = self.find_mut(*id) {
                line.answered();
            }
            self.reschedule(*id);
        }
        for id in touched {
            // It was freed too late for the batch, or too early for those that are back.
            if self.buckets.get(&id.bucket).is_some_and(|bucket| bucket.freed) {
                self.look(id.bucket);
            }
        }
    }

    fn note_surfaced(&mut self, ask: &Ask, violations: &[Violation]) {
        for violation in violations.iter().filter(|violation| violation.asked.is_some()) {
            if let Some(id) = line_id(ask.set(), violation.by)
                && self.surfaced.iter().all(|(other, _)| *other != id)
            {
                self.surfaced.push((id, *violation));
            }
        }
    }

    /// Refuses those that a pause holds back which is not to be waited out.
    fn refuse_surfaced(&mut self, told: &mut Vec<Told>) {
        let surfaced = std::mem::take(&mut self.surfaced);
        if surfaced.is_empty() {
            return;
        }
        let refusal_of = |waiter: &Waiter| {
            let ask = waiter.ask();
            let violations = surfaced.iter().filter_map(|(id, violation)| {
                let is_held_back = id.rule == PAUSE || ask.cost_on(id.bucket, id.rule)? > 0;
                is_held_back.then_some(Violation { by: by(ask.set(), *id)?, ..*violation })
            });
            ask.refused(&violations.collect::<SmallVec<[Violation; 2]>>())
        };
        let all =
            self.waiting.iter().filter_map(|(rank, waiter)| Some((*rank, refusal_of(waiter)?)));
        for (rank, error) in all.collect::<Vec<_>>() {
            let Some((waiter, _)) = self.take(rank) else { continue };
            self.touched.extend_from_slice(waiter.lines());
            told.push(Told::Outcome(waiter.into_answer(), Outcome::Refused(error)));
        }
    }

    /// Follows a change of the limits: counts every waiter anew that is concerned.
    pub(super) fn follow_limits(&mut self, told: &mut Vec<Told>) {
        let is_stale = |waiter: &Waiter| !waiter.ask().set().is_current();
        let stale: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiter)| is_stale(waiter))
            .map(|(rank, _)| *rank)
            .collect();
        for rank in stale {
            let Some((mut waiter, _)) = self.take(rank) else { continue };
            self.touched.extend_from_slice(waiter.lines());
            if let Err(outcome) = waiter.refresh() {
                told.push(Told::Outcome(waiter.into_answer(), outcome));
                continue;
            }
            let set = waiter.ask().set();
            let lines: SmallVec<_> =
                waiter.lines().iter().copied().filter(|id| by(set, *id).is_some()).collect();
            waiter.look_again(Again::Now);
            match lines.is_empty() {
                true => self.newcomers.push_back(waiter),
                false => self.file(waiter, lines),
            }
        }
        std::mem::take(&mut self.touched).into_iter().for_each(|id| self.reschedule(id));
    }

    /// Takes out every demand.
    pub(super) fn take_all(&mut self) -> Vec<Box<Waiter>> {
        let waiting = std::mem::take(&mut self.waiting).into_values();
        let all = waiting.chain(self.newcomers.drain(..)).chain(self.asking.drain(..)).collect();
        self.due.clear();
        for (id, bucket) in &mut self.buckets {
            bucket.lines.clear();
            if bucket.registered && !std::mem::replace(&mut bucket.changed, true) {
                self.changed.push(*id);
            }
        }
        self.buckets.retain(|_, bucket| bucket.registered || bucket.changed);
        all
    }
}

/// What is to be told once no lock is held.
#[derive(Debug)]
pub(super) enum Told {
    Outcome(OutcomeSender, Outcome),
    /// A demand has to wait, which was not known.
    HasToWait {
        about: About,
        position: usize,
    },
}

/// Those picked for a batch, in order, and with them those whose predecessors are being picked.
#[derive(Default)]
struct Picked {
    ranks: Vec<Rank>,
    all: HashSet<Rank>,
}

fn set_due(all: &mut BTreeSet<(Micros, LineId)>, id: LineId, line: &mut Line, due: Option<Micros>) {
    if let Some(before) = line.due() {
        all.remove(&(before, id));
    }
    if let Some(due) = due {
        all.insert((due, id));
    }
    line.set_due(due);
}

/// The line of what refused a demand on this set.
fn line_id(set: &BucketSet, by: RefusedBy) -> Option<LineId> {
    let (bucket, rule) = set.refused_by(by)?;
    Some(LineId { bucket, rule: rule.unwrap_or(PAUSE) })
}

/// What refuses a demand on this set in a line.
fn by(set: &BucketSet, id: LineId) -> Option<RefusedBy> {
    match id.rule {
        PAUSE => set.handles().position(|handle| handle.id() == id.bucket).map(RefusedBy::Pause),
        rule => set.quotas().position(|quota| quota == (id.bucket, rule)).map(RefusedBy::Rule),
    }
}
