//! The operations of one batch, one after the other, on states that have been brought to the
//! present.

use smallvec::SmallVec;

use super::{
    Batch, BucketLevel, BucketState, Costs, Line, Micros, Mode, On, Op, Refused, RefusedBy,
    Reserve, Rule, Seen, Settle, Verdict, Verdicts, Violation, Wake, Wakes,
    bucket::Change,
    exact::sum,
    flows::FLOW_MEMORY,
    gate::Refusal,
    heads::{Before, Head, LATE, MAX_LINES, Place},
    quota_state::{Ask, QuotaState},
};

/// Where grants come faster than round trips, strict order over processes would let all of them
/// wait for each other: there a session may grant what arrived this much after another one's head,
/// and more where many wait.
const TOLERANCE: Micros = 20_000;
const TOLERANCE_PER_HEAD: Micros = 2_000;

/// A batch on its way through the states of its buckets.
pub(super) struct Operations<'a, 'b> {
    states: &'a mut [&'b mut BucketState],
    batch: &'a Batch<'a>,
    wall: Micros,
    /// The time of each bucket as the batch found it.
    was: SmallVec<[Micros; 2]>,
    /// Settles were made since the last refold.
    edited: bool,
    /// The buckets of which the batch says what waits there.
    told: Vec<usize>,
    /// The heads of the session that are to be, with their buckets.
    heads: Vec<(usize, Head)>,
    /// The buckets whose heads all have to look again: when they may pass has changed.
    stirred: Vec<usize>,
    /// What waiters of the session ask of quotas that refused them, with the bucket and the rule.
    /// Few at a time.
    ahead: Vec<Ahead>,
    /// How long ago the waiting reserves so far arrived, as the session says and as it counts.
    ages: Vec<(Micros, Micros)>,
}

/// What an operation that reserves is measured by.
#[derive(Clone, Copy, Debug)]
struct Turn {
    /// The start tag of its flow, where flows take turns.
    tag: Option<f64>,
    /// How long ago it arrived.
    age: Micros,
    /// It comes before an older one, since its flow is next.
    overtakes: bool,
}

/// What waiters of the session ask of a quota.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    bucket: usize,
    rule: usize,
    /// What they leave to others: a demand that leaves less is not behind them.
    headroom: u64,
    amount: u64,
    demands: u64,
}

/// One quota of an operation.
#[derive(Clone, Copy, Debug)]
struct At {
    bucket: usize,
    rule: usize,
    /// Its index among all of the operation.
    index: usize,
    cost: u64,
}

impl<'a, 'b> Operations<'a, 'b> {
    /// Brings the states to the present.
    pub(super) fn begin(
        states: &'a mut [&'b mut BucketState],
        batch: &'a Batch<'a>,
        wall: Micros,
    ) -> Self {
        let was = states.iter().map(|state| state.now()).collect();
        for (state, bucket) in states.iter_mut().zip(batch.buckets) {
            state.advance(bucket.rules, wall);
        }
        let told = |op: &Op| {
            if let Op::Waiting { bucket, .. } = op { Some(usize::from(*bucket)) } else { None }
        };
        let told = batch.ops.iter().filter_map(told).collect();
        Self {
            states,
            batch,
            wall,
            was,
            edited: false,
            told,
            heads: Vec::new(),
            stirred: Vec::new(),
            ahead: Vec::new(),
            ages: Vec::new(),
        }
    }

    pub(super) fn run(&mut self) -> Verdicts {
        let ops = self.batch.ops;
        let Some(order) = self.order() else {
            return ops.iter().map(|op| self.apply(op, None)).collect();
        };
        let mut turns = Vec::with_capacity(ops.len());
        for op in ops {
            turns.push(match op {
                Op::Reserve(reserve) => {
                    let turn = self.turn(reserve);
                    self.ages
                        .extend((reserve.mode == Mode::Wait).then_some((reserve.age, turn.age)));
                    Some(turn)
                }
                _ => None,
            });
        }
        let mut oldest_after = vec![usize::MAX; order.len()];
        for place in (1..order.len()).rev() {
            oldest_after[place - 1] = oldest_after[place].min(order[place].0);
        }
        let mut verdicts = Verdicts::from_elem(Verdict::Done, ops.len());
        for ((index, tag), oldest_after) in order.into_iter().zip(oldest_after) {
            let overtakes = oldest_after < index;
            let turn = turns[index].map(|turn| Turn { tag, overtakes, ..turn });
            verdicts[index] = self.apply(&ops[index], turn);
        }
        verdicts
    }

    /// What a reserve is measured by that comes in its own place.
    ///
    /// A head that comes back keeps its arrival, and has the same in all buckets: how long ago it
    /// came as its session says depends on how long a batch took. The waiters of a session keep
    /// their order.
    fn turn(&self, reserve: &Reserve) -> Turn {
        let session = self.batch.session;
        let known = reserve.on.iter().filter_map(|&bucket| {
            let state = &self.states[usize::from(bucket)];
            Some(state.now().saturating_sub(state.heads().arrival(session, reserve.waiter)?))
        });
        let age = known.max().unwrap_or(reserve.age);
        let age =
            if reserve.mode == Mode::Wait { self.behind_older(reserve.age, age) } else { age };
        Turn { tag: None, age, overtakes: false }
    }

    /// How long ago a waiter arrived, no longer than those before it which are older as the session
    /// says.
    fn behind_older(&self, told: Micros, age: Micros) -> Micros {
        let older = self.ages.iter().filter(|(other, _)| *other >= told);
        older.map(|(_, age)| *age).fold(age, Micros::min)
    }

    /// Makes everything count, and gives the session time until its next batch. Returns how each
    /// bucket was found and left, and which heads of other sessions may fit now.
    pub(super) fn end(&mut self) -> (SmallVec<[Seen; 1]>, Wakes) {
        self.refold();
        let Batch { session, seq, lease, buckets, .. } = *self.batch;
        if seq > 0 {
            self.states[0].enter_session(session);
        }
        let (mut seen, mut wakes) = (SmallVec::new(), Wakes::new());
        for (index, bucket) in buckets.iter().enumerate() {
            if self.told.contains(&index) {
                let mine = self.heads.iter().filter(|(of, _)| *of == index).map(|(_, head)| *head);
                self.states[index].stand(session, bucket.id, mine.collect());
            }
            if !self.states[index].heads().is_empty() {
                self.wake(index, &mut wakes);
            }
            let state = &mut self.states[index];
            state.end(session, lease, seq > 0, bucket.rules, self.wall);
            seen.push(state.seen(self.was[index]));
        }
        (seen, wakes)
    }

    fn apply(&mut self, op: &Op, turn: Option<Turn>) -> Verdict {
        match op {
            Op::Reserve(reserve) => {
                let turn = turn.unwrap_or_else(|| self.turn(reserve));
                self.reserve(reserve, turn)
            }
            Op::Settle(settle) => self.settle(settle),
            Op::Detach { on, claim, reserved, lease } => self.detach(on, *claim, reserved, *lease),
            Op::Waiting { bucket, lines } => self.wait(usize::from(*bucket), lines),
            Op::Status { bucket } => self.status(usize::from(*bucket)),
            Op::Pause { bucket, lasts } => {
                let state = &mut self.states[usize::from(*bucket)];
                match *lasts {
                    0 => state.resume(),
                    lasts => state.pause(sum(state.now(), lasts)),
                }
                Verdict::Done
            }
            Op::Refused { bucket, quota, at, asked, lasts, longest } => {
                let refusal = Refusal { at: *at, asked: *asked, lasts: *lasts, longest: *longest };
                if asked > lasts {
                    // What waits is to be refused at once.
                    self.stirred.push(usize::from(*bucket));
                }
                self.refused(usize::from(*bucket), *quota, refusal)
            }
            Op::Answered { bucket, at } => {
                let bucket = usize::from(*bucket);
                if self.states[bucket].answered_well(*at) {
                    self.stirred.push(bucket);
                }
                Verdict::Done
            }
            Op::Cap { bucket, quota, left, at, lasts } => {
                self.refold();
                let (wall, now) = (self.wall, self.states[usize::from(*bucket)].now());
                if let Some((rule, state)) = self.quota_of(usize::from(*bucket), *quota) {
                    state.withhold(rule, *left, *at, *lasts, now, wall);
                }
                Verdict::Done
            }
        }
    }

    /// The order in which to apply the operations, with the start tags of waiting reserves: flows
    /// of one space and class take turns. Nothing if that is as they come.
    fn order(&self) -> Option<Vec<(usize, Option<f64>)>> {
        let has_flows =
            |reserve: &Reserve| reserve.flow.id != 0 || self.space_of(reserve).1.flows().is_some();
        let waiting = |op: &Op| matches!(op, Op::Reserve(reserve) if reserve.mode == Mode::Wait);
        let ops = self.batch.ops;
        if !ops
            .iter()
            .any(|op| matches!(op, Op::Reserve(r) if r.mode == Mode::Wait && has_flows(r)))
        {
            return None;
        }
        let mut order: Vec<_> = (0..ops.len()).map(|index| (index, None)).collect();
        // Of each flow how far its reserves so far move it on.
        let mut moved: Vec<((u64, u64), f64)> = Vec::new();
        // By space and class: the tags of their reserves, with the places.
        #[allow(clippy::type_complexity, reason = "it is used here only")]
        let mut groups: Vec<((u64, u64), Vec<(f64, usize)>)> = Vec::new();
        for (index, op) in ops.iter().enumerate().filter(|(_, op)| waiting(op)) {
            let Op::Reserve(reserve) = op else { continue };
            let (space, state) = self.space_of(reserve);
            let key = (self.batch.buckets[space].id, reserve.flow.id);
            let known = moved.iter().position(|(of, _)| *of == key).unwrap_or_else(|| {
                moved.push((key, state.start_of(reserve.flow.id, key.0)));
                moved.len() - 1
            });
            let start = &mut moved[known].1;
            let tag = *start;
            *start += reserve.step(self.batch.buckets[space].rules);
            let group = (key.0, reserve.headroom);
            match groups.iter_mut().find(|(of, _)| *of == group) {
                Some((_, members)) => members.push((tag, index)),
                None => groups.push((group, vec![(tag, index)])),
            }
        }
        for (_, members) in groups {
            let mut places: Vec<usize> = members.iter().map(|(_, index)| *index).collect();
            places.sort_unstable();
            let mut sorted = members;
            sorted.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            for (place, (tag, index)) in places.into_iter().zip(sorted) {
                order[place] = (index, Some(tag));
            }
        }
        Some(order)
    }

    /// The bucket in which a reserve's flow takes turns.
    fn space_of(&self, reserve: &Reserve) -> (usize, &BucketState) {
        let space = reserve.on.last().map_or(0, |&bucket| usize::from(bucket));
        (space, &*self.states[space])
    }

    fn rules(&self, bucket: usize) -> &'a [Rule] {
        self.batch.buckets[bucket].rules
    }

    /// Every quota of an operation on these buckets.
    fn quotas<'c>(&self, on: &'c On, costs: &'c Costs) -> impl Iterator<Item = At> + use<'a, 'c> {
        let buckets = self.batch.buckets;
        let rules = on.iter().flat_map(move |&bucket| {
            let bucket = usize::from(bucket);
            (0..buckets[bucket].rules.len()).map(move |rule| (bucket, rule))
        });
        let quotas = rules.zip(costs).enumerate();
        quotas.map(|(index, ((bucket, rule), &cost))| At { bucket, rule, index, cost })
    }

    fn reserve(&mut self, reserve: &Reserve, turn: Turn) -> Verdict {
        self.refold();
        if !self.fits(reserve, turn) {
            return Verdict::Refused(Box::new(self.refuse(reserve, turn)));
        }
        if reserve.mode == Mode::Dry {
            return Verdict::Fits;
        }
        let session = self.batch.session;
        let (mut costs, mut probe) = (&*reserve.costs, false);
        for &bucket in &reserve.on {
            let rules = self.rules(bucket.into());
            let (mine, rest) = costs.split_at(rules.len().min(costs.len()));
            costs = rest;
            probe |= self.states[usize::from(bucket)].charge(session, rules, mine);
        }
        let (space, state) = self.space_of(reserve);
        if state.flows().is_some() {
            let (id, step) = (self.batch.buckets[space].id, reserve.step(self.rules(space)));
            self.states[space].serve(reserve.flow.id, id, step);
        }
        Verdict::Granted { probe }
    }

    fn fits(&self, reserve: &Reserve, turn: Turn) -> bool {
        let mut costs = &*reserve.costs;
        reserve.on.iter().all(|&bucket| {
            let bucket = usize::from(bucket);
            let (state, rules) = (&self.states[bucket], self.rules(bucket));
            let (mine, rest) = costs.split_at(rules.len().min(costs.len()));
            costs = rest;
            let mut quotas = rules.iter().zip(state.quotas()).zip(mine).enumerate();
            quotas.all(|(rule_index, ((rule, quota), &cost))| {
                let ask = self.ask(reserve, turn, bucket, rule_index, rule, cost);
                quota.fits(rule, ask, state.now())
            }) && self.paused_for(reserve, turn, bucket, mine) == 0
        })
    }

    /// For how long a pause of a bucket holds back a reserve of these costs there.
    fn paused_for(&self, reserve: &Reserve, turn: Turn, bucket: usize, costs: &[u64]) -> Micros {
        if !self.states[bucket].has_gate() {
            return 0;
        }
        let rules = self.rules(bucket).iter().zip(costs).enumerate();
        let before = rules.filter(|(_, (_, cost))| **cost > 0).map(|(index, (rule, &cost))| {
            self.ask(reserve, turn, bucket, index, rule, cost).before
        });
        self.states[bucket].paused_for(before.max().unwrap_or(0))
    }

    #[inline]
    fn ask(
        &self,
        reserve: &Reserve,
        turn: Turn,
        bucket: usize,
        rule_index: usize,
        rule: &Rule,
        cost: u64,
    ) -> Ask {
        let capacity = rule.capacity_for(cost, reserve.headroom);
        if self.ahead.is_empty() && self.states[bucket].heads().is_empty() {
            return Ask { cost, ahead: 0, before: 0, capacity };
        }
        let others = self.before(reserve, turn, bucket, rule_index);
        let mine = self.mine(bucket, rule_index, reserve.headroom);
        // More than a few windows ahead makes no difference to an answer, and amounts stay exact.
        let ahead = sum(others.amount, mine.amount).min(4 * rule.capacity(0));
        Ask { cost, ahead, before: sum(others.demands, mine.demands), capacity }
    }

    /// What waiters of this session go before a demand on a quota.
    fn mine(&self, bucket: usize, rule: usize, headroom: u64) -> Before {
        let mut mine = Before::default();
        for ahead in self.ahead.iter().filter(|ahead| (ahead.bucket, ahead.rule) == (bucket, rule))
        {
            if ahead.headroom <= headroom {
                mine.amount = sum(mine.amount, ahead.amount);
                mine.demands = sum(mine.demands, ahead.demands);
            }
        }
        mine
    }

    /// What heads of other sessions go before a demand on a quota.
    fn before(&self, reserve: &Reserve, turn: Turn, bucket: usize, rule_index: usize) -> Before {
        let state = &self.states[bucket];
        if state.heads().is_empty() {
            return Before::default();
        }
        let (space, space_state) = self.space_of(reserve);
        let (quota, now) = (&state.quotas()[rule_index], state.now());
        let space = self.batch.buckets[space].id;
        let place = Place {
            session: if self.told.contains(&bucket) { self.batch.session } else { 0 },
            tie: if reserve.mode == Mode::Wait && reserve.waiter > 0 {
                self.batch.session
            } else {
                u64::MAX
            },
            headroom: reserve.headroom,
            flow: reserve.flow.id,
            space,
            arrival: state.now().saturating_sub(turn.age),
            tag: turn.tag.unwrap_or_else(|| space_state.start_of(reserve.flow.id, space)),
        };
        // What does not wait passes no head.
        let tolerance = match reserve.mode {
            Mode::Wait => self.tolerance(bucket, rule_index, place.session),
            Mode::Try | Mode::Dry => 0,
        };
        let start_of = |flow| space_state.start_of(flow, space);
        state.heads().before(&place, quota.id, quota.horizon(), tolerance, now, &start_of)
    }

    /// By how much a waiter may have come after a head of another session and go before it.
    fn tolerance(&self, bucket: usize, rule_index: usize, session: u64) -> Micros {
        let (state, rule) = (&self.states[bucket], &self.rules(bucket)[rule_index]);
        let quota = &state.quotas()[rule_index];
        if !quota.is_draining() {
            return 0;
        }
        let mut live = state.heads().live(session, quota.id, state.now());
        let Some(oldest) = live.next() else { return 0 };
        let capacity = rule.capacity_for(oldest.cost, oldest.headroom);
        let ask = Ask { cost: oldest.cost, ahead: 0, before: 0, capacity };
        match quota.shortage(rule, ask, state.now(), self.wall).wait {
            Some(wait) if wait < TOLERANCE => {
                TOLERANCE.max(TOLERANCE_PER_HEAD * (1 + live.count() as u64))
            }
            _ => 0,
        }
    }

    fn refuse(&mut self, reserve: &Reserve, turn: Turn) -> Refused {
        let mut violations = self.violations(reserve, turn);
        let waits: SmallVec<[Micros; 4]> =
            violations.iter().map(|(_, violation)| violation.wait.unwrap_or(0)).collect();
        // For how long the others hold it back.
        let held_for = |index: usize| {
            let others = waits.iter().enumerate().filter(|(other, _)| *other != index);
            others.map(|(_, wait)| *wait).max().unwrap_or(0)
        };
        for (index, (at, violation)) in violations.iter_mut().enumerate() {
            let horizon =
                at.map_or(Micros::MAX, |at| self.states[at.bucket].quotas()[at.rule].horizon());
            violation.holds = held_for(index) <= horizon;
        }
        let (space, state) = self.space_of(reserve);
        let (space_id, step) = (self.batch.buckets[space].id, reserve.step(self.rules(space)));
        let tag = turn.tag.unwrap_or_else(|| state.start_of(reserve.flow.id, space_id));
        let goes_away = violations.iter().any(|(_, violation)| violation.asked.is_some());
        if reserve.mode == Mode::Wait && !goes_away {
            if turn.tag.is_none() {
                self.ages.push((reserve.age, turn.age));
            }
            let known = violations.iter().all(|(_, violation)| violation.wait.is_some());
            let longest = waits.iter().copied().max().unwrap_or(0);
            let due_in = known.then_some(longest);
            let head =
                Pending { space: space_id, part: step, due_in, is_behind: self.is_behind(reserve) };
            for (index, (at, violation)) in violations.iter().enumerate() {
                if let Some(at) = at {
                    self.line_up(reserve, turn, *at, head, held_for(index), violation.holds);
                }
            }
            // Where it is a head of the bucket itself, that says how long it waits.
            let is_head = violations.iter().any(|(at, _)| at.is_some_and(|at| at.bucket == space));
            let state = &mut self.states[space];
            let lasts =
                if is_head { 0 } else { due_in.map_or(FLOW_MEMORY, |wait| sum(wait, LATE)) };
            let until = sum(state.now(), lasts);
            state.wait_in_flow(reserve.flow.id, space_id, until);
            for at in self.behind_pauses(reserve, &violations) {
                self.line_up(reserve, turn, at, head, 0, true);
            }
        }
        Refused {
            violations: violations.into_iter().map(|(_, violation)| violation).collect(),
            tag,
            part: step,
        }
    }

    /// The reasons of a refusal, with the quotas that refused.
    fn violations(&self, reserve: &Reserve, turn: Turn) -> SmallVec<[(Option<At>, Violation); 2]> {
        let mut violations = SmallVec::new();
        let mut costs = &*reserve.costs;
        for (index, &bucket) in reserve.on.iter().enumerate() {
            let bucket = usize::from(bucket);
            let (mine, rest) = costs.split_at(self.rules(bucket).len().min(costs.len()));
            costs = rest;
            let wait = self.paused_for(reserve, turn, bucket, mine);
            if wait > 0 {
                let (by, asked) = (RefusedBy::Pause(index), self.states[bucket].asked());
                let needed = (0..self.rules(bucket).len()).zip(mine).filter(|(_, cost)| **cost > 0);
                let others = needed.map(|(rule, _)| self.before(reserve, turn, bucket, rule));
                let others = others.max_by_key(|others| others.demands).unwrap_or_default();
                let violation = Violation {
                    by,
                    available: 0,
                    wait: Some(wait),
                    at_best: wait,
                    asked,
                    holds: true,
                    rank: others.heads,
                    before: others.demands,
                };
                violations.push((None, violation));
            }
        }
        for at in self.quotas(&reserve.on, &reserve.costs) {
            let (state, rule) = (&self.states[at.bucket], &self.rules(at.bucket)[at.rule]);
            let (quota, now) = (&state.quotas()[at.rule], state.now());
            let ask = self.ask(reserve, turn, at.bucket, at.rule, rule, at.cost);
            let fits = quota.fits(rule, ask, now);
            let is_paused = |(_, other): &(_, Violation)| match other.by {
                RefusedBy::Pause(of) => usize::from(reserve.on[of]) == at.bucket,
                RefusedBy::Rule(_) => false,
            };
            if fits && (violations.iter().any(is_paused) || !self.keeps(reserve, at)) {
                continue;
            }
            let others = self.before(reserve, turn, at.bucket, at.rule);
            let shortage = quota.shortage(rule, ask, now, self.wall);
            let violation = Violation {
                by: RefusedBy::Rule(at.index),
                available: shortage.available,
                wait: if fits { Some(0) } else { shortage.wait },
                at_best: if fits { 0 } else { shortage.at_best },
                asked: quota.asked(at.cost, now),
                holds: true,
                rank: others.heads,
                before: others.demands,
            };
            violations.push((Some(at), violation));
        }
        violations
    }

    /// Whether a refused waiter would fit if nothing went before it.
    fn is_behind(&self, reserve: &Reserve) -> bool {
        let alone = |at: At| {
            let (state, rule) = (&self.states[at.bucket], &self.rules(at.bucket)[at.rule]);
            fits_alone(&state.quotas()[at.rule], rule, at.cost, reserve.headroom, state.now())
        };
        let is_paused = |&bucket: &u16| self.states[usize::from(bucket)].paused_for(0) > 0;
        !reserve.on.iter().any(is_paused) && self.quotas(&reserve.on, &reserve.costs).all(alone)
    }

    /// Whether a refused waiter keeps its place on a quota where it would fit now: one that refused
    /// it before. Otherwise streams on this quota alone and on that alone would starve what needs
    /// both.
    fn keeps(&self, reserve: &Reserve, at: At) -> bool {
        let quota = self.rules(at.bucket)[at.rule].id;
        let is_waiter = reserve.mode == Mode::Wait && reserve.waiter > 0 && at.cost > 0;
        is_waiter
            && self.states[at.bucket]
                .heads()
                .find(self.batch.session, quota, reserve.waiter)
                .is_some()
    }

    /// A refused waiter goes before what comes later on a quota, and is a head there.
    fn line_up(
        &mut self,
        reserve: &Reserve,
        turn: Turn,
        at: At,
        pending: Pending,
        held_for: Micros,
        holds: bool,
    ) {
        // Those that it overtakes need not wait for it while it waits for others.
        if holds && !(pending.is_behind && turn.overtakes) {
            self.go_ahead(at.bucket, at.rule, reserve.headroom, at.cost, 1);
        }
        if !self.told.contains(&at.bucket) {
            return;
        }
        let now = self.states[at.bucket].now();
        let arrival = now.saturating_sub(turn.age);
        self.add_head(
            at.bucket,
            Head {
                session: self.batch.session,
                quota: self.rules(at.bucket)[at.rule].id,
                headroom: reserve.headroom,
                flow: reserve.flow.id,
                space: pending.space,
                waiter: reserve.waiter,
                arrival,
                cost: at.cost,
                part: pending.part,
                count: 1,
                sum: at.cost,
                last: arrival,
                due: pending.due_in.map_or(0, |wait| sum(now, wait)),
                held_until: sum(now, held_for),
                is_behind: pending.is_behind,
                fits: false,
            },
        );
    }

    /// What a pause of a bucket holds back is a head on all quotas of the bucket that it needs:
    /// those that did not refuse it.
    fn behind_pauses(
        &self,
        reserve: &Reserve,
        violations: &[(Option<At>, Violation)],
    ) -> SmallVec<[At; 4]> {
        let paused = |at: &At| {
            let pauses = violations.iter().filter_map(|(_, violation)| match violation.by {
                RefusedBy::Pause(of) => Some(usize::from(reserve.on[of])),
                RefusedBy::Rule(_) => None,
            });
            pauses.into_iter().any(|bucket| bucket == at.bucket)
        };
        let refused = |at: &At| {
            violations.iter().any(|(other, _)| other.is_some_and(|other| other.index == at.index))
        };
        let needed = self.quotas(&reserve.on, &reserve.costs).filter(|at| at.cost > 0);
        needed.filter(|at| paused(at) && !refused(at)).collect()
    }

    fn go_ahead(&mut self, bucket: usize, rule: usize, headroom: u64, amount: u64, demands: u64) {
        let known = self
            .ahead
            .iter_mut()
            .find(|ahead| (ahead.bucket, ahead.rule, ahead.headroom) == (bucket, rule, headroom));
        match known {
            Some(ahead) => {
                ahead.amount = sum(ahead.amount, amount);
                ahead.demands = sum(ahead.demands, demands);
            }
            None => self.ahead.push(Ahead { bucket, rule, headroom, amount, demands }),
        }
    }

    /// Adds a head of the session, or a waiter behind one.
    fn add_head(&mut self, bucket: usize, head: Head) {
        let of_bucket =
            self.heads.iter_mut().filter(|(of, other)| *of == bucket && other.quota == head.quota);
        let mut groups = 0;
        for (_, other) in of_bucket {
            if other.is_of_group_of(&head) {
                return other.extend(&head);
            }
            groups += 1;
        }
        if groups < MAX_LINES {
            self.heads.push((bucket, head));
        }
    }

    fn wait(&mut self, bucket: usize, lines: &[Line]) -> Verdict {
        let (session, now) = (self.batch.session, self.states[bucket].now());
        for line in lines {
            let Some(rule) = self.rules(bucket).get(usize::from(line.rule)) else { continue };
            let mut head = Head::of_line(session, rule.id, line, now);
            if let Some(known) = self.states[bucket].heads().find(session, rule.id, line.waiter) {
                (head.arrival, head.due, head.held_until) =
                    (known.arrival, known.due, known.held_until);
                head.fits = known.fits;
            }
            // It is not sent though it may fit: others of its session go before it.
            let quota = &self.states[bucket].quotas()[usize::from(line.rule)];
            head.is_behind = fits_alone(quota, rule, line.cost, line.headroom, now);
            let age = self.behind_older(line.age, now.saturating_sub(head.arrival));
            head.arrival = now.saturating_sub(age);
            head.last = head.last.max(head.arrival);
            if head.holds(self.states[bucket].quotas()[usize::from(line.rule)].horizon(), now) {
                self.go_ahead(bucket, line.rule.into(), line.headroom, line.sum, line.count);
            }
            self.add_head(bucket, head);
        }
        Verdict::Done
    }

    fn settle(&mut self, settle: &Settle) -> Verdict {
        let Settle { on, at, reserved, actual, close, claim } = settle;
        let owner = claim.unwrap_or(self.batch.session);
        let is_claim = |&bucket: &u16| {
            self.states[usize::from(bucket)].record(owner).is_some_and(|record| record.is_claim())
        };
        if claim.is_some() && !on.iter().all(is_claim) {
            return Verdict::NoClaim;
        }
        self.edited = true;
        let (mut reserved, mut actual) = (&**reserved, &**actual);
        for (&bucket, &at) in on.iter().zip(at) {
            let rules = self.rules(bucket.into());
            let (mine, rest) = reserved.split_at(rules.len().min(reserved.len()));
            reserved = rest;
            let (used, rest) = actual.split_at(rules.len().min(actual.len()));
            actual = rest;
            let change = Change {
                at,
                reserved: mine,
                actual: used,
                close: *close,
                is_claim: claim.is_some(),
            };
            self.states[usize::from(bucket)].settle(owner, rules, change);
        }
        Verdict::Done
    }

    fn detach(&mut self, on: &On, claim: u64, reserved: &Costs, lease: Micros) -> Verdict {
        let mut reserved = &**reserved;
        for &bucket in on {
            let rules = self.rules(bucket.into());
            let (mine, rest) = reserved.split_at(rules.len().min(reserved.len()));
            reserved = rest;
            let state = &mut self.states[usize::from(bucket)];
            state.detach(self.batch.session, claim, rules, mine, lease);
            state.keep_while_charged(rules, lease, self.wall);
        }
        Verdict::Done
    }

    fn refused(&mut self, bucket: usize, quota: Option<u64>, refusal: Refusal) -> Verdict {
        let now = self.states[bucket].now();
        match quota {
            None => self.states[bucket].refuse(refusal),
            Some(id) => {
                if let Some((rule, state)) = self.quota_of(bucket, id) {
                    state.refuse(rule, refusal, now);
                }
            }
        }
        Verdict::Done
    }

    /// A bucket's quota of this id.
    fn quota_of(&mut self, bucket: usize, id: u64) -> Option<(&'a Rule, &mut QuotaState)> {
        let rules = self.rules(bucket);
        let index = rules.iter().position(|rule| rule.id == id)?;
        Some((&rules[index], self.states[bucket].quota(index)?))
    }

    fn status(&mut self, bucket: usize) -> Verdict {
        self.refold();
        let state = &self.states[bucket];
        let quotas = self.rules(bucket).iter().zip(state.quotas());
        Verdict::Status(Box::new(BucketLevel {
            quotas: quotas.map(|(rule, quota)| quota.level(rule, state.now(), self.wall)).collect(),
            paused_until: state.paused_until(),
            asked_until: state.asked().map_or(0, |asked| sum(state.now(), asked)),
            waiting: state.heads().waiting(state.now()),
        }))
    }

    /// Makes the edits of the settles so far count.
    #[inline]
    fn refold(&mut self) {
        if std::mem::take(&mut self.edited) {
            self.states.iter_mut().for_each(|state| state.refold());
        }
    }

    /// Hints the sessions of heads that fit now and did not before.
    fn wake(&mut self, bucket: usize, wakes: &mut Wakes) {
        let (session, now) = (self.batch.session, self.states[bucket].now());
        let stirred = self.stirred.contains(&bucket);
        for (rule_index, rule) in self.rules(bucket).iter().enumerate() {
            let front = self.front(bucket, rule_index, rule);
            let (quota, heads) = self.states[bucket].quota_and_heads(rule_index);
            for (index, head) in
                heads.iter_mut().enumerate().filter(|(_, head)| head.quota == rule.id)
            {
                let fitted = std::mem::replace(&mut head.fits, front.contains(&index));
                head.is_behind &= fits_alone(quota, rule, head.cost, head.headroom, now);
                let is_news = head.fits && !fitted || stirred && !head.is_late(now);
                if is_news && head.session != session && head.expect(now) {
                    let wake = Wake { session: head.session, bucket: bucket as u16 };
                    if !wakes.contains(&wake) {
                        wakes.push(wake);
                    }
                }
            }
        }
    }

    /// The heads of a quota that fit together, from the front, by their indexes.
    fn front(&self, bucket: usize, rule_index: usize, rule: &Rule) -> SmallVec<[usize; 4]> {
        let state = &self.states[bucket];
        let (quota, now, horizon) =
            (&state.quotas()[rule_index], state.now(), state.quotas()[rule_index].horizon());
        let mut front = SmallVec::new();
        // Of the classes that leave at least this to others, one does not fit: nor does what is
        // behind it.
        let mut blocked = u64::MAX;
        for (index, head) in state.heads().iter().enumerate() {
            let counts = head.quota == rule.id && !head.is_late(now) && head.holds(horizon, now);
            if !counts || head.headroom >= blocked {
                continue;
            }
            let space = self.batch.buckets.iter().position(|other| other.id == head.space);
            let space = space.map(|space| &*self.states[space]);
            let start_of = |flow| space.map_or(0.0, |space| space.start_of(flow, head.space));
            let place = head.place(start_of(head.flow));
            let others = state.heads().before(&place, rule.id, horizon, 0, now, &start_of);
            let capacity = rule.capacity_for(head.cost, head.headroom);
            let ask =
                Ask { cost: head.cost, ahead: others.amount, before: others.demands, capacity };
            if quota.fits(rule, ask, now) && state.paused_for(others.demands) == 0 {
                front.push(index);
            } else if space.is_none_or(|space| space.flows().is_none()) {
                blocked = blocked.min(head.headroom);
            }
        }
        front
    }
}

/// Whether a demand fits on a quota if nothing goes before it.
fn fits_alone(quota: &QuotaState, rule: &Rule, cost: u64, headroom: u64, now: Micros) -> bool {
    let capacity = rule.capacity_for(cost, headroom);
    quota.fits(rule, Ask { cost, ahead: 0, before: 0, capacity }, now)
}

/// What heads of a refused waiter have in common.
#[derive(Clone, Copy, Debug)]
struct Pending {
    space: u64,
    part: f64,
    /// When it fits, if that is known.
    due_in: Option<Micros>,
    is_behind: bool,
}
