//! The state of one bucket: its clock, its quotas, what waits for them, and what each session has
//! in flight.

use smallvec::SmallVec;

use super::{
    Micros, Reserve, Rule, Seen, Verdicts,
    codec::{self, Coded, DecodeError, Decoder, Encoder, ensure},
    due::{Due, Owner},
    exact::sum,
    flows::{FLOW_MEMORY, Flows},
    gate::{Gate, ProviderRefusal},
    heads::{Head, Heads},
    quota_state::{Amendment, QuotaState},
    records::Records,
    rule::MAX_TAKEN,
    session_record::{SessionRecord, Share},
};

/// How long a session is remembered after its last batch.
pub(crate) const SESSION_MEMORY: Micros = 600_000_000;

/// A clock that goes back by more than this has been stepped; by less, time stands still until it
/// is caught up.
const STEP: Micros = 1_000_000;

/// The state of one bucket.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct BucketState {
    /// When this state began; 0 if it has not.
    born: Micros,
    /// The latest time seen.
    now: Micros,
    /// What is added to the store's clock since that stepped back.
    offset: Micros,
    /// Until when the state means something.
    expires: Micros,
    /// Reserves that were charged, and those that were refused, since it began.
    granted: u64,
    refused: u64,
    /// A pause, and what follows it. Boxed, since hardly any bucket has one.
    gate: Option<Box<Gate>>,
    /// Those of the rules in use, in their order.
    quotas: Vec<QuotaState>,
    /// Those that only other rules have, each with its time in the index.
    others: Vec<(Micros, QuotaState)>,
    /// Of sessions and claims, by their ids.
    records: Records,
    due: Due,
    heads: Heads,
    /// Nothing while all that waits is of one flow.
    flows: Option<Box<Flows>>,
}

/// What a settle does to one bucket.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change<'a> {
    /// When the reservation was granted.
    pub(super) at: Micros,
    pub(super) reserved: &'a [u64],
    pub(super) actual: &'a [u64],
    pub(super) close: bool,
    /// The owner is a claim, made after the grant. It settles no more than it holds.
    pub(super) is_claim: bool,
}

impl BucketState {
    /// A bucket that was never used.
    pub fn unused() -> Self {
        Self::default()
    }

    /// Whether it was never used.
    pub fn is_unused(&self) -> bool {
        self.born == 0
    }

    /// Whether this state means nothing any more: a new one would admit the same.
    pub fn is_over(&self, now: Micros) -> bool {
        self.expires <= now && self.records.last_lease() <= now
    }

    /// For how long this state means something, if it is not used meanwhile. A store may forget it
    /// then.
    pub fn lasts(&self) -> Micros {
        self.expires.max(self.records.last_lease()).saturating_sub(self.now)
    }

    /// The state as bytes, for a store that keeps bytes.
    ///
    /// They are `TTB`, the version, a checksum (4 bytes) and the fields. Integers take as few
    /// bytes as they need: seven bits in each byte, the lowest first, and the top bit where more
    /// follow. Lists begin with their length, options with 0 or 1. Equal neighbours in a ring of
    /// charges are written once. Three quotas take less than 3 KB, a session about 100 bytes.
    ///
    /// Later versions read bytes of this one, so a store outlives an update. An earlier version
    /// says that it does not know the bytes: [`DecodeError::Version`].
    ///
    /// ```
    /// use tower_throttle::engine::BucketState;
    ///
    /// let bytes = BucketState::unused().to_bytes();
    /// assert_eq!(BucketState::from_bytes(&bytes), Ok(BucketState::unused()));
    /// ```
    pub fn to_bytes(&self) -> Vec<u8> {
        codec::encode(self)
    }

    /// Reads the bytes that [`to_bytes`](Self::to_bytes) wrote.
    ///
    /// # Errors
    /// A [`DecodeError`] for anything else: bytes that are foreign, cut off, changed or of an
    /// unknown version. No bytes lead to a panic, now or in a later batch.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, DecodeError> {
        codec::decode(bytes)
    }

    pub(crate) fn now(&self) -> Micros {
        self.now
    }

    /// How many reserves were charged, and how many were refused.
    pub(super) fn counts(&self) -> (u64, u64) {
        (self.granted, self.refused)
    }

    pub(super) fn count_refusal(&mut self) {
        self.refused = sum(self.refused, 1);
    }

    pub(crate) fn quotas(&self) -> &[QuotaState] {
        &self.quotas
    }

    pub(super) fn quota(&mut self, index: usize) -> Option<&mut QuotaState> {
        self.quotas.get_mut(index)
    }

    pub(crate) fn heads(&self) -> &Heads {
        &self.heads
    }

    pub(super) fn heads_mut(&mut self) -> &mut Heads {
        &mut self.heads
    }

    pub(super) fn quota_and_heads(&mut self, quota: usize) -> (&QuotaState, &mut Heads) {
        (&self.quotas[quota], &mut self.heads)
    }

    pub(super) fn flows(&self) -> Option<&Flows> {
        self.flows.as_deref()
    }

    /// When a session was last part of a batch on it, if it is known; otherwise the bucket's time.
    pub(super) fn named_at(&self, session: u64) -> Micros {
        let record = self.record(session);
        record.map_or(self.now, |record| record.forget_at().saturating_sub(SESSION_MEMORY))
    }

    pub(super) fn seen(&self, was: Micros) -> Seen {
        Seen { now: self.now, was, born: self.born, expires: self.expires }
    }

    /// Brings clock, quotas and leases to the present, with the quotas in the order of `rules`.
    #[inline]
    pub(super) fn advance(&mut self, rules: &[Rule], wall: Micros) {
        // A small step back is waited out, a large one is made up for from then on.
        let offset = if self.offset > STEP { self.offset } else { 0 };
        let now = sum(wall, offset).max(self.now);
        if self.born == 0 {
            self.born = now;
            self.quotas.reserve_exact(rules.len());
        }
        (self.now, self.offset) = (now, now - wall.min(now));
        for (index, rule) in rules.iter().enumerate() {
            if self.quotas.get(index).is_none_or(|state| state.id != rule.id) {
                self.place(index, rule, wall);
            }
            let heads = &self.heads;
            self.quotas[index].advance(rule, || heads.waiting_for(rule.id, now), now, wall);
        }
        if self.quotas.len() > rules.len() {
            self.set_aside(rules.len());
        }
        if self.due.first().is_some_and(|due| due <= now) {
            self.sweep(wall);
        }
        if let Some(gate) = &mut self.gate {
            gate.pass(self.heads.waiting(0, now), now);
            if gate.is_gone() {
                self.gate = None;
            }
        }
    }

    /// Puts the quota of a rule at `index`, which is made if it is not known.
    #[cold]
    fn place(&mut self, index: usize, rule: &Rule, wall: Micros) {
        if let Some(found) =
            (index..self.quotas.len()).find(|&other| self.quotas[other].id == rule.id)
        {
            self.quotas.swap(index, found);
            return;
        }
        let aside = self.others.iter().position(|(_, quota)| quota.id == rule.id);
        let quota = match aside.map(|aside| self.others.swap_remove(aside)) {
            Some((indexed_at, quota)) => {
                self.due.remove(indexed_at, Owner::Quota(quota.id));
                quota
            }
            None => QuotaState::new(rule, self.now, wall),
        };
        self.quotas.push(quota);
        let last = self.quotas.len() - 1;
        self.quotas.swap(index, last);
    }

    /// Keeps the quotas after the first ones for as long as they mean something.
    #[cold]
    fn set_aside(&mut self, first: usize) {
        for quota in self.quotas.drain(first..) {
            self.due.insert(self.now, Owner::Quota(quota.id));
            self.others.push((self.now, quota));
        }
    }

    /// Looks at some of the records that are due.
    #[cold]
    fn sweep(&mut self, wall: Micros) {
        for owner in self.due.take(self.now) {
            match owner {
                Owner::Session(id) => self.look_at_record(id),
                Owner::Quota(id) => self.look_at_other(id, wall),
                Owner::Flow(id) => self.look_at_flow(id),
            }
        }
    }

    fn look_at_record(&mut self, id: u64) {
        if let Some(ended) = self.records.look_at(id, self.now, &mut self.due) {
            self.heads.remove(id);
            self.abandon(&ended);
        }
    }

    fn look_at_other(&mut self, id: u64, wall: Micros) {
        let Some(index) = self.others.iter().position(|(_, quota)| quota.id == id) else { return };
        let (indexed_at, quota) = &mut self.others[index];
        match quota.outlives(self.now, wall) {
            Some(again) => {
                *indexed_at = again;
                self.due.insert(again, Owner::Quota(id));
            }
            None => drop(self.others.swap_remove(index)),
        }
    }

    fn look_at_flow(&mut self, id: u64) {
        let Some(flows) = &mut self.flows else { return };
        let now = self.now;
        let waits = self.heads.iter().any(|head| head.flow == id && !head.is_late(now));
        if let Some(again) = flows.forget(id, waits, self.now) {
            self.due.insert(again, Owner::Flow(id));
        }
        if flows.is_empty() {
            self.flows = None;
        }
    }

    /// The owner of what is in flight is gone.
    fn abandon(&mut self, shares: &[Share]) {
        for share in shares {
            let others = self.others.iter_mut().map(|(_, quota)| quota);
            if let Some(quota) =
                self.quotas.iter_mut().chain(others).find(|quota| quota.id == share.quota)
            {
                quota.abandon(share.amount, self.now);
            }
        }
    }

    #[inline]
    pub(super) fn record(&self, id: u64) -> Option<&SessionRecord> {
        self.records.get(id)
    }

    /// Whether this is the id of a claim here.
    #[inline]
    pub(super) fn is_claim(&self, id: u64) -> bool {
        self.record(id).is_some_and(SessionRecord::is_claim)
    }

    /// The record of a session or a claim, which is made if there is none.
    #[inline]
    pub(super) fn enter(&mut self, id: u64) -> &mut SessionRecord {
        self.records.enter(id, self.now, &mut self.due)
    }

    /// Gives a session or a claim time until its lease and its record end. Returns whether it is
    /// known.
    #[inline]
    fn extend(&mut self, id: u64, lease_until: Micros, forget_at: Micros) -> bool {
        self.records.extend(id, (lease_until, forget_at), self.now, &mut self.due)
    }

    /// For how long a pause holds back a demand that `before` others go before; 0 if it may pass.
    #[inline]
    pub(super) fn paused_for(&self, before: u64) -> Micros {
        self.gate.as_ref().map_or(0, |gate| gate.wait(before, self.now))
    }

    /// Whether nothing waits here, and nothing but quotas holds demands back.
    #[inline]
    pub(super) fn is_plain(&self) -> bool {
        self.heads.is_empty() && self.gate.is_none()
    }

    /// What is left of a wait that demands are not to wait for.
    pub(super) fn asked(&self) -> Option<Micros> {
        self.gate.as_ref()?.asked(self.now)
    }

    /// Until when it is paused; 0 if it is not.
    pub(super) fn paused_until(&self) -> Micros {
        self.gate.as_ref().map_or(0, |gate| gate.paused_until(self.now))
    }

    pub(super) fn pause(&mut self, until: Micros) {
        self.gate.get_or_insert_default().pause(until);
    }

    pub(super) fn refuse(&mut self, refusal: ProviderRefusal) {
        self.gate.get_or_insert_default().refuse(refusal, self.now);
    }

    /// Ends every pause, of the quotas too.
    pub(super) fn resume(&mut self) {
        self.gate = None;
        self.quotas.iter_mut().for_each(QuotaState::resume);
    }

    /// A call was answered well that was granted at `at`. Returns whether it was a probe.
    pub(super) fn answered_well(&mut self, at: Micros) -> bool {
        let (waiting, now) = (self.heads.waiting(0, self.now), self.now);
        let mut is_probe = self.gate.as_mut().is_some_and(|gate| gate.answered(at, waiting, now));
        for quota in &mut self.quotas {
            is_probe |= quota.answered(at, self.heads.waiting_for(quota.id, now), now);
        }
        is_probe
    }

    /// Charges a session. Returns whether the grant is a probe; one that is `free` of pauses is
    /// none.
    #[inline]
    pub(super) fn charge(
        &mut self,
        session: u64,
        rules: &[Rule],
        costs: &[u64],
        is_free: bool,
    ) -> bool {
        self.granted = sum(self.granted, 1);
        let record = self.records.enter(session, self.now, &mut self.due);
        let mut is_probe = false;
        for (index, ((rule, state), &cost)) in
            rules.iter().zip(&mut self.quotas).zip(costs).enumerate()
        {
            state.take(rule, cost);
            is_probe |= !is_free && state.passes(cost, self.now);
            let share = record.share(index, rule.id);
            *share = (*share + cost).min(MAX_TAKEN);
        }
        match &mut self.gate {
            Some(gate) if !is_free => gate.grant(self.now) || is_probe,
            _ => is_probe,
        }
    }

    /// Replaces what a reservation of a session or of a claim was charged. It does not count before
    /// the next refold.
    #[inline]
    pub(super) fn settle(&mut self, owner: u64, rules: &[Rule], change: Change<'_>) {
        let Change { at, reserved, actual, close, is_claim } = change;
        let record = self.records.enter(owner, self.now, &mut self.due);
        // A late settle must not take what its session has reserved since. A claim is younger than
        // its grant.
        let stands = is_claim || record.knows(at);
        // Nothing would ever end what the others leave in flight.
        let closes = close || !stands;
        let quotas = rules.iter().zip(&mut self.quotas).zip(reserved.iter().zip(actual));
        for (index, ((rule, state), (&reserved, &actual))) in quotas.enumerate() {
            let share = record.share(index, rule.id);
            let in_flight = if stands { reserved.min(*share) } else { 0 };
            let reserved = if is_claim { in_flight } else { reserved };
            let amendment = Amendment { at, reserved, actual, in_flight, close: closes };
            let open = state.settle(rule, amendment);
            *share = (*share - in_flight + open).min(MAX_TAKEN);
        }
        if is_claim && close {
            // With what it has in flight on quotas that the rules in use do not have.
            let shares = self.records.remove(owner, self.now, &mut self.due);
            self.abandon(&shares);
        }
    }

    /// Gives what a session has in flight of a reservation to a claim.
    pub(super) fn detach(
        &mut self,
        session: u64,
        claim: u64,
        rules: &[Rule],
        reserved: &[u64],
        lease: Micros,
    ) {
        self.enter(session);
        for (index, (rule, &amount)) in rules.iter().zip(reserved).enumerate() {
            let share = self.enter(session).share(index, rule.id);
            let moved = amount.min(*share);
            *share -= moved;
            let share = self.enter(claim).share(index, rule.id);
            *share = (*share + moved).min(MAX_TAKEN);
        }
        self.enter(claim).become_claim();
        let until = sum(self.now, lease);
        self.extend(claim, until, until);
        self.expires = self.expires.max(until);
    }

    /// Makes the edits of settles count.
    #[inline]
    pub(super) fn refold(&mut self) {
        self.quotas.iter_mut().for_each(QuotaState::refold);
    }

    /// A demand is granted of a flow that starts at `start`, and moves it on by `step`.
    pub(super) fn serve(&mut self, flow: u64, start: f64, step: f64) {
        let Some(flows) = &mut self.flows else { return };
        if flows.serve(flow, start, step, self.now) {
            self.due.insert(sum(self.now, FLOW_MEMORY), Owner::Flow(flow));
        }
    }

    /// A demand waits of a flow that starts at `start`. `until` is when it looks again at the
    /// latest.
    pub(super) fn wait_in_flow(&mut self, flow: u64, start: f64, until: Micros) {
        if self.flows.is_none() && flow == 0 {
            return;
        }
        if self.flows.get_or_insert_default().wait(flow, start, until, self.now) {
            self.due.insert(sum(self.now, FLOW_MEMORY), Owner::Flow(flow));
        }
    }

    /// Replaces a session's heads.
    pub(super) fn stand(&mut self, session: u64, heads: SmallVec<[Head; 2]>) {
        // The end of its lease takes its heads along.
        if !heads.is_empty() {
            self.enter(session);
        }
        self.records.set_waits(session, !heads.is_empty());
        self.heads.replace(session, heads);
    }

    /// Gives a session time until its next batch, and the state as long as it means something.
    #[inline]
    pub(super) fn end(
        &mut self,
        session: u64,
        lease: Micros,
        is_numbered: bool,
        rules: &[Rule],
        wall: Micros,
    ) {
        let forget_at = sum(self.now, SESSION_MEMORY);
        if self.extend(session, sum(self.now, lease), forget_at) && is_numbered {
            self.expires = self.expires.max(forget_at);
        }
        self.keep_while_charged(rules, lease.min(SESSION_MEMORY), wall);
        if let Some(gate) = &self.gate {
            self.expires = self.expires.max(sum(self.now, gate.lasts(self.now)));
        }
    }

    /// Keeps the state for as long as its quotas mean something. What is held may become a charge
    /// when a `lease` ends.
    #[inline]
    pub(super) fn keep_while_charged(&mut self, rules: &[Rule], lease: Micros, wall: Micros) {
        for (state, rule) in self.quotas.iter().zip(rules) {
            self.expires =
                self.expires.max(sum(self.now, state.lasts(rule, lease, self.now, wall)));
        }
    }

    /// Keeps the answer to a session's batch whose first bucket this is.
    pub(super) fn answered(
        &mut self,
        session: u64,
        seq: u64,
        seen: SmallVec<[Seen; 1]>,
        verdicts: Verdicts,
    ) {
        self.enter(session).answered(seq, seen, verdicts);
    }
}

impl Coded for BucketState {
    fn write(&self, out: &mut Encoder) {
        let Self { born, now, offset, expires, granted, refused, .. } = self;
        let Self { gate, quotas, others, records, due, heads, flows, .. } = self;
        out.numbers(&[*born, *now, *offset, *expires, *granted, *refused]);
        gate.write(out);
        out.list(quotas);
        out.list(others);
        records.write(out);
        heads.write(out);
        flows.write(out);
        // The other times are where they belong to.
        out.list(&due.flows());
    }

    fn read(from: &mut Decoder<'_>) -> Result<Self, DecodeError> {
        let [born, now, offset, expires, granted, refused] = from.numbers()?;
        ensure(born <= now && offset <= now)?;
        from.now = now;
        let gate = Coded::read(from)?;
        let quotas = from.list()?;
        let others: Vec<(Micros, QuotaState)> = from.list()?;
        let records: Records = Coded::read(from)?;
        let (heads, flows) = (Coded::read(from)?, Coded::read(from)?);
        let due_flows: Vec<(Micros, u64)> = from.list()?;
        let due =
            records.indexed().chain(others.iter().map(|(at, quota)| (*at, Owner::Quota(quota.id))));
        let due = due.chain(due_flows.into_iter().map(|(at, flow)| (at, Owner::Flow(flow))));
        let due = Due::of(due.collect());
        let state = Self {
            born,
            now,
            offset,
            expires,
            granted,
            refused,
            gate,
            quotas,
            others,
            records,
            due,
            heads,
            flows,
        };
        ensure(born > 0 || state == Self::unused())?;
        Ok(state)
    }
}

/// A state from the numbers that Redis has of it, for those who only look.
#[cfg(feature = "redis")]
impl BucketState {
    /// A state without what only matters to later batches: what was charged in the slots of token
    /// buckets, quotas set aside, flows, and the answers of sessions. The numbers are `born`,
    /// `now`, `offset`, `expires`, `granted` and `refused`.
    ///
    /// # Errors
    /// Numbers that no batch leaves behind.
    pub(crate) fn stored(
        [born, now, offset, expires, granted, refused]: [u64; 6],
        gate: Option<Gate>,
        quotas: Vec<QuotaState>,
        heads: Vec<Head>,
        records: Vec<SessionRecord>,
    ) -> Result<Self, DecodeError> {
        let mut state = Self { born, now, offset, expires, granted, refused, ..Self::default() };
        (state.gate, state.quotas) = (gate.map(Box::new), quotas);
        state.records = Records::of(records);
        state.heads.replace(0, heads);
        // All that its parts have to be is checked when they are read.
        Self::from_bytes(&state.to_bytes())
    }

    pub(crate) fn born(&self) -> Micros {
        self.born
    }

    /// What is added to the store's clock.
    pub(crate) fn offset(&self) -> Micros {
        self.offset
    }
}

#[cfg(any(test, feature = "redis"))]
impl BucketState {
    pub(crate) fn records(&self) -> impl ExactSizeIterator<Item = &SessionRecord> {
        self.records.iter()
    }
}

#[cfg(test)]
impl BucketState {
    pub(super) fn due_entries(&self) -> usize {
        self.due.len()
    }

    /// How many quotas are kept, those set aside too.
    pub(super) fn all_quotas(&self) -> usize {
        self.quotas.len() + self.others.len()
    }
}

impl Reserve {
    /// The part of its last bucket's limits that it takes, by its weight: how far it moves its flow
    /// on.
    pub(super) fn step(&self, rules: &[Rule]) -> f64 {
        let costs = &self.costs[self.costs.len().saturating_sub(rules.len())..];
        let parts = rules
            .iter()
            .zip(costs)
            .map(|(rule, &cost)| cost as f64 / rule.capacity(0).max(1) as f64);
        self.flow.step(parts.fold(0.0, f64::max))
    }
}
