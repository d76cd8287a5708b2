//! The state of one quota: what is charged, what is in flight, and when the rest comes back.

mod shortage;

use super::{
    Micros,
    cap::Cap,
    exact::{product, sum},
    fixed_window::FixedWindow,
    rule::{MAX_AMOUNT, MAX_TAKEN, Rule, Window},
    sliding_window::SlidingWindow,
    token_bucket::DrainingBucket,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotaState {
    pub(crate) id: u64,
    /// A grant older than this is not known here: it gets no refund.
    pub(crate) since: Micros,
    /// Until when this means something.
    pub(crate) expires: Micros,
    /// Reserved and not settled yet.
    pub(crate) in_flight: u64,
    /// [`Rule::held`], for a sweeper that does not know the rule.
    held: bool,
    cap: Cap,
    charges: Charges,
}

/// Its tag is a byte of its own: one in the gaps of what is charged would have to be computed each time.
#[derive(Clone, Debug, PartialEq, Eq)]
#[repr(u8)]
enum Charges {
    Sliding(SlidingWindow),
    /// Boxed, since it is larger than the others.
    Draining(Box<DrainingBucket>),
    Fixed(FixedWindow),
    None,
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
    /// Withheld, since the provider said that no more is left; in the units of `charged`.
    pub withheld: u64,
    /// For how long at most.
    pub withheld_for: Micros,
    /// What is left of the wait that the provider asked for, if that is longer than anybody is to sleep.
    pub asked: Option<Micros>,
}

/// What a demand asks of one quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) cost: u64,
    /// Asked by those before it in the batch that could not be granted.
    pub(crate) ahead: u64,
    /// [`Rule::capacity_for`] it.
    pub(crate) capacity: u64,
}

impl Ask {
    /// What is asked together with those before it, in units of which a token has so many. Who needs nothing
    /// stands behind nobody.
    #[inline]
    fn units(&self, units: u64) -> u64 {
        let asked = if self.cost == 0 { 0 } else { self.cost + self.ahead };
        asked.saturating_mul(units)
    }
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
            Window::Sliding { slot, slots } => {
                Charges::Sliding(SlidingWindow::new(*slot, *slots, now))
            }
            Window::TokenBucket(shape) => {
                Charges::Draining(Box::new(DrainingBucket::new(rule.limit, *shape, now)))
            }
            Window::Fixed { .. } | Window::Calendar { .. } => {
                Charges::Fixed(FixedWindow::new(window_at(rule, wall).0))
            }
            Window::InFlight => Charges::None,
        };
        let (id, held, cap) = (rule.id, rule.held, Cap::default());
        Self { id, since: now, expires: now, in_flight: 0, held, cap, charges }
    }

    /// Whether time may as well pass after a refund as before it: it corrects what was charged before. Where charges drain,
    /// what drains meanwhile is not rounded to a slot then. Not where a settle charges by itself, where another rule comes
    /// in with it, or where what is withheld depends on what was unused meanwhile.
    #[inline]
    pub(crate) fn refunds_at_any_time(&self, rule: &Rule) -> bool {
        let is_same = match (&self.charges, &rule.window) {
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => {
                bucket.follows(rule.limit, shape)
            }
            _ => true,
        };
        is_same && self.id == rule.id && !rule.holds() && self.cap.is_nothing()
    }

    /// Brings the state to `now`, and to the rule if that has changed.
    #[inline]
    pub(crate) fn advance(&mut self, rule: &Rule, now: Micros, wall: Micros) {
        self.pass(now);
        if let Charges::Draining(_) | Charges::Fixed(_) = self.charges {
            self.follow(rule, now, wall);
        }
    }

    fn follow(&mut self, rule: &Rule, now: Micros, wall: Micros) {
        let renewed = match (&mut self.charges, &rule.window) {
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => {
                self.cap.rescale(bucket.units(), shape.units);
                bucket.adopt(rule.limit, *shape)
            }
            (Charges::Fixed(window), _) => window.advance(window_at(rule, wall)),
            _ => false,
        };
        if renewed {
            self.since = now;
        }
    }

    /// Lets time pass, as far as that takes no rule.
    #[inline]
    fn pass(&mut self, now: Micros) {
        match &mut self.charges {
            Charges::Sliding(window) => window.advance(now),
            Charges::Draining(bucket) => self.cap.drain(bucket.advance(now)),
            Charges::Fixed(_) | Charges::None => {}
        }
        self.cap.pass(now);
    }

    /// Withholds what is believed to be left beyond `left` whole tokens and what came back since `at`, for as long as it
    /// `lasts`.
    pub(crate) fn withhold(
        &mut self,
        rule: &Rule,
        left: u64,
        at: Micros,
        lasts: Micros,
        now: Micros,
        wall: Micros,
    ) {
        let Some(back) = self.come_back(rule, at, now) else { return };
        let until = sum(now, lasts.min(self.tells_for(rule, wall)));
        let (taken, units) = self.taken(rule);
        let spoken_for = sum(taken, sum(product(left, units), back));
        self.cap.withhold(product(rule.capacity(0), units).saturating_sub(spoken_for), until);
    }

    /// How long what is said of a quota can mean something: a fixed window ends there when it ends here, or a bit later
    /// by another clock.
    fn tells_for(&self, rule: &Rule, wall: Micros) -> Micros {
        let Charges::Fixed(window) = &self.charges else { return MAX_AMOUNT };
        let (begin, next) = window_at(rule, wall);
        sum(window.end((begin, next)) - wall, (next - begin) / 20)
    }

    /// Withholds everything.
    pub(crate) fn pause(&mut self, rule: &Rule, until: Micros) {
        if rule.window != Window::InFlight {
            self.cap.pause(until);
        }
    }

    /// The same; nobody waits that out.
    pub(crate) fn surface(&mut self, rule: &Rule, until: Micros, asked_until: Micros, now: Micros) {
        if rule.window != Window::InFlight {
            self.cap.surface(until, asked_until, now);
        }
    }

    pub(crate) fn resume(&mut self) {
        self.cap.resume();
    }

    /// What is left of a wait that nobody waits out, for a demand of this cost.
    pub(crate) fn asked(&self, cost: u64, now: Micros) -> Option<Micros> {
        self.cap.asked(cost, now)
    }

    /// Units that came back since `at` at the provider, as far as its rule is this one; `None` if what it said then
    /// means nothing now.
    fn come_back(&self, rule: &Rule, at: Micros, now: Micros) -> Option<u64> {
        let passed = now.saturating_sub(at);
        match &rule.window {
            Window::Sliding { slot, slots } => {
                let slots = (*slots).max(1);
                Some(product(rule.limit, passed.div_ceil(*slot).min(slots)) / slots)
            }
            Window::TokenBucket(shape) => Some(product(rule.limit, passed.div_ceil(shape.tick))),
            Window::Fixed { .. } | Window::Calendar { .. } => (at >= self.since).then_some(0),
            Window::InFlight => None,
        }
    }

    #[inline]
    fn charge(&mut self, amount: u64) {
        match &mut self.charges {
            Charges::Sliding(window) => window.charge(amount),
            Charges::Draining(bucket) => bucket.charge(amount),
            Charges::Fixed(window) => window.charge(amount),
            Charges::None => {}
        }
    }

    #[inline]
    pub(crate) fn reserve(&mut self, rule: &Rule, cost: u64) {
        self.in_flight = (self.in_flight + cost).min(MAX_TAKEN);
        if !rule.holds() {
            self.charge(cost);
        }
    }

    /// Answers what is left in flight of the reservation.
    #[inline]
    pub(crate) fn settle(&mut self, rule: &Rule, change: Amendment) -> u64 {
        let Amendment { at, reserved, actual, in_flight, close } = change;
        self.in_flight = self.in_flight.saturating_sub(in_flight);
        // What went with a lease became a charge then.
        let amount =
            if rule.holds() { actual.saturating_sub(reserved - in_flight) } else { actual };
        let open = if close { 0 } else { amount };
        self.in_flight = (self.in_flight + open).min(MAX_TAKEN);

        let refundable = at >= self.since;
        match &mut self.charges {
            _ if rule.holds() && !close => {}
            _ if rule.holds() => self.charge(amount),
            Charges::Sliding(window) => window.amend(at, reserved, actual, refundable),
            Charges::Draining(bucket) => bucket.amend(at, reserved, actual, refundable),
            Charges::Fixed(window) => window.amend(reserved, actual, refundable),
            Charges::None => {}
        }
        if let Some(more) = actual.checked_sub(reserved) {
            self.cap.count(product(more, self.units()));
        }
        open
    }

    /// The owner of `amount` in flight is gone: a hold becomes a charge.
    pub(crate) fn abandon(&mut self, amount: u64, now: Micros) {
        self.in_flight = self.in_flight.saturating_sub(amount);
        if self.held {
            self.pass(now);
            self.charge(amount);
        }
    }

    /// Makes the edits of earlier settles count.
    #[inline]
    pub(crate) fn refold(&mut self) {
        if let Charges::Draining(bucket) = &mut self.charges {
            bucket.refold();
        }
    }

    /// Units in a token.
    fn units(&self) -> u64 {
        if let Charges::Draining(bucket) = &self.charges { bucket.units() } else { 1 }
    }

    #[inline]
    fn held(&self, rule: &Rule) -> u64 {
        if rule.holds() { self.in_flight } else { 0 }
    }

    /// Charged and held together with the capacity, in units of the window, and the units in a token.
    #[inline]
    fn taken(&self, rule: &Rule) -> (u64, u64) {
        let held = self.held(rule);
        match (&self.charges, &rule.window) {
            (Charges::Sliding(window), _) => (window.charged() + held, 1),
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => {
                // Nothing fits behind more than a burst that is held; amounts stay exact.
                let held = product(held.min(2 * shape.burst), shape.units);
                (sum(bucket.used(), held), shape.units)
            }
            (Charges::Fixed(window), _) => (window.charged() + held, 1),
            _ => (held, 1),
        }
    }

    #[inline]
    pub(crate) fn fits(&self, rule: &Rule, ask: Ask) -> bool {
        let (taken, units) = self.taken(rule);
        let gone = sum(taken, self.cap.withheld_from(ask.cost));
        gone.saturating_add(ask.units(units)) <= product(ask.capacity, units)
            && !self.cap.pauses(ask.cost)
    }

    /// For how long at most this means something, told without a walk over the charges. A hold may become a
    /// charge when its `lease` ends.
    #[inline]
    pub(crate) fn lasts(&self, rule: &Rule, lease: Micros, now: Micros, wall: Micros) -> Micros {
        let holds = self.held(rule) > 0;
        let charged = match &self.charges {
            Charges::Sliding(window) => window.length(),
            Charges::Draining(bucket) => {
                let (taken, _) = self.taken(rule);
                bucket.until_drained(sum(taken, bucket.excess()), now)
            }
            Charges::Fixed(window) => {
                let (begin, next) = window_at(rule, wall);
                let whole = if holds { next - begin } else { 0 };
                whole.max(window.end((begin, next)) - wall)
            }
            Charges::None => 0,
        };
        let charged = if holds { sum(lease, charged) } else { charged };
        charged.max(self.cap.lasts(now))
    }

    pub(crate) fn level(&self, rule: &Rule, now: Micros, wall: Micros) -> Level {
        let (charged, reset) = match &self.charges {
            Charges::Sliding(window) if window.charged() == 0 => (0, 0),
            Charges::Sliding(window) => {
                (window.charged(), window.until_left(window.charged(), now).unwrap_or(0))
            }
            Charges::Draining(bucket) => (bucket.used(), bucket.until_drained(bucket.used(), now)),
            Charges::Fixed(window) => (window.charged(), window.end(window_at(rule, wall)) - wall),
            Charges::None => (0, 0),
        };
        let (taken, units) = self.taken(rule);
        let left = product(rule.capacity(0), units).saturating_sub(taken);
        let part = self.cap.withheld_from(1);
        let withheld = if self.cap.pauses(1) { part.max(left) } else { part };
        let (withheld_for, asked) = (self.cap.lasts(now), self.cap.asked(1, now));
        Level { charged, in_flight: self.in_flight, reset, withheld, withheld_for, asked }
    }
}

/// The fixed window that `wall` is in. Where it is not known the batch was refused.
fn window_at(rule: &Rule, wall: Micros) -> (Micros, Micros) {
    rule.window_at(wall).unwrap_or((wall, wall))
}
