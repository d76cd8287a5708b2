//! What a bucket knows of a session, or of a detached reservation: a claim.

use smallvec::SmallVec;

use super::{Micros, Seen, Verdicts, codec::coded, rule::MAX_TAKEN};

/// What a bucket knows of a session, or of a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct SessionRecord {
    pub(crate) id: u64,
    /// The last batch whose first bucket this was, and what it was answered.
    seq: u64,
    answer: (SmallVec<[Seen; 1]>, Verdicts),
    /// What is in flight is abandoned from here on.
    lease_until: Micros,
    forget_at: Micros,
    /// Where the index of due times has it.
    pub(super) indexed_at: Micros,
    /// What was granted before this is not in `in_flight`: the session was not known yet, or its
    /// lease had ended.
    since: Micros,
    /// It has heads in the bucket.
    waits: bool,
    /// It is a claim's.
    is_claim: bool,
    in_flight: SmallVec<[Share; 4]>,
}

#[cfg(test)]
thread_local! {
    /// How often a record was looked at.
    pub(super) static LOOKS: std::cell::Cell<usize> = const { std::cell::Cell::new(0) };
}

/// What a session has in flight on one quota.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Share {
    pub(crate) quota: u64,
    pub(crate) amount: u64,
}

impl SessionRecord {
    pub(crate) fn new(id: u64, now: Micros) -> Self {
        let (lease_until, forget_at, indexed_at, since) = (now, now, now, now);
        Self { id, lease_until, forget_at, indexed_at, since, ..Self::default() }
    }

    /// From the numbers by which Redis has it, but for the last answer.
    #[cfg(feature = "redis")]
    pub(crate) fn stored(id: u64, numbers: [u64; 6], in_flight: SmallVec<[Share; 4]>) -> Self {
        let [seq, lease_until, forget_at, indexed_at, since, marks] = numbers;
        let mut record = Self { id, seq, since, in_flight, ..Self::default() };
        (record.lease_until, record.forget_at) = (lease_until, forget_at);
        (record.indexed_at, record.waits, record.is_claim) =
            (indexed_at, marks % 2 == 1, marks >= 2);
        record
    }

    /// The last batch, and what it was answered.
    pub(crate) fn last(&self) -> (u64, &(SmallVec<[Seen; 1]>, Verdicts)) {
        (self.seq, &self.answer)
    }

    pub(crate) fn answered(&mut self, seq: u64, seen: SmallVec<[Seen; 1]>, verdicts: Verdicts) {
        (self.seq, self.answer) = (seq, (seen, verdicts));
    }

    /// Gives it time until its lease and its record end.
    #[inline]
    pub(super) fn extend(&mut self, lease_until: Micros, forget_at: Micros) {
        (self.lease_until, self.forget_at) = (lease_until, forget_at);
    }

    pub(crate) fn lease_until(&self) -> Micros {
        self.lease_until
    }

    pub(super) fn forget_at(&self) -> Micros {
        self.forget_at
    }

    /// Whether a grant of this time may still be in flight here.
    #[inline]
    pub(crate) fn knows(&self, at: Micros) -> bool {
        at >= self.since
    }

    /// What it has in flight on a quota, that of the rule at `index`, which is where it is kept if
    /// it can be.
    #[inline]
    pub(crate) fn share(&mut self, index: usize, quota: u64) -> &mut u64 {
        let is_there = self.in_flight.get(index).is_some_and(|share| share.quota == quota);
        let index = if is_there { index } else { self.place_share(index, quota) };
        &mut self.in_flight[index].amount
    }

    #[cold]
    fn place_share(&mut self, index: usize, quota: u64) -> usize {
        let found =
            self.in_flight.iter().position(|share| share.quota == quota).unwrap_or_else(|| {
                self.in_flight.push(Share { quota, amount: 0 });
                self.in_flight.len() - 1
            });
        if index >= self.in_flight.len() {
            return found;
        }
        self.in_flight.swap(index, found);
        index
    }

    /// Whether the end of its lease matters: it has something in flight, or heads.
    pub(crate) fn is_active(&self) -> bool {
        #[cfg(test)]
        LOOKS.with(|looks| looks.set(looks.get() + 1));
        self.waits || self.in_flight.iter().any(|share| share.amount > 0)
    }

    /// Whether it is a claim's, which may be settled by any session that knows the claim.
    pub(crate) fn is_claim(&self) -> bool {
        self.is_claim
    }

    pub(crate) fn become_claim(&mut self) {
        self.is_claim = true;
    }

    /// Says whether it has heads in the bucket.
    pub(crate) fn set_waits(&mut self, waits: bool) {
        self.waits = waits;
    }

    /// When the bucket has to look at this record again.
    pub(crate) fn due(&self) -> Micros {
        if self.is_active() { self.lease_until } else { self.forget_at }
    }

    /// Its lease has ended, or its claim was settled: returns what it had in flight.
    pub(crate) fn abandon(&mut self, now: Micros) -> SmallVec<[Share; 4]> {
        (self.since, self.waits) = (now, false);
        let shares = std::mem::take(&mut self.in_flight);
        shares.into_iter().filter(|share| share.amount > 0).collect()
    }

    #[cfg(any(test, feature = "redis"))]
    pub(crate) fn shares(&self) -> &[Share] {
        &self.in_flight
    }
}

coded!(SessionRecord {
    id,
    seq,
    answer,
    lease_until,
    forget_at,
    indexed_at,
    since,
    waits,
    is_claim,
    in_flight,
});

coded!(Share { quota, amount <= MAX_TAKEN });
