//! What happens in a limiter as metrics of the `metrics` facade: for Prometheus, OpenTelemetry, or
//! whatever recorder a program installs.
//!
//! [`Metrics`] is an [`Observer`]. It knows events and statuses, and nothing of how they come to
//! be.
//!
//! ```
//! use tower_throttle::{Demand, Limiter, Limits, Quota, metrics::Metrics, usage};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_throttle::BoxError> {
//! // First the recorder, such as `PrometheusBuilder::new().install_recorder()?`.
//! let metrics = Metrics::new();
//! let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
//! let limiter = Limiter::builder(limits).observer(metrics.clone()).build()?;
//!
//! limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?.keep().await?;
//! // Before each scrape, for the gauges of quotas.
//! metrics.refresh(&limiter).await?;
//! # Ok(())
//! # }
//! ```

mod catalogue;
mod labels;
mod levels;
mod series;

use std::{collections::HashMap, fmt, sync::Arc, time::SystemTime};

use ::metrics::{SharedString, counter, gauge, histogram};
use futures_util::future::join_all;
use smallvec::SmallVec;

pub use self::catalogue::{ALL, Description, MetricKind, SECONDS};
use self::{
    catalogue as name,
    labels::Labels,
    levels::{Levels, Refresh, unix_seconds},
    series::{Kept, Series},
};
use crate::{
    error::{Refusal, Throttled},
    limiter::Limiter,
    observe::{Buckets, Event, Observer, Shadow, StoreBatch},
    sync::{Mutex, lock},
};

/// So many buckets get a label of their own unless said otherwise.
const MAX_BUCKETS: usize = 100;
/// The quota of what is about a whole bucket.
const WHOLE_BUCKET: &str = "all";
/// The class of demands without one.
const NO_CLASS: &str = "none";

/// Records what happens in a limiter with the `metrics` facade. A clone records into the same
/// metrics.
///
/// Every metric is in [`ALL`], and in `docs/metrics.md`. Give it to
/// [`LimiterBuilder::observer`](crate::limiter::LimiterBuilder::observer); several limiters may
/// share it.
///
/// What the recorder gives for a metric is kept for a second, so the recorder should be installed
/// before the first event. One that drops idle metrics, such as a Prometheus recorder with an
/// `idle_timeout`, may miss what happens to such a metric in the second after that.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Recorder>,
}

struct Recorder {
    labels: Labels,
    kept: Kept,
    /// The series in which demands that wait are counted, by the ids of the demands.
    waiting: Mutex<HashMap<u64, SeriesOfBuckets>>,
    levels: Levels,
}

/// The series of each bucket of a demand.
type SeriesOfBuckets = SmallVec<[Arc<Series>; 2]>;

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// Metrics of which 100 buckets get a label of their own. Describes them to the recorder.
    pub fn new() -> Self {
        Self::with_max_buckets(MAX_BUCKETS)
    }

    /// Metrics of which at most so many buckets get a label of their own, those that come first.
    /// All others together are `other`.
    ///
    /// Of quotas, classes and metrics of usage the first 100 get a label of their own. A name of
    /// more than 200 bytes gets none.
    pub fn with_max_buckets(max_buckets: usize) -> Self {
        catalogue::describe();
        Self {
            inner: Arc::new(Recorder {
                labels: Labels::new(max_buckets),
                kept: Kept::default(),
                waiting: Mutex::new(HashMap::new()),
                levels: Levels::default(),
            }),
        }
    }

    /// Asks the store how the buckets in use stand, and sets the gauges of their quotas: what is
    /// charged, held, withheld and left, who waits in the whole fleet, and pauses.
    ///
    /// These gauges are as fresh as the last call. Buckets and quotas without a label of their own
    /// have none. Those of a bucket or quota that the limiter has no more are not a number (NaN)
    /// from the next call on. All buckets of a partition are asked in one batch.
    ///
    /// # Errors
    /// The first that [`Limiter::status`] gave. Gauges of other buckets are set all the same.
    ///
    /// # Cancel safety
    /// A dropped future has set all gauges or none.
    pub async fn refresh(&self, limiter: &Limiter) -> Result<(), Throttled> {
        let labels = &self.inner.labels;
        let buckets = limiter.buckets();
        let in_use = buckets.iter().filter(|bucket| bucket.is_in_use);
        let labelled = in_use.filter_map(|bucket| {
            let label = labels.bucket(&bucket.name, true);
            (label.as_ref() != labels::OTHER).then_some((&bucket.name, label))
        });
        let asked: Vec<_> = labelled.collect();
        let statuses = join_all(asked.iter().map(|(name, _)| limiter.status(name))).await;
        let (mut refresh, mut result) = (Refresh::default(), Ok(()));
        for ((_, label), status) in asked.into_iter().zip(statuses) {
            match status {
                Ok(status) => refresh.set(labels, &label, &status),
                Err(error) => {
                    refresh.keep(label);
                    result = result.and(Err(error));
                }
            }
        }
        self.inner.levels.end_others(limiter.identity(), refresh);
        result
    }
}

impl Observer for Metrics {
    fn on_event(&self, event: &Event<'_>) {
        self.inner.on_event(event);
    }

    fn on_batch(&self, batch: &StoreBatch<'_>) {
        histogram!(name::STORE_SECONDS).record(batch.took.as_secs_f64());
        histogram!(name::STORE_BATCH_OPERATIONS).record(batch.operations as f64);
        if batch.error.is_some() {
            counter!(name::STORE_ERRORS).increment(1);
        }
    }
}

impl Recorder {
    fn on_event(&self, event: &Event<'_>) {
        match event {
            Event::WaitStarted { id, buckets, class, .. } => self.waits(*id, buckets, *class),
            Event::Granted { id, buckets, class, reserved, others, waited, degraded, .. } => {
                self.waits_no_more(*id);
                for bucket in buckets.iter() {
                    let series = self.series(bucket, *class);
                    series.granted(*waited, *degraded);
                    let usage = others.of(bucket).map_or(*reserved, |other| other.reserved);
                    series.reserved(usage, &self.labels);
                }
            }
            Event::Adjusted { buckets, class, reserved, actual, others, .. } => {
                for bucket in buckets.iter() {
                    let (reserved, actual) = others.or(bucket, (reserved, actual));
                    self.series(bucket, *class).corrected(reserved, actual, &self.labels);
                }
            }
            Event::Settled { buckets, class, reserved, actual, others, .. } => {
                for bucket in buckets.iter() {
                    let (reserved, actual) = others.or(bucket, (reserved, actual));
                    let series = self.series(bucket, *class);
                    series.corrected(reserved, actual, &self.labels);
                    series.settled(reserved, actual, &self.labels);
                    series.in_flight(-1.0);
                }
            }
            Event::Detached { buckets, class, .. } => {
                buckets.iter().for_each(|bucket| self.series(bucket, *class).in_flight(-1.0));
            }
            Event::Refused { id, buckets, class, error, .. } => {
                self.waits_no_more(*id);
                self.refused(buckets, *class, error);
            }
            Event::Cancelled { id, buckets, class, .. } => {
                self.waits_no_more(*id);
                let (bucket, class) = (self.known(buckets.first()), self.class(*class, false));
                counter!(name::CANCELLED, "bucket" => bucket, "class" => class).increment(1);
            }
            Event::Shadowed { buckets, class, shadow, .. } => {
                self.shadowed(buckets, *class, shadow);
            }
            Event::Paused { bucket, quota, applied, .. } => {
                let bucket = self.labels.bucket(bucket, true);
                let quota = self.labels.quota(quota.unwrap_or(WHOLE_BUCKET));
                counter!(name::PAUSES, "bucket" => bucket.clone(), "quota" => quota.clone())
                    .increment(1);
                let until = SystemTime::now().checked_add(*applied);
                gauge!(name::PAUSED_UNTIL, "bucket" => bucket, "quota" => quota)
                    .set(unix_seconds(until));
            }
            Event::StateLost { bucket } => {
                let bucket = self.labels.bucket(bucket, true);
                counter!(name::STATE_LOST, "bucket" => bucket).increment(1);
            }
            Event::Degraded { .. } => gauge!(name::DEGRADED).increment(1.0),
            Event::Recovered | Event::DroppedDegraded => {
                gauge!(name::DEGRADED).decrement(1.0);
            }
            _ => {}
        }
    }

    /// Returns the series of a bucket and a class that exist.
    fn series(&self, bucket: &str, class: Option<&str>) -> Arc<Series> {
        self.kept.get(bucket, class.unwrap_or(NO_CLASS)).unwrap_or_else(|| {
            self.kept.get_or_insert(self.labels.bucket(bucket, true), self.class(class, true))
        })
    }

    /// The label of a bucket, which need not exist.
    fn known(&self, bucket: &str) -> SharedString {
        self.labels.bucket(bucket, false)
    }

    fn class(&self, class: Option<&str>, exists: bool) -> SharedString {
        class.map_or(SharedString::const_str(NO_CLASS), |class| self.labels.class(class, exists))
    }

    fn waits(&self, id: u64, buckets: &Buckets<'_>, class: Option<&str>) {
        let series = buckets.iter().map(|bucket| self.series(bucket, class)).collect();
        let mut waiting = lock(&self.waiting);
        // A demand that is asked for again tells it again.
        let std::collections::hash_map::Entry::Vacant(entry) = waiting.entry(id) else { return };
        let series: &SeriesOfBuckets = entry.insert(series);
        series.iter().for_each(|series| series.waiting(1.0));
    }

    fn waits_no_more(&self, id: u64) {
        let mut waiting = lock(&self.waiting);
        let Some(series) = waiting.remove(&id) else { return };
        drop(waiting);
        series.iter().for_each(|series| series.waiting(-1.0));
    }

    fn refused(&self, buckets: &Buckets<'_>, class: Option<&str>, error: &Throttled) {
        // What is wrong may be that there is no such bucket or class, and then its name is whatever
        // the caller's caller wrote.
        let exists = !matches!(error, Throttled::BadDemand(_));
        let (bucket, quota) = binding(error.refusal(), buckets);
        counter!(
            name::REFUSED,
            "bucket" => self.labels.bucket(bucket, exists),
            "quota" => self.labels.quota(quota),
            "class" => self.class(class, exists),
            "reason" => error.kind(),
        )
        .increment(1);
    }

    fn shadowed(&self, buckets: &Buckets<'_>, class: Option<&str>, shadow: &Shadow<'_>) {
        let exists = !matches!(shadow, Shadow::Refuse { error: Throttled::BadDemand(_) });
        let (bucket, quota) = binding(shadow.refusal(), buckets);
        let bucket = self.labels.bucket(bucket, exists && !bucket.is_empty());
        let class = self.class(class, exists);
        if let Shadow::Wait { predicted: Some(wait), .. } = shadow {
            histogram!(name::SHADOW_WAIT, "bucket" => bucket.clone(), "class" => class.clone())
                .record(wait.as_secs_f64());
        }
        counter!(
            name::SHADOWED,
            "bucket" => bucket,
            "quota" => self.labels.quota(quota),
            "class" => class,
            "reason" => shadow.kind(),
        )
        .increment(1);
    }
}

/// The bucket and the quota that bind; without any, the first bucket as a whole.
fn binding<'a>(refusal: Option<&'a Refusal>, buckets: &'a Buckets<'_>) -> (&'a str, &'a str) {
    match refusal.and_then(Refusal::binding) {
        Some(shortage) => (&shortage.bucket, &shortage.quota),
        None => (buckets.first(), WHOLE_BUCKET),
    }
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").field("labels", &self.inner.labels).finish_non_exhaustive()
    }
}
