//! What a reserve and a settle do to one bucket that has been brought to the present, on behalf of one of its lanes.

use super::{
    BucketState, LANE_MEMORY, Micros, Mode, Rule,
    exact::sum,
    quota_state::{Amendment, Ask, QuotaState},
    rule::MAX_TAKEN,
};

/// What a reserve asks for: see [`Op::Reserve`](super::Op::Reserve).
#[derive(Clone, Copy, Debug)]
pub(crate) struct Reserve<'a> {
    pub(crate) costs: &'a [u64],
    pub(crate) headroom: u64,
    pub(crate) explain: bool,
    pub(crate) mode: Mode,
}

/// What a settle is to do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Settle<'a> {
    /// When the reservation was granted.
    pub(super) at: Micros,
    pub(super) reserved: &'a [u64],
    pub(super) actual: &'a [u64],
    pub(super) close: bool,
    /// The lane is a claim, made after the grant.
    pub(super) is_claim: bool,
}

impl BucketState {
    /// Whether what `ask` tells of each cost, counted from 0, fits on every quota.
    #[inline]
    pub(super) fn fits(
        &self,
        rules: &[Rule],
        costs: &[u64],
        ask: impl Fn(usize, &Rule, u64) -> Ask,
    ) -> bool {
        let mut quotas = rules.iter().zip(&self.quotas).zip(costs).enumerate();
        self.paused_until <= self.now
            && quotas
                .all(|(index, ((rule, state), &cost))| state.fits(rule, ask(index, rule, cost)))
    }

    /// Charges what fits.
    #[inline]
    pub(super) fn reserve(&mut self, lane: usize, rules: &[Rule], costs: &[u64]) {
        let lane = &mut self.lanes[lane];
        for (index, ((rule, state), &cost)) in
            rules.iter().zip(&mut self.quotas).zip(costs).enumerate()
        {
            state.reserve(rule, cost);
            let share = lane.share(index, rule.id);
            *share = (*share + cost).min(MAX_TAKEN);
        }
    }

    /// Replaces what a reservation was charged. It does not count before the next refold.
    #[inline]
    pub(super) fn settle(&mut self, lane: usize, rules: &[Rule], settle: Settle<'_>) {
        let Settle { at, reserved, actual, close, is_claim } = settle;
        let lane = &mut self.lanes[lane];
        // A late settle must not take what its lane has reserved since. A claim is younger than its grant.
        let stands = is_claim || at >= lane.since;
        let amounts = reserved.iter().zip(actual);
        let quotas = rules.iter().zip(&mut self.quotas).zip(amounts);
        for (index, ((rule, state), (&reserved, &actual))) in quotas.enumerate() {
            let share = lane.share(index, rule.id);
            let in_flight = if stands { reserved.min(*share) } else { 0 };
            let open = state.settle(rule, Amendment { at, reserved, actual, in_flight, close });
            *share = (*share - in_flight + open).min(MAX_TAKEN);
        }
    }

    /// Makes the edits of settles count.
    #[inline]
    pub(super) fn refold(&mut self) {
        self.quotas.iter_mut().for_each(QuotaState::refold);
    }

    /// Gives a lane time until its next batch, and the state as long as it means something.
    #[inline]
    pub(super) fn end(&mut self, lane: usize, lease: Micros, rules: &[Rule], wall: Micros) {
        self.extend(lane, sum(self.now, lease), sum(self.now, LANE_MEMORY));
        // What is held for longer keeps its lane, and so its bucket.
        self.keep_while_charged(rules, lease.min(LANE_MEMORY), wall);
    }
}
