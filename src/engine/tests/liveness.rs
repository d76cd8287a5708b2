//! Nothing is lost: whatever waits is granted in the end, when calls end and sessions look. And
//! nothing is given out twice, with heads, classes, flows and gates in play.

use proptest::prelude::*;

use super::{
    fleet::{Fleet, Running},
    moves::{cases, choose},
    oracle::{Drain, Log},
    *,
};

#[derive(Clone, Debug)]
struct Ask {
    session: u64,
    /// The buckets, the widest last as a rule.
    on: Vec<u16>,
    /// Parts of the capacity, in 10.
    parts: [u64; 6],
    class: usize,
    flow: Flow,
    age: Micros,
}

#[derive(Clone, Debug)]
enum Act {
    Pass(Micros),
    Enter(Ask),
    Try(Ask),
    Look(u64, Micros),
    End(usize, u64),
    Adjust(usize, u64),
    Cancel(usize),
    Pause(u16, Micros),
    Refused { bucket: u16, quota: Option<usize>, lasts: Micros, which: usize },
    Answered { which: usize },
    Cap { bucket: u16, quota: usize, left: u64, lasts: Micros },
}

const CLASSES: [u64; 3] = [0, 1_000, 4_000];

/// Two children and two parents: calls in flight, and a window of each kind.
fn buckets() -> Vec<Vec<Rule>> {
    vec![
        vec![concurrency(1, 20), sliding(2, 100, 10 * SECOND, 10)],
        vec![concurrency(3, 10)],
        vec![token_bucket(4, 100, SECOND, 100), concurrency(5, 30)],
        vec![fixed(6, 100, 5 * SECOND, 0)],
    ]
}

fn asks() -> impl Strategy<Value = Ask> {
    let on = prop_oneof![
        4 => prop::sample::select(vec![vec![0, 2], vec![1, 2], vec![0, 3], vec![1, 3]]),
        2 => prop::sample::select(vec![vec![0], vec![1], vec![2], vec![3]]),
        1 => prop::sample::select(vec![
            vec![0, 1],
            vec![1, 0],
            vec![0, 1, 2],
            vec![1, 0, 2, 3],
            vec![2, 0],
        ]),
    ];
    let flow = (0..4u64, 1..4u32).prop_map(|(id, weight)| Flow { id, weight });
    let age = prop_oneof![3 => Just(0), 1 => 0..30 * SECOND];
    let parts = proptest::array::uniform6(0..=10u64);
    (1..5u64, on, parts, 0..3usize, flow, age).prop_map(|(session, on, parts, class, flow, age)| {
        Ask { session, on, parts, class, flow, age }
    })
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let which = any::<usize>();
    let lasts = prop_oneof![0..SECOND, 0..5 * SECOND];
    let one = prop_oneof![
        4 => prop_oneof![0..50 * MS, 0..SECOND, 0..12 * SECOND].prop_map(Act::Pass),
        8 => asks().prop_map(Act::Enter),
        1 => asks().prop_map(Act::Try),
        8 => (1..5u64, 0..5 * MS).prop_map(|(session, latency)| Act::Look(session, latency)),
        5 => (which, 0..=12u64).prop_map(|(which, parts)| Act::End(which, parts)),
        1 => (which, 0..=12u64).prop_map(|(which, parts)| Act::Adjust(which, parts)),
        1 => which.prop_map(Act::Cancel),
        1 => (0..4u16, lasts.clone()).prop_map(|(bucket, lasts)| Act::Pause(bucket, lasts)),
        1 => (0..4u16, proptest::option::of(0..2usize), lasts.clone(), which)
            .prop_map(|(bucket, quota, lasts, which)| Act::Refused { bucket, quota, lasts, which }),
        1 => which.prop_map(|which| Act::Answered { which }),
        1 => (0..4u16, 0..2usize, 0..100u64, lasts)
            .prop_map(|(bucket, quota, left, lasts)| Act::Cap { bucket, quota, left, lasts }),
    ];
    proptest::collection::vec(one, 1..100)
}

/// A fleet and, for every quota, a plain log of what was granted.
struct Life {
    fleet: Fleet,
    /// Of each quota, by its id; for calls in flight what runs now.
    logs: Vec<(Rule, Log)>,
    running: Vec<(Running, Vec<(usize, usize)>)>,
    hinted: Vec<u64>,
    /// So many waiters of a quota are sent by sessions that file them; all are sent if nothing is
    /// said.
    look: Option<usize>,
}

impl Life {
    fn new(look: Option<usize>) -> Self {
        let logs = buckets().concat().into_iter().map(|rule| (rule, Log::default())).collect();
        let fleet = Fleet::new(buckets());
        Self { fleet, logs, running: Vec::new(), hinted: Vec::new(), look }
    }

    fn rules_of(&self, on: &[u16]) -> Vec<Rule> {
        on.iter().flat_map(|&bucket| self.fleet.world.rules[usize::from(bucket)].clone()).collect()
    }

    fn demand(&self, ask: &Ask) -> Reserve {
        let headroom = CLASSES[ask.class];
        let rules = self.rules_of(&ask.on);
        // Never more than its class may use.
        let costs = rules
            .iter()
            .zip(ask.parts)
            .map(|(rule, parts)| rule.capacity(headroom) * parts / 10)
            .collect();
        Reserve { on: ask.on.as_slice().into(), costs, headroom, flow: ask.flow, ..demand(&[]) }
    }

    fn log_of(&self, rule: &Rule) -> usize {
        self.logs.iter().position(|(of, _)| of.id == rule.id).unwrap()
    }

    /// Notes what was granted and looks at every window that ends now. The tests' clock only goes
    /// forward, so the time of all buckets is its own.
    fn granted(&mut self, running: Running) -> Result<(), TestCaseError> {
        let now = self.fleet.now();
        let rules = self.rules_of(&running.demand.on);
        let mut entries = Vec::new();
        for (rule, &cost) in rules.iter().zip(&running.demand.costs) {
            let log = self.log_of(rule);
            entries.push((log, self.logs[log].1.charge(now, cost)));
        }
        self.running.push((running, entries));
        for (rule, cost) in rules.iter().zip(&self.running.last().unwrap().0.demand.costs) {
            if *cost > 0 {
                self.keeps_its_limit(rule)?;
            }
        }
        Ok(())
    }

    fn keeps_its_limit(&self, rule: &Rule) -> Result<(), TestCaseError> {
        let now = self.fleet.now();
        let log = &self.logs[self.log_of(rule)].1;
        let (used, limit) = match &rule.window {
            Window::Sliding { slot, slots } => (log.since(now - slot * slots), rule.limit),
            Window::Fixed { length, .. } => (log.since(now / length * length), rule.limit),
            Window::TokenBucket(shape) => {
                let most = (shape.burst + shape.max_debt) * shape.units;
                (
                    log.replay(Drain { rate: rule.limit, units: shape.units, most }, now),
                    shape.burst * shape.units,
                )
            }
            Window::InFlight => {
                let of_rule = self.log_of(rule);
                let all = self
                    .running
                    .iter()
                    .flat_map(|(running, entries)| entries.iter().zip(&running.demand.costs));
                (
                    all.filter(|((log, _), _)| *log == of_rule).map(|(_, cost)| cost).sum(),
                    rule.limit,
                )
            }
            Window::Calendar { .. } => unreachable!("not here"),
        };
        prop_assert!(used <= limit, "{} of {} used of {}", used, limit, rule.id);
        Ok(())
    }

    fn look(&mut self, session: u64, latency: Micros) -> Result<(), TestCaseError> {
        self.fleet.latency = latency;
        let look = match self.look {
            None => self.fleet.look(session),
            Some(most) => self.fleet.look_filed(session, most, latency.is_multiple_of(2)),
        };
        self.hinted.extend(look.woken);
        look.granted.into_iter().try_for_each(|running| self.granted(running))
    }

    fn end(&mut self, which: usize, parts: u64, close: bool) {
        let Some((mut running, entries)) = choose(&mut self.running, which) else { return };
        let actual: Costs = running.demand.costs.iter().map(|cost| cost * parts / 10).collect();
        for (&(log, number), &actual) in entries.iter().zip(&actual) {
            self.logs[log].1.amend(number, actual);
        }
        // The world knows all buckets by their own indexes.
        let op =
            if close { settle(&running.grant, &actual) } else { adjust(&running.grant, &actual) };
        let sent = self.fleet.world.send(running.grant.session, &[op]);
        self.hinted.extend(sent.wakes.iter().map(|wake| wake.session));
        if !close {
            running.grant.costs = actual.clone();
            running.demand.costs = actual;
            self.running.push((running, entries));
        }
    }

    fn apply(&mut self, act: &Act) -> Result<(), TestCaseError> {
        match act.clone() {
            Act::Pass(time) => self.fleet.pass(time),
            Act::Enter(ask) => {
                let demand = self.demand(&ask);
                self.fleet.enter_aged(ask.session, demand, ask.age);
            }
            Act::Try(ask) => {
                let demand = self.demand(&ask);
                let op = Op::Reserve(demand.clone());
                let sent = self.fleet.world.send(ask.session, &[op]);
                if let Verdict::Granted { probe } = sent.verdicts[0] {
                    let (on, now) = (demand.on.clone(), self.fleet.now());
                    let at = on.iter().map(|_| now).collect();
                    let grant =
                        Grant { session: ask.session, on, at, costs: demand.costs.clone(), probe };
                    self.granted(Running { waiter: 0, demand, grant, since: now })?;
                }
            }
            Act::Look(session, latency) => self.look(session, latency)?,
            Act::End(which, parts) => self.end(which, parts, true),
            Act::Adjust(which, parts) => self.end(which, parts, false),
            Act::Cancel(which) => {
                let all = self
                    .fleet
                    .sessions
                    .iter()
                    .flat_map(|(of, all)| all.iter().map(|one| (*of, one.waiter)));
                if let Some((session, waiter)) = choose(&mut all.collect(), which) {
                    self.fleet.cancel(session, waiter);
                }
            }
            Act::Pause(bucket, lasts) => {
                self.fleet.world.one(9, Op::Pause { bucket, lasts });
            }
            Act::Refused { bucket, quota, lasts, which } => {
                let at = match self.running.len() {
                    0 => 0,
                    len => self.running[which % len].0.since,
                };
                let rules = &self.fleet.world.rules[usize::from(bucket)];
                let quota = quota.map(|quota| rules[quota % rules.len()].id);
                let (asked, longest) = (lasts, 10 * SECOND);
                self.fleet.world.one(9, Op::Refused { bucket, quota, at, asked, lasts, longest });
            }
            Act::Answered { which } => {
                if !self.running.is_empty() {
                    let Running { grant, since, .. } = &self.running[which % self.running.len()].0;
                    let ops: Vec<_> = grant
                        .on
                        .iter()
                        .map(|&bucket| Op::Answered { bucket, at: *since })
                        .collect();
                    let sent = self.fleet.world.send(grant.session, &ops);
                    self.hinted.extend(sent.wakes.iter().map(|wake| wake.session));
                }
            }
            Act::Cap { bucket, quota, left, lasts } => {
                let rules = &self.fleet.world.rules[usize::from(bucket)];
                let quota = rules[quota % rules.len()].id;
                let at = self.fleet.now();
                self.fleet.world.one(9, Op::Cap { bucket, quota, left, at, lasts });
            }
        }
        Ok(())
    }

    /// Every session looks, calls end, and time passes, until nothing waits.
    fn drain(&mut self, turns: &[u64]) -> Result<(), TestCaseError> {
        // The longest pause and the longest window together are below 40 s, in which something is
        // granted.
        let (mut round, mut granted_in) = (0, 0);
        while round - granted_in <= 40 {
            let before = self.fleet.waiting();
            if before == 0 {
                return Ok(());
            }
            round += 1;
            for offset in 0..4 {
                let session = 1 + (turns[round % turns.len()] + offset) % 4;
                self.look(session, 0)?;
                self.fleet.pass(50 * MS);
            }
            while !self.running.is_empty() {
                self.end(round, 10, true);
            }
            self.fleet.pass(SECOND);
            if self.fleet.waiting() < before {
                granted_in = round;
            }
        }
        let left: Vec<_> = self
            .fleet
            .sessions
            .iter()
            .flat_map(|(of, all)| all.iter().map(move |one| (of, one)))
            .collect();
        prop_assert!(
            left.is_empty(),
            "waits for ever: {left:?}, {:?}",
            self.fleet
                .sessions
                .keys()
                .map(|session| match self.look {
                    None => self.fleet.clone().look(*session),
                    Some(most) => self.fleet.clone().look_filed(*session, most, true),
                })
                .collect::<Vec<_>>()
        );
        Ok(())
    }
}

proptest! {
    #![proptest_config(cases(256))]

    #[test]
    fn no_limit_is_passed_and_all_that_waits_is_granted_in_the_end(
        acts in acts(),
        turns in proptest::collection::vec(0..4u64, 1..8),
        look in proptest::option::of(1..5usize),
    ) {
        let mut life = Life::new(look);
        for act in &acts {
            life.apply(act)?;
        }
        life.drain(&turns)?;
    }
}
