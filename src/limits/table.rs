//! Limits, compiled: what a name stands for.

use std::{borrow::Cow, collections::HashMap, fmt, sync::Arc, time::Duration};

use wildmatch::WildMatch;

use super::{LimitsError, Resolver, Undeclared};
use crate::{
    bucket::BucketKey,
    engine::{Flow, Micros, Rule, Window},
    fingerprint::fingerprint,
    quota::{Meter, Quota},
    usage::Usage,
};

/// What a class means to its demands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) head_start: Duration,
    pub(crate) headroom: u64,
}

/// [`Limits`](super::Limits), compiled.
pub(crate) struct Table {
    pub(super) buckets: HashMap<String, Arc<BucketSpec>>,
    pub(super) families: Vec<(WildMatch, String)>,
    pub(super) classes: Vec<(Box<str>, Standing)>,
    pub(super) weights: HashMap<String, u32>,
    pub(super) resolver: Option<Resolver>,
    pub(super) undeclared: Undeclared,
    /// Of the buckets that the resolver knows.
    pub(super) partition: Arc<str>,
}

/// What a name stands for.
pub(crate) enum Resolved {
    Bucket(Arc<BucketSpec>),
    /// The resolver knows it, and may change its mind.
    Dynamic(Arc<BucketSpec>),
    Unlimited,
}

/// A name that stands for nothing.
#[derive(Debug)]
pub(crate) enum Unresolved {
    Undeclared,
    Invalid(LimitsError),
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("buckets", &self.buckets.len()).finish_non_exhaustive()
    }
}

impl Table {
    pub(crate) fn resolve(&self, name: &str) -> Result<Resolved, Unresolved> {
        self.resolve_declared(name).unwrap_or_else(|| match &self.undeclared {
            Undeclared::Refuse => Err(Unresolved::Undeclared),
            Undeclared::Unlimited => Ok(Resolved::Unlimited),
            Undeclared::Bucket(bucket) => self.resolve(bucket),
        })
    }

    /// What a name stands for that is a bucket's or a family's, or that the resolver knows.
    pub(crate) fn resolve_declared(&self, name: &str) -> Option<Result<Resolved, Unresolved>> {
        if let Some(spec) = self.buckets.get(name) {
            return Some(Ok(Resolved::Bucket(spec.clone())));
        }
        if let Some(bucket) = self.family(name) {
            return Some(self.resolve(bucket));
        }
        let quotas = self.resolver.as_ref().and_then(|resolver| resolver(name))?;
        let key = Arc::new(BucketKey::new(&self.partition, name));
        let invalid = |reason: String| Unresolved::Invalid(LimitsError::bucket(name, reason));
        let spec = BucketSpec::new(key, &quotas);
        Some(spec.map(|spec| Resolved::Dynamic(Arc::new(spec))).map_err(invalid))
    }

    /// The bucket of the family that a name belongs to.
    fn family(&self, name: &str) -> Option<&str> {
        self.families
            .iter()
            .find(|(pattern, _)| pattern.matches(name))
            .map(|(_, bucket)| bucket.as_str())
    }

    /// Whether a name is that of a bucket, or one of a family's where the other name is that of no
    /// bucket.
    #[cfg(feature = "llm")]
    pub(crate) fn declares(&self, name: &str, or_rather: &str) -> bool {
        self.buckets.contains_key(name)
            || !self.buckets.contains_key(or_rather) && self.family(name).is_some()
    }

    /// The declared buckets.
    pub(crate) fn specs(&self) -> impl Iterator<Item = &Arc<BucketSpec>> {
        self.buckets.values()
    }

    /// Whether a bucket is declared by its own name, and not by a resolver.
    pub(crate) fn declares_as(&self, spec: &BucketSpec) -> bool {
        self.buckets.get(spec.name()).is_some_and(|declared| declared.key == spec.key)
    }

    /// The standing of a class; of none, if none is named.
    pub(crate) fn standing(&self, class: Option<&str>) -> Option<Standing> {
        let Some(class) = class else { return Some(Standing::default()) };
        self.classes.iter().find(|(name, _)| &**name == class).map(|(_, standing)| *standing)
    }

    /// The flow of a share; that of demands without one, if none is named.
    pub(crate) fn flow(&self, share: Option<&str>) -> Flow {
        let Some(share) = share else { return Flow::default() };
        // 0 is the flow of demands without a share.
        let id = fingerprint(share.bytes()).max(1);
        Flow { id, weight: self.weights.get(share).copied().unwrap_or(1) }
    }

    fn counts(&self, metric: &str) -> bool {
        self.buckets.values().any(|bucket| bucket.counts(metric))
    }

    /// The first metric that no quota and no standard name knows: a typo must not be a quota that
    /// never bites.
    pub(crate) fn unknown_metric<'u>(
        &self,
        usage: &'u Usage,
        specs: impl Iterator<Item = &'u Arc<BucketSpec>> + Clone,
    ) -> Option<&'u str> {
        let known =
            |metric: &str| specs.clone().any(|bucket| bucket.counts(metric)) || self.counts(metric);
        usage.iter_others().map(|(metric, _)| metric).find(|metric| !known(metric))
    }
}

/// A bucket with its quotas, compiled.
#[derive(Clone, Debug)]
pub(crate) struct BucketSpec {
    pub(crate) key: Arc<BucketKey>,
    pub(crate) meters: Arc<[Meter]>,
    /// The rules of the meters, for a bucket without calendars.
    rules: Arc<[Rule]>,
    /// A line for each of them, which tells what it is.
    notes: Arc<str>,
    has_calendar: bool,
}

impl BucketSpec {
    pub(super) fn new(key: Arc<BucketKey>, quotas: &[Quota]) -> Result<Self, String> {
        if quotas.is_empty() {
            return Err("it has no quotas; declare names that need none as unlimited".into());
        }
        let meters: Arc<[Meter]> = quotas.iter().map(Quota::compile).collect::<Result<_, _>>()?;
        for (index, meter) in meters.iter().enumerate() {
            if meters[..index].iter().any(|other| other.rule.id == meter.rule.id) {
                return Err(format!("quota `{meter}` is declared twice; give one of them a name"));
            }
        }
        Ok(Self::of(key, meters))
    }

    fn of(key: Arc<BucketKey>, meters: Arc<[Meter]>) -> Self {
        Self {
            rules: meters.iter().map(|meter| meter.rule.clone()).collect(),
            notes: meters.iter().map(Meter::note).collect::<Vec<_>>().join("\n").into(),
            has_calendar: meters.iter().any(|meter| meter.calendar.is_some()),
            meters,
            key,
        }
    }

    /// Whether another declaration of this bucket has quotas that are not here.
    pub(crate) fn lacks_some_of(&self, other: &Self) -> bool {
        self.missing_from(other).next().is_some()
    }

    /// This bucket and, after its own, the quotas of another declaration of it that are not here.
    pub(crate) fn with_those_of(&self, other: &Self) -> Self {
        let meters = self.meters.iter().chain(self.missing_from(other)).cloned().collect();
        Self::of(self.key.clone(), meters)
    }

    fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a Meter> {
        let has = |meter: &Meter| self.meters.iter().any(|mine| mine.rule.id == meter.rule.id);
        other.meters.iter().filter(move |meter| !has(meter))
    }

    /// This declaration under another name.
    pub(super) fn named(self, key: Arc<BucketKey>) -> Self {
        Self { key, ..self }
    }

    pub(crate) fn name(&self) -> &str {
        self.key.name()
    }

    fn counts(&self, metric: &str) -> bool {
        self.meters.iter().any(|meter| meter.counts(metric))
    }

    /// A line for each quota, which tells what it is.
    pub(crate) fn notes(&self) -> &Arc<str> {
        &self.notes
    }

    /// The rules as of an instant: those of a calendar know the boundaries around it.
    pub(crate) fn rules(&self, around: Micros) -> Cow<'_, Arc<[Rule]>> {
        if !self.has_calendar {
            return Cow::Borrowed(&self.rules);
        }
        let rules = self.meters.iter().map(|meter| match &meter.calendar {
            Some(calendar) => Rule {
                window: Window::Calendar { boundaries: calendar.boundaries(around) },
                ..meter.rule.clone()
            },
            None => meter.rule.clone(),
        });
        Cow::Owned(rules.collect())
    }
}
