//! The lines of a session, by bucket and quota: when each is to be looked at, and of which buckets
//! the store has to hear who is first.
//!
//! Its invariants: the index of times has each line that is due, under the line's own time. A
//! bucket is kept while demands wait for it, or while the store may think that they do.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use smallvec::SmallVec;

use super::{
    line::{Looked, QuotaLine},
    waiter::{Ask, LineId, Rank, Waiter},
};
use crate::{
    engine::{self, Micros, Op},
    limiter::bucket_set::BucketSet,
};

/// So many hints in a row are obeyed at once, though nothing comes of them.
const HINTS_OBEYED: u32 = 4;
/// The next one is obeyed after this long, and each further one after twice that, up to 64 ms.
const PAUSE_IN_VAIN: Micros = 1_000;
const MOST_DOUBLED: u32 = 6;

/// So many keep their places in a line at most.
const MOST_FITTING: usize = 4;

/// The lines in which one waiter stands.
pub(super) type LineIds = SmallVec<[LineId; 2]>;

/// The lines of a session.
#[derive(Debug, Default)]
pub(super) struct Lines {
    buckets: HashMap<u64, WaitedFor>,
    /// The lines to be looked at by themselves, by time.
    due: BTreeSet<(Micros, LineId)>,
    /// The buckets whose heads have changed.
    changed: BTreeSet<u64>,
}

/// A bucket that demands of the session wait for, or that the store thinks they do.
#[derive(Debug)]
struct WaitedFor {
    /// A set that it is part of.
    set: Arc<BucketSet>,
    /// By the ids of their quotas.
    lines: SmallVec<[(u64, QuotaLine); 1]>,
    /// Whether the store knows heads of this session here.
    registered: bool,
    /// Capacity may have been freed since the batch in flight was sent: it is to be looked at then.
    freed: Option<Micros>,
    /// The store hinted that a demand may fit, which is being looked at, and so many such looks
    /// came to nothing.
    hinted: bool,
    in_vain: u32,
}

impl WaitedFor {
    fn new(set: Arc<BucketSet>) -> Self {
        let (registered, hinted) = (false, false);
        let (lines, freed, in_vain) = (SmallVec::new(), None, 0);
        Self { set, lines, registered, freed, hinted, in_vain }
    }

    fn line(&mut self, rule: u64) -> Option<&mut QuotaLine> {
        self.lines.iter_mut().find(|(id, _)| *id == rule).map(|(_, line)| line)
    }

    fn iter(&self, bucket: u64) -> impl Iterator<Item = (LineId, &QuotaLine)> {
        self.lines.iter().map(move |(rule, line)| (LineId { bucket, rule: *rule }, line))
    }

    fn is_over(&self) -> bool {
        self.lines.is_empty() && !self.registered
    }
}

impl Lines {
    pub(super) fn find(&self, id: LineId) -> Option<&QuotaLine> {
        let lines = &self.buckets.get(&id.bucket)?.lines;
        lines.iter().find(|(rule, _)| *rule == id.rule).map(|(_, line)| line)
    }

    /// The lines of a bucket, with a set that it is part of; nothing if none waits for it.
    pub(super) fn of_bucket(
        &self,
        bucket: u64,
    ) -> Option<(&BucketSet, impl Iterator<Item = (LineId, &QuotaLine)>)> {
        let waited_for = self.buckets.get(&bucket)?;
        Some((&waited_for.set, waited_for.iter(bucket)))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (LineId, &QuotaLine)> {
        self.buckets.iter().flat_map(|(bucket, waited_for)| waited_for.iter(*bucket))
    }

    pub(super) fn find_mut(&mut self, id: LineId) -> Option<&mut QuotaLine> {
        self.buckets.get_mut(&id.bucket)?.line(id.rule)
    }

    /// A line of a bucket of this set, which is made if it is not there.
    pub(super) fn find_or_make(
        &mut self,
        set: &Arc<BucketSet>,
        id: LineId,
    ) -> Option<&mut QuotaLine> {
        let bucket = self.buckets.entry(id.bucket).or_insert_with(|| WaitedFor::new(set.clone()));
        if bucket.line(id.rule).is_none() {
            bucket.lines.push((id.rule, QuotaLine::new()));
        }
        bucket.line(id.rule)
    }

    /// The lines of which a waiter goes before a demand that is in none.
    pub(super) fn blocking(&self, rank: Rank, ask: &Ask) -> LineIds {
        let mut blocking = LineIds::new();
        if self.buckets.is_empty() {
            return blocking;
        }
        for handle in ask.set().handles() {
            let Some(bucket) = self.buckets.get(&handle.id()) else { continue };
            for (rule, _) in bucket.lines.iter().filter(|(_, line)| line.blocks(rank, ask)) {
                let id = LineId { bucket: handle.id(), rule: *rule };
                if id.holds_back(ask) {
                    blocking.push(id);
                }
            }
        }
        blocking
    }

    /// Puts a waiter into the lines that it stands in. `fits` says which of these quotas would have
    /// admitted it when it was last looked at.
    pub(super) fn insert(&mut self, waiter: &Waiter, fits: impl Fn(LineId) -> bool) {
        let ask = waiter.ask();
        for id in waiter.lines() {
            let cost = ask.cost_on(id.bucket, id.rule).unwrap_or(0);
            if let Some(line) = self.find_or_make(ask.set(), *id) {
                line.insert(waiter.rank(), ask, cost, fits(*id));
            }
        }
    }

    /// Takes a waiter out of its lines. Returns the buckets in which it was the first of a class
    /// and flow, or the first that a quota holds back.
    pub(super) fn remove(&mut self, waiter: &Waiter) -> SmallVec<[u64; 2]> {
        let mut led = SmallVec::new();
        for id in waiter.lines() {
            let Some(bucket) = self.buckets.get_mut(&id.bucket) else { continue };
            let line = bucket.line(id.rule);
            if line.is_some_and(|line| line.remove(waiter.rank(), waiter.ask())) {
                led.push(id.bucket);
                if bucket.registered {
                    self.changed.insert(id.bucket);
                }
            }
        }
        led
    }

    /// The next batch says what waits for the buckets of a set, though that may be nothing: a
    /// demand that comes to wait there is a head at once.
    pub(super) fn expect(&mut self, set: &Arc<BucketSet>) {
        for handle in set.handles() {
            self.buckets.entry(handle.id()).or_insert_with(|| WaitedFor::new(set.clone()));
        }
    }

    /// Whether one more may stand in a line that its quota would admit. It keeps its place there
    /// while others hold it back, and what is behind it is looked at with it.
    pub(super) fn has_room_for_fitting(&self, id: LineId) -> bool {
        self.find(id).is_none_or(|line| line.fitting() < MOST_FITTING)
    }

    /// Empties all lines.
    pub(super) fn clear(&mut self) {
        self.due.clear();
        for (id, bucket) in &mut self.buckets {
            bucket.lines.clear();
            if bucket.registered {
                self.changed.insert(*id);
            }
        }
        self.buckets.retain(|_, bucket| !bucket.is_over());
    }

    /// When a line is to be looked at, or the store is to hear of heads.
    pub(super) fn due(&self) -> Option<Micros> {
        match self.changed.is_empty() {
            true => self.due.first().map(|(time, _)| *time),
            false => Some(0),
        }
    }

    /// Takes out a line that is due, which is then not due any more.
    pub(super) fn pop_due(&mut self, now: Micros) -> Option<LineId> {
        let (_, id) = self.due.first().copied().filter(|(time, _)| *time <= now)?;
        self.due.pop_first();
        if let Some(bucket) = self.buckets.get_mut(&id.bucket) {
            // The batch that is made up now sees what was freed so far.
            bucket.freed = bucket.freed.filter(|from| *from > now);
            bucket.line(id.rule).into_iter().for_each(|line| line.set_due(None));
        }
        Some(id)
    }

    /// Notes when a line is to be looked at by itself, and forgets it if nothing is left of it.
    pub(super) fn reschedule(&mut self, id: LineId, due: Option<Micros>) {
        if let Some(line) = self.buckets.get_mut(&id.bucket).and_then(|of| of.line(id.rule)) {
            set_due(&mut self.due, id, line, due);
            self.forget_line(id);
        }
    }

    /// Looks at a line then, or earlier, if demands wait in it.
    pub(super) fn look_at(&mut self, id: LineId, time: Micros) {
        let line = self.buckets.get_mut(&id.bucket).and_then(|bucket| bucket.line(id.rule));
        if let Some(line) = line.filter(|line| !line.is_empty()) {
            let due = line.due().map_or(time, |due| due.min(time));
            set_due(&mut self.due, id, line, Some(due));
        }
    }

    /// Capacity of a bucket may have been freed: its lines are looked at now. `is_sending` says
    /// that a batch is in flight, which may not have seen it.
    pub(super) fn look(&mut self, bucket: u64, is_sending: bool) {
        self.look_from(0, bucket, is_sending);
    }

    /// The store hints that a demand may fit in a bucket. After some looks that came to nothing it
    /// is looked at later each time: two sessions, each of which is behind the other as far as it
    /// knows, would hint each other without end.
    pub(super) fn hinted(&mut self, bucket: u64, now: Micros, is_sending: bool) {
        let Some(waited_for) = self.buckets.get_mut(&bucket) else { return };
        waited_for.hinted = true;
        let from = match waited_for.in_vain.checked_sub(HINTS_OBEYED) {
            Some(doubled) => now.saturating_add(PAUSE_IN_VAIN << doubled.min(MOST_DOUBLED)),
            None => 0,
        };
        self.look_from(from, bucket, is_sending);
    }

    /// Whether the store hinted that a demand may fit in a bucket, which was not looked at since.
    pub(super) fn is_hinted(&self, bucket: u64) -> bool {
        self.buckets.get(&bucket).is_some_and(|bucket| bucket.hinted)
    }

    /// A bucket was looked at.
    pub(super) fn looked(&mut self, bucket: u64, looked: Looked) {
        let Some(waited_for) = self.buckets.get_mut(&bucket) else { return };
        match looked {
            Looked::NotAtAll => {}
            Looked::InVain => {
                waited_for.in_vain += u32::from(std::mem::take(&mut waited_for.hinted));
            }
            Looked::SomeGranted | Looked::AllGranted => {
                (waited_for.hinted, waited_for.in_vain) = (false, 0);
            }
        }
    }

    fn look_from(&mut self, from: Micros, bucket: u64, is_sending: bool) {
        let Some(waited_for) = self.buckets.get_mut(&bucket) else { return };
        let earlier = waited_for.freed.map_or(from, |freed| freed.min(from));
        waited_for.freed = is_sending.then_some(earlier);
        let rules: SmallVec<[u64; 4]> = waited_for.lines.iter().map(|(rule, _)| *rule).collect();
        rules.into_iter().for_each(|rule| self.look_at(LineId { bucket, rule }, from));
    }

    /// Looks at all lines now.
    pub(super) fn look_everywhere(&mut self, is_sending: bool) {
        let buckets: Vec<u64> = self.buckets.keys().copied().collect();
        buckets.into_iter().for_each(|bucket| self.look(bucket, is_sending));
    }

    /// Looks again at what was freed too late for the batch that was in flight, or too early for
    /// its waiters that are back.
    pub(super) fn look_if_freed(&mut self, bucket: u64) {
        if let Some(from) = self.buckets.get(&bucket).and_then(|bucket| bucket.freed) {
            self.look_from(from, bucket, false);
        }
    }

    /// Forgets a line that is over.
    pub(super) fn forget_line(&mut self, id: LineId) {
        let Some(bucket) = self.buckets.get_mut(&id.bucket) else { return };
        if let Some(line) = bucket.line(id.rule).filter(|line| line.is_over()) {
            set_due(&mut self.due, id, line, None);
            bucket.lines.retain(|(rule, _)| *rule != id.rule);
        }
        self.forget(id.bucket);
    }

    /// Forgets a bucket that is not waited for, once the store knows that too.
    fn forget(&mut self, bucket: u64) {
        if self.buckets.get(&bucket).is_some_and(WaitedFor::is_over) {
            self.buckets.remove(&bucket);
        }
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
        self.changed.remove(&bucket);
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
            let is_waited_for = waited_for.lines.iter().any(|(_, line)| !line.is_empty());
            // Heads that left meanwhile are known to the store until the next batch.
            waited_for.registered = self.changed.contains(&bucket) || is_waited_for;
            self.forget(bucket);
        }
    }

    /// The store does not take what a batch said of a bucket: it is not told again before a demand
    /// is looked at.
    pub(super) fn heads_refused(&mut self, bucket: u64) {
        self.changed.remove(&bucket);
        if let Some(waited_for) = self.buckets.get_mut(&bucket) {
            waited_for.registered = false;
            self.forget(bucket);
        }
    }

    /// It is unknown whether the store knows what a batch said of a bucket.
    pub(super) fn heads_unknown(&mut self, bucket: u64) {
        if let Some(waited_for) = self.buckets.get_mut(&bucket) {
            waited_for.registered = true;
            self.changed.insert(bucket);
        }
    }
}

fn set_due(
    all: &mut BTreeSet<(Micros, LineId)>,
    id: LineId,
    line: &mut QuotaLine,
    due: Option<Micros>,
) {
    if let Some(before) = line.due() {
        all.remove(&(before, id));
    }
    if let Some(due) = due {
        all.insert((due, id));
    }
    line.set_due(due);
}
