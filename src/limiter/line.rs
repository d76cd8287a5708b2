//! Demands of one process that the same quotas can hold back, in order. While the first of a line has to wait the
//! others do too, so a line is looked at from its front; another line may pass meanwhile.

use std::{collections::BTreeMap, time::Duration};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    queue::{Ask, Rank, Waiter},
    surfaced::Surfaced,
};
use crate::{
    engine::{Mode, Violation},
    error::{Refusal, Throttled},
    quota::micros,
};

/// Demands from the front of a line that are looked at again first.
const FIRST_LOOK: usize = 4;
/// And at most this many, of each line.
const LONGEST_LOOK: usize = 256;
/// The front is looked at again after this long at the latest, whatever was predicted: capacity may have been freed
/// elsewhere.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// What holds a demand back: the quotas it needs something of, and how much of them its class may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Kind {
    needs: u64,
    headroom: u64,
}

impl Kind {
    fn of(ask: &Ask) -> Self {
        let needed = ask.costs.iter().enumerate().filter(|(_, cost)| **cost > 0);
        // Quotas beyond the 64th share a bit: such lines are only longer than they had to be.
        let needs = needed.fold(0, |needs, (index, _)| needs | 1 << index.min(63));
        Self { needs, headroom: ask.standing.headroom }
    }
}

/// How the front of a line was last refused.
#[derive(Debug)]
struct Front {
    violations: Box<[Violation]>,
    looked_at: Instant,
    /// When to look again.
    again: Instant,
}

impl Front {
    fn new(violations: &[Violation], jitter: Duration) -> Self {
        let waits = violations.iter().map(|violation| violation.wait);
        let wait = waits.reduce(|one, other| Some(one?.max(other?))).flatten();
        let wait =
            wait.map_or(LOOK_AGAIN, |wait| (Duration::from_micros(wait) + jitter).min(LOOK_AGAIN));
        let looked_at = Instant::now();
        Self { violations: violations.into(), looked_at, again: looked_at + wait }
    }

    /// The same as of now, as it concerns a demand of the line.
    fn refusal(&self, ask: &Ask) -> Refusal {
        let passed = micros(self.looked_at.elapsed());
        let left = |violation: &Violation| Violation {
            wait: violation.wait.map(|wait| wait.saturating_sub(passed)),
            ..*violation
        };
        ask.refusal(&self.violations.iter().map(left).collect::<Vec<_>>())
    }
}

#[derive(Debug)]
struct Line {
    kind: Kind,
    waiting: BTreeMap<Rank, Waiter>,
    /// Nothing, if the line has to be looked at.
    front: Option<Front>,
    /// How many from the front are looked at again.
    look: usize,
    /// Demands in the batch on its way, and those of them granted.
    sent: usize,
    granted: usize,
}

impl Line {
    fn new(kind: Kind) -> Self {
        Self { kind, waiting: BTreeMap::new(), front: None, look: FIRST_LOOK, sent: 0, granted: 0 }
    }

    fn first(&self) -> Option<Rank> {
        self.waiting.first_key_value().map(|(rank, _)| *rank)
    }

    fn landed(&mut self) {
        let (sent, granted) = (std::mem::take(&mut self.sent), std::mem::take(&mut self.granted));
        if sent == 0 {
            return;
        }
        let look = if granted == sent { self.look * 2 } else { granted + FIRST_LOOK };
        self.look = look.min(LONGEST_LOOK);
        if granted == sent {
            self.front = None;
        }
    }
}

/// The lines of a queue: as many as there are kinds of demands, which are few.
#[derive(Debug, Default)]
pub(super) struct Lines(SmallVec<[Line; 1]>);

impl Lines {
    pub(super) fn len(&self) -> usize {
        self.0.iter().map(|line| line.waiting.len()).sum()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|line| line.waiting.is_empty())
    }

    fn of(&mut self, ask: &Ask) -> &mut Line {
        let kind = Kind::of(ask);
        let index = self.0.iter().position(|line| line.kind == kind).unwrap_or_else(|| {
            self.0.push(Line::new(kind));
            self.0.len() - 1
        });
        &mut self.0[index]
    }

    /// Whether it is known without a look of the store that a demand has to wait: it is behind another that has to, and
    /// can wait for ever.
    pub(super) fn has_to_wait(&self, rank: Rank, ask: &Ask) -> bool {
        let kind = Kind::of(ask);
        let line = self.0.iter().find(|line| line.kind == kind);
        let is_behind = line.is_some_and(|line| {
            line.front.is_some() && line.first().is_some_and(|first| first < rank)
        });
        is_behind && ask.mode == Mode::Wait && ask.deadline.is_none()
    }

    /// Takes in a demand.
    pub(super) fn enter(&mut self, rank: Rank, waiter: Waiter) {
        self.of(&waiter.ask).waiting.insert(rank, waiter);
    }

    pub(super) fn get(&self, rank: Rank) -> Option<&Waiter> {
        self.0.iter().find_map(|line| line.waiting.get(&rank))
    }

    /// Takes a demand back in that was refused.
    pub(super) fn refused(
        &mut self,
        rank: Rank,
        waiter: Waiter,
        violations: &[Violation],
        jitter: Duration,
    ) {
        let line = self.of(&waiter.ask);
        line.sent += 1;
        if line.first().is_none_or(|first| rank < first) {
            let is_told = !violations.is_empty();
            line.front = is_told.then(|| Front::new(violations, jitter));
        }
        line.waiting.insert(rank, waiter);
    }

    /// A demand was granted.
    pub(super) fn granted(&mut self, ask: &Ask) {
        let line = self.of(ask);
        (line.sent, line.granted) = (line.sent + 1, line.granted + 1);
    }

    /// The batch on its way has been dealt with.
    pub(super) fn landed(&mut self) {
        self.0.iter_mut().for_each(Line::landed);
        self.0.retain(|line| !line.waiting.is_empty());
    }

    /// Takes a demand out. Answers whether it was the first of its line too, and what that waits for.
    pub(super) fn remove(&mut self, rank: Rank) -> Option<(Waiter, bool)> {
        self.0.iter_mut().find_map(|line| {
            let was_first = line.first() == Some(rank);
            Some((line.waiting.remove(&rank)?, was_first))
        })
    }

    /// What a demand waits for, as far as is known: what the front of its line does.
    pub(super) fn waits_for(&self, rank: Rank) -> Option<Refusal> {
        let line = self.0.iter().find(|line| line.waiting.contains_key(&rank))?;
        Some(line.front.as_ref()?.refusal(&line.waiting.get(&rank)?.ask))
    }

    /// Takes out those that are held back by what nobody waits out: a line's all, since they need the same quotas.
    pub(super) fn take_surfaced(&mut self, surfaced: &Surfaced) -> Vec<(Waiter, Throttled)> {
        let mut taken = Vec::new();
        for line in &mut self.0 {
            for (rank, waiter) in std::mem::take(&mut line.waiting) {
                match surfaced.refuses(&waiter.ask) {
                    Some(error) => taken.push((waiter, error)),
                    None => drop(line.waiting.insert(rank, waiter)),
                }
            }
        }
        taken
    }

    pub(super) fn take(&mut self) -> impl Iterator<Item = (Rank, Waiter)> + use<> {
        std::mem::take(&mut self.0).into_iter().flat_map(|line| line.waiting)
    }

    /// The first of each line.
    pub(super) fn firsts(&self) -> SmallVec<[Rank; 1]> {
        self.0.iter().filter_map(Line::first).collect()
    }

    /// Those to be looked at from the front of each line, some or `everybody`, `most` at most.
    pub(super) fn to_look_at(&self, most: usize, everybody: bool) -> Vec<Rank> {
        let of_each = (most / self.0.len().max(1)).max(1);
        let look = |line: &Line| if everybody { of_each } else { line.look.min(of_each) };
        let fronts = self.0.iter().flat_map(|line| line.waiting.keys().take(look(line)));
        fronts.copied().take(most).collect()
    }

    /// When to look again; `None` if nobody waits.
    pub(super) fn again(&self, now: Instant) -> Option<Instant> {
        let waiting = self.0.iter().filter(|line| !line.waiting.is_empty());
        waiting.map(|line| line.front.as_ref().map_or(now, |front| front.again)).min()
    }
}
