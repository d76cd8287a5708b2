//! How soon all calls of a trace could be answered at best.

use std::{cmp::Reverse, collections::BinaryHeap, sync::Arc, time::Duration};

use super::{
    admissions::Admissions,
    chance::{Chance, chance},
    enforced::{Counting, EnforcedQuota, Enforcement, PARTS},
    quota_log::window_at,
    simulation::Simulation,
};
use crate::usage::Usage;

/// What a caller reaches that knows everything in advance: it makes the calls in their order, each
/// at the first instant at which the provider admits it.
///
/// All that a call uses counts from its start. A call takes as long as its first attempt in a run,
/// ways included, and for all of that its caller and its place in flight are taken: the answer
/// has to be back before the next call goes in its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Best {
    pub(super) makespan: Duration,
    /// The limit on which calls had to wait longest; nothing if none had to.
    pub(super) binding: Option<Arc<str>>,
}

impl Best {
    pub(super) fn of(simulation: &Simulation) -> Self {
        let (provider, workers) = (simulation.provider(), simulation.worker_count());
        let quotas = provider.quotas().iter().cloned();
        let mut admissions = Admissions::new(quotas.map(|quota| quota.counting(Counting::AtStart)));
        let mut waits: Vec<(Arc<str>, Duration)> =
            admissions.quotas().map(|quota| (quota.shared_name(), Duration::ZERO)).collect();
        let (mut now, mut last) = (Duration::ZERO, Duration::ZERO);
        // Ends of the calls in flight, the next one first.
        let mut open: BinaryHeap<Reverse<Duration>> = BinaryHeap::new();
        let nothing = Usage::new();
        for (index, call) in simulation.trace().calls().iter().enumerate() {
            now = now.max(call.arrival);
            let usage = call.used();
            loop {
                while let Some(Reverse(end)) = open.peek().copied()
                    && end <= now
                {
                    open.pop();
                    admissions.end(now, &nothing);
                }
                let next_end = open.peek().map(|Reverse(end)| *end - now);
                if open.len() >= workers {
                    now += next_end.unwrap_or_default();
                    continue;
                }
                let Err(refusal) = admissions.admit(now, &usage) else { break };
                // A call that is never admitted is refused before a run.
                let Some(wait) = refusal.retry_after.or(next_end) else { break };
                let waited = waits.iter_mut().find(|(name, _)| *name == refusal.quota);
                waited.into_iter().for_each(|(_, waited)| *waited += wait);
                now += wait;
            }
            let mut random = chance(simulation.seed_number(), index, 0, Chance::Latency);
            let end = now + provider.takes(call, &mut random);
            open.push(Reverse(end));
            last = last.max(end);
        }
        let binding = waits.into_iter().max_by_key(|(_, waited)| *waited);
        let binding = binding.filter(|(_, waited)| !waited.is_zero()).map(|(name, _)| name);
        Self { makespan: last, binding }
    }
}

/// The most that a limit counts from the start to an instant, in parts; for calls in flight, in
/// parts times seconds.
pub(super) fn most_until(quota: &EnforcedQuota, end: Duration) -> f64 {
    let capacity = quota.capacity() as f64 * PARTS as f64;
    let windows = end.as_secs_f64() / quota.length().as_secs_f64();
    match quota.enforcement() {
        Enforcement::TokenBucket => capacity + quota.limit() as f64 * PARTS as f64 * windows,
        Enforcement::FixedWindow(offset) => {
            let window = quota.length();
            let count = window_at(end, offset, window) - window_at(Duration::ZERO, offset, window);
            capacity * (count + 1) as f64
        }
        Enforcement::Concurrency => capacity * end.as_secs_f64(),
        _ => capacity * (windows.floor() + 1.0),
    }
}
