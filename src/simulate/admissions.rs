//! What a provider admits: all its limits, or nothing.

use std::{fmt, sync::Arc, time::Duration};

use super::{
    enforced::{Counting, EnforcedQuota},
    quota_log::QuotaLog,
};
use crate::{usage, usage::Usage};

/// The state of a provider's limits. It has no clock: times are given since some start, and must
/// not go back.
///
/// A server that stands in for a provider in tests asks it for each call:
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{simulate::{Admissions, EnforcedQuota}, usage};
///
/// let minute = Duration::from_secs(60);
/// let mut admissions = Admissions::new([EnforcedQuota::sliding_window("tokens", 1_000, minute)]);
/// let call = usage! { requests: 1, input_tokens: 500, output_tokens: 200 };
/// assert!(admissions.admit(Duration::ZERO, &call).is_ok());
/// admissions.end(Duration::from_secs(2), &call);
///
/// let refusal = admissions.admit(Duration::from_secs(20), &call).unwrap_err();
/// assert_eq!(refusal.retry_after, Some(Duration::from_secs(40)));
/// assert_eq!(refusal.to_string(), "tokens per minute: again after 40s");
/// ```
#[derive(Debug)]
pub struct Admissions {
    quotas: Vec<(EnforcedQuota, QuotaLog)>,
}

/// A limit that a call would exceed.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct LimitReached {
    /// The limit; of several, the one with the longest wait.
    pub quota: Arc<str>,
    /// How long until the call would be admitted, if no other is; nothing if that depends on calls
    /// in flight, or is never.
    pub retry_after: Option<Duration>,
}

impl Admissions {
    /// Nothing was counted yet.
    pub fn new(quotas: impl IntoIterator<Item = EnforcedQuota>) -> Self {
        let quotas = quotas.into_iter().map(|quota| {
            let log = QuotaLog::new(&quota);
            (quota, log)
        });
        Self { quotas: quotas.collect() }
    }

    /// Admits a call that will use this much, and counts what counts at its start.
    ///
    /// # Errors
    /// A limit would be exceeded; then nothing is counted.
    pub fn admit(&mut self, now: Duration, used: &Usage) -> Result<(), LimitReached> {
        if let Some(refusal) = self.refusal(now, used) {
            return Err(refusal);
        }
        for (quota, log) in &mut self.quotas {
            log.count(now, quota.cost(&at_start(quota, used)));
        }
        Ok(())
    }

    fn refusal(&mut self, now: Duration, used: &Usage) -> Option<LimitReached> {
        let mut longest: Option<LimitReached> = None;
        for (quota, log) in &mut self.quotas {
            // What counts later only needs that something is left.
            let least = if quota.counted() == Counting::AtStart { 0 } else { 1 };
            let asked = quota.cost(&at_start(quota, used)).max(least);
            if log.fits(now, asked) {
                continue;
            }
            let retry_after = log.wait(now, asked);
            let is_longer = longest.as_ref().is_none_or(|longest| {
                let of = |wait: Option<Duration>| wait.unwrap_or(Duration::MAX);
                of(retry_after) > of(longest.retry_after)
            });
            if is_longer {
                longest = Some(LimitReached { quota: quota.shared_name(), retry_after });
            }
        }
        longest
    }

    /// Counts output that a call has written, where that counts as it is produced.
    pub fn produce(&mut self, now: Duration, output_tokens: u64) {
        let written = usage! { requests: 0, input_tokens: 0, output_tokens: output_tokens };
        for (quota, log) in &mut self.quotas {
            if quota.counted() == Counting::AsProduced {
                log.count(now, quota.cost(&written));
            }
        }
    }

    /// Ends a call that was admitted, and counts what counts at its end.
    pub fn end(&mut self, now: Duration, used: &Usage) {
        let tokens = used.clone().with("requests", 0);
        for (quota, log) in &mut self.quotas {
            if quota.counted() == Counting::AtEnd {
                log.count(now, quota.cost(&tokens));
            }
            log.ended();
        }
    }

    /// Returns the limits.
    pub fn quotas(&self) -> impl ExactSizeIterator<Item = &EnforcedQuota> {
        self.quotas.iter().map(|(quota, _)| quota)
    }

    /// Returns what counts now towards each limit, in parts.
    pub(super) fn levels(&mut self, now: Duration) -> impl Iterator<Item = u64> {
        self.quotas.iter_mut().map(move |(_, log)| log.level(now))
    }

    /// Returns what is left now of the first limit on this metric alone, and how long until all is.
    pub(super) fn left(&mut self, now: Duration, metric: &str) -> Option<(u64, u64, Duration)> {
        let (quota, log) = self.quotas.iter_mut().find(|(quota, _)| quota.counts(metric))?;
        let capacity = quota.capacity();
        let level = log.level(now).div_ceil(super::enforced::PARTS);
        let all = log.wait(now, capacity.saturating_mul(super::enforced::PARTS));
        Some((capacity, capacity.saturating_sub(level), all.unwrap_or_default()))
    }
}

/// What counts of a call when it arrives.
fn at_start(quota: &EnforcedQuota, used: &Usage) -> Usage {
    match quota.counted() {
        Counting::AtStart => used.clone(),
        Counting::AtEnd => usage! { requests: 1, tokens: 0 },
        Counting::AsProduced => {
            let input = used.get("input_tokens").unwrap_or(0);
            usage! { requests: 1, input_tokens: input, output_tokens: 0 }
        }
    }
}

impl fmt::Display for LimitReached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.retry_after {
            Some(wait) => write!(f, "{}: again after {wait:?}", self.quota),
            None => write!(f, "{}", self.quota),
        }
    }
}

impl std::error::Error for LimitReached {}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn tokens(counting: Counting) -> EnforcedQuota {
        EnforcedQuota::sliding_window("tokens", 100, MINUTE).counting(counting)
    }

    fn call(input: u64, output: u64) -> Usage {
        usage! { requests: 1, input_tokens: input, output_tokens: output }
    }

    fn levels(admissions: &mut Admissions, second: u64) -> Vec<u64> {
        let parts = admissions.levels(Duration::from_secs(second));
        parts.map(|parts| parts / super::super::enforced::PARTS).collect()
    }

    #[test]
    fn all_limits_or_nothing_and_the_longest_wait_is_told() {
        let requests = EnforcedQuota::sliding_window("requests", 1, 2 * MINUTE);
        let mut admissions = Admissions::new([requests, tokens(Counting::AtStart)]);
        admissions.admit(Duration::ZERO, &call(40, 20)).unwrap();
        let refusal = admissions.admit(Duration::ZERO, &call(40, 20)).unwrap_err();
        assert_eq!(&*refusal.quota, "requests per 2 minutes");
        assert_eq!(refusal.retry_after, Some(2 * MINUTE));
        assert_eq!(levels(&mut admissions, 0), [1, 60]);
        let refusal = admissions.admit(Duration::ZERO, &call(200, 20)).unwrap_err();
        assert_eq!((&*refusal.quota, refusal.retry_after), ("tokens per minute", None));
    }

    #[test]
    fn tokens_count_at_the_start_at_the_end_or_as_they_are_produced() {
        let of = |counting| Admissions::new([tokens(counting)]);
        let levels_of = |mut admissions: Admissions| {
            let call = call(60, 30);
            admissions.admit(Duration::ZERO, &call).unwrap();
            let mut seen = levels(&mut admissions, 0);
            admissions.produce(Duration::from_secs(1), 30);
            seen.extend(levels(&mut admissions, 1));
            admissions.end(Duration::from_secs(2), &call);
            seen.extend(levels(&mut admissions, 2));
            seen.extend(levels(&mut admissions, 60));
            seen.extend(levels(&mut admissions, 61));
            seen
        };
        assert_eq!(levels_of(of(Counting::AtStart)), [90, 90, 90, 0, 0]);
        assert_eq!(levels_of(of(Counting::AtEnd)), [0, 0, 90, 90, 90]);
        assert_eq!(levels_of(of(Counting::AsProduced)), [60, 90, 90, 30, 0]);
    }

    #[test]
    fn what_counts_later_is_refused_once_nothing_is_left() {
        let mut admissions = Admissions::new([tokens(Counting::AtEnd)]);
        for _ in 0..3 {
            admissions.admit(Duration::ZERO, &call(60, 30)).unwrap();
        }
        admissions.end(Duration::from_secs(1), &call(60, 30));
        admissions.admit(Duration::from_secs(1), &call(60, 30)).unwrap();
        admissions.end(Duration::from_secs(2), &call(60, 30));
        let refusal = admissions.admit(Duration::from_secs(3), &call(60, 30)).unwrap_err();
        assert_eq!(refusal.retry_after, Some(Duration::from_secs(58)));
    }
}
