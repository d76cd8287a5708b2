//! What the engine promises, tested on the state machine itself: example by example, and against
//! plain models. Here is what the tests share: a world with a clock that they turn, and short ways
//! to say what a rule is.

mod batches;
mod bytes;
mod caps;
mod clock;
mod disagreement;
mod fixed_window;
mod fleet;
mod flows;
mod gates;
mod heads;
mod in_flight;
mod leases;
mod live_change;
mod liveness;
mod moves;
mod oracle;
mod range;
mod records;
mod scenarios;
mod sliding_window;
mod surfaced;
mod token_bucket;
mod waits;
mod wakes;

use std::collections::HashMap;

use super::*;
use crate::store::{Bucket, BucketKey};

const MS: Micros = 1_000;
const SECOND: Micros = 1_000_000;
const MINUTE: Micros = 60 * SECOND;
const HOUR: Micros = 60 * MINUTE;
const DAY: Micros = 24 * HOUR;

/// Some time in 2026, on no boundary of anything.
const START: Micros = 1_771_234_567_891_234;

/// The session that the short forms use.
const SESSION: u64 = 1;

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
    session: u64,
    /// Its buckets, among those of the world.
    on: On,
    at: Times,
    costs: Costs,
    probe: bool,
}

/// What became of a batch that was applied.
#[derive(Clone, Debug, PartialEq)]
struct Sent {
    seen: Vec<Seen>,
    verdicts: Verdicts,
    wakes: Wakes,
}

impl Sent {
    /// The time of the first bucket.
    fn now(&self) -> Micros {
        self.seen[0].now
    }
}

/// Buckets, a store's clock, and the sessions that send batches.
#[derive(Clone, Debug)]
struct World {
    states: Vec<BucketState>,
    rules: Vec<Vec<Rule>>,
    wall: Micros,
    lease: Micros,
    seqs: HashMap<u64, u64>,
}

impl World {
    /// One bucket.
    fn new(rules: impl Into<Vec<Rule>>) -> Self {
        Self::with_buckets(vec![rules.into()])
    }

    fn with_buckets(rules: Vec<Vec<Rule>>) -> Self {
        let states = vec![BucketState::unused(); rules.len()];
        Self { states, rules, wall: START, lease: 10 * SECOND, seqs: HashMap::new() }
    }

    fn pass(&mut self, time: Micros) {
        self.wall += time;
    }

    /// Indexes of all buckets.
    fn all(&self) -> On {
        (0..self.states.len() as u16).collect()
    }

    fn key(bucket: u16) -> BucketKey {
        BucketKey::with_id(Self::id(bucket))
    }

    /// The id of a bucket: not its index.
    fn id(bucket: u16) -> u64 {
        101 + u64::from(bucket)
    }

    /// Sends the batch `seq` of `session` to some buckets, whose indexes in the operations are
    /// those in `on`.
    fn send_on_as(&mut self, session: u64, seq: u64, on: &[u16], ops: &[Op]) -> (Answer, Wakes) {
        let buckets: Vec<_> = on
            .iter()
            .map(|&bucket| {
                let rules = self.rules[usize::from(bucket)].as_slice();
                Bucket::new(Self::key(bucket).into(), rules.into())
            })
            .collect();
        let mut states: Vec<_> = self.states.iter_mut().map(Some).collect();
        let mut states: Vec<_> = on
            .iter()
            .map(|&bucket| states[usize::from(bucket)].take().expect("no bucket twice"))
            .collect();
        let batch = Batch::new(session, seq, self.lease, &buckets, ops);
        let result = apply(&mut states, &batch, self.wall);
        if seq % 16 == 1 && ops.len() < 1_000 {
            // Whatever a test does to a state, its bytes say all of it. Some of them: it takes
            // time.
            let small = states.iter().filter(|state| state.records().count() <= 100);
            small.for_each(|state| bytes::assert_round_trip(state));
        }
        result
    }

    /// Sends the batch `seq` of `session`.
    fn send_as(&mut self, session: u64, seq: u64, ops: &[Op]) -> Answer {
        self.send_on_as(session, seq, &self.all(), ops).0
    }

    /// Sends the next batch of `session` to some buckets.
    fn send_on(&mut self, session: u64, on: &[u16], ops: &[Op]) -> Sent {
        let seq = self.seqs.entry(session).or_default();
        *seq += 1;
        let seq = *seq;
        let (answer, wakes) = self.send_on_as(session, seq, on, ops);
        match answer.outcome {
            Outcome::Applied { buckets, verdicts } => {
                Sent { seen: buckets.into_vec(), verdicts, wakes }
            }
            other => panic!("not applied: {other:?}"),
        }
    }

    /// Sends the next batch of `session`.
    fn send(&mut self, session: u64, ops: &[Op]) -> Sent {
        self.send_on(session, &self.all(), ops)
    }

    fn one(&mut self, session: u64, op: Op) -> Verdict {
        self.send(session, &[op]).verdicts.remove(0)
    }

    /// Nothing but a sign of life.
    fn beat(&mut self, session: u64) -> Vec<Seen> {
        self.send(session, &[]).seen
    }

    /// A demand on all buckets.
    fn demand(&self, costs: &[u64]) -> Reserve {
        Reserve { on: self.all(), ..demand(costs) }
    }

    fn reserve_by(&mut self, session: u64, costs: &[u64]) -> Result<Grant, Vec<Violation>> {
        let on = self.all();
        let mut sent = self.send(session, &[Op::Reserve(self.demand(costs))]);
        let at = sent.seen.iter().map(|seen| seen.now).collect();
        match sent.verdicts.remove(0) {
            Verdict::Granted { probe } => Ok(Grant { session, on, at, costs: costs.into(), probe }),
            Verdict::Refused(refused) => {
                assert!(!refused.violations.is_empty(), "refused without a reason");
                Err(refused.violations.into_vec())
            }
            other => panic!("{other:?}"),
        }
    }

    fn reserve(&mut self, costs: &[u64]) -> Result<Grant, Vec<Violation>> {
        self.reserve_by(SESSION, costs)
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
        assert_eq!(self.one(grant.session, settle(grant, actual)), Verdict::Done);
    }

    /// A bucket as the last batch left it.
    fn seen(&self, bucket: usize) -> Seen {
        self.states[bucket].seen(0)
    }

    fn status(&self, bucket: u16) -> BucketLevel {
        match self.clone().one(0, Op::Status { bucket }) {
            Verdict::Status(level) => *level,
            other => panic!("{other:?}"),
        }
    }

    /// How the rule at `index` stands, of those of all buckets.
    fn level(&self, index: usize) -> Level {
        let buckets = self.rules.iter().enumerate();
        let mut all =
            buckets.flat_map(|(bucket, rules)| (0..rules.len()).map(move |rule| (bucket, rule)));
        let (bucket, rule) = all.nth(index).unwrap();
        self.status(bucket as u16).quotas[rule]
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

    /// What is left in whole tokens.
    fn available(&self, index: usize) -> i64 {
        self.left(index).div_euclid(self.units(index) as i64)
    }
}

/// A demand on the first bucket that does not wait.
fn demand(costs: &[u64]) -> Reserve {
    Reserve {
        on: [0].as_slice().into(),
        costs: costs.into(),
        headroom: 0,
        mode: Mode::Try,
        waiter: 0,
        age: 0,
        patience: MAX_AMOUNT,
        flow: Flow::default(),
    }
}

fn reserve(costs: &[u64]) -> Op {
    Op::Reserve(demand(costs))
}

fn is_granted(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Granted { .. })
}

fn is_refused(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(_))
}

fn violations(verdict: &Verdict) -> &[Violation] {
    match verdict {
        Verdict::Refused(refused) => &refused.violations,
        other => panic!("{other:?}"),
    }
}

fn amendment(grant: &Grant, actual: &[u64]) -> Settle {
    Settle {
        on: grant.on.clone(),
        at: grant.at.clone(),
        reserved: grant.costs.clone(),
        actual: actual.into(),
        close: true,
        claim: None,
    }
}

fn settle(grant: &Grant, actual: &[u64]) -> Op {
    Op::Settle(amendment(grant, actual))
}

fn adjust(grant: &Grant, actual: &[u64]) -> Op {
    Op::Settle(Settle { close: false, ..amendment(grant, actual) })
}

fn detach(grant: &Grant, claim: u64, lease: Micros) -> Op {
    Op::Detach { on: grant.on.clone(), claim, reserved: grant.costs.clone(), lease }
}
