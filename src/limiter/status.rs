//! How a bucket stands.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use super::bucket_set::BucketSet;
use crate::{
    engine::{BucketLevel, Level, Micros, QuotaAmounts},
    error::Shortage,
    limits::BucketSpec,
    quota::Meter,
};

/// How a bucket stands, as [`Limiter::status`](crate::Limiter::status) found it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Status {
    /// The bucket.
    pub bucket: Arc<str>,
    /// Its quotas, as declared.
    pub quotas: Vec<QuotaStatus>,
    /// How many demands wait for it, of all processes that share the bucket. Those of other
    /// processes are as of their last batch. As many go before a demand that comes now, unless
    /// it is of a class with a head start.
    pub waiting: usize,
    /// Time until a demand would start that comes now, if nothing is refunded: one that has no
    /// class and asks for one of everything that the quotas count. Those that wait are counted in.
    /// Zero if it would start at once; nothing if that depends on calls in flight, or could not be
    /// asked. [`Limiter::time_until_available`](crate::Limiter::time_until_available) tells it of
    /// any demand.
    pub predicted: Option<Duration>,
    /// Until when it is paused, by the store's clock.
    pub paused_until: Option<SystemTime>,
    /// Until when the provider asked to wait, if that is longer than
    /// [`longest_pause`](crate::limiter::LimiterBuilder::longest_pause): for as long as the bucket
    /// is paused, demands are refused at once.
    pub asked_until: Option<SystemTime>,
    /// How many demands it granted since its state began, in all processes.
    pub granted: u64,
    /// How many looks at a demand found no room since then. A demand that is refused counts once;
    /// one that waits counts whenever it is looked at and does not fit.
    pub looks_refused: u64,
    /// Whether this is of what stands in for a store that cannot be reached.
    pub degraded: bool,
}

/// How one quota stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuotaStatus {
    /// The quota.
    pub quota: Arc<str>,
    /// Its window; nothing for calls in flight.
    pub window: Option<Duration>,
    /// What it admits per window; for a token bucket, at once.
    pub limit: u64,
    /// Charged in the window.
    pub charged: f64,
    /// Held by reservations, to be charged when they are settled.
    pub held: u64,
    /// Reserved and not settled yet, held or charged.
    pub in_flight: u64,
    /// Withheld, since the provider said that no more is left: see [`Feedback`](crate::Feedback).
    pub withheld: f64,
    /// For how long at most.
    pub withheld_for: Duration,
    /// What is left of the wait for this quota that the provider asked for, if that is longer than
    /// [`longest_pause`](crate::limiter::LimiterBuilder::longest_pause): meanwhile demands that
    /// need some of it are refused at once.
    pub asked: Option<Duration>,
    /// What it has left; negative in debt. A token bucket refills in fractions.
    pub available: f64,
    /// Time until everything charged has come back, or until the next fixed window.
    pub reset: Duration,
}

/// A demand of this limiter that waits, as [`Limiter::waiting`](crate::Limiter::waiting) found it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Waiting {
    /// Identifies it in [events](crate::observe::Event); its reservation will have the same
    /// [id](crate::Reservation::id).
    pub id: u64,
    /// Its buckets.
    pub buckets: Vec<Arc<str>>,
    /// Its class.
    pub class: Option<Arc<str>>,
    /// Its [share](crate::Demand::share).
    pub share: Option<Arc<str>>,
    /// How long it has waited.
    pub waited: Duration,
    /// How many go before it now. Those of other processes are counted as far as the store has told
    /// of them.
    pub position: usize,
    /// The quota that binds: of those that were short when the queue was last looked at, the one
    /// with the longest wait. What it has left is as of that look. Nothing until the store has said
    /// why.
    pub binding: Option<Shortage>,
    /// Time until it starts, about, if nothing is refunded: the wait of the front, and the time in
    /// which comes back what those between ask for. Demands of other processes that come between
    /// can delay it, refunds bring it forward. A sliding window is taken to have been used evenly:
    /// after a burst, those behind the front can wait up to a window longer. Nothing if it depends
    /// on calls in flight, or is not known yet.
    pub predicted: Option<Duration>,
}

/// A bucket that a limiter knows, as [`Limiter::buckets`](crate::Limiter::buckets) found it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct BucketInfo {
    /// Its name.
    pub name: Arc<str>,
    /// Its partition.
    pub partition: Arc<str>,
    /// The names of its quotas.
    pub quotas: Vec<Arc<str>>,
    /// Whether the limits declare it; otherwise a resolver knows it.
    pub is_declared: bool,
    /// Whether demands have named it. One that is not used for long, of very many, may be
    /// forgotten.
    pub is_in_use: bool,
    /// How many demands of this limiter wait for it.
    pub waiting: usize,
}

impl BucketInfo {
    /// With how many demands wait for it, if it is in use.
    pub(super) fn new(spec: &BucketSpec, is_declared: bool, waiting: Option<usize>) -> Self {
        Self {
            name: spec.name().into(),
            partition: spec.key.partition().into(),
            quotas: spec.meters.iter().map(|meter| meter.label.clone()).collect(),
            is_declared,
            is_in_use: waiting.is_some(),
            waiting: waiting.unwrap_or(0),
        }
    }
}

impl Status {
    /// Returns the quota of this name: the one that [`Quota::named`](crate::Quota::named) gave it,
    /// or else what it says without its limit: `tokens per minute`, `calls in flight`.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let quotas = [Quota::per_minute("tokens", 30_000), Quota::concurrency(8).named("slots")];
    /// let limiter = Limiter::new(Limits::new().bucket("gpt-4o", quotas))?;
    /// limiter.reserve(Demand::new("gpt-4o", usage! { tokens: 1_500 })).await?.keep().await?;
    ///
    /// let status = limiter.status("gpt-4o").await?;
    /// let tokens = status.quota("tokens per minute").expect("it is declared");
    /// assert_eq!(tokens.available, 28_500.0);
    /// assert!(status.quota("slots").is_some() && status.quota("tokens").is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub fn quota(&self, name: &str) -> Option<&QuotaStatus> {
        self.quotas.iter().find(|quota| *quota.quota == *name)
    }

    /// That of a set of one bucket.
    pub(super) fn new(set: &BucketSet, level: &BucketLevel) -> Self {
        let time = |time: Micros| (time > 0).then(|| UNIX_EPOCH + Duration::from_micros(time));
        let quotas = set.meters().zip(&level.quotas);
        let own = set.handles().map(|handle| handle.waiting()).max().unwrap_or(0);
        Self {
            bucket: set.name().into(),
            quotas: quotas
                .filter(|((_, meter), _)| !meter.stands_in)
                .map(|((_, meter), level)| QuotaStatus::new(meter, level))
                .collect(),
            waiting: own.saturating_add(usize::try_from(level.waiting).unwrap_or(usize::MAX)),
            predicted: None,
            paused_until: time(level.paused_until),
            asked_until: time(level.asked_until),
            granted: level.granted,
            looks_refused: level.refused,
            degraded: false,
        }
    }
}

impl QuotaStatus {
    fn new(meter: &Meter, level: &Level) -> Self {
        let QuotaAmounts { limit, charged, held, withheld, available } =
            QuotaAmounts::of(&meter.rule, level);
        Self {
            quota: meter.label.clone(),
            window: meter.window,
            limit,
            charged,
            held,
            in_flight: level.in_flight,
            withheld,
            withheld_for: Duration::from_micros(level.withheld_for),
            asked: level.asked.map(Duration::from_micros),
            available,
            reset: Duration::from_micros(level.reset),
        }
    }
}
