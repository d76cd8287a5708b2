//! The gauges of buckets and quotas that are set by a look at the store. Which of them each limiter
//! has set is remembered: of what it has no more, they must not keep their last values.

use std::{
    any::Any,
    collections::HashSet,
    sync::Weak,
    time::{SystemTime, UNIX_EPOCH},
};

use ::metrics::{SharedString, gauge};

use super::{
    WHOLE_BUCKET, catalogue as name,
    labels::{Labels, OTHER},
};
use crate::{
    limiter::{QuotaStatus, Status},
    sync::{Mutex, lock},
};

/// What has gauges: a quota of a bucket, or without one the bucket itself.
type Subject = (SharedString, Option<SharedString>);

/// Tells a limiter from others.
type Identity = Weak<dyn Any + Send + Sync>;

/// What the last refresh of each limiter has set.
#[derive(Default)]
pub(super) struct Levels(Mutex<Vec<(Identity, HashSet<Subject>)>>);

/// What one refresh sets.
#[derive(Default)]
pub(super) struct Refresh {
    set: HashSet<Subject>,
    /// The buckets of which the store did not tell: their gauges stay.
    untold: HashSet<SharedString>,
}

impl Refresh {
    /// Sets the gauges of a bucket as it stands.
    pub(super) fn set(&mut self, labels: &Labels, bucket: &SharedString, status: &Status) {
        let of_bucket = [("bucket", bucket.clone())];
        gauge!(name::FLEET_WAITING, &of_bucket).set(status.waiting as f64);
        let predicted = status.predicted.map_or(f64::NAN, |wait| wait.as_secs_f64());
        gauge!(name::PREDICTED_WAIT, &of_bucket).set(predicted);
        set_paused(bucket, status.paused_until);
        self.set.insert((bucket.clone(), None));
        for quota in &status.quotas {
            let label = labels.quota(&quota.quota);
            if label.as_ref() == OTHER {
                continue;
            }
            set_quota(bucket, &label, levels_of(quota));
            self.set.insert((bucket.clone(), Some(label)));
        }
    }

    /// Leaves the gauges of a bucket as they are.
    pub(super) fn keep(&mut self, bucket: SharedString) {
        self.untold.insert(bucket);
    }
}

impl Levels {
    /// Ends the gauges of what this limiter has no more, and of limiters that are gone.
    pub(super) fn end_others(&self, limiter: Identity, refresh: Refresh) {
        let Refresh { mut set, untold } = refresh;
        let mut all = lock(&self.0);
        let mut before = HashSet::new();
        all.retain_mut(|(other, shown)| {
            let is_over = other.strong_count() == 0 || other.ptr_eq(&limiter);
            if is_over {
                before.extend(std::mem::take(shown));
            }
            !is_over
        });
        set.extend(before.iter().filter(|(bucket, _)| untold.contains(bucket)).cloned());
        let is_shown = |subject: &Subject| {
            set.contains(subject) || all.iter().any(|(_, shown)| shown.contains(subject))
        };
        before.retain(|subject| !is_shown(subject));
        all.push((limiter, set));
        drop(all);
        before.iter().for_each(end);
    }
}

/// Nothing is known any more of a bucket or a quota.
fn end((bucket, quota): &Subject) {
    let Some(quota) = quota else {
        let of_bucket = [("bucket", bucket.clone())];
        gauge!(name::FLEET_WAITING, &of_bucket).set(f64::NAN);
        gauge!(name::PREDICTED_WAIT, &of_bucket).set(f64::NAN);
        return set_paused(bucket, None);
    };
    set_quota(bucket, quota, [f64::NAN; 6]);
}

/// Limit, charged, held, withheld, available and in flight.
fn levels_of(quota: &QuotaStatus) -> [f64; 6] {
    let QuotaStatus { limit, charged, held, withheld, available, in_flight, .. } = *quota;
    [limit as f64, charged, held as f64, withheld, available, in_flight as f64]
}

fn set_quota(bucket: &SharedString, quota: &SharedString, levels: [f64; 6]) {
    let labels = [("bucket", bucket.clone()), ("quota", quota.clone())];
    let names = [
        name::QUOTA_LIMIT,
        name::QUOTA_CHARGED,
        name::QUOTA_HELD,
        name::QUOTA_WITHHELD,
        name::QUOTA_AVAILABLE,
        name::QUOTA_IN_FLIGHT,
    ];
    for (name, level) in names.into_iter().zip(levels) {
        gauge!(name, &labels).set(level);
    }
}

fn set_paused(bucket: &SharedString, until: Option<SystemTime>) {
    let whole = [("bucket", bucket.clone()), ("quota", WHOLE_BUCKET.into())];
    gauge!(name::PAUSED_UNTIL, &whole).set(unix_seconds(until));
}

/// A time in seconds since the Unix epoch; 0 for none.
pub(super) fn unix_seconds(time: Option<SystemTime>) -> f64 {
    let since = time.and_then(|time| time.duration_since(UNIX_EPOCH).ok());
    since.map_or(0.0, |since| since.as_secs_f64())
}
