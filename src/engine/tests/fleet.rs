//! Sessions that wait, for the tests of heads, flows, gates and hints: as simple as a client can
//! be. In every batch a session sends its first waiters, oldest first, and says how many more there
//! are.

use std::collections::BTreeMap;

use super::*;

/// A demand that a session waits for.
#[derive(Clone, Debug)]
pub(super) struct Waiting {
    pub(super) waiter: u64,
    /// By the clock of the tests, less its head start.
    pub(super) arrived: Micros,
    pub(super) demand: Reserve,
    /// The quotas that hold it back as far as its session knows, by bucket and rule.
    filed: Vec<(u16, u16)>,
}

/// A demand that was granted.
#[derive(Clone, Debug)]
pub(super) struct Running {
    pub(super) waiter: u64,
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
    /// So many waiters of each class and flow travel in a batch; of the others it says how many
    /// there are.
    pub(super) most_sent: usize,
    /// So long a batch is on its way: what the store takes as an age is that much too little.
    pub(super) latency: Micros,
    waiters: u64,
}

impl Fleet {
    pub(super) fn new(rules: Vec<Vec<Rule>>) -> Self {
        let world = World { lease: HOUR, ..World::with_buckets(rules) };
        Self { world, sessions: BTreeMap::new(), most_sent: usize::MAX, latency: 0, waiters: 0 }
    }

    pub(super) fn pass(&mut self, time: Micros) {
        self.world.pass(time);
    }

    pub(super) fn now(&self) -> Micros {
        self.world.wall
    }

    /// A demand begins to wait that arrived some time ago; nothing is sent yet. Returns its number,
    /// by arrival.
    pub(super) fn enter_aged(&mut self, session: u64, demand: Reserve, age: Micros) -> u64 {
        self.waiters += 1;
        let waiter = self.waiters;
        let waiting = self.sessions.entry(session).or_default();
        let entered = Waiting { waiter, arrived: self.world.wall - age, demand, filed: Vec::new() };
        let index = waiting.partition_point(|other| other.arrived <= entered.arrived);
        waiting.insert(index, entered);
        waiter
    }

    /// A demand begins to wait; nothing is sent yet.
    pub(super) fn enter(&mut self, session: u64, demand: Reserve) -> u64 {
        self.enter_aged(session, demand, 0)
    }

    /// A demand begins to wait, and its session looks. Returns its number, if it was granted.
    #[allow(clippy::result_large_err, reason = "a test reads it at once")]
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

    /// Looks after these operations.
    pub(super) fn look_and(&mut self, session: u64, first: &[Op]) -> Look {
        let now = self.world.wall;
        let waiting = self.sessions.entry(session).or_default().clone();
        let mut groups: HashMap<_, usize> = HashMap::new();
        let (sent, others): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|waiting| {
            let of_group =
                groups.entry((waiting.demand.headroom, waiting.demand.flow)).or_default();
            *of_group += 1;
            *of_group <= self.most_sent
        });
        let mut ops = first.to_vec();
        ops.extend(sent.iter().map(|waiting| {
            let (waiter, age) =
                (waiting.waiter, (now - waiting.arrived).saturating_sub(self.latency));
            Op::Reserve(Reserve { mode: Mode::Wait, waiter, age, ..waiting.demand.clone() })
        }));
        for bucket in 0..self.world.states.len() as u16 {
            ops.push(Op::Waiting { bucket, lines: self.lines(bucket, &others).into() });
        }
        let answer = self.world.send(session, &ops);
        let woken = answer.wakes.iter().map(|wake| wake.session).collect();
        let mut look = Look { woken, ..Look::default() };
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
                    let Waiting { waiter, demand, .. } = waiting.clone();
                    look.granted.push(Running { waiter, demand, grant, since: now });
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

    /// What waits and is not sent, on the first quota of a bucket: the lines are for worlds of one
    /// quota.
    fn lines(&self, bucket: u16, waiting: &[Waiting]) -> Vec<super::Line> {
        let (rules, now) = (&self.world.rules[usize::from(bucket)], self.world.wall);
        let mut lines: Vec<super::Line> = Vec::new();
        for Waiting { waiter, arrived, demand, .. } in waiting {
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

    /// The quotas that a demand needs, by bucket and rule, and what it asks of them.
    fn needs(&self, demand: &Reserve) -> Vec<((u16, u16), u64)> {
        let rules = |&bucket: &u16| {
            (0..self.world.rules[usize::from(bucket)].len() as u16).map(move |rule| (bucket, rule))
        };
        let all = demand.on.iter().flat_map(rules).zip(demand.costs.iter().copied());
        all.filter(|(_, cost)| *cost > 0).collect()
    }

    /// The session looks as one does that has many waiters: it files each under what refused it,
    /// sends the first `look` of every quota, says how many others there are, and names only
    /// buckets that this takes, unless it is to name `all`.
    pub(super) fn look_filed(&mut self, session: u64, look: usize, all: bool) -> Look {
        let now = self.world.wall;
        let mut waiting = self.sessions.entry(session).or_default().clone();
        // Of each quota the waiters so far: class, and whether it is sent.
        let mut lines: HashMap<(u16, u16), Vec<(u64, bool)>> = HashMap::new();
        let mut is_sent = Vec::new();
        for one in &mut waiting {
            let mut filed = std::mem::take(&mut one.filed);
            let class = one.demand.headroom;
            let before =
                |quota: (u16, u16), lines: &HashMap<(u16, u16), Vec<(u64, bool)>>| -> Vec<bool> {
                    let line = lines.get(&quota).into_iter().flatten();
                    line.filter(|(headroom, _)| *headroom <= class).map(|(_, sent)| *sent).collect()
                };
            for (quota, _) in self.needs(&one.demand) {
                if !filed.contains(&quota) && !before(quota, &lines).is_empty() {
                    filed.push(quota);
                }
            }
            let sends = filed.iter().all(|quota| {
                let before = before(*quota, &lines);
                before.len() < look && before.iter().all(|sent| *sent)
            });
            filed.iter().for_each(|quota| {
                lines.entry(*quota).or_default().push((one.demand.headroom, sends))
            });
            one.filed = filed;
            is_sent.push(sends);
        }
        let sent: Vec<_> = waiting
            .iter()
            .zip(&is_sent)
            .filter(|(_, sent)| **sent)
            .map(|(one, _)| one.clone())
            .collect();
        let others: Vec<_> = waiting
            .iter()
            .zip(&is_sent)
            .filter(|(_, sent)| !**sent)
            .map(|(one, _)| one.clone())
            .collect();
        let mut buckets: On = sent.iter().flat_map(|one| one.demand.on.clone()).collect();
        if all {
            buckets = self.world.all();
        }
        buckets.sort_unstable();
        buckets.dedup();
        if buckets.is_empty() {
            self.sessions.insert(session, waiting);
            return Look::default();
        }
        let index_of =
            |bucket: u16| buckets.iter().position(|other| *other == bucket).unwrap() as u16;
        let mut ops: Vec<_> = sent
            .iter()
            .map(|one| {
                let (waiter, age) = (one.waiter, (now - one.arrived).saturating_sub(self.latency));
                let on = one.demand.on.iter().map(|&bucket| index_of(bucket)).collect();
                Op::Reserve(Reserve { on, mode: Mode::Wait, waiter, age, ..one.demand.clone() })
            })
            .collect();
        for &bucket in &buckets {
            ops.push(Op::Waiting {
                bucket: index_of(bucket),
                lines: self.filed_lines(bucket, &others).into(),
            });
        }
        let answer = self.world.send_on(session, &buckets, &ops);
        let mut found = Look {
            woken: answer.wakes.iter().map(|wake| wake.session).collect(),
            ..Look::default()
        };
        for (one, verdict) in sent.into_iter().zip(&answer.verdicts) {
            let on = one.demand.on.clone();
            match verdict {
                Verdict::Granted { probe } => {
                    let at = on
                        .iter()
                        .map(|&bucket| answer.seen[usize::from(index_of(bucket))].now)
                        .collect();
                    let grant =
                        Grant { session, on, at, costs: one.demand.costs.clone(), probe: *probe };
                    let Waiting { waiter, demand, .. } = one;
                    found.granted.push(Running { waiter, demand, grant, since: now });
                }
                Verdict::Refused(refused) => {
                    let known =
                        waiting.iter_mut().find(|other| other.waiter == one.waiter).unwrap();
                    known.filed = self.filed(&one.demand, refused);
                    found.refused.push((one.waiter, (**refused).clone()));
                }
                other => panic!("{other:?}"),
            }
        }
        let granted = found.waiters();
        waiting.retain(|one| !granted.contains(&one.waiter));
        self.sessions.insert(session, waiting);
        found
    }

    /// Under which quotas a refused waiter is filed.
    fn filed(&self, demand: &Reserve, refused: &Refused) -> Vec<(u16, u16)> {
        let all: Vec<_> = demand
            .on
            .iter()
            .flat_map(|&bucket| {
                (0..self.world.rules[usize::from(bucket)].len() as u16)
                    .map(move |rule| (bucket, rule))
            })
            .collect();
        let any_holds = refused.violations.iter().any(|violation| violation.holds);
        let mut filed = Vec::new();
        for violation in refused.violations.iter().filter(|violation| violation.holds || !any_holds)
        {
            match violation.by {
                RefusedBy::Rule(index) => filed.push(all[index]),
                RefusedBy::Pause(of) => {
                    let needs = self.needs(demand).into_iter().map(|(quota, _)| quota);
                    filed.extend(needs.filter(|(bucket, _)| *bucket == demand.on[of]));
                }
            }
        }
        filed.sort_unstable();
        filed.dedup();
        filed
    }

    /// What a session says of waiters that it does not send, of the first four groups of each
    /// quota.
    fn filed_lines(&self, bucket: u16, others: &[Waiting]) -> Vec<super::Line> {
        let now = self.world.wall;
        let mut lines: Vec<super::Line> = Vec::new();
        for one in others {
            let demand = &one.demand;
            let age = now - one.arrived;
            let last = *demand.on.last().unwrap();
            let rules = &self.world.rules[usize::from(last)];
            let costs = &demand.costs[demand.costs.len() - rules.len()..];
            let parts =
                rules.iter().zip(costs).map(|(rule, &cost)| cost as f64 / rule.capacity(0) as f64);
            let part = parts.fold(0.0, f64::max) / f64::from(demand.flow.weight);
            for (quota, cost) in self.needs(demand) {
                if quota.0 != bucket || !one.filed.contains(&quota) {
                    continue;
                }
                let (headroom, flow, space) = (demand.headroom, demand.flow, World::id(last));
                let is_group = |line: &&mut super::Line| {
                    (line.rule, line.headroom, line.flow.id, line.space)
                        == (quota.1, headroom, flow.id, space)
                };
                if let Some(line) = lines.iter_mut().find(is_group) {
                    (line.count, line.sum, line.last) = (line.count + 1, line.sum + cost, age);
                } else if lines.iter().filter(|line| line.rule == quota.1).count() < 4 {
                    let (rule, waiter) = (quota.1, one.waiter);
                    let (count, sum, last) = (1, cost, age);
                    lines.push(super::Line {
                        rule,
                        headroom,
                        flow,
                        space,
                        waiter,
                        age,
                        cost,
                        part,
                        count,
                        sum,
                        last,
                    });
                }
            }
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
        self.try_and_hint(session, demand).0
    }

    /// Whether a demand is granted that does not wait, and the sessions that it hints.
    pub(super) fn try_and_hint(&mut self, session: u64, demand: Reserve) -> (bool, Vec<u64>) {
        let sent = self.world.send(session, &[Op::Reserve(Reserve { mode: Mode::Try, ..demand })]);
        let hinted = sent.wakes.iter().map(|wake| wake.session).collect();
        (is_granted(&sent.verdicts[0]), hinted)
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
