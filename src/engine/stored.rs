//! A state from the numbers that another layout of it has, such as the hash in Redis: for those who
//! only look. It goes through the [codec](super::codec), so no numbers lead to a state that a batch
//! could not have left behind.

use super::{
    BucketState, Micros, Rule, Window,
    codec::{self, Coded, DecodeError, Encoder},
    heads::Head,
};

/// A bucket as it is stored. What only matters to later batches is left out: what was charged in
/// the slots of token buckets, quotas set aside, flows, and the answers of sessions.
#[derive(Debug, Default)]
pub(crate) struct StoredBucket {
    pub(crate) born: Micros,
    pub(crate) now: Micros,
    pub(crate) offset: Micros,
    pub(crate) expires: Micros,
    pub(crate) granted: u64,
    pub(crate) refused: u64,
    pub(crate) gate: Option<StoredGate>,
    pub(crate) heads: Vec<Head>,
    pub(crate) records: Vec<StoredRecord>,
}

/// A pause (see [`Gate`](super::gate::Gate)): until, surfaced_until, asked_until, length; its
/// phase (0 opens fully, 1 is half open, 2 spreads); probe; spread_until, next, step.
pub(crate) type StoredGate = [u64; 9];

/// What a quota has beside its rule.
#[derive(Debug, Default)]
pub(crate) struct StoredQuota {
    pub(crate) since: Micros,
    pub(crate) in_flight: u64,
    /// For calls in flight, nothing more.
    pub(crate) charged: u64,
    /// Of a sliding window, its newest slot and the charges of all, oldest first. Of a token
    /// bucket, its tick; of a fixed window, when it ends.
    pub(crate) at: u64,
    pub(crate) slots: Vec<u64>,
    /// Of a token bucket.
    pub(crate) max_used: u64,
    pub(crate) excess: u64,
    pub(crate) excess_rate: u64,
    pub(crate) ceiling: u64,
    /// What is withheld and until when, and the quota's own pause.
    pub(crate) cap: Option<(u64, Micros, StoredGate)>,
}

/// What is known of a session or of a claim, but for its last answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct StoredRecord {
    pub(crate) id: u64,
    pub(crate) seq: u64,
    pub(crate) lease_until: Micros,
    pub(crate) forget_at: Micros,
    pub(crate) indexed_at: Micros,
    pub(crate) since: Micros,
    pub(crate) waits: bool,
    pub(crate) is_claim: bool,
    /// A quota's id and an amount each.
    pub(crate) in_flight: Vec<(u64, u64)>,
}

impl StoredBucket {
    /// The state, with these quotas, one for each rule.
    ///
    /// # Errors
    /// Numbers that no batch leaves behind.
    pub(crate) fn state(
        &self,
        rules: &[Rule],
        quotas: &[StoredQuota],
    ) -> Result<BucketState, DecodeError> {
        let bytes = codec::encode_by(|out| {
            let Self { born, now, offset, expires, granted, refused, .. } = *self;
            out.numbers(&[born, now, offset, expires, granted, refused]);
            self.gate.is_some().write(out);
            self.gate.iter().for_each(|gate| write_gate(gate, out));
            out.number(quotas.len() as u64);
            rules.iter().zip(quotas).for_each(|(rule, quota)| quota.write(rule, out));
            // None set aside.
            out.number(0);
            out.number(self.records.len() as u64);
            self.records.iter().for_each(|record| record.write(out));
            out.number(self.heads.len() as u64);
            self.heads.iter().for_each(|head| head.write(out));
            // No flows, and none in the index.
            false.write(out);
            out.number(0);
        });
        BucketState::from_bytes(&bytes)
    }
}

fn write_gate(gate: &StoredGate, out: &mut Encoder) {
    let phase = gate[4].min(2);
    out.numbers(&gate[..4]);
    out.byte(phase as u8);
    out.numbers([&[][..], &gate[5..6], &gate[6..]][phase as usize]);
}

impl StoredQuota {
    fn write(&self, rule: &Rule, out: &mut Encoder) {
        out.numbers(&[rule.id, self.since, self.in_flight]);
        rule.held.write(out);
        match &rule.window {
            Window::InFlight => out.byte(0),
            Window::Sliding { slot, slots } => {
                out.byte(1);
                out.numbers(&[*slot, self.at, slots + 1]);
                write_ring(&self.slots, slots + 1, out);
            }
            Window::TokenBucket(shape) => {
                out.byte(2);
                out.numbers(&[shape.tick, shape.units, shape.burst, shape.max_debt]);
                out.numbers(&[shape.slot, shape.slots, rule.limit, self.at, self.charged]);
                out.numbers(&[self.max_used, self.excess, self.excess_rate, self.ceiling, 0]);
                // What was charged in each slot, and what drained.
                write_ring(&[], shape.slots.max(1), out);
                write_ring(&[], shape.slots.max(1), out);
                false.write(out);
            }
            Window::Fixed { .. } | Window::Calendar { .. } => {
                out.byte(3);
                out.numbers(&[self.at, self.charged]);
            }
        }
        self.cap.is_some().write(out);
        if let Some((withheld, until, gate)) = &self.cap {
            out.numbers(&[*withheld, *until]);
            write_gate(gate, out);
        }
    }
}

/// Writes charges, oldest first, and 0 for each that is not there.
fn write_ring(charges: &[u64], len: u64, out: &mut Encoder) {
    let mut left = len;
    for charge in charges.iter().take(usize::try_from(len).unwrap_or(usize::MAX)) {
        out.number(*charge);
        out.byte(1);
        left -= 1;
    }
    while left > 0 {
        let run = left.min(64);
        out.number(0);
        out.byte(run as u8);
        left -= run;
    }
}

impl StoredRecord {
    fn write(&self, out: &mut Encoder) {
        // No answer: neither what it saw nor verdicts.
        out.numbers(&[self.id, self.seq, 0, 0]);
        out.numbers(&[self.lease_until, self.forget_at, self.indexed_at, self.since]);
        self.waits.write(out);
        self.is_claim.write(out);
        out.number(self.in_flight.len() as u64);
        self.in_flight.iter().for_each(|(quota, amount)| out.numbers(&[*quota, *amount]));
    }
}
