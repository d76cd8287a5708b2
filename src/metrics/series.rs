//! The metrics of demands, by bucket and class, so that an event need not look them up.
//!
//! A recorder looks a metric up by its name and all of its labels, which takes longer than all else
//! that is done about an event. So what it gave is kept, though not for long: a recorder may drop
//! metrics that are idle, and what is then recorded with one of them is lost.

use std::{
    collections::HashMap,
    sync::{Arc, OnceLock},
    time::Duration,
};

use ::metrics::{Counter, Gauge, Histogram, SharedString, counter, gauge, histogram};
use tokio::time::Instant;

use super::{catalogue as name, labels::Labels};
use crate::{
    sync::{RwLock, read, write},
    usage::Usage,
};

/// How long metrics are kept before they are looked up again.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// The series that are kept.
pub(super) struct Kept(RwLock<Generation>);

/// Series that are forgotten together.
struct Generation {
    since: Instant,
    of_buckets: HashMap<SharedString, Vec<Arc<Series>>, foldhash::fast::RandomState>,
}

/// The metrics of the demands of one class on one bucket.
pub(super) struct Series {
    labels: [(&'static str, SharedString); 2],
    granted: OnceLock<Counter>,
    waited: OnceLock<Histogram>,
    in_flight: OnceLock<Gauge>,
    usage: RwLock<Vec<Arc<UsageSeries>>>,
}

/// What these demands reserve and use of one metric of usage.
struct UsageSeries {
    labels: [(&'static str, SharedString); 3],
    reserved: OnceLock<Counter>,
    settled: OnceLock<Counter>,
    refunded: OnceLock<Counter>,
    debited: OnceLock<Counter>,
    estimate_ratio: OnceLock<Histogram>,
}

impl Default for Kept {
    fn default() -> Self {
        Self(RwLock::new(Generation { since: Instant::now(), of_buckets: HashMap::default() }))
    }
}

impl Kept {
    /// Returns the series with these labels, if they are kept.
    pub(super) fn get(&self, bucket: &str, class: &str) -> Option<Arc<Series>> {
        let generation = read(&self.0);
        generation.get(bucket, class).filter(|_| generation.since.elapsed() < KEPT_FOR).cloned()
    }

    /// Returns the series with these labels.
    pub(super) fn get_or_insert(&self, bucket: SharedString, class: SharedString) -> Arc<Series> {
        if let Some(series) = self.get(&bucket, &class) {
            return series;
        }
        let mut generation = write(&self.0);
        if generation.since.elapsed() >= KEPT_FOR {
            *generation = Generation { since: Instant::now(), of_buckets: HashMap::default() };
        }
        // Another event may have come in between.
        if let Some(series) = generation.get(&bucket, &class) {
            return series.clone();
        }
        let series = Arc::new(Series::new(bucket.clone(), class));
        generation.of_buckets.entry(bucket).or_default().push(series.clone());
        series
    }
}

impl Generation {
    fn get(&self, bucket: &str, class: &str) -> Option<&Arc<Series>> {
        self.of_buckets.get(bucket)?.iter().find(|series| *series.labels[1].1 == *class)
    }
}

impl Series {
    fn new(bucket: SharedString, class: SharedString) -> Self {
        Self {
            labels: [("bucket", bucket), ("class", class)],
            granted: OnceLock::new(),
            waited: OnceLock::new(),
            in_flight: OnceLock::new(),
            usage: RwLock::default(),
        }
    }

    /// Changes how many demands wait. The gauge is looked up, since a demand may wait for long.
    pub(super) fn waiting(&self, change: f64) {
        gauge!(name::WAITING, &self.labels).increment(change);
    }

    pub(super) fn in_flight(&self, change: f64) {
        let gauge = self.in_flight.get_or_init(|| gauge!(name::IN_FLIGHT, &self.labels));
        gauge.increment(change);
    }

    pub(super) fn granted(&self, waited: Duration, degraded: bool) {
        self.in_flight(1.0);
        self.granted.get_or_init(|| counter!(name::GRANTED, &self.labels)).increment(1);
        if degraded {
            counter!(name::GRANTED_DEGRADED, &self.labels).increment(1);
        }
        let histogram = self.waited.get_or_init(|| histogram!(name::WAITED, &self.labels));
        histogram.record(waited.as_secs_f64());
    }

    /// Counts what a grant reserved.
    pub(super) fn reserved(&self, reserved: &Usage, labels: &Labels) {
        for (metric, amount) in reserved.iter().filter(|(_, amount)| *amount > 0) {
            let of = self.of_metric(metric, labels);
            of.reserved.get_or_init(|| counter!(name::RESERVED, &of.labels)).increment(amount);
        }
    }

    /// Counts what is given back or taken besides.
    pub(super) fn corrected(&self, reserved: &Usage, actual: &Usage, labels: &Labels) {
        for (metric, actual) in actual.iter() {
            let reserved = reserved.get(metric).unwrap_or(0);
            if actual < reserved {
                let of = self.of_metric(metric, labels);
                let refunded = of.refunded.get_or_init(|| counter!(name::REFUNDED, &of.labels));
                refunded.increment(reserved - actual);
            } else if actual > reserved {
                let of = self.of_metric(metric, labels);
                let debited = of.debited.get_or_init(|| counter!(name::DEBITED, &of.labels));
                debited.increment(actual - reserved);
            }
        }
    }

    /// Counts what a reservation is charged in the end, and how good its estimate was.
    pub(super) fn settled(&self, reserved: &Usage, actual: &Usage, labels: &Labels) {
        let mut is_used = false;
        for (metric, amount) in actual.iter().filter(|(_, amount)| *amount > 0) {
            is_used = true;
            let of = self.of_metric(metric, labels);
            of.settled.get_or_init(|| counter!(name::SETTLED, &of.labels)).increment(amount);
        }
        // Of a call that was not made the estimate was not wrong.
        if !is_used {
            return;
        }
        for (metric, reserved) in reserved.iter().filter(|(_, reserved)| *reserved > 0) {
            let ratio = actual.get(metric).unwrap_or(0) as f64 / reserved as f64;
            let of = self.of_metric(metric, labels);
            let histogram = || histogram!(name::ESTIMATE_RATIO, &of.labels);
            of.estimate_ratio.get_or_init(histogram).record(ratio);
        }
    }

    fn of_metric(&self, metric: &str, labels: &Labels) -> Arc<UsageSeries> {
        if let Some(usage) = self.known_metric(metric) {
            return usage;
        }
        let metric = labels.metric(metric);
        let mut usage = write(&self.usage);
        // It may be one of many without a label of its own, or another event came in between.
        if let Some(usage) = usage.iter().find(|usage| usage.labels[2].1 == metric) {
            return usage.clone();
        }
        let [bucket, class] = self.labels.clone();
        let new = Arc::new(UsageSeries::new([bucket, class, ("metric", metric)]));
        usage.push(new.clone());
        new
    }

    fn known_metric(&self, metric: &str) -> Option<Arc<UsageSeries>> {
        let usage = read(&self.usage);
        usage.iter().find(|usage| *usage.labels[2].1 == *metric).cloned()
    }
}

impl UsageSeries {
    fn new(labels: [(&'static str, SharedString); 3]) -> Self {
        Self {
            labels,
            reserved: OnceLock::new(),
            settled: OnceLock::new(),
            refunded: OnceLock::new(),
            debited: OnceLock::new(),
            estimate_ratio: OnceLock::new(),
        }
    }
}
