//! What the engine promises, tested on the state machine itself: example by example, and against a plain log.
//! Here is what the tests share: a world with a clock that they turn, and short ways to say what a rule is.

mod batches;
mod caps;
mod clock;
mod fixed_window;
mod in_flight;
mod leases;
mod live_change;
mod moves;
mod oracle;
mod range;
mod scenarios;
mod single;
mod sliding_window;
mod surfaced;
mod token_bucket;
mod waits;

use std::collections::HashMap;

use super::*;

const MS: Micros = 1_000;
const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;
const DAY: Micros = 24 * HOUR;

/// Some time in 2026, on no boundary of anything.
const START: Micros = 1_771_234_567_891_234;

/// The lane that the short forms use.
const LANE: u64 = 1;

fn token_bucket(id: u64, limit: u64, window: Micros, burst: u64) -> Rule {
    let shape = TokenBucket::new(1, window, burst, 4 * burst.max(limit), 4 * window, 96);
    Rule { id, limit, held: false, window: Window::TokenBucket(shape) }
}

fn sliding(id: u64, limit: u64, window: Micros, slots: u64) -> Rule {
    Rule { id, limit, held: false, window: Window::Sliding { slot: window.div_ceil(slots), slots } }
}

fn fixed(id: u64, limit: u64, length: Micros, anchor: Micros) -> Rule {
    Rule { id, limit, held: false, window: Window::Fixed { length, anchor } }
}

fn concurrency(id: u64, limit: u64) -> Rule {
    Rule { id, limit, held: false, window: Window::InFlight }
}

fn held(rule: Rule) -> Rule {
    Rule { held: true, ..rule }
}

/// A reservation that was granted.
#[derive(Clone, Debug)]
struct Grant {
    lane: u64,
    at: Micros,
    costs: Costs,
}

/// Buckets, a store's clock, and the lanes that send batches.
#[derive(Clone, Debug)]
struct World {
    states: Vec<BucketState>,
    rules: Vec<Vec<Rule>>,
    wall: Micros,
    lease: Micros,
    seqs: HashMap<u64, u64>,
    /// Reserves and settles come by themselves, as in a store whose callers have the bucket at hand.
    singly: bool,
}

impl World {
    /// One bucket.
    fn new(rules: impl Into<Vec<Rule>>) -> Self {
        Self::with_buckets(vec![rules.into()])
    }

    fn with_buckets(rules: Vec<Vec<Rule>>) -> Self {
        let states = vec![BucketState::unused(); rules.len()];
        Self { states, rules, wall: START, lease: 10 * SECOND, seqs: HashMap::new(), singly: false }
    }

    /// In-process state cannot outlive its process, so neither can a lease in it.
    fn singly(self, singly: bool) -> Self {
        let lease = if singly { 1 << 50 } else { self.lease };
        Self { singly, lease, ..self }
    }

    fn pass(&mut self, time: Micros) {
        self.wall += time;
    }

    /// Sends the batch `seq` of `lane`.
    fn send_as(&mut self, lane: u64, seq: u64, ops: &[Op]) -> Answer {
        let rules: Vec<&[Rule]> = self.rules.iter().map(Vec::as_slice).collect();
        let batch = Batch { lane, seq, lease: self.lease, rules: &rules, ops };
        apply(&mut self.states, &batch, self.wall)
    }

    /// Sends the next batch of `lane`: when it was applied, and the verdicts.
    fn send(&mut self, lane: u64, ops: &[Op]) -> (Micros, Verdicts) {
        if let ([op], true) = (ops, self.singly)
            && let Some((now, verdict)) = self.send_singly(lane, op)
        {
            return (now, Verdicts::from_iter([verdict]));
        }
        let seq = self.seqs.entry(lane).or_default();
        *seq += 1;
        let seq = *seq;
        match self.send_as(lane, seq, ops).outcome {
            Outcome::Applied { now, verdicts, .. } => (now, verdicts),
            other => panic!("not applied: {other:?}"),
        }
    }

    fn send_singly(&mut self, lane: u64, op: &Op) -> Option<(Micros, Verdict)> {
        let (state, wall) = (&mut self.states[0], self.wall);
        let single = Single { lane, lease: self.lease, rules: &self.rules[0] };
        match op {
            Op::Reserve { costs, headroom, explain, mode } => {
                let (headroom, explain) = (*headroom, *explain);
                let reserve = Reserve { costs, headroom, explain, mode: *mode };
                Some(match single.reserve(state, reserve, wall) {
                    Ok(now) if *mode == Mode::Dry => (now, Verdict::Fits),
                    Ok(now) => (now, Verdict::Granted),
                    Err(violations) => (wall, Verdict::Refused(violations)),
                })
            }
            Op::Settle { at, reserved, actual, close, claim: None } => {
                let _ = single.settle(state, *at, reserved, actual, *close, || wall);
                Some((wall, Verdict::Done))
            }
            _ => None,
        }
    }

    fn one(&mut self, lane: u64, op: Op) -> Verdict {
        self.send(lane, &[op]).1.remove(0)
    }

    /// Nothing but a sign of life.
    fn beat(&mut self, lane: u64) {
        self.send(lane, &[]);
    }

    fn reserve_by(&mut self, lane: u64, costs: &[u64]) -> Result<Grant, Vec<Violation>> {
        let (at, mut verdicts) = self.send(lane, &[reserve(costs)]);
        match verdicts.remove(0) {
            Verdict::Granted => Ok(Grant { lane, at, costs: costs.into() }),
            Verdict::Refused(violations) => Err(violations.into_vec()),
            other => panic!("{other:?}"),
        }
    }

    fn reserve(&mut self, costs: &[u64]) -> Result<Grant, Vec<Violation>> {
        self.reserve_by(LANE, costs)
    }

    /// A reserve that must pass.
    fn take(&mut self, costs: &[u64]) -> Grant {
        self.reserve(costs).unwrap_or_else(|refusal| panic!("{costs:?} refused: {refusal:?}"))
    }

    /// A reserve that must fail, and why it did.
    fn refused(&mut self, costs: &[u64]) -> Vec<Violation> {
        self.reserve(costs).expect_err("granted")
    }

    fn settle(&mut self, grant: &Grant, actual: &[u64]) {
        assert_eq!(self.one(grant.lane, settle(grant, actual)), Verdict::Done);
    }

    fn level(&self, index: usize) -> Level {
        let mut copy = self.clone();
        match copy.one(0, Op::Status) {
            Verdict::Status(levels, _) => levels[index],
            other => panic!("{other:?}"),
        }
    }

    fn rule(&self, index: usize) -> &Rule {
        self.rules.iter().flatten().nth(index).unwrap()
    }

    /// Units in a token of the rule at `index`.
    fn units(&self, index: usize) -> u64 {
        match &self.rule(index).window {
            Window::TokenBucket(shape) => shape.units,
            _ => 1,
        }
    }

    /// What is left of the rule at `index` for a class without headroom, in its units.
    fn left(&self, index: usize) -> i64 {
        let Level { charged, in_flight, .. } = self.level(index);
        let (rule, units) = (self.rule(index), self.units(index));
        let held = if rule.holds() { in_flight * units } else { 0 };
        (rule.capacity(0) * units) as i64 - (charged + held) as i64
    }

    /// The same in whole tokens.
    fn available(&self, index: usize) -> i64 {
        self.left(index).div_euclid(self.units(index) as i64)
    }
}

fn reserve(costs: &[u64]) -> Op {
    Op::Reserve { costs: costs.into(), headroom: 0, explain: true, mode: Mode::Try }
}

fn settle(grant: &Grant, actual: &[u64]) -> Op {
    Op::Settle {
        at: grant.at,
        reserved: grant.costs.clone(),
        actual: actual.into(),
        close: true,
        claim: None,
    }
}

fn adjust(grant: &Grant, actual: &[u64]) -> Op {
    Op::Settle {
        at: grant.at,
        reserved: grant.costs.clone(),
        actual: actual.into(),
        close: false,
        claim: None,
    }
}
