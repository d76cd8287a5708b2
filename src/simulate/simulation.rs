//! What is simulated.

use std::{fmt, sync::Arc};

use super::{
    enforced::{EnforcedQuota, Enforcement, PARTS},
    provider::Provider,
    trace::Trace,
    trace_call::TraceCall,
};
use crate::{
    limits::{Limits, LimitsError, Resolved},
    quota::{Meter, Quota},
};

/// The bucket of [`Simulation::declared_rightly`].
const BUCKET: &str = "model";

/// Calls to a provider by so many callers, throttled by declared limits.
///
/// ```
/// use tower_throttle::{Limits, Quota};
/// use tower_throttle::simulate::{Simulation, Strategy, TraceShape};
/// use std::time::Duration;
///
/// let quotas = [Quota::per_minute("requests", 350), Quota::per_minute("tokens", 450_000)];
/// let limits = Limits::new().bucket("gpt-4o", quotas);
/// let trace = TraceShape::new().duration(Duration::from_secs(60)).trace(1);
/// // The provider enforces what is declared.
/// let simulation = Simulation::new(limits, "gpt-4o", trace)?;
/// let report = simulation.run(Strategy::Bound)?;
/// assert_eq!((report.answered, report.refused), (report.calls, 0));
/// // With twice the tier, calls wait less.
/// let doubled = simulation.doubled().run(Strategy::Bound)?;
/// assert!(doubled.waits[0].p95 <= report.waits[0].p95);
/// # Ok::<_, tower_throttle::simulate::SimulationError>(())
/// ```
#[derive(Clone, Debug)]
pub struct Simulation {
    limits: Limits,
    bucket: Arc<str>,
    provider: Provider,
    trace: Trace,
    workers: usize,
    max_tokens: u64,
    seed: u64,
}

impl Simulation {
    /// Throttles the calls of a trace by a bucket of these limits, before a provider that enforces
    /// exactly what the bucket declares. Another one comes with [`provided_by`](Self::provided_by).
    ///
    /// # Errors
    /// The limits make no sense, or do not declare the bucket.
    pub fn new(
        limits: Limits,
        bucket: impl AsRef<str>,
        trace: Trace,
    ) -> Result<Self, SimulationError> {
        let provider = Provider::new([]);
        let bucket = bucket.as_ref().into();
        let mut simulation = Self::of(limits, bucket, provider, trace);
        let meters = simulation.meters()?;
        if meters.is_empty() {
            return Err(SimulationError::NoBucket(simulation.bucket));
        }
        simulation.provider = Provider::new(meters.iter().map(EnforcedQuota::as_declared));
        Ok(simulation)
    }

    /// Throttles the calls of a trace by what is to be declared for this provider: see
    /// [`EnforcedQuota::declared`].
    pub fn declared_rightly(provider: Provider, trace: Trace) -> Self {
        let quotas: Vec<Quota> =
            provider.quotas().iter().map(|quota| quota.declared(provider.jitter())).collect();
        Self::of(Limits::new().bucket(BUCKET, quotas), BUCKET.into(), provider, trace)
    }

    fn of(limits: Limits, bucket: Arc<str>, provider: Provider, trace: Trace) -> Self {
        Self { limits, bucket, provider, trace, workers: 512, max_tokens: 1_000, seed: 1 }
    }

    /// Sets the provider. Its limits need not be those that are declared.
    #[must_use]
    pub fn provided_by(mut self, provider: Provider) -> Self {
        self.provider = provider;
        self
    }

    /// Lets the provider enforce each of its limits in this way: see [`EnforcedQuota::enforced`].
    #[must_use]
    pub fn enforced(mut self, enforcement: Enforcement) -> Self {
        self.provider = self.provider.enforced(enforcement);
        self
    }

    /// Sets how many callers there are (default: 512). Each makes one call at a time.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers.clamp(1, 1_000_000);
        self
    }

    /// Sets the `max_tokens` of calls that have none of their own (default: 1,000). A longer answer
    /// has its length.
    #[must_use]
    pub fn max_tokens(mut self, tokens: u64) -> Self {
        self.max_tokens = tokens;
        self
    }

    /// Sets the seed of what is left to chance: latencies, jitter, pauses between retries, other
    /// users (default: 1).
    #[must_use]
    pub fn seed(mut self, seed: u64) -> Self {
        self.seed = seed;
        self
    }

    /// Returns it with twice as much of each limit, here and at the provider.
    #[must_use]
    pub fn doubled(&self) -> Self {
        let limits = self.limits.scaled(2.0);
        Self { limits, provider: self.provider.clone().times(2), ..self.clone() }
    }

    /// Refuses what could never be run.
    pub(super) fn check(&self) -> Result<(), SimulationError> {
        let table = self.limits.compile()?;
        for quota in self.provider.quotas() {
            let has_window =
                quota.enforcement() == Enforcement::Concurrency || !quota.length().is_zero();
            if quota.capacity() == 0 || !has_window {
                return Err(SimulationError::NothingAdmitted(quota.shared_name()));
            }
        }
        for (index, call) in self.trace.calls().iter().enumerate() {
            if table.standing(call.class.as_deref()).is_none() {
                let class = call.class.clone().unwrap_or_default();
                return Err(SimulationError::UnknownClass(class));
            }
            let asked = call.used();
            let too_small = self.provider.quotas().iter().find(|quota| {
                quota.enforcement() != Enforcement::Concurrency
                    && quota.cost(&asked) > quota.capacity().saturating_mul(PARTS)
            });
            if let Some(quota) = too_small {
                let (cost, quota) = (quota.cost(&asked) / PARTS, quota.clone());
                return Err(SimulationError::TooLarge { call: index, cost, quota });
            }
        }
        Ok(())
    }

    /// The compiled quotas of the bucket; none if it is not declared.
    pub(super) fn meters(&self) -> Result<Arc<[Meter]>, LimitsError> {
        match self.limits.compile()?.resolve(&self.bucket) {
            Ok(Resolved::Bucket(spec) | Resolved::Dynamic(spec)) => Ok(spec.meters.clone()),
            _ => Ok([].into()),
        }
    }

    pub(super) fn limits(&self) -> &Limits {
        &self.limits
    }

    pub(super) fn bucket_name(&self) -> &str {
        &self.bucket
    }

    /// Returns the provider.
    pub fn provider(&self) -> &Provider {
        &self.provider
    }

    /// Returns the trace.
    pub fn trace(&self) -> &Trace {
        &self.trace
    }

    pub(super) fn worker_count(&self) -> usize {
        self.workers
    }

    /// The `max_tokens` of a call.
    pub(super) fn max_tokens_of(&self, call: &TraceCall) -> u64 {
        call.max_tokens.unwrap_or(self.max_tokens).max(call.output)
    }

    pub(super) fn seed_number(&self) -> u64 {
        self.seed
    }
}

/// A simulation that makes no sense.
#[derive(Debug)]
#[non_exhaustive]
pub enum SimulationError {
    /// The limits make no sense.
    Limits(LimitsError),
    /// The limits declare no such bucket.
    NoBucket(Arc<str>),
    /// The limits declare no such class.
    UnknownClass(Arc<str>),
    /// A limit of the provider admits nothing.
    NothingAdmitted(Arc<str>),
    /// A call asks for more than a limit of the provider ever admits.
    #[non_exhaustive]
    TooLarge {
        /// Its place in the trace, from 0.
        call: usize,
        /// What it costs.
        cost: u64,
        /// The limit.
        quota: EnforcedQuota,
    },
    /// The runtime cannot be made.
    Runtime(std::io::Error),
}

impl From<LimitsError> for SimulationError {
    fn from(error: LimitsError) -> Self {
        Self::Limits(error)
    }
}

impl fmt::Display for SimulationError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Limits(_) => f.write_str("the limits make no sense"),
            Self::NoBucket(bucket) => write!(f, "bucket `{bucket}` is not declared"),
            Self::UnknownClass(class) => {
                write!(f, "the trace has calls of class `{class}`, which is not declared")
            }
            Self::NothingAdmitted(quota) => write!(f, "the provider's `{quota}` admits nothing"),
            Self::TooLarge { call, cost, quota } => {
                let (name, most) = (quota.name(), quota.capacity());
                write!(f, "call {} of the trace costs {cost}, and ", call + 1)?;
                write!(f, "`{name}` of the provider never admits more than {most}")
            }
            Self::Runtime(_) => f.write_str("cannot make a runtime"),
        }
    }
}

impl std::error::Error for SimulationError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Limits(error) => Some(error),
            Self::Runtime(error) => Some(error),
            _ => None,
        }
    }
}
