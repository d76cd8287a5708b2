//! What came of a run.

use std::{sync::Arc, time::Duration};

use super::{
    best::{Best, most_until},
    enforced::Enforcement,
    provider::Provider,
    simulation::Simulation,
    strategy::Strategy,
    trace_call::TraceCall,
};

/// What came of a [`Simulation`] by one [`Strategy`].
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SimulationReport {
    /// How the calls were made.
    pub strategy: Strategy,
    /// Calls of the trace.
    pub calls: usize,
    /// Those that were answered.
    pub answered: usize,
    /// Those that could never be made: one asks for more than a limit admits at once, say.
    pub impossible: usize,
    /// Attempts that the provider refused (429).
    pub refused: u64,
    /// Calls of the provider's other users that were admitted, and refused.
    pub others: (u64, u64),
    /// From the start to the end of the last answer.
    pub makespan: Duration,
    /// How long it takes a caller that knows everything in advance: calls are made in their order,
    /// each at the first instant at which the provider admits it, and take as long as in the run.
    pub best: Duration,
    /// The limit that binds: the one that such a caller waits for longest. Nothing if it waits for
    /// none, since calls come slowly or callers are few.
    pub binding: Option<Arc<str>>,
    /// The provider's limits, in the order in which they are declared.
    pub quotas: Vec<QuotaReport>,
    /// The waits of all calls, then of each class and share, by name.
    pub waits: Vec<WaitReport>,
    /// How things stood at each second of the run, or more seldom if it takes many hours.
    pub moments: Vec<Moment>,
}

/// What a run made of one limit.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuotaReport {
    /// The limit's name.
    pub name: Arc<str>,
    /// What it admits at a time: in a window, a part of it, or a full bucket.
    pub capacity: u64,
    /// What the calls used, of the most that it admits until the last one was admitted.
    pub utilisation: f64,
    /// Attempts that it refused.
    pub refused: u64,
}

/// How long calls waited, from their arrival until the provider admitted them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct WaitReport {
    /// The class; nothing for calls of all classes, or of none.
    pub class: Option<Arc<str>>,
    /// The share; nothing for calls of all shares, or of none.
    pub share: Option<Arc<str>>,
    /// How many were admitted.
    pub calls: usize,
    /// The median.
    pub p50: Duration,
    /// What nine and a half in ten stayed within.
    pub p95: Duration,
    /// What 99 in 100 stayed within.
    pub p99: Duration,
    /// The longest.
    pub longest: Duration,
}

/// How things stand at one instant.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Moment {
    /// When.
    pub at: Duration,
    /// What counts at the provider towards each limit, others' calls included.
    pub levels: Vec<f64>,
    /// Calls that have come and are not admitted.
    pub waiting: usize,
    /// How long the oldest of them has waited.
    pub oldest: Duration,
    /// Attempts refused so far.
    pub refused: u64,
    /// Calls admitted so far.
    pub admitted: usize,
}

impl SimulationReport {
    /// Returns how many times longer than [`best`](Self::best) it took; 1 if there was nothing to
    /// do.
    pub fn over_best(&self) -> f64 {
        match self.best.is_zero() {
            true => 1.0,
            false => self.makespan.as_secs_f64() / self.best.as_secs_f64(),
        }
    }

    /// Returns how much of the limits was used while they bound, from 0 to 1: what a caller that
    /// knows everything in advance needs of the time that it took.
    pub fn efficiency(&self) -> f64 {
        if self.unfinished() > 0 { 0.0 } else { 1.0 / self.over_best() }
    }

    /// Returns the limit that binds.
    pub fn binding_quota(&self) -> Option<&QuotaReport> {
        let binding = self.binding.as_ref()?;
        self.quotas.iter().find(|quota| quota.name == *binding)
    }

    /// Returns the calls that were neither answered nor impossible when the run was given up: long
    /// after all could have been answered.
    pub fn unfinished(&self) -> usize {
        self.calls - self.answered - self.impossible
    }
}

/// What is noted down during a run.
#[derive(Debug)]
pub(super) struct RunLog {
    admitted_at: Vec<Option<Duration>>,
    /// Calls that wait no more, and the first that may.
    is_over: Vec<bool>,
    oldest: usize,
    admitted: usize,
    pub(super) answered: usize,
    impossible: usize,
    pub(super) last_end: Duration,
    last_admitted: Duration,
    refused: u64,
    others: (u64, u64),
    /// What the calls used of each limit, in parts, and what it refused.
    quotas: Vec<(Arc<str>, f64, u64)>,
    moments: Vec<Moment>,
}

impl RunLog {
    pub(super) fn new(calls: usize, provider: &Provider) -> Self {
        let quotas = provider.quotas().iter().map(|quota| (quota.shared_name(), 0.0, 0));
        Self {
            admitted_at: vec![None; calls],
            is_over: vec![false; calls],
            oldest: 0,
            admitted: 0,
            answered: 0,
            impossible: 0,
            last_end: Duration::ZERO,
            last_admitted: Duration::ZERO,
            refused: 0,
            others: (0, 0),
            quotas: quotas.collect(),
            moments: Vec::new(),
        }
    }

    pub(super) fn admitted(&mut self, index: usize, now: Duration) {
        self.admitted_at[index] = Some(now);
        self.is_over[index] = true;
        self.admitted += 1;
        self.last_admitted = now;
    }

    pub(super) fn impossible(&mut self, index: usize) {
        self.is_over[index] = true;
        self.impossible += 1;
    }

    pub(super) fn refused(&mut self, quota: &str) {
        self.refused += 1;
        let refusing = self.quotas.iter_mut().find(|(name, ..)| **name == *quota);
        if let Some((.., refused)) = refusing {
            *refused += 1;
        }
    }

    pub(super) fn other(&mut self, is_admitted: bool) {
        let count = if is_admitted { &mut self.others.0 } else { &mut self.others.1 };
        *count += 1;
    }

    pub(super) fn count(&mut self, quota: usize, amount: f64) {
        self.quotas[quota].1 += amount;
    }

    /// Notes how things stand when these calls have come.
    pub(super) fn note(&mut self, at: Duration, levels: Vec<f64>, come: &[TraceCall]) {
        let (refused, admitted) = (self.refused, self.admitted);
        // A call that cannot be made does not wait.
        let waiting = come.len().saturating_sub(admitted + self.impossible);
        while self.is_over.get(self.oldest) == Some(&true) {
            self.oldest += 1;
        }
        let oldest = come.get(self.oldest).map(|call| at.saturating_sub(call.arrival));
        let oldest = oldest.unwrap_or_default();
        self.moments.push(Moment { at, levels, waiting, oldest, refused, admitted });
    }

    pub(super) fn report(
        &self,
        simulation: &Simulation,
        strategy: Strategy,
        best: &Best,
    ) -> SimulationReport {
        let provider = simulation.provider();
        let quotas =
            provider.quotas().iter().zip(&self.quotas).map(|(quota, (name, used, refused))| {
                let end = match quota.enforcement() {
                    Enforcement::Concurrency => self.last_end,
                    _ => self.last_admitted,
                };
                let most = most_until(quota, end);
                let utilisation = if most > 0.0 { used / most } else { 0.0 };
                QuotaReport {
                    name: name.clone(),
                    capacity: quota.capacity(),
                    utilisation,
                    refused: *refused,
                }
            });
        SimulationReport {
            strategy,
            calls: self.admitted_at.len(),
            answered: self.answered,
            impossible: self.impossible,
            refused: self.refused,
            others: self.others,
            makespan: self.last_end,
            best: best.makespan,
            binding: best.binding.clone(),
            quotas: quotas.collect(),
            waits: self.waits(simulation.trace().calls()),
            moments: self.moments.clone(),
        }
    }

    fn waits(&self, calls: &[TraceCall]) -> Vec<WaitReport> {
        let waits = calls.iter().zip(&self.admitted_at);
        let waits =
            waits.filter_map(|(call, at)| Some((call, at.as_ref()?.saturating_sub(call.arrival))));
        let waits: Vec<_> = waits.collect();
        let of = |class: Option<&Arc<str>>, share: Option<&Arc<str>>, is_all: bool| {
            let chosen = waits.iter().filter(|(call, _)| {
                is_all || (call.class.as_ref(), call.share.as_ref()) == (class, share)
            });
            let mut chosen: Vec<_> = chosen.map(|(_, wait)| *wait).collect();
            chosen.sort_unstable();
            WaitReport {
                class: class.cloned(),
                share: share.cloned(),
                calls: chosen.len(),
                p50: percentile(&chosen, 0.50),
                p95: percentile(&chosen, 0.95),
                p99: percentile(&chosen, 0.99),
                longest: percentile(&chosen, 1.0),
            }
        };
        let mut kinds: Vec<_> =
            calls.iter().map(|call| (call.class.as_ref(), call.share.as_ref())).collect();
        kinds.sort_unstable();
        kinds.dedup();
        let mut reports = vec![of(None, None, true)];
        if kinds.len() > 1 || kinds.first().is_some_and(|kind| *kind != (None, None)) {
            reports.extend(kinds.into_iter().map(|(class, share)| of(class, share, false)));
        }
        reports
    }
}

/// The smallest of what is sorted that this part of all does not exceed.
fn percentile(sorted: &[Duration], part: f64) -> Duration {
    let rank = (part * sorted.len() as f64).ceil() as usize;
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}
