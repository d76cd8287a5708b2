//! What a provider enforces and how long it takes.

use std::time::Duration;

use super::{
    enforced::{Counting, EnforcedQuota, Enforcement},
    trace_call::TraceCall,
};

/// A provider: its limits, how long it takes to answer, and its other users.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::simulate::{EnforcedQuota, Provider};
///
/// let minute = Duration::from_secs(60);
/// let provider = Provider::new([
///     EnforcedQuota::sub_windows("requests", 350, minute, Duration::from_secs(10)),
///     EnforcedQuota::token_bucket("tokens", 450_000, minute),
/// ])
/// .latency(Duration::from_millis(400), Duration::from_millis(8))
/// .others(0.2);
/// assert_eq!(provider.quotas().len(), 2);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Provider {
    quotas: Vec<EnforcedQuota>,
    first_token: Duration,
    per_token: Duration,
    spread: f64,
    way: Duration,
    jitter: Duration,
    others: f64,
    tells_retry_after: bool,
    tells_what_is_left: bool,
}

/// No part of a call takes longer: a day.
const LONGEST: Duration = Duration::from_secs(86_400);

impl Provider {
    /// A provider that begins to answer after 300 ms and writes 100 tokens a second, both up to a
    /// fifth faster or slower; 20 to 70 ms away; with no other users.
    pub fn new(quotas: impl IntoIterator<Item = EnforcedQuota>) -> Self {
        Self {
            quotas: quotas.into_iter().collect(),
            first_token: Duration::from_millis(300),
            per_token: Duration::from_millis(10),
            spread: 0.2,
            way: Duration::from_millis(20),
            jitter: Duration::from_millis(50),
            others: 0.0,
            tells_retry_after: true,
            tells_what_is_left: false,
        }
    }

    /// Sets how long it takes until the first token, and then for each token.
    #[must_use]
    pub fn latency(mut self, first_token: Duration, per_token: Duration) -> Self {
        (self.first_token, self.per_token) = (first_token.min(LONGEST), per_token.min(LONGEST));
        self
    }

    /// Sets by which part a call may be faster or slower than that, from 0 to 1 (default: 0.2).
    /// What is no number changes nothing.
    #[must_use]
    pub fn spread(mut self, part: f64) -> Self {
        self.spread = if part.is_nan() { self.spread } else { part.clamp(0.0, 1.0) };
        self
    }

    /// Sets how long the way there takes, and by how much more at most (default: 20 and 50 ms). The
    /// way back takes `way`.
    #[must_use]
    pub fn network(mut self, way: Duration, jitter: Duration) -> Self {
        (self.way, self.jitter) = (way.min(LONGEST), jitter.min(LONGEST));
        self
    }

    /// Lets others use this part of the limit that binds, with calls like those of the trace
    /// (default: 0). They are refused like all. What is no number changes nothing.
    #[must_use]
    pub fn others(mut self, part: f64) -> Self {
        self.others = if part.is_nan() { self.others } else { part.clamp(0.0, 1.0) };
        self
    }

    /// Sets whether a refusal has a `Retry-After` (default: true). It is in whole seconds, rounded
    /// up.
    #[must_use]
    pub fn retry_after(mut self, is_told: bool) -> Self {
        self.tells_retry_after = is_told;
        self
    }

    /// Lets responses tell what is left of the first limits on requests and tokens, in OpenAI's
    /// headers.
    #[must_use]
    pub fn tell_what_is_left(mut self) -> Self {
        self.tells_what_is_left = true;
        self
    }

    /// Enforces each limit in this way: see [`EnforcedQuota::enforced`].
    #[must_use]
    pub fn enforced(self, enforcement: Enforcement) -> Self {
        let quotas = self.quotas.into_iter().map(|quota| quota.enforced(enforcement)).collect();
        Self { quotas, ..self }
    }

    /// Counts tokens at this time, towards each limit on them.
    #[must_use]
    pub fn counting(self, counting: Counting) -> Self {
        let quotas = self.quotas.into_iter().map(|quota| quota.counting(counting)).collect();
        Self { quotas, ..self }
    }

    /// Returns its limits.
    pub fn quotas(&self) -> &[EnforcedQuota] {
        &self.quotas
    }

    /// With this multiple of each limit.
    pub(super) fn times(mut self, multiple: u64) -> Self {
        self.quotas = self.quotas.into_iter().map(|quota| quota.times(multiple)).collect();
        self
    }

    pub(super) fn jitter(&self) -> Duration {
        self.jitter
    }

    pub(super) fn way_back(&self) -> Duration {
        self.way
    }

    pub(super) fn others_part(&self) -> f64 {
        self.others
    }

    pub(super) fn tells_retry_after(&self) -> bool {
        self.tells_retry_after
    }

    pub(super) fn tells_left(&self) -> bool {
        self.tells_what_is_left
    }

    /// How long the way of a call takes: with `random` of 0 the shortest, of 1 the longest.
    pub(super) fn way_there(&self, random: f64) -> Duration {
        self.way + self.jitter.mul_f64(random)
    }

    /// Returns how long a call takes until its first token, and for all that follow. With `random`
    /// of 0 it is as fast as any, with 1 as slow.
    pub fn answer_time(&self, call: &TraceCall, random: f64) -> (Duration, Duration) {
        let factor = 1.0 - self.spread + 2.0 * self.spread * random;
        let tokens = u32::try_from(call.output).unwrap_or(u32::MAX);
        let writing = self.per_token.saturating_mul(tokens).min(LONGEST);
        (self.first_token.mul_f64(factor), writing.mul_f64(factor))
    }

    /// How long a call takes that is admitted at once, from when it is sent until its answer is
    /// back.
    pub(super) fn takes(&self, call: &TraceCall, random: &mut fastrand::Rng) -> Duration {
        let there = self.way_there(random.f64());
        let (first, writing) = self.answer_time(call, random.f64());
        there + first + writing + self.way_back()
    }
}
