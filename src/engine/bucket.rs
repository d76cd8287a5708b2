//! The state of one bucket: its quotas, its clock, and what each lane has in flight in it.

use smallvec::SmallVec;

use super::{
    Life, Micros,
    exact::sum,
    quota_state::QuotaState,
    rule::{MAX_AMOUNT, Rule},
    surfaced::Surfaced,
};

/// How long a lane is remembered after its last batch.
pub const LANE_MEMORY: Micros = 600_000_000;

/// The state of one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketState {
    /// When this state began; 0 if it has not.
    pub(crate) born: Micros,
    /// The latest time seen.
    pub(crate) now: Micros,
    /// What is added to the store's clock since that stepped back.
    pub(crate) offset: Micros,
    pub(crate) paused_until: Micros,
    /// Whether the pause is one to wait out.
    pub(crate) surfaced: Surfaced,
    /// Until when the state means something.
    pub(crate) expires: Micros,
    /// Nothing in `lanes` is due before this.
    pub(crate) next_sweep: Micros,
    /// Those of the rules in use first and in their order, then those that only others know.
    pub(crate) quotas: Vec<QuotaState>,
    pub(crate) lanes: Vec<LaneState>,
}

/// What a bucket knows of a lane, or of a detached reservation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LaneState {
    pub(crate) id: u64,
    /// The last batch applied, when that was, and what it was answered.
    pub(crate) seq: u64,
    pub(crate) answered_at: Micros,
    pub(crate) verdicts: super::Verdicts,
    /// What is in flight is taken for abandoned from here on.
    pub(crate) lease_until: Micros,
    pub(crate) forget_at: Micros,
    /// What was granted before this is not in `in_flight`: the lane was not known yet, or its lease had
    /// ended.
    pub(crate) since: Micros,
    pub(crate) in_flight: SmallVec<[Share; 4]>,
}

/// What a lane has in flight on one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) quota: u64,
    pub(crate) amount: u64,
}

impl LaneState {
    pub(crate) fn new(id: u64, now: Micros) -> Self {
        Self {
            id,
            seq: 0,
            answered_at: 0,
            verdicts: super::Verdicts::new(),
            lease_until: 0,
            forget_at: 0,
            since: now,
            in_flight: SmallVec::new(),
        }
    }

    /// What it has in flight on a quota, that of the rule at `index`; those of the rules before it were asked for.
    #[inline]
    pub(crate) fn share(&mut self, index: usize, quota: u64) -> &mut u64 {
        if self.in_flight.get(index).is_none_or(|share| share.quota != quota) {
            self.place_share(index, quota);
        }
        &mut self.in_flight[index].amount
    }

    #[cold]
    fn place_share(&mut self, index: usize, quota: u64) {
        let found =
            self.in_flight.iter().position(|share| share.quota == quota).unwrap_or_else(|| {
                self.in_flight.push(Share { quota, amount: 0 });
                self.in_flight.len() - 1
            });
        self.in_flight.swap(index, found);
    }

    /// When the bucket has to look at this lane again.
    #[inline]
    fn due(&self) -> Micros {
        match self.in_flight.iter().any(|share| share.amount > 0) {
            true => self.lease_until,
            false => self.forget_at,
        }
    }
}

impl BucketState {
    /// A bucket that nobody has used yet.
    pub fn unused() -> Self {
        Self {
            born: 0,
            now: 0,
            offset: 0,
            paused_until: 0,
            surfaced: Surfaced::default(),
            expires: 0,
            next_sweep: MAX_AMOUNT,
            quotas: Vec::new(),
            lanes: Vec::new(),
        }
    }

    /// Whether nobody has used it yet.
    pub(crate) fn is_unused(&self) -> bool {
        self.born == 0
    }

    /// Whether a refund may as well be applied as of the time that the state was brought to.
    #[inline]
    pub(crate) fn refunds_at_any_time(&self, rules: &[Rule]) -> bool {
        let mut quotas = self.quotas.iter().zip(rules);
        self.quotas.len() >= rules.len()
            && quotas.all(|(state, rule)| state.refunds_at_any_time(rule))
    }

    #[inline]
    pub(crate) fn life(&self) -> Life {
        Life { born: self.born, expires: self.expires }
    }

    /// Whether this state means nothing any more: a new one would admit the same.
    pub fn is_over(&self, now: Micros) -> bool {
        self.expires <= now && self.lanes.iter().all(|lane| lane.due() <= now)
    }

    /// Brings clock, quotas and leases to `now`, with the quotas in the order of `rules`.
    #[inline]
    pub(crate) fn advance(&mut self, rules: &[Rule], now: Micros, wall: Micros) {
        if self.born == 0 {
            self.born = now;
        }
        self.now = now;
        self.offset = now.saturating_sub(wall);
        if self.quotas.is_empty() {
            self.quotas.reserve_exact(rules.len());
        }
        for (index, rule) in rules.iter().enumerate() {
            match self.quotas.get_mut(index) {
                Some(state) if state.id == rule.id => state.advance(rule, now, wall),
                _ => self.place(index, rule, now, wall),
            }
        }
        if now >= self.next_sweep {
            self.sweep(rules.len(), now);
        }
    }

    /// Puts the quota of a rule at `index`, which is made if it is not known.
    #[cold]
    fn place(&mut self, index: usize, rule: &Rule, now: Micros, wall: Micros) {
        let found = (index..self.quotas.len()).find(|&other| self.quotas[other].id == rule.id);
        let found = found.unwrap_or_else(|| {
            self.quotas.push(QuotaState::new(rule, now, wall));
            self.quotas.len() - 1
        });
        self.quotas.swap(index, found);
        self.quotas[index].advance(rule, now, wall);
    }

    /// Ends the leases that are over. Forgets the lanes that were silent for long, and the quotas after the
    /// first `known` that mean nothing any more.
    #[cold]
    fn sweep(&mut self, known: usize, now: Micros) {
        for lane in self.lanes.iter_mut().filter(|lane| lane.lease_until <= now) {
            lane.since = now;
            abandon(&mut self.quotas, lane.in_flight.drain(..), now);
        }
        self.lanes.retain(|lane| lane.due() > now);
        let mut index = 0;
        self.quotas.retain(|state| {
            index += 1;
            index <= known || state.expires > now || state.in_flight > 0
        });
        self.next_sweep = self.lanes.iter().map(LaneState::due).min().unwrap_or(MAX_AMOUNT);
    }

    /// Pauses everything; nobody waits that out.
    pub(crate) fn surface(&mut self, until: Micros, asked_until: Micros) {
        self.paused_until = self.paused_until.max(until);
        self.surfaced.surface(until, asked_until, self.now);
    }

    /// Ends every pause.
    pub(crate) fn resume(&mut self) {
        (self.paused_until, self.surfaced) = (0, Surfaced::default());
        self.quotas.iter_mut().for_each(QuotaState::resume);
    }

    /// What is left of a wait that nobody waits out.
    pub(crate) fn asked(&self) -> Option<Micros> {
        self.surfaced.asked(self.paused_until, self.now)
    }

    /// Forgets a claim, with what it has in flight on quotas that whoever settled it does not know.
    pub(crate) fn end_claim(&mut self, lane: usize) {
        let claim = self.lanes.swap_remove(lane);
        abandon(&mut self.quotas, claim.in_flight, self.now);
    }

    pub(crate) fn lane(&self, id: u64) -> Option<&LaneState> {
        self.lanes.iter().find(|lane| lane.id == id)
    }

    #[inline]
    pub(crate) fn find_lane(&self, id: u64) -> Option<usize> {
        self.lanes.iter().position(|lane| lane.id == id)
    }

    /// The index of a lane, which is made if it is not known.
    #[inline]
    pub(crate) fn enter(&mut self, id: u64) -> usize {
        self.find_lane(id).unwrap_or_else(|| self.make_lane(id))
    }

    #[cold]
    fn make_lane(&mut self, id: u64) -> usize {
        if self.lanes.is_empty() {
            // Most buckets see one lane only.
            self.lanes.reserve_exact(1);
        }
        self.lanes.push(LaneState::new(id, self.now));
        self.lanes.len() - 1
    }

    /// Gives a lane, or a detached reservation, time until its lease and its record end.
    #[inline]
    pub(crate) fn extend(&mut self, index: usize, lease_until: Micros, forget_at: Micros) {
        let lane = &mut self.lanes[index];
        (lane.lease_until, lane.forget_at) = (lease_until, forget_at);
        self.expires = self.expires.max(forget_at);
        self.look_again_at(index);
    }

    /// Looks at a lane again when it is due.
    #[inline]
    pub(crate) fn look_again_at(&mut self, lane: usize) {
        self.next_sweep = self.next_sweep.min(self.lanes[lane].due());
    }

    /// Keeps the state for as long as its quotas mean something, with holds of a lease as long as `lease`.
    #[inline]
    pub(crate) fn keep_while_charged(&mut self, rules: &[Rule], lease: Micros, wall: Micros) {
        for (state, rule) in self.quotas.iter_mut().zip(rules) {
            let lasts = state.lasts(rule, lease, self.now, wall);
            state.expires = state.expires.max(sum(self.now, lasts));
            self.expires = self.expires.max(state.expires);
        }
        self.expires = self.expires.max(self.paused_until);
    }
}

/// The owner of `shares` is gone.
fn abandon(quotas: &mut [QuotaState], shares: impl IntoIterator<Item = Share>, now: Micros) {
    for share in shares.into_iter().filter(|share| share.amount > 0) {
        if let Some(state) = quotas.iter_mut().find(|state| state.id == share.quota) {
            state.abandon(share.amount, now);
        }
    }
}
