//! The buckets of a demand as one: their quotas in a row, as the engine counts them. A set is a
//! snapshot of their declarations; it never changes, and knows when it is out of date.

use std::{fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;

use super::{
    bucket_handle::{BucketHandle, Outdated, bucket_of},
    charge_watch::WATCHED,
};
use crate::{
    engine::{
        Costs, Micros, Mode, On, Op, RefusedBy, Seen, Times, Violation, is_surfaced, wait_of,
    },
    error::{Refusal, Shortage, Throttled},
    limits::BucketSpec,
    observe::{Buckets, OtherAmounts},
    on_unavailable::OnUnavailable,
    quota::Meter,
    store::Bucket,
    usage::Usage,
};

/// The buckets of a demand, in its order.
pub(super) struct BucketSet {
    members: SmallVec<[Member; 1]>,
    /// The buckets as a store sees them.
    buckets: SmallVec<[Bucket; 1]>,
}

/// One bucket of a set.
#[derive(Clone)]
pub(super) struct Member {
    handle: Arc<BucketHandle>,
    spec: Arc<BucketSpec>,
    /// That of the declaration.
    version: u64,
    /// The index of its name in the demand, where unlimited names are left out.
    named: u16,
}

/// Usages of some buckets, by the index of their names in the demand, where they differ from that
/// of the others.
pub(super) type OtherUsages = [(u16, Usage)];

impl BucketSet {
    /// The set of these buckets, each with the index of its name in the demand, as they are
    /// declared now.
    ///
    /// # Errors
    /// One of them is declared no more.
    pub(super) fn new(
        handles: impl IntoIterator<Item = (u16, Arc<BucketHandle>)>,
    ) -> Result<Self, Outdated> {
        let mut set = Self { members: SmallVec::new(), buckets: SmallVec::new() };
        for (named, handle) in handles {
            let (version, declared) = handle.declared();
            let (spec, bucket) = declared?;
            set.members.push(Member { handle, spec, version, named });
            set.buckets.push(bucket);
        }
        Ok(set)
    }

    /// True as long as the declarations are those that were looked up.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.members.iter().all(|member| member.handle.version() == member.version)
    }

    /// These buckets as they are declared now.
    pub(super) fn refreshed(&self) -> Result<Arc<Self>, Outdated> {
        let handles = self.members.iter().map(|member| (member.named, member.handle.clone()));
        Self::new(handles).map(Arc::new)
    }

    /// These buckets with calendars looked up around this time of the store.
    pub(super) fn charted(&self, around: Micros) -> Arc<Self> {
        let chart = |member: &Member| {
            member.handle.chart(&member.spec, around);
            bucket_of(&member.spec, around)
        };
        Arc::new(Self {
            members: self.members.clone(),
            buckets: self.members.iter().map(chart).collect(),
        })
    }

    /// What a settle of a reservation on this set is counted on: the same buckets as they are
    /// declared now, and after their own quotas those of this set that are there no more. What was
    /// reserved on these is still in flight, and must not be so for ever should they come back.
    pub(super) fn for_settling(self: &Arc<Self>) -> Arc<Self> {
        if self.is_current() {
            return self.clone();
        }
        let mut set = Self { members: SmallVec::new(), buckets: SmallVec::new() };
        for index in 0..self.members.len() {
            let (mut member, mut bucket) = self.member_now(index);
            let older = &self.members[index].spec;
            if member.spec.lacks_some_of(older) {
                member.spec = Arc::new(member.spec.with_those_of(older));
                // Calendars are looked up when the store says that it needs them.
                bucket = bucket_of(&member.spec, 0);
            }
            set.members.push(member);
            set.buckets.push(bucket);
        }
        Arc::new(set)
    }

    /// A bucket as it is declared now; if it is not any more, as it was.
    fn member_now(&self, index: usize) -> (Member, Bucket) {
        let member = &self.members[index];
        match member.handle.declared() {
            (version, Ok((spec, bucket))) => (Member { spec, version, ..member.clone() }, bucket),
            _ => (member.clone(), self.buckets[index].clone()),
        }
    }

    /// Whether it has quotas that its buckets are not declared with any more. Demands must not be
    /// held back by them.
    pub(super) fn has_older_quotas(&self) -> bool {
        self.members.iter().any(|member| match member.handle.declared() {
            (_, Ok((spec, _))) => spec.lacks_some_of(&member.spec),
            _ => false,
        })
    }

    /// One bucket of the set as it is declared now.
    pub(super) fn only(&self, bucket: u64) -> Option<Self> {
        let index = self.members.iter().position(|member| member.handle.id() == bucket)?;
        let (member, bucket) = self.member_now(index);
        Some(Self {
            members: SmallVec::from_elem(member, 1),
            buckets: SmallVec::from_elem(bucket, 1),
        })
    }

    /// Each bucket with its handle and its declaration.
    pub(super) fn parts(
        &self,
    ) -> impl ExactSizeIterator<Item = (&Arc<BucketHandle>, &Arc<BucketSpec>, &Bucket)> {
        self.members
            .iter()
            .zip(&self.buckets)
            .map(|(member, bucket)| (&member.handle, &member.spec, bucket))
    }

    /// The first bucket's name.
    pub(super) fn name(&self) -> &str {
        self.members.first().map_or("", |member| member.spec.name())
    }

    /// The names of all its buckets, as observers are told.
    pub(super) fn names(&self) -> Buckets<'_> {
        Buckets::new(self.specs().map(|spec| spec.name()))
    }

    /// What was reserved and charged of buckets with a usage of their own, as observers are told.
    pub(super) fn other_amounts<'a>(
        &'a self,
        reserved: &'a OtherUsages,
        actual: &'a OtherUsages,
    ) -> OtherAmounts<'a> {
        let amounts = reserved.iter().zip(actual).filter_map(|((named, reserved), (_, actual))| {
            let index = self.index_of_named((*named).into())?;
            Some((self.members[index].spec.name(), reserved, actual))
        });
        OtherAmounts::new(amounts)
    }

    pub(super) fn specs(&self) -> impl ExactSizeIterator<Item = &Arc<BucketSpec>> + Clone {
        self.members.iter().map(|member| &member.spec)
    }

    pub(super) fn handles(&self) -> impl ExactSizeIterator<Item = &Arc<BucketHandle>> {
        self.members.iter().map(|member| &member.handle)
    }

    /// The indexes of all its buckets.
    #[inline]
    pub(super) fn all(&self) -> On {
        // Pushed one by one, which is inlined.
        let mut on = On::new();
        (0..self.buckets.len() as u16).for_each(|index| on.push(index));
        on
    }

    pub(super) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The index of a bucket, by the index of its name in the demand.
    pub(super) fn index_of_named(&self, named: usize) -> Option<usize> {
        self.members.iter().position(|member| usize::from(member.named) == named)
    }

    /// Notes what a batch saw of the buckets, and calls `lost` with the name of each whose state
    /// was lost.
    pub(super) fn saw(&self, seen: &[Seen], in_process: bool, mut lost: impl FnMut(&str)) {
        for (member, seen) in self.members.iter().zip(seen) {
            if member.handle.saw(seen, in_process).is_some() {
                lost(member.spec.name());
            }
        }
    }

    /// Notes what a reservation was charged, and calls `never` with the name of each bucket and
    /// quota that none of its first demands has charged, and their number.
    #[inline]
    pub(super) fn watch(&self, costs: [&Costs; 2], never: impl FnMut(&str, &str, u32)) {
        if self.members.iter().any(|member| member.handle.is_watched()) {
            self.watch_each(costs, never);
        }
    }

    #[cold]
    fn watch_each(&self, costs: [&Costs; 2], mut never: impl FnMut(&str, &str, u32)) {
        let mut charged = (0..)
            .map(|index| costs.iter().any(|costs| costs.get(index).is_some_and(|cost| *cost > 0)));
        for member in &self.members {
            let meters = &member.spec.meters;
            let charged: SmallVec<[bool; 8]> = charged.by_ref().take(meters.len()).collect();
            let is_current = member.handle.version() == member.version;
            let Some(missing) = is_current.then(|| member.handle.charged(&charged)).flatten()
            else {
                continue;
            };
            for (meter, _) in meters.iter().zip(&missing).filter(|(_, is_missing)| **is_missing) {
                never(member.spec.name(), &meter.label, WATCHED);
            }
        }
    }

    /// Every quota of every bucket, in the engine's order.
    pub(super) fn meters(&self) -> impl Iterator<Item = (&Arc<BucketSpec>, &Meter)> {
        self.specs().flat_map(|spec| spec.meters.iter().map(move |meter| (spec, meter)))
    }

    /// Every quota with its bucket's and its own id, in the engine's order.
    pub(super) fn quotas(&self) -> impl Iterator<Item = (u64, u64)> {
        self.meters().map(|(spec, meter)| (spec.key.id(), meter.rule.id))
    }

    /// The names of a bucket and of a quota by their ids; of a bucket's pause, where there is no
    /// such quota.
    pub(super) fn quota_named(&self, bucket: u64, rule: u64) -> Option<(&str, &str)> {
        let spec = self.specs().find(|spec| spec.key.id() == bucket)?;
        let meter = spec.meters.iter().find(|meter| meter.rule.id == rule);
        Some((spec.name(), meter.map_or("paused", |meter| &meter.label)))
    }

    /// What refused a demand on this set, as the ids of a bucket and, if it was no pause, of a
    /// quota.
    pub(super) fn refused_by(&self, by: RefusedBy) -> Option<(u64, Option<u64>)> {
        match by {
            RefusedBy::Pause(index) => Some((self.members.get(index)?.handle.id(), None)),
            RefusedBy::Rule(index) => {
                self.quotas().nth(index).map(|(bucket, rule)| (bucket, Some(rule)))
            }
        }
    }

    /// The usage that is asked of a bucket.
    #[inline]
    fn usage<'u>(member: &Member, usage: &'u Usage, others: &'u OtherUsages) -> &'u Usage {
        let other = others.iter().find(|(named, _)| *named == member.named);
        other.map_or(usage, |(_, other)| other)
    }

    /// Appends what a demand costs on each quota.
    ///
    /// # Errors
    /// Some quota could never admit it.
    #[inline]
    pub(super) fn put_demand(
        &self,
        costs: &mut Costs,
        usage: &Usage,
        others: &OtherUsages,
        headroom: u64,
    ) -> Result<(), Refusal> {
        let mut is_possible = true;
        for member in &self.members {
            let usage = Self::usage(member, usage, others);
            for meter in &*member.spec.meters {
                let cost = meter.cost(usage);
                is_possible &= cost <= meter.rule.capacity(headroom);
                costs.push(cost);
            }
        }
        if is_possible { Ok(()) } else { Err(self.beyond_capacity(costs, headroom)) }
    }

    /// Appends what an actual usage costs on each quota, or a demand that was granted.
    #[inline]
    pub(super) fn put_costs(&self, costs: &mut Costs, usage: &Usage, others: &OtherUsages) {
        for member in &self.members {
            let usage = Self::usage(member, usage, others);
            member.spec.meters.iter().for_each(|meter| costs.push(meter.actual_cost(usage)));
        }
    }

    pub(super) fn costs(&self, usage: &Usage, others: &OtherUsages) -> Costs {
        let mut costs = Costs::new();
        self.put_costs(&mut costs, usage, others);
        costs
    }

    /// What becomes of a demand with these costs while the store cannot be reached: the strictest
    /// of what the quotas say that it asks something of.
    pub(super) fn on_unavailable(&self, costs: &Costs, default: OnUnavailable) -> OnUnavailable {
        let asked = self.meters().zip(costs).filter(|(_, cost)| **cost > 0);
        asked
            .map(|((_, meter), _)| meter.on_unavailable.unwrap_or(default))
            .reduce(OnUnavailable::and)
            .unwrap_or(default)
    }

    /// Whether one of its quotas is counted in this process while the store cannot be reached.
    pub(super) fn is_local(&self, default: OnUnavailable) -> bool {
        self.meters().any(|(_, meter)| {
            matches!(meter.on_unavailable.unwrap_or(default), OnUnavailable::Local { .. })
        })
    }

    /// Costs that were counted on another version of this set, on those of its quotas that are here
    /// too.
    fn translated(&self, costs: &Costs, from: &Self) -> Costs {
        let cost = |quota| {
            let index = from.quotas().position(|other| other == quota)?;
            costs.get(index).copied()
        };
        self.quotas().map(|quota| cost(quota).unwrap_or(0)).collect()
    }

    /// Rewrites an operation whose amounts were counted on another version of this set.
    pub(super) fn translate(&self, op: &mut Op, from: &Self) {
        match op {
            Op::Settle(settle) => {
                settle.reserved = self.translated(&settle.reserved, from);
                settle.actual = self.translated(&settle.actual, from);
            }
            Op::Detach { reserved, .. } => *reserved = self.translated(reserved, from),
            _ => {}
        }
    }

    /// Names the quotas that could never admit these costs.
    #[cold]
    fn beyond_capacity(&self, costs: &Costs, headroom: u64) -> Refusal {
        let exceeded = self.meters().zip(costs).filter_map(|((spec, meter), &requested)| {
            let limit = meter.rule.capacity(headroom);
            (requested > limit).then(|| Shortage {
                bucket: spec.name().into(),
                quota: meter.label.clone(),
                limit,
                available: limit as i64,
                requested,
                retry_after: None,
                window: meter.window,
            })
        });
        Refusal { shortages: exceeded.collect(), retry_after: None }
    }

    /// What becomes of a demand that the engine refused; nothing, if it is to wait.
    pub(super) fn refused(
        &self,
        violations: &[Violation],
        costs: &Costs,
        headroom: u64,
        mode: Mode,
    ) -> Option<Throttled> {
        let refusal = || Box::new(self.refusal(violations, costs, headroom));
        match mode {
            _ if is_surfaced(violations) => Some(Throttled::Paused(refusal())),
            Mode::Wait => None,
            _ => Some(Throttled::NotNow(refusal())),
        }
    }

    /// A refusal of the engine in the user's words.
    pub(super) fn refusal(
        &self,
        violations: &[Violation],
        costs: &Costs,
        headroom: u64,
    ) -> Refusal {
        let shortage = |violation| self.shortage(violation, costs, headroom);
        Refusal {
            shortages: violations.iter().filter_map(shortage).collect(),
            retry_after: wait_of(violations).map(Duration::from_micros),
        }
    }

    fn shortage(&self, violation: &Violation, costs: &Costs, headroom: u64) -> Option<Shortage> {
        let retry_after = violation.wait.max(violation.asked).map(Duration::from_micros);
        Some(match violation.by {
            RefusedBy::Pause(index) => Shortage {
                bucket: self.members.get(index)?.spec.name().into(),
                quota: "paused".into(),
                limit: 0,
                available: 0,
                requested: 0,
                retry_after,
                window: None,
            },
            RefusedBy::Rule(index) => {
                let (spec, meter) = self.meters().nth(index)?;
                let requested = costs.get(index).copied()?;
                Shortage {
                    bucket: spec.name().into(),
                    quota: meter.label.clone(),
                    limit: meter.rule.capacity_for(requested, headroom),
                    available: violation.available,
                    requested,
                    retry_after,
                    window: meter.window,
                }
            }
        })
    }
}

/// When a demand was granted, by the time of each of its buckets.
#[derive(Clone, Debug)]
pub(super) enum GrantedAt {
    /// By all of them, as is the rule.
    All(Micros),
    /// Their clocks differ.
    Each(Box<[Micros]>),
}

impl GrantedAt {
    pub(super) fn new(times: impl Iterator<Item = Micros> + Clone) -> Self {
        let first = times.clone().next().unwrap_or(0);
        if times.clone().all(|time| time == first) {
            Self::All(first)
        } else {
            Self::Each(times.collect())
        }
    }

    /// By the bucket of this index.
    pub(super) fn of(&self, index: usize) -> Micros {
        match self {
            Self::All(time) => *time,
            Self::Each(times) => times.get(index).copied().unwrap_or(0),
        }
    }

    /// By each of so many buckets.
    #[inline]
    pub(super) fn times(&self, buckets: usize) -> Times {
        let mut times = Times::new();
        (0..buckets).for_each(|index| times.push(self.of(index)));
        times
    }
}

/// Part of every reservation's, so it is short.
impl fmt::Debug for BucketSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.specs().map(|spec| spec.name())).finish()
    }
}
