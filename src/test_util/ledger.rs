//! A record of what was asked for, reserved and settled.

use std::{sync::Arc, time::Duration};

use crate::{
    error::Throttled,
    observe::{Event, Observer, OtherAmounts},
    sync::{Mutex, lock},
    usage::Usage,
};

/// A record of demands: an [`Observer`], also for limiters that are no
/// [`TestLimiter`](super::TestLimiter). A clone keeps the same record.
///
/// Assertions name the metrics that they are about; others may be anything. A demand that does not
/// name `requests` asks for one.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    calls: Arc<Mutex<Vec<Call>>>,
}

/// One demand, and what became of it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Call {
    /// Identifies it: see [`Reservation::id`](crate::Reservation::id).
    pub id: u64,
    /// Its buckets.
    pub buckets: Vec<String>,
    /// Its class.
    pub class: Option<String>,
    /// Its share.
    pub share: Option<String>,
    /// How long it waited for its grant.
    pub waited: Duration,
    /// Whether it was granted without the store.
    pub degraded: bool,
    /// What became of it.
    pub state: CallState,
    amounts: Vec<CallAmounts>,
}

/// What was reserved and charged of one bucket.
#[derive(Clone, Debug)]
struct CallAmounts {
    bucket: String,
    reserved: Usage,
    settled: Option<Usage>,
}

/// What became of a demand.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CallState {
    /// It waits.
    Waiting,
    /// It was granted, and is not settled.
    Open,
    /// It was settled, kept or released.
    Settled,
    /// It was detached: another process may settle it.
    Detached,
    /// It was refused.
    Refused(Throttled),
    /// Its caller gave up.
    Cancelled,
}

impl Call {
    /// Returns what was reserved of a bucket, with the latest estimate.
    pub fn reserved(&self, bucket: &str) -> Option<&Usage> {
        self.of(bucket).map(|amounts| &amounts.reserved)
    }

    /// Returns what was charged to a bucket in the end; nothing before that.
    pub fn settled(&self, bucket: &str) -> Option<&Usage> {
        self.of(bucket)?.settled.as_ref()
    }

    fn of(&self, bucket: &str) -> Option<&CallAmounts> {
        self.amounts.iter().find(|amounts| amounts.bucket == bucket)
    }

    /// Whether it waits, or was granted and is not settled.
    pub fn is_open(&self) -> bool {
        matches!(self.state, CallState::Waiting | CallState::Open)
    }
}

impl Ledger {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// Returns all demands, in the order in which they were first told of: one that has to wait
    /// when that is known, another when it is granted or refused.
    pub fn calls(&self) -> Vec<Call> {
        lock(&self.calls).clone()
    }

    /// Forgets all demands so far.
    pub fn clear(&self) {
        lock(&self.calls).clear();
    }

    /// Asserts what was reserved of a bucket, in total, by all demands that were granted.
    ///
    /// # Panics
    /// If it is anything else, or if `usage` names no metric.
    #[track_caller]
    pub fn assert_reserved(&self, bucket: &str, usage: Usage) {
        self.assert_sum("reserved", bucket, &usage, Call::reserved);
    }

    /// Asserts what was charged to a bucket, in total, by all demands that are settled.
    ///
    /// # Panics
    /// If it is anything else, or if `usage` names no metric.
    #[track_caller]
    pub fn assert_settled(&self, bucket: &str, usage: Usage) {
        self.assert_sum("settled", bucket, &usage, Call::settled);
    }

    /// Asserts that nothing waits and that everything granted is settled or detached: no code has
    /// forgotten a reservation.
    ///
    /// # Panics
    /// If something is open.
    #[track_caller]
    pub fn assert_nothing_open(&self) {
        let calls = self.calls();
        let open: Vec<_> = calls.iter().filter(|call| call.is_open()).collect();
        assert!(open.is_empty(), "{} are open: {open:#?}", open.len());
    }

    /// Asserts how many demands were refused.
    ///
    /// # Panics
    /// If it were more, or fewer.
    #[track_caller]
    pub fn assert_refused(&self, count: usize) {
        let calls = self.calls();
        let refused = |call: &&Call| matches!(call.state, CallState::Refused(_));
        let refused: Vec<_> = calls.iter().filter(refused).collect();
        assert_eq!(refused.len(), count, "these were refused: {refused:#?}");
    }

    #[track_caller]
    fn assert_sum(
        &self,
        what: &str,
        bucket: &str,
        wanted: &Usage,
        usage: impl for<'c> Fn(&'c Call, &str) -> Option<&'c Usage>,
    ) {
        assert!(wanted.iter().next().is_some(), "a usage without a metric asserts nothing");
        let calls = self.calls();
        for (metric, amount) in wanted.iter() {
            let amounts = calls.iter().filter_map(|call| usage(call, bucket)?.get(metric));
            let sum: u64 = amounts.sum();
            assert_eq!(sum, amount, "{metric} {what} of bucket `{bucket}`, by {calls:#?}");
        }
    }

    /// Changes the record of a demand, which is made if there is none.
    fn change<'a>(
        &self,
        id: u64,
        buckets: impl Iterator<Item = &'a str>,
        (class, share): (Option<&str>, Option<&str>),
        change: impl FnOnce(&mut Call),
    ) {
        let mut calls = lock(&self.calls);
        // The latest are the most likely.
        let known = calls.iter().rposition(|call| call.id == id);
        let index = known.unwrap_or_else(|| {
            calls.push(Call {
                id,
                buckets: buckets.map(str::to_owned).collect(),
                class: class.map(str::to_owned),
                share: share.map(str::to_owned),
                waited: Duration::ZERO,
                degraded: false,
                state: CallState::Waiting,
                amounts: Vec::new(),
            });
            calls.len() - 1
        });
        change(&mut calls[index]);
    }
}

impl Observer for Ledger {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::WaitStarted { id, buckets, class, share, .. } => {
                self.change(*id, buckets.iter(), (*class, *share), |_| {});
            }
            Event::Granted { id, buckets, class, share, reserved, others, waited, degraded } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    call.buckets = buckets.iter().map(str::to_owned).collect();
                    (call.state, call.waited, call.degraded) =
                        (CallState::Open, *waited, *degraded);
                    call.amounts = amounts(buckets.iter(), reserved, others);
                });
            }
            Event::Adjusted { id, buckets, class, share, reserved, actual, others } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    for amounts in &mut call.amounts {
                        let (_, actual) = others.or(&amounts.bucket, (reserved, actual));
                        amounts.reserved = actual.clone();
                    }
                });
            }
            Event::Settled { id, buckets, class, share, reserved, actual, others } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    call.state = CallState::Settled;
                    for amounts in &mut call.amounts {
                        let (_, actual) = others.or(&amounts.bucket, (reserved, actual));
                        amounts.settled = Some(actual.clone());
                    }
                });
            }
            Event::Detached { id, buckets, class, share } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    call.state = CallState::Detached
                });
            }
            Event::Refused { id, buckets, class, share, error } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    call.state = CallState::Refused((*error).clone());
                });
            }
            Event::Cancelled { id, buckets, class, share, waited } => {
                self.change(*id, buckets.iter(), (*class, *share), |call| {
                    (call.state, call.waited) = (CallState::Cancelled, *waited);
                });
            }
            _ => {}
        }
    }
}

/// What is reserved of each bucket.
fn amounts<'a>(
    buckets: impl Iterator<Item = &'a str>,
    reserved: &Usage,
    others: &OtherAmounts<'_>,
) -> Vec<CallAmounts> {
    let amounts = |bucket: &str| {
        let (reserved, _) = others.or(bucket, (reserved, reserved));
        CallAmounts { bucket: bucket.to_owned(), reserved: reserved.clone(), settled: None }
    };
    buckets.map(amounts).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[should_panic(expected = "a usage without a metric asserts nothing")]
    fn an_assertion_that_could_not_fail_panics() {
        Ledger::new().assert_settled("api", Usage::new());
    }
}
