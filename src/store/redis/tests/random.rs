//! Random batches, of the kinds that matter: what lanes do, what goes wrong, and what lies near a limit.

use fastrand::Rng;

use super::rules::{calm_rule, limit, rechart, rule, token_bucket};
use crate::engine::{Answer, Costs, MAX_AMOUNT, Micros, Mode, Op, Outcome, Rule, Verdict, Window};

pub(super) const SECOND: Micros = 1_000_000;
pub(super) const DAY: Micros = 86_400 * SECOND;

/// The buckets that each lane's demands are about, by index.
const PATHS: [&[usize]; 6] = [&[0], &[0, 1], &[1], &[2, 0, 1], &[2], &[0]];

const BUCKETS: usize = 3;

/// What happens to some buckets, at random.
pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) wall: Micros,
    /// Every rule that some lane may use, by bucket.
    rules: Vec<Vec<Rule>>,
    lanes: Vec<Lane>,
    claims: Vec<(u64, Reservation)>,
    /// Mostly what the script's shortcut is for.
    calm: bool,
}

/// A client, and what it has reserved.
struct Lane {
    id: u64,
    seq: u64,
    path: usize,
    lease: Micros,
    /// The rules it goes by, of each of its buckets, by index.
    rules: Vec<Vec<usize>>,
    reservations: Vec<Reservation>,
}

#[derive(Clone)]
struct Reservation {
    at: Micros,
    path: usize,
    costs: Costs,
}

/// One batch.
pub(super) struct Sending {
    pub(super) lane: u64,
    pub(super) seq: u64,
    pub(super) lease: Micros,
    /// Indices of its buckets.
    pub(super) path: &'static [usize],
    /// The rules of each of them.
    pub(super) rules: Vec<Vec<Rule>>,
    pub(super) ops: Vec<Op>,
    lane_index: usize,
}

impl World {
    /// A world in which anything happens, or a calm one: sliding windows, small steps of time, small amounts.
    pub(super) fn new(seed: u64, calm: bool) -> Self {
        let mut rng = Rng::with_seed(seed);
        let wall = 1_700_000_000 * SECOND + rng.u64(0..DAY);
        let rules = (0..BUCKETS)
            .map(|bucket| {
                let ids = (0..8).map(|n| (bucket * 8 + n + 1) as u64);
                ids.map(|id| if calm { calm_rule(&mut rng, id) } else { rule(&mut rng, id, wall) })
                    .collect()
            })
            .collect();
        let mut world = Self { rng, wall, rules, lanes: Vec::new(), claims: Vec::new(), calm };
        for path in 0..PATHS.len() {
            let lane = world.lane(path);
            world.lanes.push(lane);
        }
        world
    }

    pub(super) fn buckets(&self) -> usize {
        BUCKETS
    }

    /// The next batch. Steps time first, and changes some rules now and then.
    pub(super) fn next(&mut self, ops: usize) -> Sending {
        self.step_time();
        if self.rng.u8(..) < if self.calm { 1 } else { 8 } {
            self.change_rules();
        }
        let lane_index = self.rng.usize(..self.lanes.len());
        if self.rng.u8(..) < 3 {
            // A process that starts anew.
            self.lanes[lane_index] = self.lane(self.lanes[lane_index].path);
        }
        let count = 1 + self.rng.usize(..2 * ops);
        // A lane settles first.
        let ops = match self.calm && self.rng.u8(..) < 200 {
            true => (0..count).map(|n| self.calm_op(lane_index, n < count / 2)).collect(),
            false => (0..count).map(|_| self.op(lane_index)).collect(),
        };

        let rng = &mut self.rng;
        let lane = &mut self.lanes[lane_index];
        let seq = match rng.u8(..) {
            0..6 => lane.seq,
            6..9 => rng.u64(1..=lane.seq),
            _ => {
                lane.seq += rng.u64(1..3);
                lane.seq
            }
        };
        let path = PATHS[lane.path];
        let rules = path.iter().zip(&lane.rules).map(|(&bucket, rules)| {
            rules.iter().map(|&rule| rechart(rng, &self.rules[bucket][rule], self.wall)).collect()
        });
        Sending {
            lane: lane.id,
            seq,
            lease: lane.lease,
            path,
            rules: rules.collect(),
            ops,
            lane_index,
        }
    }

    /// Keeps what was granted, so that it can be settled.
    pub(super) fn learn(&mut self, sent: &Sending, answer: &Answer) {
        let Outcome::Applied { now, verdicts, .. } = &answer.outcome else { return };
        let lane = &mut self.lanes[sent.lane_index];
        for (op, verdict) in sent.ops.iter().zip(verdicts) {
            match (op, verdict) {
                (Op::Reserve { costs, .. }, Verdict::Granted) => {
                    lane.reservations.push(Reservation {
                        at: *now,
                        path: lane.path,
                        costs: costs.clone(),
                    });
                }
                (Op::Detach { claim, reserved, .. }, Verdict::Done) => {
                    let reservation =
                        Reservation { at: *now, path: lane.path, costs: reserved.clone() };
                    self.claims.push((*claim, reservation));
                }
                _ => {}
            }
        }
        lane.reservations.truncate(200);
        let claims = self.claims.len();
        self.claims.drain(..claims.saturating_sub(50));
    }

    fn lane(&mut self, path: usize) -> Lane {
        let rules = PATHS[path].iter().map(|_| some_rules(&mut self.rng)).collect();
        let lease = [SECOND, 10 * SECOND, 60 * SECOND, 2_000 * SECOND][self.rng.usize(..4)];
        Lane {
            id: self.rng.u64(..=MAX_AMOUNT),
            seq: 1,
            path,
            lease,
            rules,
            reservations: Vec::new(),
        }
    }

    fn step_time(&mut self) {
        let rng = &mut self.rng;
        let (step, back) = match rng.u16(..if self.calm { 890 } else { 1000 }) {
            600.. if self.calm => (rng.u64(..20_000), false),
            0..300 => (0, false),
            300..700 => (rng.u64(..5_000), false),
            700..900 => (rng.u64(..2 * SECOND), false),
            900..960 => (rng.u64(..60 * SECOND), false),
            960..980 => (rng.u64(..2_000 * SECOND), false),
            980..984 => (rng.u64(..40 * DAY), false),
            984..996 => (rng.u64(..SECOND), true),
            _ => (rng.u64(..DAY), true),
        };
        self.wall = if back { self.wall - step } else { self.wall + step };
    }

    /// Somebody deploys other limits, or other quotas.
    fn change_rules(&mut self) {
        let rng = &mut self.rng;
        let bucket = rng.usize(..BUCKETS);
        let rule = rng.choice(&mut self.rules[bucket]).expect("rules");
        match &mut rule.window {
            Window::TokenBucket(shape) => {
                let finer = rng.bool();
                *shape = token_bucket(rng, rule.id, if finer { 1 } else { 1_000 });
                rule.limit = limit(rng);
            }
            _ => rule.limit = limit(rng),
        }
        let lane = rng.choice(&mut self.lanes).expect("lanes");
        let of = rng.usize(..lane.rules.len());
        lane.rules[of] = some_rules(rng);
        // What it knew is about other quotas now.
        lane.reservations.clear();
        self.claims.clear();
    }

    fn calm_op(&mut self, lane_index: usize, settle: bool) -> Op {
        let lane = &mut self.lanes[lane_index];
        let rules = PATHS[lane.path]
            .iter()
            .zip(&lane.rules)
            .flat_map(|(&bucket, rules)| rules.iter().map(move |&rule| (bucket, rule)));
        let limits: Vec<u64> = rules.map(|(bucket, rule)| self.rules[bucket][rule].limit).collect();
        let rng = &mut self.rng;
        if !settle {
            let costs =
                limits.iter().map(|&limit| rng.u64(..=limit / 1_000 + 1).min(limit)).collect();
            let headroom = if rng.u8(..) < 20 { 1_000 } else { 0 };
            return Op::Reserve {
                costs,
                headroom,
                explain: rng.bool(),
                mode: if rng.bool() { Mode::Wait } else { Mode::Try },
            };
        }
        let Some(Reservation { at, mut costs, .. }) = lane.reservations.pop() else {
            let rules: Vec<&Rule> = PATHS[lane.path]
                .iter()
                .zip(&lane.rules)
                .flat_map(|(&bucket, rules)| rules.iter().map(move |&rule| (bucket, rule)))
                .map(|(bucket, rule)| &self.rules[bucket][rule])
                .collect();
            return match rng.u8(..20) {
                0 => pause(rng, &rules),
                1 | 2 => cap(rng, &rules, self.wall),
                _ => Op::Status,
            };
        };
        costs.resize(limits.len(), 0);
        let actual = costs
            .iter()
            .map(|&cost| if rng.u8(..) < 20 { 2 * cost } else { rng.u64(..=cost) })
            .collect();
        Op::Settle { at, reserved: costs, actual, close: true, claim: None }
    }

    fn op(&mut self, lane_index: usize) -> Op {
        let lane = &mut self.lanes[lane_index];
        let rng = &mut self.rng;
        let rules: Vec<&Rule> = PATHS[lane.path]
            .iter()
            .zip(&lane.rules)
            .flat_map(|(&bucket, rules)| rules.iter().map(move |&rule| (bucket, rule)))
            .map(|(bucket, rule)| &self.rules[bucket][rule])
            .collect();
        let limits: Vec<u64> = rules.iter().map(|rule| rule.capacity(0)).collect();
        // What a caller's actual usage is cut to.
        let believed: Vec<u64> =
            rules.iter().map(|rule| rule.capacity(0) + max_debt(rule)).collect();
        match rng.u8(..100) {
            0..45 => Op::Reserve {
                costs: costs(rng, &limits),
                headroom: [0, 0, 0, 1_000, 9_999, 10_000][rng.usize(..6)],
                explain: rng.bool(),
                mode: [Mode::Wait, Mode::Try, Mode::Try, Mode::Dry][rng.usize(..4)],
            },
            45..90 => {
                let (claim, mut reservation) = match rng.u8(..10) {
                    0 => match self.claims.iter().rev().find(|(_, r)| r.path == lane.path) {
                        Some((claim, reservation)) => (Some(*claim), reservation.clone()),
                        None => (Some(rng.u64(1..100)), invented(rng, lane, &limits, self.wall)),
                    },
                    1 => (None, invented(rng, lane, &limits, self.wall)),
                    _ => (None, remembered(rng, lane, &limits, self.wall)),
                };
                // What was granted, or claimed, when a limit was another, or by a lane that goes by other rules.
                reservation.costs.resize(limits.len(), 0);
                for (cost, &limit) in reservation.costs.iter_mut().zip(&limits) {
                    *cost = (*cost).min(limit);
                }
                let actual = match rng.u8(..4) {
                    0 => costs(rng, &believed),
                    1 => reservation.costs.clone(),
                    _ => reservation.costs.iter().map(|&cost| rng.u64(..=cost)).collect(),
                };
                let close = rng.u8(..5) > 0;
                Op::Settle { at: reservation.at, reserved: reservation.costs, actual, close, claim }
            }
            90..94 => {
                let mut reserved = remembered(rng, lane, &limits, self.wall).costs;
                for (cost, &limit) in reserved.iter_mut().zip(&limits) {
                    *cost = (*cost).min(limit);
                }
                Op::Detach { claim: rng.u64(1..100), reserved, lease: rng.u64(..100 * SECOND) }
            }
            94..96 => pause(rng, &rules),
            96..98 => cap(rng, &rules, self.wall),
            _ => Op::Status,
        }
    }
}

/// A reservation that the lane has, which it then has no longer.
fn remembered(rng: &mut Rng, lane: &mut Lane, limits: &[u64], wall: Micros) -> Reservation {
    match lane.reservations.len() {
        0 => invented(rng, lane, limits, wall),
        len => lane.reservations.swap_remove(rng.usize(..len)),
    }
}

fn invented(rng: &mut Rng, lane: &Lane, limits: &[u64], wall: Micros) -> Reservation {
    let at = match rng.u8(..8) {
        0 => 0,
        1 => wall + rng.u64(..100 * SECOND),
        _ => wall - rng.u64(..100 * SECOND),
    };
    Reservation { at, path: lane.path, costs: costs(rng, limits) }
}

/// What a provider may say: of one of these quotas, or of another; of now, of long ago, or of nothing that ever was.
fn cap(rng: &mut Rng, rules: &[&Rule], wall: Micros) -> Op {
    let quota = rng.usize(..rules.len() + 1);
    let limit = rules.get(quota).map_or(1, |rule| rule.capacity(0));
    let left = match rng.u8(..6) {
        0 => None,
        1 => Some(0),
        2 => Some(u64::MAX),
        3 => Some(rng.u64(..=limit / 16)),
        _ => Some(rng.u64(..=limit)),
    };
    let at = match rng.u8(..6) {
        0 => 0,
        1 => u64::MAX,
        _ => wall - rng.u64(..10 * SECOND),
    };
    let lasts = if rng.u8(..30) == 0 { rng.u64(..DAY) } else { rng.u64(..20 * SECOND) };
    Op::Cap { quota: rules.get(quota).map_or(99, |rule| rule.id), left, at, lasts }
}

/// Of the bucket, or of one of these quotas or another; to be waited out or not, as long as was asked or not, or its end.
fn pause(rng: &mut Rng, rules: &[&Rule]) -> Op {
    let lasts = rng.u64(..3 * SECOND);
    let asked = match rng.u8(..8) {
        0 => u64::MAX,
        1 => lasts,
        2 => rng.u64(..DAY),
        _ => rng.u64(..6 * SECOND),
    };
    let quota = rng.usize(..rules.len() + 1);
    let quota = rules.get(quota).map_or(99, |rule| rule.id);
    match rng.u8(..5) {
        0 => Op::Pause(0),
        1 => Op::Pause(lasts),
        2 => Op::Surface { quota: None, asked, lasts },
        _ => Op::Surface { quota: Some(quota), asked, lasts },
    }
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
