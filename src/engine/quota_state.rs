//! The state of one quota: what is charged, what is in flight, and when the rest comes back.

use super::{
    MAX_AMOUNT, Micros,
    exact::{product, sum},
    fixed_window::FixedWindow,
    rule::{Rule, Window},
    sliding_window::SlidingWindow,
    token_bucket::DrainingBucket,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotaState {
    pub(crate) id: u64,
    /// A grant older than this is not known here: it gets no refund.
    pub(crate) since: Micros,
    /// Reserved and not settled yet.
    pub(crate) in_flight: u64,
    charges: Charges,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Charges {
    Sliding(SlidingWindow),
    Draining(DrainingBucket),
    Fixed(FixedWindow),
    None,
}

/// Why a demand does not fit now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shortage {
    /// Whole tokens available; negative in debt.
    pub(crate) available: i64,
    /// Time until the demand fits if nothing is refunded; `None` while that depends on calls in flight.
    pub(crate) wait: Option<Micros>,
    /// The same if everything in flight were refunded at once.
    pub(crate) at_best: Micros,
}

/// How one quota stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Level {
    /// Charged in the window; for a token bucket in its units.
    pub charged: u64,
    /// Reserved and not settled yet.
    pub in_flight: u64,
    /// Time until everything charged has come back, or until the next fixed window.
    pub reset: Micros,
}

/// What a demand asks of one quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) cost: u64,
    /// Asked by those before it in the batch that could not be granted.
    pub(crate) ahead: u64,
    /// [`Rule::capacity`] of its class.
    pub(crate) capacity: u64,
}

/// What a settle knows of its reservation.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Amendment {
    pub(crate) at: Micros,
    pub(crate) reserved: u64,
    pub(crate) actual: u64,
    /// The part of `reserved` that is still in flight; the rest went with a lease.
    pub(crate) in_flight: u64,
    /// The reservation ends; otherwise the actual amount is the new estimate.
    pub(crate) close: bool,
}

impl QuotaState {
    pub(crate) fn new(rule: &Rule, now: Micros, wall: Micros) -> Self {
        let charges = match &rule.window {
            Window::Sliding { slot, slots } => Charges::Sliding(SlidingWindow::new(*slot, *slots, now)),
            Window::TokenBucket(shape) => Charges::Draining(DrainingBucket::new(rule.limit, *shape, now)),
            Window::Fixed { .. } | Window::Calendar { .. } => {
                Charges::Fixed(FixedWindow::new(begin(rule, wall)))
            }
            Window::InFlight => Charges::None,
        };
        Self { id: rule.id, since: now, in_flight: 0, charges }
    }

    /// Brings the state to `now`, and to the rule if that has changed.
    pub(crate) fn advance(&mut self, rule: &Rule, now: Micros, wall: Micros) {
        let renewed = match (&mut self.charges, &rule.window) {
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => {
                bucket.advance(now);
                bucket.adopt(rule.limit, *shape, now)
            }
            (Charges::Sliding(window), Window::Sliding { .. }) => {
                window.advance(now);
                false
            }
            (Charges::Fixed(window), Window::Fixed { .. } | Window::Calendar { .. }) => {
                window.advance(begin(rule, wall))
            }
            (Charges::None, Window::InFlight) => false,
            // Another kind of window under the same id: its charges mean nothing here.
            _ => {
                self.charges = Self::new(rule, now, wall).charges;
                true
            }
        };
        if renewed {
            self.since = now;
        }
    }

    fn charge(&mut self, amount: u64) {
        match &mut self.charges {
            Charges::Sliding(window) => window.charge(amount),
            Charges::Draining(bucket) => bucket.charge(amount),
            Charges::Fixed(window) => window.charge(amount),
            Charges::None => {}
        }
    }

    pub(crate) fn reserve(&mut self, rule: &Rule, cost: u64) {
        self.in_flight = sum(self.in_flight, cost);
        if !rule.holds() {
            self.charge(cost);
        }
    }

    /// Answers what is left in flight of the reservation.
    pub(crate) fn settle(&mut self, rule: &Rule, change: Amendment) -> u64 {
        let Amendment { at, reserved, actual, in_flight, close } = change;
        self.in_flight = self.in_flight.saturating_sub(in_flight);
        // What went with a lease became a charge then.
        let amount = if rule.holds() { actual.saturating_sub(reserved - in_flight) } else { actual };
        let open = if close { 0 } else { amount };
        self.in_flight = sum(self.in_flight, open);

        let refundable = at >= self.since;
        match &mut self.charges {
            _ if rule.holds() && !close => {}
            _ if rule.holds() => self.charge(amount),
            Charges::Sliding(window) => window.amend(at, reserved, actual, refundable),
            Charges::Draining(bucket) => bucket.amend(at, reserved, actual, refundable),
            Charges::Fixed(window) => window.amend(reserved, actual, refundable),
            Charges::None => {}
        }
        open
    }

    /// The owner of `amount` in flight is gone: a hold becomes a charge.
    pub(crate) fn abandon(&mut self, rule: Option<&Rule>, amount: u64) {
        self.in_flight = self.in_flight.saturating_sub(amount);
        if rule.is_some_and(|rule| rule.held) {
            self.charge(amount);
        }
    }

    /// Makes the edits of earlier settles count.
    pub(crate) fn refold(&mut self) {
        if let Charges::Draining(bucket) = &mut self.charges {
            bucket.refold();
        }
    }

    fn held(&self, rule: &Rule) -> u64 {
        if rule.holds() { self.in_flight } else { 0 }
    }

    /// What is charged, in units of the window, and the units in a token.
    fn charged(&self, rule: &Rule) -> (u64, u64) {
        match (&self.charges, &rule.window) {
            (Charges::Sliding(window), _) => (window.charged(), 1),
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => (bucket.used(), shape.units),
            (Charges::Fixed(window), _) => (window.charged(), 1),
            _ => (0, 1),
        }
    }

    /// What would be taken with the demand granted, in units.
    fn taken_with(&self, rule: &Rule, ask: Ask) -> u64 {
        let (charged, units) = self.charged(rule);
        let asked = if ask.cost == 0 { 0 } else { ask.cost.saturating_add(ask.ahead) };
        charged.saturating_add(self.held(rule).saturating_add(asked).saturating_mul(units))
    }

    pub(crate) fn fits(&self, rule: &Rule, ask: Ask) -> bool {
        let (_, units) = self.charged(rule);
        self.taken_with(rule, ask) <= product(ask.capacity, units)
    }

    /// Only asked where the demand does not fit.
    pub(crate) fn shortage(&self, rule: &Rule, ask: Ask, now: Micros, wall: Micros) -> Shortage {
        let (charged, units) = self.charged(rule);
        let taken = sum(charged, product(self.held(rule), units));
        let capacity = product(ask.capacity, units);
        let over = self.taken_with(rule, ask).min(MAX_AMOUNT).saturating_sub(capacity);
        let refundable = if rule.holds() { 0 } else { product(self.in_flight, units) };
        Shortage {
            available: (capacity as i64 - taken as i64).div_euclid(units as i64),
            wait: self.until_back(rule, over, ask, now, wall),
            at_best: match over.saturating_sub(refundable) {
                0 => 0,
                over => self.until_back(rule, over, ask, now, wall).unwrap_or(0),
            },
        }
    }

    /// Time until `over` units of what is taken have come back by themselves.
    fn until_back(&self, rule: &Rule, over: u64, ask: Ask, now: Micros, wall: Micros) -> Option<Micros> {
        let held = self.held(rule);
        match &self.charges {
            Charges::Sliding(window) => {
                let beyond = over.saturating_sub(window.charged());
                if beyond > 0 && held > 0 {
                    return None;
                }
                let wait = window.until_left(over - beyond, now)?;
                Some(sum(wait, product(beyond.div_ceil(ask.capacity.max(1)), window.length())))
            }
            Charges::Draining(_) if held.saturating_add(ask.cost) > ask.capacity => None,
            Charges::Draining(bucket) => Some(bucket.until_drained(over, now)),
            Charges::Fixed(window) => {
                let beyond = over.saturating_sub(window.charged());
                if beyond > 0 && held > 0 {
                    return None;
                }
                let (begin, next) = rule.window_at(wall)?;
                Some(sum(next - wall, product(beyond.div_ceil(ask.capacity.max(1)), next - begin)))
            }
            Charges::None => None,
        }
    }

    /// For how long at most the charges mean something, told without a walk over them.
    pub(crate) fn lasts(&self, rule: &Rule, now: Micros, wall: Micros) -> Micros {
        match &self.charges {
            Charges::Sliding(window) => window.length(),
            Charges::Draining(bucket) => bucket.until_drained(bucket.used(), now),
            Charges::Fixed(_) => until_next(rule, wall),
            Charges::None => 0,
        }
    }

    pub(crate) fn level(&self, rule: &Rule, now: Micros, wall: Micros) -> Level {
        let (charged, reset) = match &self.charges {
            Charges::Sliding(window) if window.charged() == 0 => (0, 0),
            Charges::Sliding(window) => {
                (window.charged(), window.until_left(window.charged(), now).unwrap_or(0))
            }
            Charges::Draining(bucket) => (bucket.used(), bucket.until_drained(bucket.used(), now)),
            Charges::Fixed(window) => (window.charged(), until_next(rule, wall)),
            Charges::None => (0, 0),
        };
        Level { charged, in_flight: self.in_flight, reset }
    }
}

fn begin(rule: &Rule, wall: Micros) -> Micros {
    rule.window_at(wall).map_or(0, |(begin, _)| begin)
}

fn until_next(rule: &Rule, wall: Micros) -> Micros {
    rule.window_at(wall).map_or(0, |(_, next)| next - wall)
}
