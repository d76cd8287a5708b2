//! The operations of one batch, one after the other, on states that have been brought to the present.

use smallvec::SmallVec;

use super::{
    BucketState, Micros, Mode, Op, Paused, RefusedBy, Rule, Verdict, Violation,
    charge::{Reserve, Settle},
    exact::sum,
    quota_state::{Ask, QuotaState},
    rule::MAX_TAKEN,
};

/// A batch on its way through states that have been brought to the present.
pub(super) struct Step<'a> {
    states: &'a mut [BucketState],
    rules: &'a [&'a [Rule]],
    lane: u64,
    now: Micros,
    wall: Micros,
    /// Since the last refold.
    settled: bool,
    /// Per rule, what the reserves refused in this batch ask for. Empty until one is refused.
    ahead: SmallVec<[Ahead; 4]>,
}

/// What stands before a reserve on one quota.
#[derive(Clone, Copy, Default)]
struct Ahead {
    amount: u64,
    /// The largest capacity among those of them that need some: who may use more than this is not behind them.
    capacity: u64,
}

impl<'a> Step<'a> {
    /// Brings the states to the present.
    pub(super) fn begin(
        states: &'a mut [BucketState],
        rules: &'a [&'a [Rule]],
        lane: u64,
        now: Micros,
        wall: Micros,
    ) -> Self {
        for (state, rules) in states.iter_mut().zip(rules) {
            state.advance(rules, now, wall);
        }
        Self { states, rules, lane, now, wall, settled: false, ahead: SmallVec::new() }
    }

    /// Makes everything count, and gives the lane time until its next batch.
    pub(super) fn end(mut self, lease: Micros) {
        self.refold();
        for (state, rules) in self.states.iter_mut().zip(self.rules) {
            let lane = state.enter(self.lane);
            state.end(lane, lease, rules, self.wall);
        }
    }

    pub(super) fn apply(&mut self, op: &Op) -> Verdict {
        match op {
            Op::Reserve { costs, headroom, explain, mode } => {
                let (headroom, explain, mode) = (*headroom, *explain, *mode);
                self.reserve(Reserve { costs, headroom, explain, mode })
            }
            Op::Settle { at, reserved, actual, close, claim } => {
                self.settle(*at, reserved, actual, *close, *claim)
            }
            Op::Detach { claim, reserved, lease } => self.detach(*claim, reserved, *lease),
            Op::Pause(duration) => self.pause(*duration),
            Op::Surface { quota, asked, lasts } => self.surface(*quota, *asked, *lasts),
            Op::Cap { quota, left, at, lasts } => self.cap(*quota, *left, *at, *lasts),
            Op::Status => self.status(),
        }
    }

    /// Every quota of the batch: its index, rule and state.
    fn quotas(&self) -> impl Iterator<Item = (usize, &Rule, &QuotaState)> {
        let pairs = self.rules.iter().zip(self.states.iter());
        pairs
            .flat_map(|(rules, state)| rules.iter().zip(&state.quotas))
            .enumerate()
            .map(|(k, (r, q))| (k, r, q))
    }

    pub(super) fn reserve(&mut self, reserve: Reserve<'_>) -> Verdict {
        let Reserve { costs, headroom, mode, .. } = reserve;
        self.refold();
        if !self.fits(costs, headroom) {
            return Verdict::Refused(self.refuse(reserve));
        }
        if mode == Mode::Dry {
            return Verdict::Fits;
        }
        let mut costs = costs;
        for (rules, bucket) in self.rules.iter().zip(self.states.iter_mut()) {
            let costs = next_bucket(&mut costs, rules);
            let lane = bucket.enter(self.lane);
            bucket.reserve(lane, rules, costs);
        }
        Verdict::Granted
    }

    fn ask(&self, k: usize, rule: &Rule, cost: u64, headroom: u64) -> Ask {
        let capacity = rule.capacity_for(cost, headroom);
        let ahead = match self.ahead.get(k) {
            Some(ahead) if capacity <= ahead.capacity => ahead.amount,
            _ => 0,
        };
        Ask { cost, ahead, capacity }
    }

    fn fits(&self, costs: &[u64], headroom: u64) -> bool {
        let (mut costs, mut before) = (costs, 0);
        self.rules.iter().zip(self.states.iter()).all(|(rules, bucket)| {
            let first = before;
            before += rules.len();
            let ask = |index, rule: &Rule, cost| self.ask(first + index, rule, cost, headroom);
            bucket.fits(rules, next_bucket(&mut costs, rules), ask)
        })
    }

    fn refuse(&mut self, reserve: Reserve<'_>) -> Box<[Violation]> {
        let Reserve { costs, headroom, explain, mode } = reserve;
        // What is not to wait has to know that, and stands in nobody's way.
        let goes_away = self.is_surfaced(costs);
        let is_told = explain || goes_away || (mode == Mode::Wait && self.ahead.is_empty());
        let violations = if is_told { self.violations(costs, headroom) } else { Box::default() };
        if mode == Mode::Wait && !goes_away {
            self.stand_ahead(costs, headroom);
        }
        violations
    }

    /// Whether what holds back these costs is a pause that nobody waits out.
    fn is_surfaced(&self, costs: &[u64]) -> bool {
        let mut quotas = self.quotas().zip(costs);
        self.states.iter().any(|bucket| bucket.asked().is_some())
            || quotas.any(|((_, _, state), &cost)| state.asked(cost, self.now).is_some())
    }

    fn violations(&self, costs: &[u64], headroom: u64) -> Box<[Violation]> {
        let paused =
            self.states.iter().enumerate().filter(|(_, bucket)| bucket.paused_until > self.now);
        let pauses = paused.map(|(index, bucket)| {
            let (by, wait) = (RefusedBy::Pause(index), bucket.paused_until - self.now);
            Violation { by, available: 0, wait: Some(wait), at_best: wait, asked: bucket.asked() }
        });
        let quotas = self.quotas().zip(costs).filter_map(|((k, rule, state), &cost)| {
            let ask = self.ask(k, rule, cost, headroom);
            if state.fits(rule, ask) {
                return None;
            }
            let shortage = state.shortage(rule, ask, self.now, self.wall);
            Some(Violation {
                by: RefusedBy::Rule(k),
                available: shortage.available,
                wait: shortage.wait,
                at_best: shortage.at_best,
                asked: state.asked(cost, self.now),
            })
        });
        pauses.chain(quotas).collect()
    }

    /// Lets a refused reserve keep its place before those after it in the batch.
    fn stand_ahead(&mut self, costs: &[u64], headroom: u64) {
        self.ahead.resize(costs.len(), Ahead::default());
        let rules = self.rules.iter().copied().flatten();
        for ((ahead, rule), &cost) in self.ahead.iter_mut().zip(rules).zip(costs) {
            // Who needs nothing of a quota stands before nobody there.
            if cost > 0 {
                // More than a few windows ahead makes no difference to an answer, and amounts stay exact.
                ahead.amount = sum(ahead.amount, cost).min(4 * rule.capacity(0));
                ahead.capacity = ahead.capacity.max(rule.capacity(headroom));
            }
        }
    }

    fn settle(
        &mut self,
        at: Micros,
        reserved: &[u64],
        actual: &[u64],
        close: bool,
        claim: Option<u64>,
    ) -> Verdict {
        let (owner, is_claim) = (claim.unwrap_or(self.lane), claim.is_some());
        if is_claim && self.states.iter().any(|bucket| bucket.lane(owner).is_none()) {
            return Verdict::NoClaim;
        }
        self.settled = true;
        let (mut reserved, mut actual) = (reserved, actual);
        for (rules, bucket) in self.rules.iter().zip(self.states.iter_mut()) {
            let (reserved, actual) =
                (next_bucket(&mut reserved, rules), next_bucket(&mut actual, rules));
            let lane = bucket.enter(owner);
            bucket.settle(lane, rules, Settle { at, reserved, actual, close, is_claim });
            if is_claim && close {
                bucket.end_claim(lane);
            }
        }
        Verdict::Done
    }

    fn detach(&mut self, claim: u64, reserved: &[u64], lease: Micros) -> Verdict {
        let mut reserved = reserved;
        for (rules, bucket) in self.rules.iter().zip(self.states.iter_mut()) {
            let (from, to) = (bucket.enter(self.lane), bucket.enter(claim));
            for (index, (rule, &amount)) in
                rules.iter().zip(next_bucket(&mut reserved, rules)).enumerate()
            {
                let share = bucket.lanes[from].share(index, rule.id);
                let moved = amount.min(*share);
                *share -= moved;
                let share = bucket.lanes[to].share(index, rule.id);
                *share = (*share + moved).min(MAX_TAKEN);
            }
            let until = sum(self.now, lease);
            bucket.extend(to, until, until);
            bucket.keep_while_charged(rules, lease, self.wall);
        }
        Verdict::Done
    }

    fn pause(&mut self, duration: Micros) -> Verdict {
        match self.states.first_mut() {
            Some(bucket) if duration == 0 => bucket.resume(),
            Some(bucket) => bucket.paused_until = bucket.paused_until.max(sum(self.now, duration)),
            None => {}
        }
        Verdict::Done
    }

    fn surface(&mut self, quota: Option<u64>, asked: Micros, lasts: Micros) -> Verdict {
        let now = self.now;
        let (until, asked_until) = (sum(now, lasts), sum(now, asked));
        if let Some(id) = quota {
            if let Some((rule, state)) = self.quota_of_first(id) {
                state.surface(rule, until, asked_until, now);
            }
        } else if let Some(bucket) = self.states.first_mut() {
            bucket.surface(until, asked_until);
        }
        Verdict::Done
    }

    fn cap(&mut self, quota: u64, left: Option<u64>, at: Micros, lasts: Micros) -> Verdict {
        self.refold();
        let (now, wall) = (self.now, self.wall);
        if let Some((rule, state)) = self.quota_of_first(quota) {
            match left {
                Some(left) => state.withhold(rule, left, at, lasts, now, wall),
                None => state.pause(rule, sum(now, lasts)),
            }
        }
        Verdict::Done
    }

    /// The first bucket's quota of this id.
    fn quota_of_first(&mut self, id: u64) -> Option<(&Rule, &mut QuotaState)> {
        let (rules, bucket) = self.rules.first().zip(self.states.first_mut())?;
        rules.iter().zip(&mut bucket.quotas).find(|(rule, _)| rule.id == id)
    }

    fn status(&mut self) -> Verdict {
        self.refold();
        let levels =
            self.quotas().map(|(_, rule, state)| state.level(rule, self.now, self.wall)).collect();
        let first = self.states.first().filter(|bucket| bucket.paused_until > self.now);
        let paused = first.map(|bucket| Paused {
            until: bucket.paused_until,
            asked_until: bucket.asked().map_or(0, |asked| sum(self.now, asked)),
        });
        Verdict::Status(levels, paused.unwrap_or_default())
    }

    /// Makes the edits of the settles so far count.
    fn refold(&mut self) {
        if !std::mem::take(&mut self.settled) {
            return;
        }
        self.states.iter_mut().for_each(BucketState::refold);
    }
}

/// Takes the amounts of the next bucket off the front.
fn next_bucket<'a>(amounts: &mut &'a [u64], rules: &[Rule]) -> &'a [u64] {
    let (these, others) = amounts.split_at(rules.len().min(amounts.len()));
    *amounts = others;
    these
}
