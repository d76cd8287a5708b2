//! Where waiters stand, for those that ask: how many go before one, and about when it starts. It
//! changes nothing.

use std::collections::HashMap;

use super::{WaitQueue, Waiter};
use crate::{
    engine::{Micros, Rule, Window},
    limiter::{
        bucket_set::BucketSet,
        session::waiter::{LineId, PAUSE, QueuePlace, Rank},
    },
    quota::micros,
};

/// How many are counted one by one; for those further back it is estimated what goes before them.
const COUNTED: usize = 256;

/// What goes before a waiter in a line.
#[derive(Clone, Copy, Debug, Default)]
struct Preceding {
    count: usize,
    /// What they ask of the quota in all, and the first of them.
    cost: u64,
    first: u64,
}

impl Preceding {
    fn push(&mut self, cost: u64) {
        if self.count == 0 {
            self.first = cost;
        }
        self.count += 1;
        self.cost = self.cost.saturating_add(cost);
    }

    /// As much again for each of the others up to `count`.
    fn stretched(self, count: usize) -> Self {
        if count <= self.count || self.count == 0 {
            return self;
        }
        let cost = u128::from(self.cost) * count as u128 / self.count as u128;
        Self { count, cost: u64::try_from(cost).unwrap_or(u64::MAX), ..self }
    }
}

impl WaitQueue {
    /// Where a waiter stands; nothing if it does not wait.
    pub(in crate::limiter::session) fn place_of(
        &self,
        rank: Rank,
        now: Micros,
    ) -> Option<QueuePlace> {
        let waiter = self.waiting.get(&rank)?;
        let ahead = |id: &LineId| self.ahead(*id, waiter);
        Some(self.place_behind(waiter, ahead, now))
    }

    /// Time until a demand starts that comes now and needs all quotas of a bucket: zero if none
    /// waits for it here, nothing if it is not known.
    pub(in crate::limiter::session) fn newcomer(&self, bucket: u64, now: Micros) -> Option<Micros> {
        let Some((set, lines)) = self.lines.of_bucket(bucket) else { return Some(0) };
        let mut latest = 0;
        for (id, line) in lines {
            let ((count, cost), Some(known)) = (line.total(), line.known(now)) else { continue };
            let first = line.fronts().first().map_or(0, |front| self.cost_of(*front, id));
            let ahead = Preceding { count, cost, first };
            latest = latest.max(start(set, id, ahead, 1, 0, known.wait?)?);
        }
        Some(latest)
    }

    /// Every waiter, oldest first, and where it stands.
    pub(in crate::limiter::session) fn places(
        &self,
        now: Micros,
    ) -> impl Iterator<Item = (&Waiter, QueuePlace)> {
        let all = self.all_ahead();
        self.waiting.iter().map(move |(rank, waiter)| {
            let ahead = |id: &LineId| all.get(&(*id, *rank)).copied().unwrap_or_default();
            (&**waiter, self.place_behind(waiter, ahead, now))
        })
    }

    fn place_behind(
        &self,
        waiter: &Waiter,
        ahead: impl Fn(&LineId) -> Preceding,
        now: Micros,
    ) -> QueuePlace {
        let rank = waiter.rank();
        let (mut position, mut starts) = (0, Some(None));
        for id in waiter.lines() {
            let Some(line) = self.lines.find(*id) else { continue };
            let ahead = ahead(id);
            position = position.max(ahead.count + line.others() as usize);
            let Some(known) = line.known(now) else { continue };
            let ask = waiter.ask();
            let cost = ask.cost_on(id.bucket, id.rule).unwrap_or(0);
            let start = |front| start(ask.set(), *id, ahead, cost, ask.headroom(), front);
            let start = known.wait.and_then(start);
            // One of which no time is known leaves the whole unknown.
            starts = starts.zip(start).map(|(latest, start)| latest.max(Some(start)));
        }
        let refusal = self.waits_for(rank, now);
        QueuePlace { position, predicted: starts.flatten(), refusal }
    }

    /// What goes before a waiter in a line.
    fn ahead(&self, id: LineId, waiter: &Waiter) -> Preceding {
        let (Some(line), rank) = (self.lines.find(id), waiter.rank()) else {
            return Preceding::default();
        };
        let mut ahead = Preceding::default();
        for other in line.in_order(waiter.ask().headroom()).take(COUNTED) {
            if other == rank {
                return ahead;
            }
            ahead.push(self.cost_of(other, id));
        }
        ahead.stretched(line.position(rank, waiter.ask()))
    }

    /// What goes before each waiter in each of its lines.
    fn all_ahead(&self) -> HashMap<(LineId, Rank), Preceding> {
        let mut all = HashMap::new();
        for (id, line) in self.lines.iter() {
            for class in line.classes() {
                let mut ahead = Preceding::default();
                for rank in line.in_order(class) {
                    let Some(waiter) = self.waiting.get(&rank) else { continue };
                    if waiter.ask().headroom() == class {
                        all.insert((id, rank), ahead);
                    }
                    ahead.push(waiter.ask().cost_on(id.bucket, id.rule).unwrap_or(0));
                }
            }
        }
        all
    }

    fn cost_of(&self, rank: Rank, id: LineId) -> u64 {
        let waiter = self.waiting.get(&rank);
        waiter.and_then(|waiter| waiter.ask().cost_on(id.bucket, id.rule)).unwrap_or(0)
    }
}

/// Time until a demand of this cost starts, given how long the front of its line has to wait: what
/// goes before it has to come back as well.
fn start(
    set: &BucketSet,
    id: LineId,
    ahead: Preceding,
    cost: u64,
    headroom: u64,
    front: Micros,
) -> Option<Micros> {
    if ahead.count == 0 || id.rule == PAUSE {
        return Some(front);
    }
    let mut meters = set.meters();
    let (_, meter) =
        meters.find(|(spec, meter)| spec.key.id() == id.bucket && meter.rule.id == id.rule)?;
    let Rule { limit, window, .. } = &meter.rule;
    let length = micros(meter.window?);
    let through = ahead.cost.saturating_add(cost);
    let capacity = meter.rule.capacity(headroom);
    Some(match window {
        // It may come back evenly, or all at once a window after it was used.
        Window::Sliding { slot, slots } => {
            front.max(time(through, slot.saturating_mul(*slots), capacity))
        }
        Window::TokenBucket(_) => {
            front.saturating_add(time(through.saturating_sub(ahead.first), length, *limit))
        }
        Window::Fixed { .. } | Window::Calendar { .. } => {
            let windows = through.saturating_sub(1) / capacity.max(1);
            front.saturating_add(windows.saturating_mul(length))
        }
        _ => return None,
    })
}

/// How long an amount takes to come back at `limit` per `window`.
fn time(amount: u64, window: Micros, limit: u64) -> Micros {
    let time = u128::from(amount) * u128::from(window) / u128::from(limit.max(1));
    Micros::try_from(time).unwrap_or(Micros::MAX)
}
