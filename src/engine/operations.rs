//! The operations of one batch, one after the other, on states that have been brought to the present.

use smallvec::SmallVec;

use super::{
    Batch, BucketLevel, BucketState, Costs, Line, Micros, Mode, On, Op, Refused, RefusedBy,
    Reserve, Rule, Seen, Settle, Verdict, Verdicts, Violation, Wake, Wakes,
    bucket::Change,
    exact::sum,
    gate::Refusal,
    heads::{Before, Head, MAX_LINES, Place},
    quota_state::{Ask, QuotaState},
};

/// Where grants come faster than round trips, strict order over processes would let all of them wait for each other: there a
/// session may grant what arrived this much after another one's head, and more where many wait.
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
    /// What waiters of the session ask of quotas that refused them, with the bucket and the rule. Few at a time.
    ahead: Vec<Ahead>,
}

/// What waiters of the session ask of a quota.
#[derive(Clone, Copy, Debug)]
struct Ahead {
    bucket: usize,
    rule: usize,
    /// The least that any of them leaves to others: a demand that leaves less is not behind them.
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
        }
    }

    pub(super) fn run(&mut self) -> Verdicts {
        let ops = self.batch.ops;
        let Some(order) = self.order() else {
            return ops.iter().map(|op| self.apply(op, None)).collect();
        };
        let mut verdicts = Verdicts::from_elem(Verdict::Done, ops.len());
        for (index, tag) in order {
            verdicts[index] = self.apply(&ops[index], tag);
        }
        verdicts
    }

    /// Makes everything count, and gives the session time until its next batch. Returns how each bucket was found and left,
    /// and which heads of other sessions may fit now.
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

    fn apply(&mut self, op: &Op, tag: Option<f64>) -> Verdict {
        match op {
            Op::Reserve(reserve) => self.reserve(reserve, tag),
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

    /// The order in which to apply the operations, with the start tags of waiting reserves: flows of one space and class take
    /// turns. Nothing if that is as they come.
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
        let mut groups: Vec<((u64, u64), Vec<(f64, usize)>)> = Vec::new();
        for (index, op) in ops.iter().enumerate().filter(|(_, op)| waiting(op)) {
            let Op::Reserve(reserve) = op else { continue };
            let (space, state) = self.space_of(reserve);
            let key = (self.batch.buckets[space].id, reserve.flow.id);
            let start = match moved.iter().position(|(of, _)| *of == key) {
                Some(known) => &mut moved[known].1,
                None => {
                    moved.push((key, state.start_of(reserve.flow.id, key.0)));
                    &mut moved.last_mut().expect("it was pushed").1
                }
            };
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

    fn reserve(&mut self, reserve: &Reserve, tag: Option<f64>) -> Verdict {
        self.refold();
        if !self.fits(reserve, tag) {
            return Verdict::Refused(Box::new(self.refuse(reserve, tag)));
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

    fn fits(&self, reserve: &Reserve, tag: Option<f64>) -> bool {
        let mut costs = &*reserve.costs;
        reserve.on.iter().all(|&bucket| {
            let bucket = usize::from(bucket);
            let (state, rules) = (&self.states[bucket], self.rules(bucket));
            let (mine, rest) = costs.split_at(rules.len().min(costs.len()));
            costs = rest;
            let mut quotas = rules.iter().zip(state.quotas()).zip(mine).enumerate();
            quotas.all(|(rule_index, ((rule, quota), &cost))| {
                let ask = self.ask(reserve, tag, bucket, rule_index, rule, cost);
                quota.fits(rule, ask, state.now())
            }) && self.paused_for(reserve, tag, bucket, mine) == 0
        })
    }

    /// For how long a pause of a bucket holds back a reserve of these costs there.
    fn paused_for(
        &self,
        reserve: &Reserve,
        tag: Option<f64>,
        bucket: usize,
        costs: &[u64],
    ) -> Micros {
        if !self.states[bucket].has_gate() {
            return 0;
        }
        let rules = self.rules(bucket).iter().zip(costs).enumerate();
        let before = rules
            .filter(|(_, (_, cost))| **cost > 0)
            .map(|(index, (rule, &cost))| self.ask(reserve, tag, bucket, index, rule, cost).before);
        self.states[bucket].paused_for(before.max().unwrap_or(0))
    }

    #[inline]
    fn ask(
        &self,
        reserve: &Reserve,
        tag: Option<f64>,
        bucket: usize,
        rule_index: usize,
        rule: &Rule,
        cost: u64,
    ) -> Ask {
        let capacity = rule.capacity_for(cost, reserve.headroom);
        if self.ahead.is_empty() && self.states[bucket].heads().is_empty() {
            return Ask { cost, ahead: 0, before: 0, capacity };
        }
        let others = self.before(reserve, tag, bucket, rule_index);
        let mine = self.mine(bucket, rule_index, reserve.headroom);
        // More than a few windows ahead makes no difference to an answer, and amounts stay exact.
        let ahead = sum(others.amount, mine.amount).min(4 * rule.capacity(0));
        Ask { cost, ahead, before: sum(others.demands, mine.demands), capacity }
    }

    /// What waiters of this session go before a demand on a quota.
    fn mine(&self, bucket: usize, rule: usize, headroom: u64) -> Before {
        let mut mine =
            self.ahead.iter().filter(|ahead| (ahead.bucket, ahead.rule) == (bucket, rule));
        match mine.next() {
            Some(ahead) if headroom >= ahead.headroom => {
                Before { amount: ahead.amount, demands: ahead.demands, heads: 1 }
            }
            _ => Before::default(),
        }
    }

    /// What heads of other sessions go before a demand on a quota.
    fn before(
        &self,
        reserve: &Reserve,
        tag: Option<f64>,
        bucket: usize,
        rule_index: usize,
    ) -> Before {
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
            arrival: self.arrival(bucket, reserve.waiter, reserve.age),
            tag: tag.unwrap_or_else(|| space_state.start_of(reserve.flow.id, space)),
        };
        // What does not wait passes no head.
        let tolerance = match reserve.mode {
            Mode::Wait => self.tolerance(bucket, rule_index, place.session),
            Mode::Try | Mode::Dry => 0,
        };
        state.heads().before(&place, quota.id, quota.horizon(), tolerance, now, space_state.flows())
    }

    /// When a waiter arrived, by the time of a bucket. A head that comes back keeps its arrival.
    fn arrival(&self, bucket: usize, waiter: u64, age: Micros) -> Micros {
        let state = &self.states[bucket];
        let known = state.heads().arrival(self.batch.session, waiter);
        known.unwrap_or_else(|| state.now().saturating_sub(age))
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

    fn refuse(&mut self, reserve: &Reserve, tag: Option<f64>) -> Refused {
        let mut violations = self.violations(reserve, tag);
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
        let tag = tag.unwrap_or_else(|| state.start_of(reserve.flow.id, space_id));
        let goes_away = violations.iter().any(|(_, violation)| violation.asked.is_some());
        if reserve.mode == Mode::Wait && !goes_away {
            let known = violations.iter().all(|(_, violation)| violation.wait.is_some());
            let longest = waits.iter().copied().max().unwrap_or(0);
            let head = Pending { space: space_id, part: step, due_in: known.then_some(longest) };
            for (index, (at, violation)) in violations.iter().enumerate() {
                if let Some(at) = at {
                    self.line_up(reserve, *at, head, held_for(index), violation.holds);
                }
            }
            for at in self.behind_pauses(reserve, &violations) {
                self.line_up(reserve, at, head, 0, true);
            }
        }
        Refused {
            violations: violations.into_iter().map(|(_, violation)| violation).collect(),
            tag,
            part: step,
        }
    }

    /// The reasons of a refusal, with the quotas that refused.
    fn violations(
        &self,
        reserve: &Reserve,
        tag: Option<f64>,
    ) -> SmallVec<[(Option<At>, Violation); 2]> {
        let mut violations = SmallVec::new();
        let mut costs = &*reserve.costs;
        for (index, &bucket) in reserve.on.iter().enumerate() {
            let bucket = usize::from(bucket);
            let (mine, rest) = costs.split_at(self.rules(bucket).len().min(costs.len()));
            costs = rest;
            let wait = self.paused_for(reserve, tag, bucket, mine);
            if wait > 0 {
                let (by, asked) = (RefusedBy::Pause(index), self.states[bucket].asked());
                let wait = Some(wait);
                let at_best = wait.unwrap_or(0);
                let violation = Violation {
                    by,
                    available: 0,
                    wait,
                    at_best,
                    asked,
                    holds: true,
                    rank: 0,
                    before: 0,
                };
                violations.push((None, violation));
            }
        }
        for at in self.quotas(&reserve.on, &reserve.costs) {
            let (state, rule) = (&self.states[at.bucket], &self.rules(at.bucket)[at.rule]);
            let (quota, now) = (&state.quotas()[at.rule], state.now());
            let ask = self.ask(reserve, tag, at.bucket, at.rule, rule, at.cost);
            let fits = quota.fits(rule, ask, now);
            if fits && !self.keeps(reserve, at) {
                continue;
            }
            let others = self.before(reserve, tag, at.bucket, at.rule);
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

    /// Whether a refused waiter keeps its place on a quota where it would fit now: one that refused it before. Otherwise
    /// streams on this quota alone and on that alone would starve what needs both.
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
        at: At,
        pending: Pending,
        held_for: Micros,
        holds: bool,
    ) {
        if holds {
            self.go_ahead(at.bucket, at.rule, reserve.headroom, at.cost, 1);
        }
        if !self.told.contains(&at.bucket) {
            return;
        }
        let now = self.states[at.bucket].now();
        let arrival = self.arrival(at.bucket, reserve.waiter, reserve.age);
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
            },
        );
    }

    /// What a pause of a bucket holds back is a head on all quotas of the bucket that it needs: those that did not refuse it.
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
        let known =
            self.ahead.iter_mut().find(|ahead| (ahead.bucket, ahead.rule) == (bucket, rule));
        match known {
            Some(ahead) => {
                ahead.amount = sum(ahead.amount, amount);
                ahead.demands = sum(ahead.demands, demands);
                ahead.headroom = ahead.headroom.min(headroom);
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
                head.last = head.last.max(known.arrival);
            }
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
        if claim.is_some()
            && on.iter().any(|&bucket| self.states[usize::from(bucket)].record(owner).is_none())
        {
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

    /// Wakes the heads of other sessions at the front of each quota of a bucket, as far as all of them fit.
    fn wake(&mut self, bucket: usize, wakes: &mut Wakes) {
        let stirred = self.stirred.contains(&bucket);
        for (rule_index, rule) in self.rules(bucket).iter().enumerate() {
            let heads =
                if stirred { self.all(bucket, rule) } else { self.front(bucket, rule_index, rule) };
            for head in heads {
                let is_mine = head.session == self.batch.session;
                let now = self.states[bucket].now();
                if is_mine
                    || !self.states[bucket].heads_mut().wake(
                        head.session,
                        head.quota,
                        head.waiter,
                        now,
                    )
                {
                    continue;
                }
                let wake = Wake { session: head.session, bucket: bucket as u16 };
                if !wakes.contains(&wake) {
                    wakes.push(wake);
                }
            }
        }
    }

    /// All heads on a quota.
    fn all(&self, bucket: usize, rule: &Rule) -> SmallVec<[Head; 4]> {
        let state = &self.states[bucket];
        state.heads().live(0, rule.id, state.now()).copied().collect()
    }

    /// The heads at the front of a quota that fit together.
    fn front(&self, bucket: usize, rule_index: usize, rule: &Rule) -> SmallVec<[Head; 4]> {
        let state = &self.states[bucket];
        let (quota, now, id) =
            (&state.quotas()[rule_index], state.now(), self.batch.buckets[bucket].id);
        let mut heads: SmallVec<[Head; 4]> = state
            .heads()
            .live(0, rule.id, now)
            .filter(|head| head.holds(quota.horizon(), now))
            .copied()
            .collect();
        if state.flows().is_some() {
            heads.sort_by(|one, other| {
                state.start_of(one.flow, id).total_cmp(&state.start_of(other.flow, id))
            });
        }
        let (mut ahead, mut before) = (0, 0);
        let fits = |head: &Head, ahead, before| {
            let capacity = rule.capacity_for(head.cost, head.headroom);
            quota.fits(rule, Ask { cost: head.cost, ahead, before, capacity }, now)
                && state.paused_for(before) == 0
        };
        let count = heads
            .iter()
            .take_while(|head| {
                let is_next = fits(head, ahead, before);
                (ahead, before) = (sum(ahead, head.cost), before + 1);
                is_next
            })
            .count();
        heads.truncate(count);
        heads
    }
}

/// What heads of a refused waiter have in common.
#[derive(Clone, Copy, Debug)]
struct Pending {
    space: u64,
    part: f64,
    /// When it fits, if that is known.
    due_in: Option<Micros>,
}
