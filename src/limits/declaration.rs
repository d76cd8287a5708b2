//! The one place where buckets, their quotas, families of names and classes are declared.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use wildmatch::WildMatch;

use super::table::{BucketSpec, Standing, Table};
use crate::{
    bucket::BucketKey, engine::HEADROOM_PARTS, on_unavailable::OnUnavailable, quota::Quota,
};

/// Of buckets for which no partition is named.
pub(crate) const DEFAULT_PARTITION: &str = "default";

const MAX_WEIGHT: u32 = 1_000_000;

pub(super) type Resolver = Arc<dyn Fn(&str) -> Option<Vec<Quota>> + Send + Sync>;

/// Declares buckets with their quotas, families of names that share a bucket, and classes of
/// demands.
///
/// ```
/// use tower_throttle::{Limits, Quota, limits::Class};
///
/// let limits = Limits::new()
///     .bucket("gpt-4o", [Quota::per_minute("requests", 500), Quota::per_minute("tokens", 30_000)])
///     .family("gpt-4o-20*", "gpt-4o")
///     .class("batch", Class::new().headroom(0.1));
/// ```
///
/// It is checked when it is given to a limiter.
#[derive(Clone)]
pub struct Limits {
    /// Where buckets are that are put nowhere else: the last one that was set, and one before that
    /// differs, which is an error.
    partition: Arc<str>,
    other_partition: Option<Arc<str>>,
    is_partition_set: bool,
    buckets: Vec<Declared>,
    families: Vec<(String, String)>,
    classes: Vec<(String, Class)>,
    weights: Vec<(String, u32)>,
    resolver: Option<Resolver>,
    undeclared: Undeclared,
}

#[derive(Clone, Debug)]
struct Declared {
    /// That of the limits, if it is not put into another one.
    partition: Option<Arc<str>>,
    name: String,
    quotas: Vec<Quota>,
}

/// What becomes of a demand on an undeclared bucket.
///
/// ```
/// use tower_throttle::{Demand, Limiter, Limits, Quota, limits::Undeclared, usage};
///
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), tower_throttle::BoxError> {
/// let limits = Limits::new()
///     .bucket("others", [Quota::per_minute("requests", 60)])
///     .undeclared(Undeclared::Bucket("others".into()));
/// let limiter = Limiter::new(limits)?;
/// limiter.reserve(Demand::new("a new model", usage! { requests: 1 })).await?.keep().await?;
/// assert_eq!(limiter.status("others").await?.quotas[0].charged, 1.0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub enum Undeclared {
    /// It is an error.
    #[default]
    Refuse,
    /// It passes unlimited and uncounted.
    Unlimited,
    /// It goes to this bucket.
    Bucket(String),
}

/// How demands of a class stand among others: see [`Limits::class`].
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{Limits, Quota, limits::Class};
///
/// let limits = Limits::new()
///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)])
///     // Goes before whatever came up to 30 s earlier.
///     .class("production", Class::new().head_start(Duration::from_secs(30)))
///     // Leaves a tenth of every limit to others.
///     .class("batch", Class::new().headroom(0.1));
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Class {
    head_start: Duration,
    headroom: f64,
}

impl Class {
    /// A class whose demands stand as those without a class do.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how far back the arrival of its demands is dated in the queue (default: zero).
    #[must_use]
    pub fn head_start(mut self, head_start: Duration) -> Self {
        self.head_start = head_start;
        self
    }

    /// Sets the share of every limit that it must leave to others, from 0 (the default) up to
    /// below 1. That is no priority: what waits goes by arrival, for which others may have a
    /// [`head_start`](Self::head_start).
    #[must_use]
    pub fn headroom(mut self, share: f64) -> Self {
        self.headroom = share;
        self
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new()
    }
}

impl Limits {
    /// No buckets yet; undeclared names are refused.
    pub fn new() -> Self {
        Self {
            partition: DEFAULT_PARTITION.into(),
            other_partition: None,
            is_partition_set: false,
            buckets: Vec::new(),
            families: Vec::new(),
            classes: Vec::new(),
            weights: Vec::new(),
            resolver: None,
            undeclared: Undeclared::default(),
        }
    }

    /// Puts all buckets into a partition, whether they are declared before this or after it
    /// (default: `default`). One demand can take from several buckets of one partition only; in
    /// Redis Cluster a partition lives on one shard.
    ///
    /// Single buckets go into others with [`bucket_in`](Self::bucket_in). Two different names are
    /// an error when the limiter is built.
    ///
    /// ```
    /// use tower_throttle::{Limits, Quota};
    ///
    /// // What the account in Europe shares lives on a shard of its own.
    /// let limits = Limits::new()
    ///     .partition("europe")
    ///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)]);
    /// ```
    #[must_use]
    pub fn partition(mut self, name: impl AsRef<str>) -> Self {
        let before = std::mem::replace(&mut self.partition, name.as_ref().into());
        if self.is_partition_set && before != self.partition {
            self.other_partition = Some(before);
        }
        self.is_partition_set = true;
        self
    }

    /// Declares a bucket in a partition of its own, or one that it shares with other such buckets.
    ///
    /// ```
    /// use tower_throttle::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)])
    ///     .bucket_in("europe", "gpt-4o-eu", [Quota::per_minute("tokens", 10_000)]);
    /// ```
    #[must_use]
    pub fn bucket_in(
        mut self,
        partition: impl AsRef<str>,
        name: impl Into<String>,
        quotas: impl IntoIterator<Item = Quota>,
    ) -> Self {
        self.buckets.push(Declared {
            partition: Some(partition.as_ref().into()),
            name: name.into(),
            quotas: quotas.into_iter().collect(),
        });
        self
    }

    /// Declares a bucket and the quotas that all its demands share.
    ///
    /// ```
    /// use tower_throttle::{Limits, Quota};
    ///
    /// let limits = Limits::new()
    ///     .bucket("api", [Quota::per_minute("requests", 60), Quota::per_day("requests", 1_000)])
    ///     .bucket("db", [Quota::concurrency(8)]);
    /// ```
    #[must_use]
    pub fn bucket(
        mut self,
        name: impl Into<String>,
        quotas: impl IntoIterator<Item = Quota>,
    ) -> Self {
        let quotas = quotas.into_iter().collect();
        self.buckets.push(Declared { partition: None, name: name.into(), quotas });
        self
    }

    /// Sends the names that match a pattern (`*` any characters, `?` one) to a bucket. A bucket's
    /// own name comes first, then the longest pattern that matches, then the one declared first.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
    ///
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), tower_throttle::BoxError> {
    /// let limits = Limits::new()
    ///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)])
    ///     .family("gpt-4o-20*", "gpt-4o");
    /// let limiter = Limiter::new(limits)?;
    /// let demand = Demand::new("gpt-4o-2024-11-20", usage! { tokens: 10 });
    /// limiter.reserve(demand).await?.keep().await?;
    /// assert_eq!(limiter.status("gpt-4o").await?.quotas[0].charged, 10.0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn family(mut self, pattern: impl Into<String>, bucket: impl Into<String>) -> Self {
        self.families.push((pattern.into(), bucket.into()));
        self
    }

    /// Declares a class of demands, which [`Demand::class`](crate::Demand::class) names.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limits, Quota, limits::Class, usage};
    ///
    /// let limits = Limits::new()
    ///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)])
    ///     .class("batch", Class::new().headroom(0.1));
    /// let demand = Demand::new("gpt-4o", usage! { tokens: 1_500 }).class("batch");
    /// ```
    #[must_use]
    pub fn class(mut self, name: impl Into<String>, class: Class) -> Self {
        self.classes.push((name.into(), class));
        self
    }

    /// Gives the demands of a [share](crate::Demand::share) a weight, from 1 (the default) up to
    /// 1,000,000: where shares wait for the same quota, one of weight 3 is granted three times as
    /// much of it as one of weight 1. What they reserve counts, whatever they use of it: a share
    /// that reserves too much gets less done.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limits, Quota, usage};
    ///
    /// let quotas = [Quota::per_minute("tokens", 30_000)];
    /// let limits = Limits::new().bucket("gpt-4o", quotas).weight("tenant-7", 3);
    /// let demand = Demand::new("gpt-4o", usage! { tokens: 1_500 }).share("tenant-7");
    /// ```
    #[must_use]
    pub fn weight(mut self, share: impl Into<String>, weight: u32) -> Self {
        self.weights.push((share.into(), weight));
        self
    }

    /// Asks this function for the quotas of names that are neither declared nor in a family. Its
    /// answers are asked for again every few seconds, so quotas may change; `None` leaves the name
    /// undeclared. There is one: a later one replaces it.
    ///
    /// It may take its time, which only those who ask for that name wait for, and use the limiter;
    /// but an [`update`](crate::Limiter::update) asks it again for every name in use.
    ///
    /// ```
    /// use tower_throttle::{Limits, Quota};
    ///
    /// /// Asks a configuration, in real life.
    /// fn plan_of(tenant: &str) -> Option<u64> {
    ///     (tenant == "acme").then_some(600)
    /// }
    ///
    /// let limits = Limits::new().resolver(|name| {
    ///     let requests = plan_of(name.strip_prefix("tenant:")?)?;
    ///     Some(vec![Quota::per_minute("requests", requests)])
    /// });
    /// ```
    #[must_use]
    pub fn resolver(
        mut self,
        resolver: impl Fn(&str) -> Option<Vec<Quota>> + Send + Sync + 'static,
    ) -> Self {
        self.resolver = Some(Arc::new(resolver));
        self
    }

    /// Decides what becomes of undeclared names (default: they are refused).
    ///
    /// ```
    /// use tower_throttle::{Limits, Quota, limits::Undeclared};
    ///
    /// // Every model without limits of its own shares those of `others`.
    /// let limits = Limits::new()
    ///     .bucket("gpt-4o", [Quota::per_minute("tokens", 30_000)])
    ///     .bucket("others", [Quota::per_minute("tokens", 10_000)])
    ///     .undeclared(Undeclared::Bucket("others".into()));
    /// ```
    #[must_use]
    pub fn undeclared(mut self, undeclared: Undeclared) -> Self {
        self.undeclared = undeclared;
        self
    }

    /// These limits as they hold in this process while the store cannot be reached; nothing, if
    /// none is counted here then.
    pub(crate) fn without_store(&self, default: OnUnavailable) -> Option<Self> {
        let mut quotas = self.buckets.iter().flat_map(|bucket| &bucket.quotas);
        let is_needed = matches!(default, OnUnavailable::Local { .. })
            || self.resolver.is_some()
            || quotas.any(Quota::is_local);
        if !is_needed {
            return None;
        }
        let mut limits = self.clone();
        for bucket in &mut limits.buckets {
            bucket.quotas.iter_mut().for_each(|quota| *quota = quota.without_store(default));
        }
        limits.resolver = self.resolver.clone().map(|resolver| -> Resolver {
            Arc::new(move |name| {
                Some(resolver(name)?.iter().map(|quota| quota.without_store(default)).collect())
            })
        });
        Some(limits)
    }

    /// These limits, each quota times a factor.
    #[cfg(feature = "simulate")]
    pub(crate) fn scaled(&self, factor: f64) -> Self {
        let mut limits = self.clone();
        for bucket in &mut limits.buckets {
            bucket.quotas.iter_mut().for_each(|quota| *quota = quota.scaled(factor));
        }
        limits.resolver = self.resolver.clone().map(|resolver| -> Resolver {
            Arc::new(move |name| {
                Some(resolver(name)?.iter().map(|quota| quota.scaled(factor)).collect())
            })
        });
        limits
    }

    pub(crate) fn compile(&self) -> Result<Table, LimitsError> {
        self.check_partitions()?;
        let mut buckets = HashMap::new();
        let mut before: Option<(&[Quota], BucketSpec)> = None;
        for Declared { partition, name, quotas } in &self.buckets {
            let partition = partition.as_ref().unwrap_or(&self.partition);
            let key = Arc::new(BucketKey::new(partition, name));
            let spec = match before {
                // Many are often declared alike; they share what comes of it.
                Some((others, spec)) if others == quotas => spec.named(key),
                _ => BucketSpec::new(key, quotas)
                    .map_err(|reason| LimitsError::bucket(name, reason))?,
            };
            before = Some((quotas, spec.clone()));
            if buckets.insert(name.clone(), Arc::new(spec)).is_some() {
                return Err(LimitsError::bucket(name, "it is declared twice"));
            }
        }
        let declared = |name: &String, by: &str| match buckets.contains_key(name) {
            true => Ok(()),
            false => {
                Err(LimitsError::bucket(name, format!("{by} names it, and it is not declared")))
            }
        };
        self.families
            .iter()
            .try_for_each(|(pattern, to)| declared(to, &format!("family `{pattern}`")))?;
        if let Undeclared::Bucket(bucket) = &self.undeclared {
            declared(bucket, "the default")?;
        }
        let mut families: Vec<_> =
            self.families.iter().map(|(pattern, to)| (pattern.len(), pattern, to)).collect();
        families.sort_by_key(|(length, ..)| std::cmp::Reverse(*length));
        Ok(Table {
            families: families
                .iter()
                .map(|(_, pattern, to)| (WildMatch::new(pattern), (*to).clone()))
                .collect(),
            classes: self.classes()?,
            weights: self.weights()?,
            resolver: self.resolver.clone(),
            undeclared: self.undeclared.clone(),
            partition: self.partition.clone(),
            buckets,
        })
    }

    /// In Redis a partition is a hash tag.
    fn check_partitions(&self) -> Result<(), LimitsError> {
        if let Some(other) = &self.other_partition {
            let place = format!("partition `{}`", self.partition);
            let reason = format!(
                "the partition of all buckets is set to `{other}` too: declare those of another \
                 one \
                 with `bucket_in`"
            );
            return Err(LimitsError::at(place, reason));
        }
        let own = self.buckets.iter().filter_map(|bucket| bucket.partition.as_ref());
        let declared = own.chain([&self.partition]);
        for name in declared {
            if name.is_empty() || name.contains(['{', '}']) {
                let reason =
                    "its name must not be empty nor contain `{` or `}`: it is a hash tag in Redis";
                return Err(LimitsError::at(format!("partition `{name}`"), reason));
            }
        }
        Ok(())
    }

    fn weights(&self) -> Result<HashMap<String, u32>, LimitsError> {
        let mut weights = HashMap::new();
        for (share, weight) in &self.weights {
            let place = || format!("weight of share `{share}`");
            if !(1..=MAX_WEIGHT).contains(weight) {
                return Err(LimitsError::at(
                    place(),
                    format!("it is {weight}, and must be from 1 to {MAX_WEIGHT}"),
                ));
            }
            if weights.insert(share.clone(), *weight).is_some() {
                return Err(LimitsError::at(place(), "it is declared twice"));
            }
        }
        Ok(weights)
    }

    fn classes(&self) -> Result<Vec<(Box<str>, Standing)>, LimitsError> {
        let mut classes: Vec<(Box<str>, Standing)> = Vec::new();
        for (name, Class { head_start, headroom }) in &self.classes {
            if !(0.0..1.0).contains(headroom) {
                let reason =
                    format!("its headroom is {headroom}, and must be from 0 up to below 1");
                return Err(LimitsError::class(name, reason));
            }
            if classes.iter().any(|(other, _)| **other == **name) {
                return Err(LimitsError::class(name, "it is declared twice"));
            }
            let headroom = (headroom * HEADROOM_PARTS as f64).round() as u64;
            let headroom = headroom.min(HEADROOM_PARTS - 1);
            classes.push((name.as_str().into(), Standing { head_start: *head_start, headroom }));
        }
        Ok(classes)
    }
}

impl fmt::Debug for Limits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Limits")
            .field("buckets", &self.buckets)
            .field("families", &self.families)
            .field("classes", &self.classes)
            .field("weights", &self.weights)
            .field("undeclared", &self.undeclared)
            .finish_non_exhaustive()
    }
}

/// A declaration that makes no sense: which one, and why.
///
/// ```
/// use tower_throttle::{Limiter, Limits, Quota};
///
/// let error = Limiter::new(Limits::new().bucket("api", [Quota::per_minute("requests", 0)]));
/// assert!(error.unwrap_err().to_string().starts_with("bucket `api`"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitsError {
    place: String,
    reason: String,
}

impl LimitsError {
    pub(super) fn bucket(name: &str, reason: impl Into<String>) -> Self {
        Self::at(format!("bucket `{name}`"), reason)
    }

    fn class(name: &str, reason: impl Into<String>) -> Self {
        Self::at(format!("class `{name}`"), reason)
    }

    pub(crate) fn option(name: &str, reason: impl Into<String>) -> Self {
        Self::at(format!("option `{name}`"), reason)
    }

    pub(crate) fn at(place: impl Into<String>, reason: impl Into<String>) -> Self {
        Self { place: place.into(), reason: reason.into() }
    }

    /// This error, in a file.
    #[cfg(feature = "file")]
    pub(crate) fn in_file(self, path: &std::path::Path) -> Self {
        Self { place: format!("{}: {}", path.display(), self.place), ..self }
    }
}

impl fmt::Display for LimitsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for LimitsError {}
