//! The state of one quota: what is charged, what is in flight, and when the rest comes back.

mod shortage;

use super::{
    Micros,
    cap::Cap,
    codec::{coded, coded_enum},
    exact::{product, sum},
    fixed_window::FixedWindow,
    gate::{Gate, ProviderRefusal},
    heads::Before,
    rule::{MAX_AMOUNT, MAX_TAKEN, Rule, Window},
    sliding_window::SlidingWindow,
    token_bucket::DrainingBucket,
};

/// What cannot tell by itself when it is over is looked at again after this long.
const LOOK_AGAIN: Micros = 60_000_000;

/// For this long at most, a head that other quotas hold back blocks others on a quota of calls in
/// flight.
const SOON: Micros = 1_000_000;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QuotaState {
    pub(crate) id: u64,
    /// A grant older than this is not known here: it gets no refund.
    pub(crate) since: Micros,
    /// Reserved and not settled yet.
    pub(crate) in_flight: u64,
    /// [`Rule::held`], for a look at a quota that no rule in use has.
    held: bool,
    charges: Charges,
    /// What a provider said. Boxed, since hardly any quota has one.
    cap: Option<Box<Cap>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Charges {
    Sliding(SlidingWindow),
    /// Boxed, since it is larger than the others.
    Draining(Box<DrainingBucket>),
    Fixed(FixedWindow),
    None,
}

/// How one quota stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Level {
    /// Charged in the window; for a token bucket in its units.
    pub(crate) charged: u64,
    /// Reserved and not settled yet.
    pub(crate) in_flight: u64,
    /// Time until everything charged has come back, or until the next fixed window.
    pub(crate) reset: Micros,
    /// Withheld, since the provider said that no more is left; in the units of `charged`.
    pub(crate) withheld: u64,
    /// For how long at most.
    pub(crate) withheld_for: Micros,
    /// What is left of the wait that the provider asked for, if demands are not to wait for it.
    pub(crate) asked: Option<Micros>,
}

/// What a demand asks of one quota.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask {
    pub(crate) cost: u64,
    /// What those ask that go before it.
    pub(crate) ahead: u64,
    /// How many they are.
    pub(crate) before: u64,
    /// [`Rule::capacity_for`] it.
    pub(crate) capacity: u64,
}

impl Ask {
    /// Of a demand that nothing goes before.
    #[inline]
    pub(crate) fn alone(rule: &Rule, cost: u64, headroom: u64) -> Self {
        Self { cost, ahead: 0, before: 0, capacity: rule.capacity_for(cost, headroom) }
    }

    /// What is asked if these were not among those that go before it.
    pub(crate) fn without(self, others: Before) -> Self {
        let ahead = self.ahead.saturating_sub(others.amount);
        Self { ahead, before: self.before.saturating_sub(others.demands), ..self }
    }

    /// What is asked together with those before it, in units. A demand that needs nothing is behind
    /// no other.
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
                Charges::Fixed(FixedWindow::new(window_at(rule, wall)))
            }
            Window::InFlight => Charges::None,
        };
        Self { id: rule.id, since: now, in_flight: 0, held: rule.held, charges, cap: None }
    }

    /// From the numbers by which Redis has it, with the charges of a sliding window's slots, oldest
    /// first.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(
        rule: &Rule,
        numbers: &[u64],
        slots: &[u64],
        cap: Option<Cap>,
    ) -> Option<Self> {
        let (&[since, in_flight], numbers) = numbers.split_first_chunk()?;
        let charges = match (&rule.window, numbers) {
            (Window::Sliding { slot, .. }, &[_, head, _]) => {
                Charges::Sliding(SlidingWindow::stored(*slot, head, slots))
            }
            (
                Window::TokenBucket(shape),
                &[charged, at, _, _, _, max_used, excess, excess_rate, ceiling],
            ) => {
                let amounts = [charged, max_used, excess, excess_rate, ceiling];
                let bucket = DrainingBucket::stored(rule.limit, *shape, at, amounts);
                Charges::Draining(Box::new(bucket))
            }
            (Window::Fixed { .. } | Window::Calendar { .. }, &[charged, end]) => {
                Charges::Fixed(FixedWindow::stored(end, charged))
            }
            (Window::InFlight, []) => Charges::None,
            _ => return None,
        };
        let (id, held, cap) = (rule.id, rule.held, cap.map(Box::new));
        Some(Self { id, since, in_flight, held, charges, cap })
    }

    /// When the fixed window in use ends.
    #[cfg(feature = "redis")]
    pub(crate) fn window_end(&self) -> Option<Micros> {
        if let Charges::Fixed(window) = &self.charges { Some(window.end()) } else { None }
    }

    /// Brings the state to `now`, and to the rule if that has changed. `waiting` demands wait for
    /// it.
    #[inline]
    pub(crate) fn advance(
        &mut self,
        rule: &Rule,
        waiting: impl Fn() -> u64,
        now: Micros,
        wall: Micros,
    ) {
        self.pass(now);
        if self.cap.is_some() {
            self.pass_cap(waiting(), now);
        }
        if let Charges::Draining(_) | Charges::Fixed(_) = self.charges {
            self.follow(rule, now, wall);
        }
    }

    fn follow(&mut self, rule: &Rule, now: Micros, wall: Micros) {
        let renewed = match (&mut self.charges, &rule.window) {
            (Charges::Draining(bucket), Window::TokenBucket(shape)) => {
                if let Some(cap) = &mut self.cap {
                    cap.rescale(bucket.units(), shape.units);
                }
                bucket.adopt(rule.limit, *shape)
            }
            (Charges::Fixed(window), _) => window.advance(window_at(rule, wall), wall),
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
            Charges::Draining(bucket) => {
                let unused = bucket.advance(now);
                if let Some(cap) = &mut self.cap {
                    cap.lower(unused);
                }
            }
            Charges::Fixed(_) | Charges::None => {}
        }
    }

    fn pass_cap(&mut self, waiting: u64, now: Micros) {
        if self.cap.as_mut().is_some_and(|cap| !cap.pass(waiting, now)) {
            self.cap = None;
        }
    }

    /// Looks at a quota that no rule in use has. Returns when to look again; nothing if it means
    /// nothing any more.
    pub(crate) fn outlives(&mut self, now: Micros, wall: Micros) -> Option<Micros> {
        self.pass(now);
        self.pass_cap(0, now);
        let lasts = match &self.charges {
            _ if self.in_flight > 0 => LOOK_AGAIN,
            Charges::Sliding(window) if window.charged() > 0 => window.length(),
            Charges::Draining(bucket) if bucket.total() > 0 => {
                bucket.until_drained(bucket.total(), now)
            }
            Charges::Fixed(window) if window.charged() > 0 => window.end().saturating_sub(wall),
            _ => 0,
        };
        let lasts = lasts.max(self.cap.as_ref().map_or(0, |cap| cap.lasts(now)));
        (lasts > 0).then(|| sum(now, lasts))
    }

    /// Withholds what is believed to be left beyond `left` whole tokens and what came back since
    /// `at`, for as long as it `lasts`.
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
        let withheld = product(rule.capacity(0), units).saturating_sub(spoken_for);
        if withheld > 0 {
            self.cap.get_or_insert_default().withhold(withheld, until);
        }
    }

    /// How long what is said of a quota can mean something: a fixed window ends there when it ends
    /// here, or a bit later by another clock.
    fn tells_for(&self, rule: &Rule, wall: Micros) -> Micros {
        let Charges::Fixed(window) = &self.charges else { return MAX_AMOUNT };
        let (begin, next) = window_at(rule, wall);
        sum(window.end().saturating_sub(wall), (next - begin) / 20)
    }

    /// Pauses for a provider.
    pub(crate) fn refuse(&mut self, rule: &Rule, refusal: ProviderRefusal, now: Micros) {
        if rule.window != Window::InFlight {
            self.cap.get_or_insert_default().gate_mut().refuse(refusal, now);
        }
    }

    /// A call was answered well. Returns whether it was a probe.
    pub(crate) fn answered(&mut self, at: Micros, waiting: u64, now: Micros) -> bool {
        self.cap.as_mut().is_some_and(|cap| cap.gate_mut().answered(at, waiting, now))
    }

    pub(crate) fn resume(&mut self) {
        if let Some(cap) = &mut self.cap {
            cap.gate_mut().resume();
        }
    }

    fn gate(&self) -> Option<&Gate> {
        self.cap.as_ref().map(|cap| cap.gate())
    }

    /// What is left of a wait that demands of this cost are not to wait for.
    pub(crate) fn asked(&self, cost: u64, now: Micros) -> Option<Micros> {
        self.gate().filter(|_| cost > 0)?.asked(now)
    }

    /// For how long a pause holds back a demand.
    fn paused_for(&self, ask: Ask, now: Micros) -> Micros {
        self.gate().filter(|_| ask.cost > 0).map_or(0, |gate| gate.wait(ask.before, now))
    }

    /// What is withheld from a demand. One that needs nothing is not held up.
    #[inline]
    fn withheld_from(&self, cost: u64) -> u64 {
        self.cap.as_ref().filter(|_| cost > 0).map_or(0, |cap| cap.withheld())
    }

    /// Units that came back since `at` at the provider, as far as its rule is this one; `None` if
    /// what it said then means nothing now.
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

    /// Charges or holds what is reserved.
    #[inline]
    pub(crate) fn take(&mut self, rule: &Rule, cost: u64) {
        self.in_flight = (self.in_flight + cost).min(MAX_TAKEN);
        if !rule.holds() {
            self.charge(cost);
        }
    }

    /// A demand passes its pause. Returns whether the grant is a probe.
    #[inline]
    pub(crate) fn passes(&mut self, cost: u64, now: Micros) -> bool {
        match &mut self.cap {
            Some(cap) if cost > 0 => cap.gate_mut().grant(now),
            _ => false,
        }
    }

    /// Returns what is left in flight of the reservation.
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
        if let (Some(cap), Some(more)) = (&mut self.cap, actual.checked_sub(reserved)) {
            let units =
                if let Charges::Draining(bucket) = &self.charges { bucket.units() } else { 1 };
            // The provider had counted what is charged beyond that when it said what is left.
            cap.lower(product(more, units));
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

    #[inline]
    fn held(&self, rule: &Rule) -> u64 {
        if rule.holds() { self.in_flight } else { 0 }
    }

    /// Charged and held, in units of the window, and the units in a token.
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
    pub(crate) fn fits(&self, rule: &Rule, ask: Ask, now: Micros) -> bool {
        let (taken, units) = self.taken(rule);
        let gone = sum(taken, self.withheld_from(ask.cost));
        gone.saturating_add(ask.units(units)) <= product(ask.capacity, units)
            && (self.cap.is_none() || self.paused_for(ask, now) == 0)
    }

    /// How much may go before a demand that fits if nothing does.
    pub(crate) fn most_ahead(&self, rule: &Rule, cost: u64, capacity: u64) -> u64 {
        if cost == 0 {
            return u64::MAX;
        }
        let (taken, units) = self.taken(rule);
        let gone = sum(taken, self.withheld_from(cost));
        (product(capacity, units).saturating_sub(gone) / units).saturating_sub(cost)
    }

    /// For how long at most this means something, told without a walk over the charges. A hold may
    /// become a charge when its `lease` ends.
    #[inline]
    pub(crate) fn lasts(&self, rule: &Rule, lease: Micros, now: Micros, wall: Micros) -> Micros {
        let holds = self.held(rule) > 0;
        let charged = match &self.charges {
            Charges::Sliding(window) => window.length(),
            Charges::Draining(bucket) => {
                let (taken, _) = self.taken(rule);
                bucket.until_drained(sum(taken, bucket.total() - bucket.used()), now)
            }
            Charges::Fixed(window) => {
                let (begin, next) = window_at(rule, wall);
                let whole = if holds { next - begin } else { 0 };
                whole.max(window.end().saturating_sub(wall))
            }
            Charges::None => 0,
        };
        let charged = if holds { sum(lease, charged) } else { charged };
        charged.max(self.cap.as_ref().map_or(0, |cap| cap.lasts(now)))
    }

    /// For how long at most a head that other quotas hold back blocks others here: as long as it
    /// can take until what it asks has come back.
    pub(crate) fn horizon(&self) -> Micros {
        match &self.charges {
            Charges::Sliding(window) => window.length(),
            Charges::Draining(bucket) => bucket.horizon(),
            Charges::Fixed(_) | Charges::None => SOON,
        }
    }

    pub(crate) fn level(&self, rule: &Rule, now: Micros, wall: Micros) -> Level {
        let (charged, reset) = match &self.charges {
            Charges::Sliding(window) if window.charged() == 0 => (0, 0),
            Charges::Sliding(window) => {
                (window.charged(), window.until_left(window.charged(), now).unwrap_or(0))
            }
            Charges::Draining(bucket) => (bucket.used(), bucket.until_drained(bucket.used(), now)),
            Charges::Fixed(window) => (window.charged(), window.end().saturating_sub(wall)),
            Charges::None => (0, 0),
        };
        let (taken, units) = self.taken(rule);
        let left = product(rule.capacity(0), units).saturating_sub(taken);
        let is_paused = self.gate().is_some_and(|gate| gate.paused_until(now) > 0);
        let part = self.withheld_from(1);
        Level {
            charged,
            in_flight: self.in_flight,
            reset,
            withheld: if is_paused { part.max(left) } else { part },
            withheld_for: self.cap.as_ref().map_or(0, |cap| {
                cap.lifts_in(now).max(cap.gate().paused_until(now).saturating_sub(now))
            }),
            asked: self.asked(1, now),
        }
    }
}

/// The fixed window that `wall` is in. Where it is not known the batch was refused.
fn window_at(rule: &Rule, wall: Micros) -> (Micros, Micros) {
    rule.window_at(wall).unwrap_or((wall, wall))
}

coded!(QuotaState { id, since, in_flight <= MAX_TAKEN, held, charges, cap });

coded_enum!(Charges {
    0 => None {},
    1 => Sliding { 0: window },
    2 => Draining { 0: bucket },
    3 => Fixed { 0: window },
});
