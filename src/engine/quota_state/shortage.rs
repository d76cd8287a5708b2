//! Why a demand does not fit on a quota, and when it will.

use super::{
    super::{
        Micros,
        exact::{product, sum},
        rule::Rule,
    },
    Ask, Charges, QuotaState, window_at,
};

/// What others ask before a demand makes a wait hopeless by so many windows at most.
const WINDOWS_AHEAD: u64 = 4;

/// Why a demand does not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortfall {
    /// Whole tokens available; negative in debt.
    pub(crate) available: i64,
    /// Time until the demand fits if nothing is refunded; `None` while that depends on calls in
    /// flight.
    pub(crate) wait: Option<Micros>,
    /// Time until it fits if everything in flight were refunded at once.
    pub(crate) at_best: Micros,
}

/// By how many units a demand does not fit.
#[derive(Clone, Copy, Debug)]
struct Over {
    /// While something is withheld.
    capped: u64,
    /// Without.
    free: u64,
}

impl Over {
    fn less(self, refund: u64) -> Self {
        Self { capped: self.capped.saturating_sub(refund), free: self.free.saturating_sub(refund) }
    }
}

impl QuotaState {
    /// Only asked where the demand does not fit, or to tell for how long another one would wait.
    pub(crate) fn shortage(&self, rule: &Rule, ask: Ask, now: Micros, wall: Micros) -> Shortfall {
        let (taken, units) = self.taken(rule);
        let capacity = product(ask.capacity, units);
        let gone = sum(taken, self.withheld_from(ask.cost));
        let over = |ask: Ask| {
            let over = |gone| sum(gone, ask.units(units)).saturating_sub(capacity);
            Over { capped: over(gone), free: over(taken) }
        };
        // Those before it may use much less than they ask.
        let at_best = Ask { ahead: ask.ahead.min(WINDOWS_AHEAD * rule.capacity(0)), ..ask };
        let refundable = product(self.in_flight, units);
        let available = (capacity as i64 - gone as i64).div_euclid(units as i64);
        let paused = self.paused_for(ask, now);
        Shortfall {
            available: if paused > 0 { available.min(0) } else { available },
            wait: self
                .until_fits(rule, over(ask), self.held(rule), ask, now, wall)
                .map(|wait| wait.max(paused)),
            at_best: self
                .until_fits(rule, over(at_best).less(refundable), 0, at_best, now, wall)
                .unwrap_or(0)
                .max(paused),
        }
    }

    /// Time until a demand fits by itself while `held` stays: when enough has come back beside what
    /// is withheld, or when that is over.
    fn until_fits(
        &self,
        rule: &Rule,
        over: Over,
        held: u64,
        ask: Ask,
        now: Micros,
        wall: Micros,
    ) -> Option<Micros> {
        let until_back = |over| match over {
            0 => Some(0),
            over => self.until_back(rule, over, held, ask, now, wall),
        };
        let wait = until_back(over.free);
        if over.capped <= over.free {
            return wait;
        }
        let lifts_in = self.cap.as_ref().map_or(0, |cap| cap.lifts_in(now));
        let lifted = wait.map(|wait| wait.max(lifts_in));
        let beside = if self.gives_back(over.capped) { until_back(over.capped) } else { None };
        lifted.into_iter().chain(beside).min()
    }

    /// Whether as much as `over` units will come back while something is withheld.
    fn gives_back(&self, over: u64) -> bool {
        match &self.charges {
            Charges::Sliding(window) => over <= window.charged(),
            Charges::Fixed(window) => over <= window.charged(),
            // What is withheld drains too.
            Charges::Draining(_) => true,
            Charges::None => false,
        }
    }

    /// Time until `over` units of what is charged have come back by themselves while `held` stays.
    fn until_back(
        &self,
        rule: &Rule,
        over: u64,
        held: u64,
        ask: Ask,
        now: Micros,
        wall: Micros,
    ) -> Option<Micros> {
        // More than is charged takes as many windows more, unless it is held.
        let windows = |charged: u64, length, until_left: &dyn Fn(u64) -> Option<Micros>| {
            let beyond = over.saturating_sub(charged);
            if beyond > 0 && held > 0 {
                return None;
            }
            let more = product(beyond.div_ceil(ask.capacity.max(1)), length);
            Some(sum(until_left(over - beyond)?, more))
        };
        match &self.charges {
            Charges::Sliding(window) => {
                let until_left = |amount| window.until_left(amount, now);
                windows(window.charged(), window.length(), &until_left)
            }
            Charges::Draining(_) if held + ask.cost > ask.capacity => None,
            Charges::Draining(bucket) => Some(bucket.until_drained(over, now)),
            Charges::Fixed(window) => {
                let (begin, next) = window_at(rule, wall);
                let until_left = |_| Some(window.end().saturating_sub(wall));
                windows(window.charged(), next - begin, &until_left)
            }
            Charges::None => None,
        }
    }
}
