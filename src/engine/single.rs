//! One operation of a lane on one bucket, as in a batch that comes once and has no number: for a store whose callers have
//! the bucket at hand.

use super::{
    BucketState, Micros, Mode, Rule, Verdict, Violation,
    charge::{Reserve, Settle},
    quota_state::Ask,
    step::Step,
    time,
};

/// Who does it, and the rules that the bucket must obey: none of a calendar, which may not reach to the present.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Single<'a> {
    pub(crate) lane: u64,
    /// Without another operation for this long, what the lane has in flight is taken for abandoned.
    pub(crate) lease: Micros,
    pub(crate) rules: &'a [Rule],
}

impl Single<'_> {
    /// Charges the costs on every quota, or on none; or only says what would happen. Answers when that was, or why it does
    /// not fit, as far as [`Op::Reserve`](super::Op::Reserve) tells.
    #[inline]
    pub(crate) fn reserve(
        self,
        state: &mut BucketState,
        reserve: Reserve<'_>,
        wall: Micros,
    ) -> Result<Micros, Box<[Violation]>> {
        let Reserve { costs, headroom, mode, .. } = reserve;
        let now = self.begin(state, wall);
        let ask = |_, rule: &Rule, cost| Ask {
            cost,
            ahead: 0,
            capacity: rule.capacity_for(cost, headroom),
        };
        let lane = state.enter(self.lane);
        let fits = state.fits(self.rules, costs, ask);
        if fits && mode != Mode::Dry {
            state.reserve(lane, self.rules, costs);
        }
        state.end(lane, self.lease, self.rules, wall);
        if fits { Ok(now) } else { Err(self.reasons(state, reserve, wall)) }
    }

    /// Brings the state to the present.
    #[inline]
    fn begin(self, state: &mut BucketState, wall: Micros) -> Micros {
        let now = time(std::slice::from_ref(state), wall);
        state.advance(self.rules, now, wall);
        now
    }

    #[cold]
    fn reasons(
        self,
        state: &mut BucketState,
        reserve: Reserve<'_>,
        wall: Micros,
    ) -> Box<[Violation]> {
        let (now, rules) = (state.now, &[self.rules]);
        let mut step = Step::begin(std::slice::from_mut(state), rules, self.lane, now, wall);
        match step.reserve(reserve) {
            Verdict::Refused(violations) => violations,
            _ => Box::default(),
        }
    }

    /// Replaces what a reservation of `reserved` was charged `at`. The clock, which is slow, is read only where something
    /// depends on it: a refund lowers what was charged before, and makes nothing last longer. Answers whether it was.
    #[inline]
    pub(crate) fn settle(
        self,
        state: &mut BucketState,
        at: Micros,
        reserved: &[u64],
        actual: &[u64],
        close: bool,
        clock: impl FnOnce() -> Micros,
    ) -> bool {
        let settle = Settle { at, reserved, actual, close, is_claim: false };
        let is_refund = actual.iter().zip(reserved).all(|(actual, reserved)| actual <= reserved);
        match state.find_lane(self.lane) {
            Some(lane) if is_refund && state.refunds_at_any_time(self.rules) => {
                state.settle(lane, self.rules, settle);
                state.refold();
                // With nothing in flight it is due sooner.
                state.look_again_at(lane);
                false
            }
            _ => {
                let wall = clock();
                self.begin(state, wall);
                let lane = state.enter(self.lane);
                state.settle(lane, self.rules, settle);
                state.refold();
                state.end(lane, self.lease, self.rules, wall);
                true
            }
        }
    }
}
