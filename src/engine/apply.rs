//! A batch, once.

use smallvec::SmallVec;

use super::{Answer, Batch, BucketState, Micros, Outcome, Wakes, operations::Operations};

/// Applies a batch to the states of its buckets at the time that the store's clock shows. Returns
/// the answer, and the heads of other sessions that it made room for.
pub(crate) fn apply(
    states: &mut [&mut BucketState],
    batch: &Batch<'_>,
    wall: Micros,
) -> (Answer, Wakes) {
    if let Some(outcome) = recorded(states, batch) {
        return (Answer { wall, outcome }, Wakes::default());
    }
    if batch.buckets.iter().any(|bucket| bucket.rules.iter().any(|rule| rule.is_uncharted(wall))) {
        return (Answer { wall, outcome: Outcome::Uncharted }, Wakes::default());
    }
    if states.iter().any(|state| state.is_claim(batch.session)) {
        return (Answer { wall, outcome: Outcome::Stale }, Wakes::default());
    }
    let mut operations = Operations::begin(states, batch, wall);
    let verdicts = operations.run();
    let (buckets, wakes) = operations.end();
    if let (Some(first), 1..) = (states.first_mut(), batch.seq) {
        first.answered(batch.session, batch.seq, buckets.clone(), verdicts.clone());
    }
    (Answer { wall, outcome: Outcome::Applied { buckets, verdicts } }, wakes)
}

/// What is known of a batch that was applied before.
fn recorded(states: &[&mut BucketState], batch: &Batch<'_>) -> Option<Outcome> {
    if batch.seq == 0 {
        return None;
    }
    let (seq, (buckets, verdicts)) = states.first()?.record(batch.session)?.last();
    if batch.seq > seq {
        return None;
    }
    if batch.seq < seq {
        return Some(Outcome::Stale);
    }
    Some(Outcome::Applied { buckets: SmallVec::from_slice(buckets), verdicts: verdicts.clone() })
}
