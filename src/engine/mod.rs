//! The state of a bucket, for those who write a [`Store`](crate::store::Store).
//!
//! A pure state machine: [`Batch::apply_to`](crate::store::Batch::apply_to) takes the states of
//! some buckets, the time and a batch of operations, and returns the answer to each operation. No
//! I/O, no clock, no async; integers only, but for the tags of flows.
//!
//! This is the reference. `store/redis/*.lua` says the same in Lua, file by file, and a
//! differential test holds the two against each other, answer by answer.

mod ahead;
mod apply;
pub(crate) mod batch;
mod bucket;
mod candidate;
mod cap;
mod codec;
mod due;
mod exact;
mod fixed_window;
mod flows;
mod front;
mod gate;
mod heads;
mod operations;
mod order;
mod own_heads;
mod quota_amounts;
mod quota_state;
mod records;
mod ring;
mod rule;
mod session_record;
mod sliding_window;
mod states;
mod token_bucket;

#[cfg(test)]
mod tests;

use std::{ops::Deref, slice};

use smallvec::SmallVec;

pub(crate) use self::{
    apply::apply,
    batch::Batch,
    bucket::SESSION_MEMORY,
    heads::{NO_TAG, catch_up},
    quota_amounts::QuotaAmounts,
    quota_state::Level,
    rule::{HEADROOM_PARTS, MAX_AMOUNT, MAX_PAUSE, Rule, TokenBucket, Window},
};
pub use self::{bucket::BucketState, codec::DecodeError, rule::Micros};

#[cfg(feature = "redis")]
pub(crate) use self::{
    cap::Cap,
    gate::Gate,
    heads::{Head, LATE, Outlook},
    quota_state::QuotaState,
    session_record::{SessionRecord, Share},
};

/// Indexes into the buckets of a batch.
pub(crate) type On = SmallVec<[u16; 2]>;

/// One amount per rule of an operation's buckets: the rules of its first bucket, then those of the
/// next.
pub(crate) type Costs = SmallVec<[u64; 4]>;

/// One time per bucket of an operation. Every bucket has a time of its own: see [`Seen::now`].
pub(crate) type Times = SmallVec<[Micros; 2]>;

/// One verdict per operation.
pub(crate) type Verdicts = SmallVec<[Verdict; 1]>;

/// One operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    /// Charges a demand on every quota, or on none.
    Reserve(Reserve),
    /// Replaces what a reservation was charged.
    Settle(Settle),
    /// Gives what a reservation has in flight to a claim that any session may settle once.
    Detach {
        /// The buckets of the reservation.
        on: On,
        /// Identifies the claim.
        claim: u64,
        /// What the reservation was charged.
        reserved: Costs,
        /// For how long the claim stands.
        lease: Micros,
    },
    /// Says which of the session's waiters are not in this batch but wait for quotas of a bucket.
    /// Replaces what the session said of that bucket before: reserves of this batch that are
    /// refused and these lines are its heads from now on. Belongs after the waiting reserves and
    /// before those that do not wait.
    Waiting {
        /// The bucket.
        bucket: u16,
        /// One per quota, class and flow that has waiters.
        lines: Box<[Line]>,
    },
    /// Refuses everything on a bucket for at least this long; 0 ends every pause of it and of its
    /// quotas.
    Pause {
        /// The bucket.
        bucket: u16,
        /// For how long.
        lasts: Micros,
    },
    /// A provider refused a call: pauses the bucket, or a quota of it. When the pause ends one
    /// demand goes first, as a probe; the others follow when that was [answered](Op::Answered).
    Refused {
        /// The bucket.
        bucket: u16,
        /// The rule's id; the whole bucket if there is none. Calls in flight are not a provider's
        /// to pause.
        quota: Option<u64>,
        /// When the refused call was granted. One granted after an earlier pause ended doubles
        /// that.
        at: Micros,
        /// The wait that was asked for. If it is longer than the pause, demands are refused at once
        /// and do not wait.
        asked: Micros,
        /// For how long the pause lasts.
        lasts: Micros,
        /// The longest pause that doubling leads to.
        longest: Micros,
    },
    /// A provider answered a call well that was granted at this time. If it was a probe, the others
    /// follow.
    Answered {
        /// The bucket.
        bucket: u16,
        /// When the call was granted.
        at: Micros,
    },
    /// Withholds a part of a quota, since the provider said that no more is left. This never gives
    /// anything, and ends by itself. Calls in flight are not a provider's to cap: a quota on them,
    /// or an unknown one, stays as it is.
    Cap {
        /// The bucket.
        bucket: u16,
        /// The rule's id.
        quota: u64,
        /// Whole tokens left, in the quota's own cost.
        left: u64,
        /// When the call was granted whose response said so: what came back since then is left too.
        at: Micros,
        /// For how long it is withheld at most.
        lasts: Micros,
    },
    /// Asks how the quotas of a bucket stand.
    Status {
        /// The bucket.
        bucket: u16,
    },
}

impl Op {
    /// The buckets that it is about.
    pub(crate) fn buckets(&self) -> &[u16] {
        match self {
            Self::Reserve(Reserve { on, .. })
            | Self::Settle(Settle { on, .. })
            | Self::Detach { on, .. } => on,
            Self::Waiting { bucket, .. }
            | Self::Pause { bucket, .. }
            | Self::Refused { bucket, .. }
            | Self::Answered { bucket, .. }
            | Self::Cap { bucket, .. }
            | Self::Status { bucket } => slice::from_ref(bucket),
        }
    }
}

/// A demand.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reserve {
    /// Its buckets. The last one is where its flow takes turns with others.
    pub(crate) on: On,
    /// What it asks of each rule of them.
    pub(crate) costs: Costs,
    /// Share of each limit that is out of its reach, in [`HEADROOM_PARTS`].
    pub(crate) headroom: u64,
    /// What to do with it if it does not fit.
    pub(crate) mode: Mode,
    /// Identifies the waiter in its session, so that a head that comes back keeps its arrival and
    /// its turn; 0 if it does not wait.
    pub(crate) waiter: u64,
    /// How long ago it arrived, with its head start.
    pub(crate) age: Micros,
    /// It goes away if it has to wait for longer, also if everything in flight is given back;
    /// [`MAX_AMOUNT`] if it never does.
    pub(crate) patience: Micros,
    /// The flow that it belongs to.
    pub(crate) flow: Flow,
}

/// What to do with a reserve that does not fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// It waits: it stays ahead of the reserves after it in the batch, and is a head of its session
    /// if the batch says what is [waiting](Op::Waiting) in that bucket. A pause that is not to be
    /// waited out ([`Violation::asked`]) refuses it for good, as does a wait beyond its patience:
    /// then it is ahead of nothing.
    Wait,
    /// It is refused.
    Try,
    /// Only says what would happen; charges nothing.
    Dry,
    /// It is charged all the same, whatever fits and whatever is paused: more than is available
    /// becomes a debt. It is no probe, and no turn of its flow.
    Charge,
}

/// Demands that are served in turns with other flows, by weight. Without a share, demands are of
/// the flow 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Flow {
    /// Identifies the flow; below 2^53. 0 is that of demands without a share.
    pub(crate) id: u64,
    /// Its weight, from 1 up.
    pub(crate) weight: u32,
}

impl Default for Flow {
    fn default() -> Self {
        Self { id: 0, weight: 1 }
    }
}

/// A settle.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settle {
    /// The buckets of the reservation.
    pub(crate) on: On,
    /// When it was granted, by the time of each bucket.
    pub(crate) at: Times,
    /// What it was charged.
    pub(crate) reserved: Costs,
    /// What it should have been charged.
    pub(crate) actual: Costs,
    /// Whether the call is over; otherwise this is a new estimate.
    pub(crate) close: bool,
    /// The claim of a detached reservation: settles only if it still stands, and no more than it
    /// holds.
    pub(crate) claim: Option<u64>,
}

/// Waiters of one session, of one class and flow, that wait for a quota and are not in the batch.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Line {
    /// The rule, by its index in the bucket.
    pub(crate) rule: u16,
    /// What their class leaves to others.
    pub(crate) headroom: u64,
    /// Their flow.
    pub(crate) flow: Flow,
    /// The [id](crate::store::BucketKey::id) of the last bucket of the first one's demand.
    pub(crate) space: u64,
    /// Identifies the first one: see [`Reserve::waiter`].
    pub(crate) waiter: u64,
    /// How long ago the first one arrived, with its head start.
    pub(crate) age: Micros,
    /// What the first one asks of the quota.
    pub(crate) cost: u64,
    /// How far the first one moves its flow on: see [`Refused::part`].
    pub(crate) part: f64,
    /// How many there are.
    pub(crate) count: u64,
    /// What all of them ask of the quota.
    pub(crate) sum: u64,
    /// How long ago the last one arrived, with its head start.
    pub(crate) last: Micros,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// The reserve was charged. A probe is the first call after a provider's refusal: say when it
    /// is [answered](Op::Answered).
    Granted {
        /// Whether it is a probe.
        probe: bool,
    },
    /// The dry reserve would be granted.
    Fits,
    /// The reserve was refused.
    Refused(Box<Refused>),
    /// Done.
    Done,
    /// The claim does not stand: it was settled before, or its lease has ended. Of a detach: its
    /// claim has the id of a session.
    NoClaim,
    /// How a bucket stands.
    Status(Box<BucketLevel>),
}

/// Why a reserve was refused, and what it stands behind.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Refused {
    /// The reasons, at least one. With them come quotas where a waiter fits now and keeps its
    /// place, since they refused it before: their wait is 0.
    pub(crate) violations: SmallVec<[Violation; 2]>,
    /// The start tag of its flow: the flow with the smallest one is next.
    pub(crate) tag: f64,
    /// How far a grant moves its flow on.
    pub(crate) part: f64,
}

/// One reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Violation {
    /// What refused.
    pub(crate) by: RefusedBy,
    /// Whole tokens available to the class; negative in debt.
    pub(crate) available: i64,
    /// Time until this would fit if nothing is refunded; `None` while that depends on calls in
    /// flight.
    pub(crate) wait: Option<Micros>,
    /// That time if no demand of another session went before it.
    pub(crate) alone: Option<Micros>,
    /// Time until this would fit if everything in flight were refunded at once.
    pub(crate) at_best: Micros,
    /// What is left of the wait that a provider asked for, if that is longer than the pause: the
    /// demand is not to wait.
    pub(crate) asked: Option<Micros>,
    /// Whether a waiter is a head here: not while something else holds it back for so long that
    /// younger ones can pass without delaying it.
    pub(crate) holds: bool,
    /// Heads of other sessions that go before it.
    pub(crate) rank: u64,
    /// Demands of other sessions that go before it.
    pub(crate) before: u64,
}

impl Violation {
    /// Whether the demand does not fit. Otherwise it keeps its place while something else holds it
    /// back.
    pub(crate) fn holds_back(&self) -> bool {
        self.wait != Some(0)
    }
}

/// Whether a pause is among these reasons that is not to be waited out.
pub(crate) fn is_surfaced(violations: &[Violation]) -> bool {
    violations.iter().any(|violation| violation.asked.is_some())
}

/// Time until a demand fits that was refused for these reasons, if that is known.
pub(crate) fn wait_of(violations: &[Violation]) -> Option<Micros> {
    let waits = violations.iter().map(|violation| violation.wait.max(violation.asked));
    match is_surfaced(violations) {
        // That is known, whatever else is not.
        true => waits.flatten().max(),
        false => waits.reduce(|one, other| Some(one?.max(other?))).flatten(),
    }
}

/// What refused a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RefusedBy {
    /// A rule, by its index among those of the operation.
    Rule(usize),
    /// A pause of a bucket, by the bucket's index in the operation. A waiter is then a head on
    /// every quota of the bucket that it needs.
    Pause(usize),
}

/// How a bucket stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct BucketLevel {
    /// Its quotas, in the order of the rules.
    pub(crate) quotas: Box<[Level]>,
    /// Until when it is paused; 0 if it is not.
    pub(crate) paused_until: Micros,
    /// Until when the provider asked to wait, if demands are not to wait that long; otherwise 0.
    pub(crate) asked_until: Micros,
    /// Demands of other sessions that wait for it, as far as they said.
    pub(crate) waiting: u64,
    /// Reserves that were charged since the state began.
    pub(crate) granted: u64,
    /// Reserves that were refused since then. A demand that waits is counted whenever it is looked
    /// at and does not fit.
    pub(crate) refused: u64,
}

/// The answer to a batch, as [`Batch::apply_to`](crate::store::Batch::apply_to) returns it.
#[derive(Clone, Debug, PartialEq)]
pub struct Answer {
    /// The store's clock.
    pub(crate) wall: Micros,
    /// What happened.
    pub(crate) outcome: Outcome,
}

/// What happened to a batch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Outcome {
    /// It was applied, now or when it first arrived.
    Applied {
        /// One per bucket.
        buckets: SmallVec<[Seen; 1]>,
        /// One per operation.
        verdicts: Verdicts,
    },
    /// A later batch of the session was applied before, or its id is that of a claim; this one has
    /// no effect.
    Stale,
    /// A calendar does not reach to the store's present; nothing was done.
    Uncharted,
}

/// The state of a bucket as a batch found it and left it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    /// The bucket's time at which the batch was applied: the grant time of its reservations there.
    /// It runs with the store's clock, and goes on where that is stepped back.
    pub(crate) now: Micros,
    /// The bucket's time at which the session was last part of a batch, if the state knows that;
    /// otherwise the time as the batch found it, 0 if the bucket was unused. Less than the session
    /// has seen before means that the state was lost.
    pub(crate) was: Micros,
    /// When the state began: a change is a loss of state if the old one still meant something.
    pub(crate) born: Micros,
    /// Until when it means something.
    pub(crate) expires: Micros,
}

/// A head of another session that a batch made room for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Wake {
    /// The session.
    pub session: u64,
    /// The bucket it waits for, by its index in the batch.
    pub bucket: u16,
}

/// Heads of other sessions that a batch made room for: a slice of [`Wake`]s.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wakes(SmallVec<[Wake; 2]>);

impl Wakes {
    pub(crate) fn push(&mut self, wake: Wake) {
        self.0.push(wake);
    }
}

impl Deref for Wakes {
    type Target = [Wake];

    fn deref(&self) -> &[Wake] {
        &self.0
    }
}

impl<'a> IntoIterator for &'a Wakes {
    type Item = &'a Wake;
    type IntoIter = slice::Iter<'a, Wake>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}
