//! The pure state machine: [`apply`] takes the states of some buckets, the time and a batch of operations, and
//! answers each operation. No I/O, no clock, no async; integers only.
//!
//! This is the reference. `store/redis/*.lua` says the same in Lua, and a differential test holds the two
//! against each other, answer by answer.

mod bucket;
mod cap;
mod charge;
mod exact;
mod fixed_window;
mod quota_state;
mod ring;
mod rule;
mod single;
mod sliding_window;
mod step;
mod surfaced;
mod token_bucket;

#[cfg(test)]
mod tests;

use smallvec::SmallVec;

pub use bucket::{BucketState, LANE_MEMORY};
pub(crate) use charge::Reserve;
pub use quota_state::Level;
pub use rule::{HEADROOM_PARTS, MAX_AMOUNT, Micros, Rule, TokenBucket, Window};
pub(crate) use single::Single;
use step::Step;

/// One amount per rule of the batch: the rules of its first bucket, then those of the next.
pub type Costs = SmallVec<[u64; 4]>;

/// One verdict per operation.
pub type Verdicts = SmallVec<[Verdict; 1]>;

/// A clock that goes back by more than this has been stepped; by less, time stands still until it is caught up.
const STEP: Micros = 1_000_000;

/// One thing that a lane wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Op {
    /// Charge `costs` on every quota, or on none.
    Reserve {
        /// The amounts.
        costs: Costs,
        /// Share of each limit that is out of reach, in [`HEADROOM_PARTS`].
        headroom: u64,
        /// Whether a refusal names its reasons, which costs time. The first demand that has to wait always does.
        explain: bool,
        /// What comes of a refusal, and of a grant.
        mode: Mode,
    },
    /// Replace what a reservation was charged.
    Settle {
        /// When it was granted.
        at: Micros,
        /// What it was charged.
        reserved: Costs,
        /// What it should have been charged.
        actual: Costs,
        /// Whether the call is over; otherwise this is a new estimate.
        close: bool,
        /// The claim of a detached reservation: settles only if it still stands.
        claim: Option<u64>,
    },
    /// Give what a reservation has in flight to a claim that any lane may settle once.
    Detach {
        /// Identifies the claim.
        claim: u64,
        /// What the reservation was charged.
        reserved: Costs,
        /// For how long the claim stands.
        lease: Micros,
    },
    /// Refuse everything on the first bucket for at least this long; 0 ends every pause of it and of its quotas.
    Pause(Micros),
    /// Pause the first bucket or a quota of it, since the provider asked for a wait that is longer than anybody is to
    /// sleep: while the pause lasts, what it holds back is to be refused and not to wait.
    Surface {
        /// The rule's id; everything if there is none. As for [`Op::Cap`], not every quota can be paused.
        quota: Option<u64>,
        /// The wait that was asked for. One that is no longer than the pause makes it an ordinary pause.
        asked: Micros,
        /// For how long the pause lasts.
        lasts: Micros,
    },
    /// Withhold a part of a quota of the first bucket, or all of it, since the provider said that no more is left.
    /// This never gives anything, and ends by itself. Calls in flight are not a provider's to cap: a quota on them,
    /// or one that is not known, stays as it is.
    Cap {
        /// The rule's id.
        quota: u64,
        /// Whole tokens left, in the quota's own cost; `None` if none are, whatever comes back meanwhile.
        left: Option<u64>,
        /// When the call was granted whose response said so: what came back since then is left too.
        at: Micros,
        /// For how long it is withheld at most.
        lasts: Micros,
    },
    /// Say how the quotas stand.
    Status,
}

/// How much a reserve is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Mode {
    /// Refused, it waits: it keeps its place before the reserves after it in the batch. Not so if what refused it is
    /// not to be waited out ([`Violation::asked`]): then it always gets its reasons, and goes away.
    Wait,
    /// Refused, it goes away.
    Try,
    /// Only say what would happen; charge nothing.
    Dry,
}

/// The answer to one operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Verdict {
    /// A reserve was charged.
    Granted,
    /// A dry reserve would be granted.
    Fits,
    /// A reserve was refused; with the reasons if it asked for them.
    Refused(Box<[Violation]>),
    /// Done.
    Done,
    /// The claim does not stand: it was settled before, or its lease has ended.
    NoClaim,
    /// The levels, one per rule, and how the first bucket is paused.
    Status(Box<[Level]>, Paused),
}

/// How a bucket is paused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Paused {
    /// Until when; 0 if it is not.
    pub until: Micros,
    /// Until when the provider asked to wait, if nobody is to wait that long; otherwise 0.
    pub asked_until: Micros,
}

/// One reason of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Violation {
    /// What refused.
    pub by: RefusedBy,
    /// Whole tokens available to the class; negative in debt.
    pub available: i64,
    /// Time until this would fit if nothing is refunded; `None` while that depends on calls in flight.
    pub wait: Option<Micros>,
    /// The same if everything in flight were refunded at once.
    pub at_best: Micros,
    /// What is left of the wait that a provider asked for, if that is longer than anybody is to sleep: the demand is not
    /// to wait.
    pub asked: Option<Micros>,
}

/// What refused a demand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RefusedBy {
    /// A rule, by its index among those of the batch.
    Rule(usize),
    /// A pause of a bucket, by the bucket's index in the batch.
    Pause(usize),
}

/// Operations of one lane, applied in order and as one.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Who sends this; below 2^53.
    pub lane: u64,
    /// Counts the batches of a lane from 1. A batch is applied once, however often it arrives; one without a number
    /// (0) arrives once.
    pub seq: u64,
    /// Without another batch for this long, what the lane has in flight is taken for abandoned.
    pub lease: Micros,
    /// The rules of each bucket.
    pub rules: &'a [&'a [Rule]],
    /// What to do.
    pub ops: &'a [Op],
}

/// The answer to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The store's clock.
    pub wall: Micros,
    /// What happened.
    pub outcome: Outcome,
}

/// What happened to a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Outcome {
    /// It was applied, now or when it first arrived.
    Applied {
        /// The time it was applied at.
        now: Micros,
        /// For each bucket when its state began and until when it means something.
        lives: SmallVec<[Life; 1]>,
        /// One per operation.
        verdicts: Verdicts,
    },
    /// A later batch of the lane was applied before; this one has no effect.
    Stale,
    /// A calendar does not reach to the store's present; nothing was done.
    Uncharted,
}

/// When the state of a bucket began, and until when it means something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Life {
    /// When the state began: a change is a loss of state if the old one still meant something.
    pub born: Micros,
    /// Until when it means something.
    pub expires: Micros,
}

/// Applies a batch to the states of its buckets at the time that the store's clock shows.
pub fn apply(states: &mut [BucketState], batch: &Batch<'_>, wall: Micros) -> Answer {
    let outcome = match recorded(states, batch) {
        Some(outcome) => outcome,
        None if batch
            .rules
            .iter()
            .any(|rules| rules.iter().any(|rule| rule.is_uncharted(wall))) =>
        {
            Outcome::Uncharted
        }
        None => apply_new(states, batch, wall),
    };
    Answer { wall, outcome }
}

/// What is known of a batch that was applied before.
fn recorded(states: &[BucketState], batch: &Batch<'_>) -> Option<Outcome> {
    if batch.seq == 0 {
        return None;
    }
    let lane = states.first()?.lane(batch.lane)?;
    if batch.seq > lane.seq {
        return None;
    }
    if batch.seq < lane.seq {
        return Some(Outcome::Stale);
    }
    Some(Outcome::Applied {
        now: lane.answered_at,
        lives: lives(states),
        verdicts: lane.verdicts.clone(),
    })
}

fn apply_new(states: &mut [BucketState], batch: &Batch<'_>, wall: Micros) -> Outcome {
    let now = time(states, wall);
    let mut step = Step::begin(states, batch.rules, batch.lane, now, wall);
    let mut verdicts = Verdicts::with_capacity(batch.ops.len());
    for op in batch.ops {
        verdicts.push(step.apply(op));
    }
    step.end(batch.lease);
    if let (Some(first), 1..) = (states.first_mut(), batch.seq) {
        let lane = first.enter(batch.lane);
        let lane = &mut first.lanes[lane];
        (lane.seq, lane.answered_at, lane.verdicts) = (batch.seq, now, verdicts.clone());
    }
    Outcome::Applied { now, lives: lives(states), verdicts }
}

/// The present: never before what any of the buckets has seen.
#[inline]
fn time(states: &[BucketState], wall: Micros) -> Micros {
    let seen = states.iter().map(|state| state.now).max().unwrap_or(0);
    // A small step back is waited out, a large one is made up for from then on.
    let offset = states
        .iter()
        .map(|state| if state.offset > STEP { state.offset } else { 0 })
        .max()
        .unwrap_or(0);
    (wall + offset).max(seen)
}

fn lives(states: &[BucketState]) -> SmallVec<[Life; 1]> {
    match states {
        [state] => SmallVec::from_buf([state.life()]),
        states => states.iter().map(BucketState::life).collect(),
    }
}
