//! The operations of one batch, one after the other.

use smallvec::SmallVec;

use super::{
    Batch, BucketLevel, BucketState, Costs, Micros, Mode, On, Op, Reserve, Seen, Settle, Verdict,
    Verdicts, Wakes,
    ahead::Ahead,
    bucket::Change,
    candidate::Candidate,
    exact::sum,
    front,
    gate::ProviderRefusal,
    order::{Ages, Turn, in_turns},
    own_heads::OwnHeads,
    quota_state::Ask,
    states::BatchStates,
};

/// A batch on its way through its states.
pub(super) struct Operations<'a, 'b> {
    batch: &'a Batch<'a>,
    states: BatchStates<'a, 'b>,
    ahead: Ahead,
    own_heads: OwnHeads,
    ages: Ages,
    /// The buckets whose heads all have to look again: when they may pass has changed.
    stirred: Vec<usize>,
}

impl<'a, 'b> Operations<'a, 'b> {
    pub(super) fn begin(
        states: &'a mut [&'b mut BucketState],
        batch: &'a Batch<'a>,
        wall: Micros,
    ) -> Self {
        Self {
            batch,
            states: BatchStates::advance(states, batch, wall),
            ahead: Ahead::default(),
            own_heads: OwnHeads::default(),
            ages: Ages::default(),
            stirred: Vec::new(),
        }
    }

    pub(super) fn run(&mut self) -> Verdicts {
        let ops = self.batch.ops;
        let Some(order) = in_turns(ops, &self.states, &mut self.ages) else {
            // Pushed one by one, which is inlined.
            let mut verdicts = Verdicts::with_capacity(ops.len());
            ops.iter().for_each(|op| verdicts.push(self.apply(op, None)));
            return verdicts;
        };
        let mut verdicts = Verdicts::from_elem(Verdict::Done, ops.len());
        for (index, turn) in order {
            verdicts[index] = self.apply(&ops[index], turn);
        }
        verdicts
    }

    /// Makes everything count, and gives the session time until its next batch. Returns how each
    /// bucket was found and left, and which heads of other sessions may fit now.
    pub(super) fn end(&mut self) -> (SmallVec<[Seen; 1]>, Wakes) {
        self.states.refold();
        let Batch { session, seq, buckets, .. } = *self.batch;
        if seq > 0 {
            // So that its batch is known when it comes again.
            self.states.state_mut(0).enter(session);
        }
        let (mut seen, mut wakes) = (SmallVec::new(), Wakes::default());
        for (index, bucket) in buckets.iter().enumerate() {
            if self.states.is_told(index) {
                let mine = self.own_heads.of(index);
                for head in mine.iter().filter(|head| head.space == bucket.key.id()) {
                    let now = self.states.state(index).now();
                    self.states.wait_in_flow(index, head.flow, now);
                }
                self.states.state_mut(index).stand(session, mine);
            }
            if !self.states.state(index).heads().is_empty() {
                let stirred = self.stirred.contains(&index);
                front::wake(&mut self.states, index, stirred, &mut wakes);
            }
            seen.push(self.states.end(index));
        }
        (seen, wakes)
    }

    fn apply(&mut self, op: &Op, turn: Option<Turn>) -> Verdict {
        match op {
            Op::Reserve(reserve) => self.reserve(reserve, turn),
            Op::Settle(settle) => self.settle(settle),
            Op::Detach { on, claim, reserved, lease } => self.detach(on, *claim, reserved, *lease),
            Op::Waiting { bucket, lines } => {
                let Self { states, ahead, own_heads, ages, .. } = self;
                own_heads.add_lines(states, (ahead, ages), usize::from(*bucket), lines);
                Verdict::Done
            }
            Op::Status { bucket } => self.status(usize::from(*bucket)),
            Op::Pause { bucket, lasts } => {
                let state = self.states.state_mut(usize::from(*bucket));
                match *lasts {
                    0 => state.resume(),
                    lasts => state.pause(sum(state.now(), lasts)),
                }
                Verdict::Done
            }
            Op::Refused { bucket, quota, at, asked, lasts, longest } => {
                let refusal =
                    ProviderRefusal { at: *at, asked: *asked, lasts: *lasts, longest: *longest };
                if asked > lasts {
                    // What waits is to be refused at once.
                    self.stirred.push(usize::from(*bucket));
                }
                self.refused(usize::from(*bucket), *quota, refusal)
            }
            Op::Answered { bucket, at } => {
                let bucket = usize::from(*bucket);
                if self.states.state_mut(bucket).answered_well(*at) {
                    self.stirred.push(bucket);
                }
                Verdict::Done
            }
            Op::Cap { bucket, quota, left, at, lasts } => {
                self.states.refold();
                let bucket = usize::from(*bucket);
                let (wall, now) = (self.states.wall(), self.states.state(bucket).now());
                if let Some((rule, state)) = self.states.quota_of(bucket, *quota) {
                    state.withhold(rule, *left, *at, *lasts, now, wall);
                }
                Verdict::Done
            }
        }
    }

    fn reserve(&mut self, reserve: &Reserve, turn: Option<Turn>) -> Verdict {
        self.states.refold();
        let is_free = reserve.mode == Mode::Charge;
        if !is_free && !self.fits_plainly(reserve) {
            let turn = turn.unwrap_or_else(|| self.ages.turn(&self.states, reserve));
            let candidate = Candidate::measure(reserve, turn, &self.states, &self.ahead);
            if !candidate.fits() {
                if reserve.mode != Mode::Dry {
                    let on = reserve.on.iter().map(|&bucket| usize::from(bucket));
                    on.for_each(|bucket| self.states.state_mut(bucket).count_refusal());
                }
                let lines = (&mut self.ahead, &mut self.own_heads, &mut self.ages);
                return Verdict::Refused(Box::new(candidate.refuse(&mut self.states, lines)));
            }
        }
        if reserve.mode == Mode::Dry {
            return Verdict::Fits;
        }
        let (session, mut probe) = (self.batch.session, false);
        for (bucket, costs) in self.states.parts(&reserve.on, &reserve.costs) {
            let rules = self.states.rules(bucket);
            probe |= self.states.state_mut(bucket).charge(session, rules, costs, is_free);
        }
        if is_free {
            return Verdict::Granted { probe };
        }
        let space = self.states.space_of(reserve);
        if self.states.state(space).flows().is_some() {
            let (start, step) = (self.states.start_of(reserve), self.states.step_of(reserve));
            self.states.state_mut(space).serve(reserve.flow.id, start, step);
        }
        Verdict::Granted { probe }
    }

    /// Whether a reserve fits where nothing goes before it, and nothing but quotas holds it back.
    #[inline]
    fn fits_plainly(&self, reserve: &Reserve) -> bool {
        self.ahead.is_empty()
            && self.states.parts(&reserve.on, &reserve.costs).all(|(bucket, costs)| {
                let state = self.states.state(bucket);
                let mut quotas = self.states.rules(bucket).iter().zip(state.quotas()).zip(costs);
                state.is_plain()
                    && quotas.all(|((rule, quota), &cost)| {
                        quota.fits(rule, Ask::alone(rule, cost, reserve.headroom), state.now())
                    })
            })
    }

    fn settle(&mut self, settle: &Settle) -> Verdict {
        let Settle { on, at, reserved, actual, close, claim } = settle;
        let owner = claim.unwrap_or(self.batch.session);
        let is_claim = |&bucket: &u16| self.states.state(bucket.into()).is_claim(owner);
        if claim.is_some() && !on.iter().all(is_claim) {
            return Verdict::NoClaim;
        }
        let parts = self.states.parts(on, reserved).zip(self.states.parts(on, actual)).zip(at);
        for (((bucket, reserved), (_, actual)), &at) in parts {
            let (rules, is_claim) = (self.states.rules(bucket), claim.is_some());
            let change = Change { at, reserved, actual, close: *close, is_claim };
            self.states.edit(bucket).settle(owner, rules, change);
            if *close && !is_claim {
                self.states.call_ends(bucket, at);
            }
        }
        Verdict::Done
    }

    fn detach(&mut self, on: &On, claim: u64, reserved: &Costs, lease: Micros) -> Verdict {
        let (session, wall) = (self.batch.session, self.states.wall());
        let is_session = |&bucket: &u16| {
            let state = self.states.state(bucket.into());
            state.record(claim).is_some() && !state.is_claim(claim)
        };
        if claim == session || on.iter().any(is_session) {
            return Verdict::NoClaim;
        }
        for (bucket, reserved) in self.states.parts(on, reserved) {
            let rules = self.states.rules(bucket);
            let state = self.states.state_mut(bucket);
            state.detach(session, claim, rules, reserved, lease);
            state.keep_while_charged(rules, lease, wall);
        }
        Verdict::Done
    }

    fn refused(&mut self, bucket: usize, quota: Option<u64>, refusal: ProviderRefusal) -> Verdict {
        let now = self.states.state(bucket).now();
        match quota {
            None => self.states.state_mut(bucket).refuse(refusal),
            Some(id) => {
                if let Some((rule, state)) = self.states.quota_of(bucket, id) {
                    state.refuse(rule, refusal, now);
                }
            }
        }
        Verdict::Done
    }

    fn status(&mut self, bucket: usize) -> Verdict {
        self.states.refold();
        let (state, wall) = (self.states.state(bucket), self.states.wall());
        let quotas = self.states.rules(bucket).iter().zip(state.quotas());
        let (granted, refused) = state.counts();
        Verdict::Status(Box::new(BucketLevel {
            quotas: quotas.map(|(rule, quota)| quota.level(rule, state.now(), wall)).collect(),
            paused_until: state.paused_until(),
            asked_until: state.asked().map_or(0, |asked| sum(state.now(), asked)),
            waiting: state.heads().waiting(self.states.session(), state.now()),
            granted,
            refused,
        }))
    }
}
