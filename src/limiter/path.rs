//! The buckets of a demand as one: their quotas in a row, as the engine counts them.

use std::{sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    engine::{Costs, Micros, Mode, Op, RefusedBy, Violation},
    error::{Refusal, Shortage, Throttled},
    limits::BucketSpec,
    quota::Meter,
    store::Bucket,
    usage::Usage,
};

#[derive(Debug)]
pub(crate) struct Path {
    specs: SmallVec<[Arc<BucketSpec>; 1]>,
    buckets: SmallVec<[Bucket; 1]>,
}

impl Path {
    /// `around` is when the calendars of the quotas are looked at.
    pub(crate) fn new(specs: SmallVec<[Arc<BucketSpec>; 1]>, around: Micros) -> Self {
        let bucket =
            |spec: &Arc<BucketSpec>| Bucket::new(spec.key.clone(), spec.rules(around).into_owned());
        Self { buckets: specs.iter().map(bucket).collect(), specs }
    }

    /// The same path with its calendars looked at anew.
    pub(crate) fn charted(&self, around: Micros) -> Self {
        Self::new(self.specs.clone(), around)
    }

    /// Whether this is the same path, perhaps with other calendars.
    pub(crate) fn is_chart_of(&self, other: &Self) -> bool {
        self.specs.len() == other.specs.len()
            && self.specs.iter().zip(&other.specs).all(|(one, other)| Arc::ptr_eq(one, other))
    }

    /// Whether demands cost the same here and are held against the same rules of the same buckets.
    pub(crate) fn counts_like(&self, other: &Self) -> bool {
        let mut pairs = self.specs.iter().zip(&other.specs);
        std::ptr::eq(self, other)
            || self.specs.len() == other.specs.len()
                && pairs.all(|(one, other)| one.key == other.key && one.meters == other.meters)
    }

    pub(crate) fn name(&self) -> &str {
        self.specs.first().map_or("", |spec| spec.name())
    }

    pub(crate) fn specs(&self) -> &[Arc<BucketSpec>] {
        &self.specs
    }

    pub(crate) fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// Every quota of every bucket, in the engine's order.
    pub(crate) fn meters(&self) -> impl Iterator<Item = (&Arc<BucketSpec>, &Meter)> {
        self.specs.iter().flat_map(|spec| spec.meters.iter().map(move |meter| (spec, meter)))
    }

    /// Puts down what a demand asks for: where it is to stay, since amounts that have just been written are slow to move.
    ///
    /// # Errors
    /// Some quota could never admit it.
    #[inline(always)]
    pub(crate) fn put_demand(
        &self,
        costs: &mut Costs,
        usage: &Usage,
        headroom: u64,
    ) -> Result<(), Refusal> {
        let mut is_possible = true;
        for spec in &self.specs {
            for meter in &*spec.meters {
                let cost = meter.cost(usage);
                is_possible &= cost <= meter.rule.capacity(headroom);
                costs.push(cost);
            }
        }
        if is_possible { Ok(()) } else { Err(self.beyond_capacity(costs, headroom)) }
    }

    /// Puts down what a usage costs: for one that was granted what its demand asked for.
    #[inline]
    pub(crate) fn put_costs(&self, costs: &mut Costs, usage: &Usage) {
        for spec in &self.specs {
            spec.meters.iter().for_each(|meter| costs.push(meter.actual_cost(usage)));
        }
    }

    pub(crate) fn costs(&self, usage: &Usage) -> Costs {
        let mut costs = Costs::new();
        self.put_costs(&mut costs, usage);
        costs
    }

    /// Costs that were counted on another version of this path, on those of its quotas that are here too.
    fn translated(&self, costs: &Costs, from: &Self) -> Costs {
        let cost_on = |spec: &BucketSpec, meter: &Meter| {
            let index = from
                .meters()
                .position(|(other, found)| other.key == spec.key && found.rule.id == meter.rule.id);
            index.and_then(|index| costs.get(index).copied()).unwrap_or(0)
        };
        self.meters().map(|(spec, meter)| cost_on(spec, meter)).collect()
    }

    /// Whether another version of this path has quotas that are not here.
    pub(crate) fn lacks_some_of(&self, other: &Self) -> bool {
        let mine = |spec: &BucketSpec| self.specs.iter().find(|mine| mine.key == spec.key);
        !std::ptr::eq(self, other)
            && !self.is_chart_of(other)
            && other.specs.iter().any(|spec| mine(spec).is_none_or(|mine| mine.lacks_some_of(spec)))
    }

    /// This path and, after its own, the quotas of another version of it that are not here. Calendars are looked up
    /// when the store says that it needs them.
    pub(crate) fn with_those_of(self: &Arc<Self>, other: &Self) -> Arc<Self> {
        if !self.lacks_some_of(other) {
            return self.clone();
        }
        let mut specs = self.specs.clone();
        for spec in &other.specs {
            match specs.iter_mut().find(|mine| mine.key == spec.key) {
                Some(mine) if mine.lacks_some_of(spec) => {
                    *mine = Arc::new(mine.with_those_of(spec))
                }
                Some(_) => {}
                // Another partition cannot be part of the batch.
                None if self
                    .specs
                    .iter()
                    .any(|mine| mine.key.partition() != spec.key.partition()) => {}
                None => specs.push(spec.clone()),
            }
        }
        Arc::new(Self::new(specs, 0))
    }

    /// An operation whose amounts were counted on another version of this path.
    pub(crate) fn translated_op(self: &Arc<Self>, mut op: Op, from: &Arc<Self>) -> Op {
        if Arc::ptr_eq(self, from) {
            return op;
        }
        let translate = |costs: &mut Costs| *costs = self.translated(costs, from);
        match &mut op {
            Op::Settle { reserved, actual, .. } => {
                translate(reserved);
                translate(actual);
            }
            Op::Detach { reserved, .. } => translate(reserved),
            Op::Reserve { .. }
            | Op::Pause(_)
            | Op::Surface { .. }
            | Op::Cap { .. }
            | Op::Status => {}
        }
        op
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
            })
        });
        Refusal { shortages: exceeded.collect(), retry_after: None }
    }

    /// What becomes of a demand that the engine refused; nothing, if it is to wait.
    pub(crate) fn refused(
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
    pub(crate) fn refusal(
        &self,
        violations: &[Violation],
        costs: &Costs,
        headroom: u64,
    ) -> Refusal {
        let shortages: Vec<_> = violations
            .iter()
            .filter_map(|violation| self.shortage(violation, costs, headroom))
            .collect();
        let waits = shortages.iter().map(|shortage| shortage.retry_after);
        let retry_after = match is_surfaced(violations) {
            // That is known, whatever else is not.
            true => waits.flatten().max(),
            false => waits.reduce(|one, other| Some(one?.max(other?))).flatten(),
        };
        Refusal { shortages, retry_after }
    }

    fn shortage(&self, violation: &Violation, costs: &Costs, headroom: u64) -> Option<Shortage> {
        let retry_after = violation.wait.max(violation.asked).map(Duration::from_micros);
        Some(match violation.by {
            RefusedBy::Pause(index) => Shortage {
                bucket: self.specs.get(index)?.name().into(),
                quota: "paused".into(),
                limit: 0,
                available: 0,
                requested: 0,
                retry_after,
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
                }
            }
        })
    }
}

/// Whether a pause is among what refused a demand that is not to be waited out.
fn is_surfaced(violations: &[Violation]) -> bool {
    violations.iter().any(|violation| violation.asked.is_some())
}
