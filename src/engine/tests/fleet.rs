//! Sessions that wait, for the tests of heads, flows, gates and hints: as simple as a client can be. In every batch a session
//! sends its first waiters, oldest first, and says how many more there are.

use std::collections::BTreeMap;

use super::*;

/// A demand that a session waits for.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) waiter: u64,
    /// By the clock of the tests, less its head start.
    pub(super) arrived: Micros,
    pub(super) demand: Reserve,
}

/// A demand that was granted.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) waiter: u64,
    pub(super) arrived: Micros,
    pub(super) demand: Reserve,
    pub(super) grant: Grant,
    /// By the clock of the tests.
    pub(super) since: Micros,
}

/// What came of one look of a session.
#[derive(Debug, Default)]
pub(super) struct Look {
    pub(super) granted: Vec<Running>,
    /// The waiters that were refused, and why.
    pub(super) refused: Vec<(u64, Refused)>,
    pub(super) woken: Vec<u64>,
}

impl Look {
    pub(super) fn waiters(&self) -> Vec<u64> {
        self.granted.iter().map(|running| running.waiter).collect()
    }
}

/// A world with sessions whose demands wait.
#[derive(Clone, Debug)]
pub(super) struct Fleet {
    pub(super) world: World,
    pub(super) sessions: BTreeMap<u64, Vec<Waiting>>,
    /// So many waiters travel in a batch; of the others it says how many there are.
    pub(super) most_sent: usize,
    waiters: u64,
}

impl Fleet {
    pub(super) fn new(rules: Vec<Vec<Rule>>) -> Self {
        let world = World { lease: HOUR, ..World::with_buckets(rules) };
        Self { world, sessions: BTreeMap::new(), most_sent: usize::MAX, waiters: 0 }
    }

    pub(super) fn pass(&mut self, time: Micros) {
        self.world.pass(time);
    }

    pub(super) fn now(&self) -> Micros {
        self.world.wall
    }

    /// A demand begins to wait that arrived some time ago; nothing is sent yet. Returns its number, by arrival.
    pub(super) fn enter_aged(&mut self, session: u64, demand: Reserve, age: Micros) -> u64 {
        self.waiters += 1;
        let waiter = self.waiters;
        let waiting = self.sessions.entry(session).or_default();
        let entered = Waiting { waiter, arrived: self.world.wall - age, demand };
        let index = waiting.partition_point(|other| other.arrived <= entered.arrived);
        waiting.insert(index, entered);
        waiter
    }

    /// A demand begins to wait; nothing is sent yet.
    pub(super) fn enter(&mut self, session: u64, demand: Reserve) -> u64 {
        self.enter_aged(session, demand, 0)
    }

    /// A demand begins to wait, and its session looks. Returns its number, if it was granted.
    pub(super) fn ask(&mut self, session: u64, demand: Reserve) -> Result<Running, (u64, Refused)> {
        let waiter = self.enter(session, demand);
        let look = self.look(session);
        let granted = look.granted.into_iter().find(|running| running.waiter == waiter);
        granted.ok_or_else(|| {
            look.refused.into_iter().find(|(refused, _)| *refused == waiter).unwrap()
        })
    }

    /// The caller of a waiter gives up. Its session says so with its next batch.
    pub(super) fn cancel(&mut self, session: u64, waiter: u64) {
        self.sessions.get_mut(&session).unwrap().retain(|waiting| waiting.waiter != waiter);
    }

    pub(super) fn waiting(&self) -> usize {
        self.sessions.values().map(Vec::len).sum()
    }

    /// The session sends its first waiters and says what else waits.
    pub(super) fn look(&mut self, session: u64) -> Look {
        self.look_and(session, &[])
    }

    /// The same, after these operations.
    pub(super) fn look_and(&mut self, session: u64, first: &[Op]) -> Look {
        let now = self.world.wall;
        let waiting = self.sessions.entry(session).or_default().clone();
        let (sent, others) = waiting.split_at(self.most_sent.min(waiting.len()));
        let mut ops = first.to_vec();
        ops.extend(sent.iter().map(|waiting| {
            let (waiter, age) = (waiting.waiter, now - waiting.arrived);
            Op::Reserve(Reserve { mode: Mode::Wait, waiter, age, ..waiting.demand.clone() })
        }));
        for bucket in 0..self.world.states.len() as u16 {
            ops.push(Op::Waiting { bucket, lines: self.lines(bucket, others).into() });
        }
        let answer = self.world.send(session, &ops);
        let mut look = Look::default();
        look.woken = answer.wakes.iter().map(|wake| wake.session).collect();
        for (waiting, verdict) in sent.iter().zip(&answer.verdicts[first.len()..]) {
            match verdict {
                Verdict::Granted { probe } => {
                    let on = waiting.demand.on.clone();
                    let at =
                        on.iter().map(|&bucket| answer.seen[usize::from(bucket)].now).collect();
                    let grant = Grant {
                        session,
                        on,
                        at,
                        costs: waiting.demand.costs.clone(),
                        probe: *probe,
                    };
                    let Waiting { waiter, arrived, demand } = waiting.clone();
                    look.granted.push(Running { waiter, arrived, demand, grant, since: now });
                }
                Verdict::Refused(refused) => {
                    look.refused.push((waiting.waiter, (**refused).clone()))
                }
                other => panic!("{other:?}"),
            }
        }
        let granted = look.waiters();
        self.sessions
            .get_mut(&session)
            .unwrap()
            .retain(|waiting| !granted.contains(&waiting.waiter));
        look
    }

    /// What waits and is not sent, on the first quota of a bucket: the lines are for worlds of one quota.
    fn lines(&self, bucket: u16, waiting: &[Waiting]) -> Vec<super::Line> {
        let (rules, now) = (&self.world.rules[usize::from(bucket)], self.world.wall);
        let mut lines: Vec<super::Line> = Vec::new();
        for Waiting { waiter, arrived, demand } in waiting {
            assert_eq!((rules.len(), demand.on.len()), (1, 1), "lines are for worlds of one quota");
            let (cost, age) = (demand.costs[0], now - arrived);
            let group = |line: &&mut super::Line| {
                (line.headroom, line.flow) == (demand.headroom, demand.flow)
            };
            if let Some(line) = lines.iter_mut().find(group) {
                (line.count, line.sum, line.last) = (line.count + 1, line.sum + cost, age);
                continue;
            }
            let part = cost as f64 / rules[0].capacity(0) as f64 / f64::from(demand.flow.weight);
            let space = World::id(bucket);
            let Reserve { headroom, flow, .. } = *demand;
            let (waiter, sum) = (*waiter, cost);
            lines.push(super::Line {
                rule: 0,
                headroom,
                flow,
                space,
                waiter,
                age,
                cost,
                part,
                count: 1,
                sum,
                last: age,
            });
        }
        lines
    }

    /// A call ends. Returns the sessions that are hinted.
    pub(super) fn end(&mut self, running: &Running, actual: &[u64]) -> Vec<u64> {
        let sent = self.world.send(running.grant.session, &[settle(&running.grant, actual)]);
        sent.wakes.iter().map(|wake| wake.session).collect()
    }

    /// A call ends that used what it reserved.
    pub(super) fn end_all(&mut self, running: &Running) -> Vec<u64> {
        let costs = running.grant.costs.clone();
        self.end(running, &costs)
    }

    /// A demand that does not wait.
    pub(super) fn try_by(&mut self, session: u64, demand: Reserve) -> bool {
        let verdict = self.world.one(session, Op::Reserve(Reserve { mode: Mode::Try, ..demand }));
        is_granted(&verdict)
    }

    /// All sessions look in turns until nothing more is granted.
    pub(super) fn settle_down(&mut self) -> Vec<Running> {
        let sessions: Vec<_> = self.sessions.keys().copied().collect();
        let mut granted = Vec::new();
        loop {
            let before = granted.len();
            for &session in &sessions {
                granted.extend(self.look(session).granted);
            }
            if granted.len() == before {
                return granted;
            }
        }
    }
}

/// A demand on these buckets.
pub(super) fn on(buckets: &[u16], costs: &[u64]) -> Reserve {
    Reserve { on: buckets.into(), ..demand(costs) }
}

/// A demand on the first bucket of a flow.
pub(super) fn shared(cost: u64, id: u64, weight: u32) -> Reserve {
    Reserve { flow: Flow { id, weight }, ..demand(&[cost]) }
}

/// A demand on the first bucket of a class that leaves a tenth to others.
pub(super) fn batch_class(costs: &[u64]) -> Reserve {
    Reserve { headroom: HEADROOM_PARTS / 10, ..demand(costs) }
}
