//! Random batches, of the kinds that matter: what sessions do, what goes wrong, and what lies near
//! a limit.

use fastrand::Rng;

use super::rules::{limit, rechart, rule, token_bucket};
use crate::engine::{
    Answer, Costs, Flow, Line, MAX_AMOUNT, Micros, Mode, On, Op, Outcome, Reserve, Rule, Settle,
    Times, Verdict, Window,
};

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const DAY: Micros = 86_400 * SECOND;

pub(super) const BUCKETS: usize = 3;

/// The bucket in which no flows take turns: there operations come as they are.
const FLOWLESS: usize = 0;

/// What happens to some buckets, at random.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) wall: Micros,
    /// What identifies the buckets.
    ids: [u64; BUCKETS],
    /// Every rule that some session may use, by bucket.
    rules: Vec<Vec<Rule>>,
    sessions: Vec<Session>,
    claims: Vec<(u64, Reservation)>,
    /// Most demands fit, and are settled on less than was reserved.
    calm: bool,
}

struct Session {
    id: u64,
    seq: u64,
    lease: Micros,
    /// The rules it goes by, of each bucket, by index.
    rules: Vec<Vec<usize>>,
    reservations: Vec<Reservation>,
    waiters: Vec<Reserve>,
    /// What it sent of late, and may send again.
    sent: Vec<Sending>,
}

/// Buckets are those of the world here, not of a batch.
#[derive(Clone)]
struct Reservation {
    on: On,
    at: Times,
    costs: Costs,
}

/// One batch.
#[derive(Clone)]
pub(super) struct Sending {
    pub(super) session: u64,
    pub(super) seq: u64,
    pub(super) lease: Micros,
    /// Indexes of its buckets.
    pub(super) buckets: Vec<usize>,
    /// The rules of each of them.
    pub(super) rules: Vec<Vec<Rule>>,
    pub(super) ops: Vec<Op>,
    by: usize,
}

impl World {
    /// A world in which anything happens, or a calm one.
    pub(super) fn new(seed: u64, ids: [u64; BUCKETS], calm: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let wall = 1_700_000_000 * SECOND + rng.u64(0..DAY);
        let mut rule = |id| {
            let mut rule = rule(&mut rng, id, wall);
            match &mut rule.window {
                Window::InFlight => {}
                Window::TokenBucket(shape) if calm => shape.burst = shape.burst.max(100_000),
                _ if calm => rule.limit = rule.limit.max(100_000),
                _ => {}
            }
            rule
        };
        let rules = (0..BUCKETS)
            .map(|bucket| (1..=8).map(|n| rule((bucket * 8 + n) as u64)).collect())
            .collect();
        let sessions = (0..5).map(|_| Session::new(&mut rng)).collect();
        Self { rng, wall, ids, rules, sessions, claims: Vec::new(), calm }
    }

    /// The next batch. Steps time first, and changes some rules now and then.
    pub(super) fn next(&mut self, ops: usize) -> Sending {
        self.step_time();
        if self.rng.u8(..) < if self.calm { 2 } else { 8 } {
            self.change_rules();
        }
        let by = self.rng.usize(..self.sessions.len());
        if self.rng.u8(..) < 2 {
            // A process that starts anew.
            self.sessions[by] = Session::new(&mut self.rng);
        }
        if self.rng.u8(..) < 10 && !self.sessions[by].sent.is_empty() {
            let newest = self.sessions[by].sent.len() - 1;
            let index = if self.rng.bool() { newest } else { self.rng.usize(..=newest) };
            return self.sessions[by].sent[index].clone();
        }
        let mut buckets: Vec<usize> = (0..BUCKETS).collect();
        self.rng.shuffle(&mut buckets);
        buckets.truncate(self.rng.usize(1..=BUCKETS));
        let count = 1 + self.rng.usize(..2 * ops);
        let mut ops: Vec<Op> = Vec::with_capacity(count);
        // What is alike is one run in a message.
        let in_runs = self.rng.bool();
        while ops.len() < count {
            let alike = ops.last().filter(|_| in_runs && self.rng.u8(..8) > 0).cloned();
            let op = alike.and_then(|op| self.alike(by, &buckets, op));
            ops.push(op.unwrap_or_else(|| self.op(by, &buckets)));
        }
        for index in 0..buckets.len() {
            if self.rng.u8(..20) < if self.calm { 1 } else { 8 } {
                let told = self.waiting(by, &buckets, index);
                ops.insert(self.rng.usize(..=ops.len()), told);
            }
        }
        let (rng, session) = (&mut self.rng, &mut self.sessions[by]);
        session.seq += rng.u64(1..3);
        let seq = if rng.u8(..) < 3 { 0 } else { session.seq };
        let rules = buckets.iter().map(|&bucket| {
            let rules = session.rules[bucket].iter();
            rules.map(|&rule| rechart(rng, &self.rules[bucket][rule], self.wall)).collect()
        });
        let rules = rules.collect();
        Sending { session: session.id, seq, lease: session.lease, buckets, rules, ops, by }
    }

    /// Keeps what was granted, so that it can be settled, and what waits.
    pub(super) fn learn(&mut self, sent: &Sending, answer: &Answer) {
        let session = &mut self.sessions[sent.by];
        let Outcome::Applied { buckets, verdicts } = &answer.outcome else {
            if answer.outcome == Outcome::Stale && sent.seq == session.seq {
                // Its id is a claim's.
                *session = Session::new(&mut self.rng);
            }
            return;
        };
        if session.id != sent.session {
            return;
        }
        let world = |on: &On| -> On {
            on.iter().map(|&bucket| sent.buckets[usize::from(bucket)] as u16).collect()
        };
        let times = |on: &On| -> Times {
            on.iter().map(|&bucket| buckets[usize::from(bucket)].now).collect()
        };
        for (op, verdict) in sent.ops.iter().zip(verdicts) {
            match (op, verdict) {
                (Op::Reserve(reserve), Verdict::Granted { .. }) => {
                    session.waiters.retain(|waiter| waiter.waiter != reserve.waiter);
                    let Reserve { on, costs, .. } = reserve;
                    let reservation =
                        Reservation { on: world(on), at: times(on), costs: costs.clone() };
                    session.reservations.push(reservation);
                }
                (Op::Reserve(reserve), Verdict::Refused(_))
                    if reserve.waiter > 0
                        && session.waiters.iter().all(|waiter| waiter.waiter != reserve.waiter) =>
                {
                    session.waiters.push(Reserve { on: world(&reserve.on), ..reserve.clone() });
                }
                (Op::Detach { on, claim, reserved, .. }, Verdict::Done) => {
                    let reservation =
                        Reservation { on: world(on), at: times(on), costs: reserved.clone() };
                    self.claims.push((*claim, reservation));
                }
                _ => {}
            }
        }
        session.reservations.truncate(200);
        let (waiters, sendings) = (session.waiters.len(), session.sent.len());
        session.waiters.drain(..waiters.saturating_sub(12));
        session.sent.drain(..sendings.saturating_sub(6));
        if sent.seq > 0 && session.sent.iter().all(|other| other.seq != sent.seq) {
            session.sent.push(sent.clone());
        }
        let claims = self.claims.len();
        self.claims.drain(..claims.saturating_sub(50));
    }

    fn step_time(&mut self) {
        let rng = &mut self.rng;
        let (step, back) = match rng.u16(..1000) {
            0..300 => (0, false),
            300..600 => (rng.u64(..5_000), false),
            600..750 => (rng.u64(..300_000), false),
            750..900 => (rng.u64(..2 * SECOND), false),
            900..960 => (rng.u64(..60 * SECOND), false),
            960..980 => (rng.u64(..2_000 * SECOND), false),
            980..984 => (rng.u64(..40 * DAY), false),
            984..996 => (rng.u64(..SECOND), true),
            _ => (rng.u64(..DAY), true),
        };
        self.wall = if back { self.wall - step } else { self.wall + step };
    }

    /// Other limits, or other quotas, are deployed.
    fn change_rules(&mut self) {
        let rng = &mut self.rng;
        let bucket = rng.usize(..BUCKETS);
        let rule = rng.choice(&mut self.rules[bucket]).expect("rules");
        match &mut rule.window {
            Window::TokenBucket(shape) => {
                // Most changes are of the limit alone.
                match rng.u8(..3) {
                    0 => {
                        let finer = rng.bool();
                        *shape = token_bucket(rng, rule.id, if finer { 1 } else { 1_000 });
                        rule.limit = limit(rng);
                    }
                    1 => {
                        let more = 2 * shape.burst;
                        if more * shape.units * 16 < MAX_AMOUNT {
                            shape.burst = if rng.bool() { more } else { shape.burst.div_ceil(2) };
                            shape.max_debt = shape.burst * rng.u64(..8);
                        }
                    }
                    _ => rule.limit = if rng.bool() { limit(rng) } else { rule.limit + 1 },
                }
            }
            Window::InFlight => rule.limit = rng.u64(1..200),
            _ => rule.limit = limit(rng),
        }
        let session = rng.choice(&mut self.sessions).expect("sessions");
        session.rules[bucket] = some_rules(rng);
        // What it knew is about other quotas now.
        session.reservations.clear();
        session.waiters.clear();
        self.claims.clear();
    }

    /// The rules of these buckets, of a batch of these, as a session goes by them.
    fn rules_on(&self, by: usize, buckets: &[usize], on: &On) -> Vec<&Rule> {
        let buckets = on.iter().map(|&bucket| buckets[usize::from(bucket)]);
        let rules = buckets.flat_map(|bucket| {
            self.sessions[by].rules[bucket].iter().map(move |&rule| &self.rules[bucket][rule])
        });
        rules.collect()
    }

    fn limits_on(&self, by: usize, buckets: &[usize], on: &On) -> Vec<u64> {
        self.rules_on(by, buckets, on).iter().map(|rule| rule.capacity(0)).collect()
    }

    fn op(&mut self, by: usize, buckets: &[usize]) -> Op {
        let on = self.some_buckets(buckets.len());
        let limits = self.limits_on(by, buckets, &on);
        let kind = match self.rng.u8(..100) {
            // What a provider says is rare, and all in flight is settled some time.
            85.. if self.calm && self.rng.u8(..8) > 0 => 50,
            kind => kind,
        };
        match kind {
            0..45 => Op::Reserve(self.reserve(by, buckets, on, &limits)),
            45..85 => Op::Settle(self.settle(by, buckets, on, limits)),
            85..89 => {
                let Reservation { on, costs: mut reserved, .. } =
                    self.remembered(by, buckets, &on, &limits);
                fit(&mut reserved, &self.limits_on(by, buckets, &on));
                let rng = &mut self.rng;
                let claim = match rng.u8(..20) {
                    0 => self.sessions[by].id,
                    // Of another one, whether the bucket knows it or not.
                    1 => self.sessions[(by + 1) % self.sessions.len()].id,
                    _ => rng.u64(1..100),
                };
                Op::Detach { on, claim, reserved, lease: rng.u64(..100 * SECOND) }
            }
            89..98 => self.said(by, buckets),
            _ => Op::Status { bucket: self.rng.u16(..buckets.len() as u16) },
        }
    }

    /// An operation like this one, with numbers that may differ.
    fn alike(&mut self, by: usize, buckets: &[usize], op: Op) -> Option<Op> {
        match op {
            Op::Reserve(reserve) => {
                let on = reserve.on.clone();
                let limits = self.limits_on(by, buckets, &on);
                let other = self.reserve(by, buckets, on, &limits);
                if other.on != reserve.on {
                    return None;
                }
                let costs = if self.rng.bool() { other.costs } else { reserve.costs.clone() };
                Some(Op::Reserve(Reserve {
                    costs,
                    waiter: other.waiter,
                    age: other.age,
                    ..reserve
                }))
            }
            Op::Settle(settle) if settle.claim.is_none() => {
                let on = settle.on.clone();
                let limits = self.limits_on(by, buckets, &on);
                let other = self.settle(by, buckets, on, limits);
                let is_alike = other.claim.is_none() && other.on == settle.on;
                is_alike.then(|| Op::Settle(Settle { close: settle.close, ..other }))
            }
            _ => None,
        }
    }

    /// Some buckets of a batch of so many, in any order.
    fn some_buckets(&mut self, count: usize) -> On {
        let mut on: Vec<u16> = (0..count as u16).collect();
        if self.rng.bool() {
            self.rng.shuffle(&mut on);
        }
        on.truncate(self.rng.usize(1..=count));
        on.into()
    }

    fn reserve(&mut self, by: usize, buckets: &[usize], on: On, limits: &[u64]) -> Reserve {
        let rng = &mut self.rng;
        let session = &self.sessions[by];
        let mode = [Mode::Wait, Mode::Wait, Mode::Try, Mode::Dry, Mode::Charge][rng.usize(..5)];
        if mode == Mode::Wait && rng.bool() && !session.waiters.is_empty() {
            // One that waits comes back, if its buckets are here.
            let waiter = &session.waiters[rng.usize(..session.waiters.len())];
            if let Some(on) = places(buckets, &waiter.on) {
                let mut costs = waiter.costs.clone();
                // What it asked when its session went by other rules.
                fit(&mut costs, &self.limits_on(by, buckets, &on));
                let (rng, waiter) = (&mut self.rng, waiter.clone());
                return Reserve { on, costs, age: waiter.age + rng.u64(..SECOND), ..waiter };
            }
        }
        let space = on.last().map_or(FLOWLESS, |&bucket| buckets[usize::from(bucket)]);
        let flow = if space == FLOWLESS || rng.bool() { 0 } else { rng.u64(1..5) };
        Reserve {
            on,
            costs: if self.calm { small_costs(rng, limits) } else { costs(rng, limits) },
            headroom: [0, 0, 0, 1_000, 9_999, 10_000][rng.usize(..6)],
            mode,
            waiter: if rng.u8(..4) == 0 { 0 } else { rng.u64(1..1_000) },
            age: [0, rng.u64(..100_000), rng.u64(..40 * SECOND)][rng.usize(..3)],
            patience: [MAX_AMOUNT, MAX_AMOUNT, 0, rng.u64(..40 * SECOND)][rng.usize(..4)],
            flow: Flow { id: flow, weight: 1 + flow as u32 % 3 },
        }
    }

    fn settle(&mut self, by: usize, buckets: &[usize], on: On, limits: Vec<u64>) -> Settle {
        let (claim, reservation) = match self.rng.u8(..10) {
            0 => match self.claims.iter().rev().find(|(_, r)| places(buckets, &r.on).is_some()) {
                Some((claim, reservation)) => (
                    Some(*claim),
                    Reservation {
                        on: places(buckets, &reservation.on).expect("they are"),
                        ..reservation.clone()
                    },
                ),
                // No claim, or the id of a session, which is none.
                None if self.rng.bool() => {
                    (Some(self.rng.u64(1..100)), self.invented(&on, &limits))
                }
                None => {
                    let session = self.rng.usize(..self.sessions.len());
                    (Some(self.sessions[session].id), self.invented(&on, &limits))
                }
            },
            1 => (None, self.invented(&on, &limits)),
            _ => (None, self.remembered(by, buckets, &on, &limits)),
        };
        let Reservation { on, at, costs: mut reserved } = reservation;
        let rules = self.rules_on(by, buckets, &on);
        let limits: Vec<u64> = rules.iter().map(|rule| rule.capacity(0)).collect();
        // What a caller's actual usage is cut to.
        let believed: Vec<u64> =
            rules.iter().map(|rule| rule.capacity(0) + max_debt(rule)).collect();
        // What was granted, or claimed, when a limit was another, or by a session that goes by
        // other rules.
        fit(&mut reserved, &limits);
        let rng = &mut self.rng;
        let actual = match rng.u8(..if self.calm { 60 } else { 4 }) {
            0 => costs(rng, &believed),
            1 => reserved.clone(),
            _ => reserved.iter().map(|&cost| rng.u64(..=cost)).collect(),
        };
        Settle { on, at, reserved, actual, close: rng.u8(..5) > 0, claim }
    }

    /// A reservation that the session has, which it then has no longer; if it is of other buckets,
    /// one that it never had.
    fn remembered(&mut self, by: usize, buckets: &[usize], on: &On, limits: &[u64]) -> Reservation {
        let reservations = &mut self.sessions[by].reservations;
        if reservations.is_empty() {
            return self.invented(on, limits);
        }
        let index = self.rng.usize(..reservations.len());
        match places(buckets, &reservations[index].on) {
            Some(on) => Reservation { on, ..reservations.swap_remove(index) },
            None => self.invented(on, limits),
        }
    }

    fn invented(&mut self, on: &On, limits: &[u64]) -> Reservation {
        let rng = &mut self.rng;
        let at = match rng.u8(..8) {
            0 => 0,
            1 => self.wall + rng.u64(..100 * SECOND),
            _ => self.wall - rng.u64(..100 * SECOND),
        };
        let at = on.iter().map(|_| at.saturating_sub(rng.u64(..2))).collect();
        Reservation { on: on.clone(), at, costs: costs(rng, limits) }
    }

    /// What waits for a bucket and is not in the batch.
    fn waiting(&mut self, by: usize, buckets: &[usize], index: usize) -> Op {
        let rules = &self.sessions[by].rules[buckets[index]];
        let (rng, waiters) = (&mut self.rng, &self.sessions[by].waiters);
        let count = [0, 0, 1, 2, 6][rng.usize(..5)];
        let lines = (0..count).map(|_| {
            let rule = rng.usize(..rules.len() + 1);
            let limit =
                rules.get(rule).map_or(1, |&rule| self.rules[buckets[index]][rule].capacity(0));
            let age = rng.u64(..20 * SECOND);
            let (count, cost) = (rng.u64(1..20), [0, rng.u64(..=limit)][rng.usize(..8).min(1)]);
            let space = if rng.bool() { buckets[index] } else { rng.usize(..BUCKETS) };
            let flow = if space == FLOWLESS || rng.bool() { 0 } else { rng.u64(1..5) };
            let known = rng.bool() && !waiters.is_empty();
            Line {
                rule: rule as u16,
                headroom: [0, 0, 1_000, 9_999][rng.usize(..4)],
                flow: Flow { id: flow, weight: 1 },
                space: self.ids[space],
                waiter: if known {
                    waiters[rng.usize(..waiters.len())].waiter
                } else {
                    rng.u64(1..1_000)
                },
                age,
                cost,
                part: [0.0, 0.5, 1.0 / 3.0, rng.f64()][rng.usize(..4)],
                count,
                sum: cost + rng.u64(..=limit) * (count - 1),
                last: rng.u64(..=age),
            }
        });
        Op::Waiting { bucket: index as u16, lines: lines.collect() }
    }

    /// What a provider or an operator may say: of a quota, of another one or of the bucket; of now,
    /// of long ago, or of nothing that ever was.
    fn said(&mut self, by: usize, buckets: &[usize]) -> Op {
        let index = self.rng.usize(..buckets.len());
        let rules = &self.sessions[by].rules[buckets[index]];
        let rng = &mut self.rng;
        let rule =
            rules.get(rng.usize(..rules.len() + 1)).map(|&rule| &self.rules[buckets[index]][rule]);
        let (bucket, limit) = (index as u16, rule.map_or(1, |rule| rule.capacity(0)));
        let quota = rule.map_or(99, |rule| rule.id);
        let at = match rng.u8(..6) {
            0 => 0,
            1 => u64::MAX,
            2 | 3 => self.wall,
            _ => self.wall - rng.u64(..10 * SECOND),
        };
        let lasts = rng.u64(..3 * SECOND);
        let asked = match rng.u8(..8) {
            0 => u64::MAX,
            1 => lasts,
            2 => rng.u64(..DAY),
            _ => rng.u64(..6 * SECOND),
        };
        match rng.u8(..12) {
            0 => Op::Pause { bucket, lasts: 0 },
            1 => Op::Pause { bucket, lasts },
            2 | 3 => Op::Refused { bucket, quota: None, at, asked, lasts, longest: 60 * SECOND },
            4 | 5 => Op::Refused {
                bucket,
                quota: Some(quota),
                at,
                asked,
                lasts,
                longest: rng.u64(..60 * SECOND),
            },
            6..9 => Op::Answered { bucket, at },
            _ => {
                let left = match rng.u8(..6) {
                    0 | 1 => 0,
                    2 => u64::MAX,
                    3 => rng.u64(..=limit / 16),
                    _ => rng.u64(..=limit),
                };
                let lasts = if rng.u8(..30) == 0 { rng.u64(..DAY) } else { rng.u64(..20 * SECOND) };
                Op::Cap { bucket, quota, left, at, lasts }
            }
        }
    }
}

impl Session {
    fn new(rng: &mut Rng) -> Self {
        let rules = (0..BUCKETS).map(|_| some_rules(rng)).collect();
        let lease = [SECOND, 10 * SECOND, 60 * SECOND, 2_000 * SECOND][rng.usize(..4)];
        let (reservations, waiters, sent) = (Vec::new(), Vec::new(), Vec::new());
        Self { id: rng.u64(1_000..=MAX_AMOUNT), seq: 0, lease, rules, reservations, waiters, sent }
    }
}

/// Where buckets of the world are in a batch of these.
fn places(buckets: &[usize], on: &On) -> Option<On> {
    let place = |bucket: &u16| buckets.iter().position(|other| *other == usize::from(*bucket));
    on.iter().map(|bucket| place(bucket).map(|place| place as u16)).collect()
}

/// One cost per limit, none above it.
fn fit(costs: &mut Costs, limits: &[u64]) {
    costs.resize(limits.len(), 0);
    costs.iter_mut().zip(limits).for_each(|(cost, &limit)| *cost = (*cost).min(limit));
}

fn costs(rng: &mut Rng, limits: &[u64]) -> Costs {
    let kind = rng.u8(..40);
    let cost = |&limit: &u64| match kind {
        0..3 => limit,
        3 => limit - rng.u64(..3).min(limit),
        4..8 => rng.u64(..=limit),
        8..12 => rng.u64(..2),
        _ => rng.u64(..=limit / 16),
    };
    limits.iter().map(cost).collect()
}

fn small_costs(rng: &mut Rng, limits: &[u64]) -> Costs {
    limits.iter().map(|&limit| rng.u64(..=limit.div_ceil(200)).min(limit)).collect()
}

fn some_rules(rng: &mut Rng) -> Vec<usize> {
    let mut rules: Vec<usize> = (0..8).collect();
    rng.shuffle(&mut rules);
    rules.truncate(rng.usize(1..6));
    rules
}

fn max_debt(rule: &Rule) -> u64 {
    match &rule.window {
        Window::TokenBucket(shape) => shape.max_debt,
        _ => 8 * rule.limit,
    }
}
