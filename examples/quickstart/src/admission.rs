//! What the provider admits. Two limits, enforced to the nanosecond and the token, in the plainest
//! way there is: a log of the instants of every admission, and a bucket of tokens. Knows nothing of
//! HTTP and has no clock; shares nothing with the throttle, whose judge it is.

use std::{collections::VecDeque, time::Duration};

/// The limits of a provider.
#[derive(Clone, Copy, Debug)]
pub struct ProviderLimits {
    /// What both limits are counted over.
    pub window: Duration,
    /// At most so many requests in any window, whenever it begins.
    pub requests: usize,
    /// So many tokens flow back into the bucket, evenly, in each window.
    pub tokens: u64,
    /// So many tokens the bucket holds when it is full, as it is in the beginning.
    pub burst: u64,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It would be admitted after this time, if nothing else were until then.
    Later(Duration),
    /// It is more than the bucket ever holds.
    Never,
}

/// What a provider has admitted and refused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Requests admitted.
    pub requests: u64,
    /// Tokens admitted.
    pub tokens: u64,
    /// Requests refused.
    pub rejected: u64,
}

/// The state of a provider's limits.
///
/// A request is charged what it really costs when it is admitted: this provider writes the answer
/// itself, so it knows how long that will be. What is refused costs nothing.
#[derive(Debug)]
pub struct Admission {
    limits: ProviderLimits,
    /// The instants of the admissions in the window that ends now.
    log: VecDeque<Duration>,
    /// What is missing in the bucket, in tokens x nanoseconds of the window. A nanosecond then
    /// brings back `limits.tokens` of them: all whole numbers.
    missing: u128,
    /// The instant for which `missing` holds.
    at: Duration,
    counts: Counts,
}

impl Admission {
    /// Nothing admitted yet, the bucket full.
    pub fn new(limits: ProviderLimits) -> Self {
        Self {
            limits,
            log: VecDeque::new(),
            missing: 0,
            at: Duration::ZERO,
            counts: Counts::default(),
        }
    }

    /// Admits a request of `tokens` at `now`, or says when to come back. `now` must not go back.
    ///
    /// # Errors
    /// When one of the limits would be exceeded. Nothing is charged then.
    pub fn admit(&mut self, now: Duration, tokens: u64) -> Result<(), Refusal> {
        let window = self.limits.window;
        // The window that ends now is (now - window, now].
        while self.log.front().is_some_and(|&then| then + window <= now) {
            self.log.pop_front();
        }
        let back = (now - self.at).as_nanos() * u128::from(self.limits.tokens);
        self.missing = self.missing.saturating_sub(back);
        self.at = now;

        let unit = window.as_nanos();
        let missing = self.missing + u128::from(tokens) * unit;
        let excess = missing.saturating_sub(u128::from(self.limits.burst) * unit);
        let full = self.log.len() >= self.limits.requests;
        if excess == 0 && !full {
            self.missing = missing;
            self.log.push_back(now);
            self.counts.requests += 1;
            self.counts.tokens += tokens;
            return Ok(());
        }
        self.counts.rejected += 1;
        if tokens > self.limits.burst || self.limits.requests == 0 {
            return Err(Refusal::Never);
        }
        let room = match self.log.front() {
            Some(&then) if full => then + window - now,
            _ => Duration::ZERO,
        };
        let refill = excess.div_ceil(u128::from(self.limits.tokens));
        let refill = Duration::from_nanos(u64::try_from(refill).unwrap_or(u64::MAX));
        Err(Refusal::Later(room.max(refill)))
    }

    /// What was admitted and refused so far.
    pub fn counts(&self) -> Counts {
        self.counts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NANO: Duration = Duration::from_nanos(1);

    fn admission(requests: usize, tokens: u64, burst: u64) -> Admission {
        Admission::new(ProviderLimits { window: SECOND, requests, tokens, burst })
    }

    #[test]
    fn a_window_admits_its_requests_and_not_one_more() {
        let mut provider = admission(3, 1_000, 1_000);
        for millis in [100, 200, 300] {
            assert_eq!(provider.admit(Duration::from_millis(millis), 0), Ok(()));
        }
        // The first leaves the window one second after it came: a nanosecond before that is too
        // early.
        let leaves = Duration::from_millis(1_100);
        assert_eq!(provider.admit(leaves - NANO, 0), Err(Refusal::Later(NANO)));
        assert_eq!(provider.admit(leaves, 0), Ok(()));
        assert_eq!(provider.admit(leaves, 0), Err(Refusal::Later(Duration::from_millis(100))));
        assert_eq!(provider.counts(), Counts { requests: 4, tokens: 0, rejected: 2 });
    }

    #[test]
    fn a_bucket_refills_evenly_and_to_the_token() {
        let mut provider = admission(1_000, 500, 100);
        assert_eq!(provider.admit(SECOND, 100), Ok(()));
        // 500 tokens a second: one in 2 ms.
        let one = Duration::from_millis(2);
        assert_eq!(provider.admit(SECOND, 1), Err(Refusal::Later(one)));
        assert_eq!(provider.admit(SECOND + one - NANO, 1), Err(Refusal::Later(NANO)));
        assert_eq!(provider.admit(SECOND + one, 1), Ok(()));
        // However long it is left alone, it holds no more than its burst.
        assert_eq!(provider.admit(SECOND * 50, 100), Ok(()));
        assert_eq!(provider.admit(SECOND * 50, 1), Err(Refusal::Later(one)));
    }

    #[test]
    fn the_longer_of_both_waits_is_answered_and_nothing_is_charged() {
        let mut provider = admission(1, 100, 100);
        assert_eq!(provider.admit(SECOND, 60), Ok(()));
        assert_eq!(provider.admit(SECOND, 50), Err(Refusal::Later(SECOND)));
        assert_eq!(provider.admit(SECOND, 200), Err(Refusal::Never));
        assert_eq!(provider.admit(SECOND * 2, 100), Ok(()));
    }

    #[test]
    fn a_saturated_provider_never_exceeds_its_limits_nor_gives_less() {
        let (requests, tokens, burst) = (20, 700, 300);
        let mut provider = admission(requests, tokens, burst);
        let mut random = fastrand::Rng::with_seed(7);
        let mut now = Duration::ZERO;
        let mut admitted: Vec<(Duration, u64)> = Vec::new();
        while now < SECOND * 60 {
            let cost = random.u64(1..80);
            match provider.admit(now, cost) {
                Ok(()) => admitted.push((now, cost)),
                // Coming back when told to is enough, and coming back a nanosecond earlier is not.
                Err(Refusal::Later(wait)) => {
                    if wait > NANO {
                        assert!(provider.admit(now + wait - NANO, cost).is_err());
                    }
                    now += wait;
                    assert_eq!(provider.admit(now, cost), Ok(()));
                    admitted.push((now, cost));
                }
                Err(Refusal::Never) => panic!("{cost} tokens fit into {burst}"),
            }
            now += Duration::from_micros(random.u64(0..20_000));
        }
        for (i, &(start, _)) in admitted.iter().enumerate() {
            let window = admitted[i..].iter().take_while(|(at, _)| *at < start + SECOND);
            assert!(window.count() <= requests);
            let mut sum = 0;
            for &(at, cost) in admitted[i..].iter().take(100) {
                sum += cost;
                let refilled = (at - start).as_nanos() * u128::from(tokens) / SECOND.as_nanos();
                assert!(u128::from(sum) <= u128::from(burst) + refilled + 1);
            }
        }
        assert!(admitted.len() > 60 * 15);
    }
}
