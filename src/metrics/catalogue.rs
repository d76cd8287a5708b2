//! Every metric there is: its name, what it counts, and its labels.

use ::metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// One metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Description {
    /// Its name.
    pub name: &'static str,
    /// What it is.
    pub kind: MetricKind,
    /// Its labels.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
}

/// What a metric is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum MetricKind {
    /// A number that only grows.
    Counter,
    /// A number that goes up and down.
    Gauge,
    /// A distribution.
    Histogram,
}

impl MetricKind {
    /// Returns its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// Bounds for the histograms of seconds, for exporters that ask for some: from a millisecond to ten
/// minutes.
pub const SECONDS: [f64; 16] = [
    0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 15.0, 60.0, 180.0, 600.0,
];

pub(super) const GRANTED: &str = "tower_throttle_granted_total";
pub(super) const GRANTED_DEGRADED: &str = "tower_throttle_granted_degraded_total";
pub(super) const REFUSED: &str = "tower_throttle_refused_total";
pub(super) const CANCELLED: &str = "tower_throttle_cancelled_total";
pub(super) const WAITED: &str = "tower_throttle_waited_seconds";
pub(super) const RESERVED: &str = "tower_throttle_reserved_total";
pub(super) const SETTLED: &str = "tower_throttle_settled_total";
pub(super) const REFUNDED: &str = "tower_throttle_refunded_total";
pub(super) const DEBITED: &str = "tower_throttle_debited_total";
pub(super) const ESTIMATE_RATIO: &str = "tower_throttle_estimate_ratio";
pub(super) const IN_FLIGHT: &str = "tower_throttle_in_flight";
pub(super) const WAITING: &str = "tower_throttle_waiting";
pub(super) const PAUSES: &str = "tower_throttle_pauses_total";
pub(super) const PAUSED_UNTIL: &str = "tower_throttle_paused_until_seconds";
pub(super) const STATE_LOST: &str = "tower_throttle_state_lost_total";
pub(super) const DEGRADED: &str = "tower_throttle_degraded";
pub(super) const SHADOWED: &str = "tower_throttle_shadowed_total";
pub(super) const SHADOW_WAIT: &str = "tower_throttle_shadow_wait_seconds";
pub(super) const STORE_SECONDS: &str = "tower_throttle_store_seconds";
pub(super) const STORE_BATCH_OPERATIONS: &str = "tower_throttle_store_batch_operations";
pub(super) const STORE_ERRORS: &str = "tower_throttle_store_errors_total";
pub(super) const QUOTA_LIMIT: &str = "tower_throttle_quota_limit";
pub(super) const QUOTA_CHARGED: &str = "tower_throttle_quota_charged";
pub(super) const QUOTA_HELD: &str = "tower_throttle_quota_held";
pub(super) const QUOTA_WITHHELD: &str = "tower_throttle_quota_withheld";
pub(super) const QUOTA_AVAILABLE: &str = "tower_throttle_quota_available";
pub(super) const QUOTA_IN_FLIGHT: &str = "tower_throttle_quota_in_flight";
pub(super) const FLEET_WAITING: &str = "tower_throttle_fleet_waiting";
pub(super) const PREDICTED_WAIT: &str = "tower_throttle_predicted_wait_seconds";

const DEMAND: &[&str] = &["bucket", "class"];
const USAGE: &[&str] = &["bucket", "class", "metric"];
const QUOTA: &[&str] = &["bucket", "quota"];
const BUCKET: &[&str] = &["bucket"];

use MetricKind::{Counter, Gauge, Histogram};

/// Every metric.
pub const ALL: &[Description] = &[
    of(GRANTED, Counter, DEMAND, "Demands granted, on each of their buckets"),
    of(GRANTED_DEGRADED, Counter, DEMAND, "Of these, those granted without the store"),
    of(
        REFUSED,
        Counter,
        &["bucket", "quota", "class", "reason"],
        "Demands refused, by the quota that binds and the reason (`Throttled::kind`)",
    ),
    of(CANCELLED, Counter, DEMAND, "Demands whose caller gave up, on the first of their buckets"),
    of(WAITED, Histogram, DEMAND, "Seconds from asking to the grant"),
    of(RESERVED, Counter, USAGE, "Usage reserved by grants"),
    of(SETTLED, Counter, USAGE, "Usage charged in the end"),
    of(REFUNDED, Counter, USAGE, "Usage given back by settles and new estimates"),
    of(DEBITED, Counter, USAGE, "Usage charged beyond what was reserved"),
    of(ESTIMATE_RATIO, Histogram, USAGE, "What a call used over what it had reserved: 1 is exact"),
    of(IN_FLIGHT, Gauge, DEMAND, "Reservations of this process that are not settled"),
    of(WAITING, Gauge, DEMAND, "Demands of this process that wait"),
    of(PAUSES, Counter, QUOTA, "Waits that a provider asked for"),
    of(
        PAUSED_UNTIL,
        Gauge,
        QUOTA,
        "Until when a bucket (quota `all`) or a quota is paused, in seconds since the Unix epoch; \
         in the past or 0 if it is not",
    ),
    of(STATE_LOST, Counter, BUCKET, "Times that the store had lost the state of a bucket"),
    of(DEGRADED, Gauge, &[], "Partitions of limiters for which the store cannot be reached"),
    of(
        SHADOWED,
        Counter,
        &["bucket", "quota", "class", "reason"],
        "Demands that did not fit, in shadow mode, by what would have become of them",
    ),
    of(SHADOW_WAIT, Histogram, DEMAND, "Seconds that demands would have waited, in shadow mode"),
    of(STORE_SECONDS, Histogram, &[], "Seconds that the store took for a batch, each attempt"),
    of(STORE_BATCH_OPERATIONS, Histogram, &[], "Operations in a batch"),
    of(STORE_ERRORS, Counter, &[], "Attempts that the store did not answer, or refused"),
    of(QUOTA_LIMIT, Gauge, QUOTA, "What a quota admits"),
    of(QUOTA_CHARGED, Gauge, QUOTA, "What is charged to a quota in its window, in the fleet"),
    of(QUOTA_HELD, Gauge, QUOTA, "What reservations hold of a quota until they are settled"),
    of(QUOTA_WITHHELD, Gauge, QUOTA, "What is withheld, since the provider said that less is left"),
    of(QUOTA_AVAILABLE, Gauge, QUOTA, "What is left of a quota; negative in debt"),
    of(QUOTA_IN_FLIGHT, Gauge, QUOTA, "Reserved and not settled, in the fleet"),
    of(FLEET_WAITING, Gauge, BUCKET, "Demands that wait, in the fleet"),
    of(
        PREDICTED_WAIT,
        Gauge,
        BUCKET,
        "Seconds until a demand would start that comes now; NaN if calls in flight decide",
    ),
];

const fn of(
    name: &'static str,
    kind: MetricKind,
    labels: &'static [&'static str],
    help: &'static str,
) -> Description {
    Description { name, kind, labels, help }
}

/// Describes every metric to the recorder.
pub(super) fn describe() {
    for Description { name, kind, help, .. } in ALL {
        match (kind, name.ends_with("_seconds")) {
            (Counter, _) => describe_counter!(*name, *help),
            (Gauge, true) => describe_gauge!(*name, Unit::Seconds, *help),
            (Gauge, false) => describe_gauge!(*name, *help),
            (Histogram, true) => describe_histogram!(*name, Unit::Seconds, *help),
            (Histogram, false) => describe_histogram!(*name, *help),
        }
    }
}
