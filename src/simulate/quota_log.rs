//! What was counted towards one limit: a plain log, exact to the nanosecond and the millionth. It
//! has no clock, and refuses nothing by itself.

use std::{collections::VecDeque, time::Duration};

use super::enforced::{EnforcedQuota, Enforcement, PARTS};

/// The log of one [`EnforcedQuota`]. The times that it is given must not go back.
#[derive(Debug)]
pub(super) struct QuotaLog {
    /// In parts.
    capacity: u64,
    window: Duration,
    counted: Counted,
}

#[derive(Debug)]
enum Counted {
    /// What was counted in the window that ends now, and its sum.
    Sliding { log: VecDeque<(Duration, u64)>, sum: u128 },
    /// What is missing in a bucket at an instant, in parts times nanoseconds of the window: a
    /// nanosecond brings back `refill` of them.
    Bucket { missing: u128, at: Duration, refill: u64 },
    /// The number of the window and what was counted in it.
    Fixed { offset: Duration, number: i128, sum: u128 },
    /// Calls in flight.
    InFlight { calls: u64 },
}

impl QuotaLog {
    pub(super) fn new(quota: &EnforcedQuota) -> Self {
        let counted = match quota.enforcement() {
            Enforcement::SlidingWindow | Enforcement::SubWindows(_) => {
                Counted::Sliding { log: VecDeque::new(), sum: 0 }
            }
            Enforcement::TokenBucket => Counted::Bucket {
                missing: 0,
                at: Duration::ZERO,
                refill: quota.limit().saturating_mul(PARTS),
            },
            Enforcement::FixedWindow(offset) => Counted::Fixed { offset, number: 0, sum: 0 },
            Enforcement::Concurrency => Counted::InFlight { calls: 0 },
        };
        let capacity = quota.capacity().saturating_mul(PARTS);
        Self { capacity, window: quota.length(), counted }
    }

    /// Forgets what counts no more.
    fn pass(&mut self, now: Duration) {
        let window = self.window;
        match &mut self.counted {
            Counted::Sliding { log, sum } => {
                // The window that ends now is (now - window, now].
                while let Some((at, amount)) = log.front().copied()
                    && now.saturating_sub(at) >= window
                {
                    log.pop_front();
                    *sum -= u128::from(amount);
                }
            }
            Counted::Bucket { missing, at, refill } => {
                let passed = now.saturating_sub(*at).as_nanos();
                let back = passed.saturating_mul(u128::from(*refill));
                *missing = missing.saturating_sub(back);
                *at = now;
            }
            Counted::Fixed { offset, number, sum } => {
                let present = window_at(now, *offset, window);
                if present != *number {
                    (*number, *sum) = (present, 0);
                }
            }
            Counted::InFlight { .. } => {}
        }
    }

    /// Counts an amount, whether it fits or not.
    pub(super) fn count(&mut self, now: Duration, amount: u64) {
        self.pass(now);
        let window = self.window.as_nanos();
        match &mut self.counted {
            Counted::Sliding { log, sum } if amount > 0 => {
                log.push_back((now, amount));
                *sum += u128::from(amount);
            }
            Counted::Sliding { .. } => {}
            Counted::Bucket { missing, .. } => {
                *missing = missing.saturating_add(u128::from(amount) * window);
            }
            Counted::Fixed { sum, .. } => *sum += u128::from(amount),
            Counted::InFlight { calls } => *calls += 1,
        }
    }

    /// A call ended.
    pub(super) fn ended(&mut self) {
        if let Counted::InFlight { calls } = &mut self.counted {
            *calls = calls.saturating_sub(1);
        }
    }

    /// What counts now, in parts.
    pub(super) fn level(&mut self, now: Duration) -> u64 {
        self.pass(now);
        let level = match &self.counted {
            Counted::Sliding { sum, .. } | Counted::Fixed { sum, .. } => *sum,
            Counted::Bucket { missing, .. } => missing.div_ceil(self.window.as_nanos().max(1)),
            Counted::InFlight { calls } => u128::from(*calls) * u128::from(PARTS),
        };
        u64::try_from(level).unwrap_or(u64::MAX)
    }

    /// Whether an amount fits now.
    pub(super) fn fits(&mut self, now: Duration, amount: u64) -> bool {
        self.pass(now);
        let window = self.window.as_nanos();
        match &self.counted {
            Counted::Sliding { sum, .. } | Counted::Fixed { sum, .. } => {
                *sum + u128::from(amount) <= u128::from(self.capacity)
            }
            Counted::Bucket { missing, .. } => {
                let wanted = missing.saturating_add(u128::from(amount) * window);
                wanted <= u128::from(self.capacity) * window
            }
            Counted::InFlight { calls } => *calls < self.capacity / PARTS,
        }
    }

    /// How long until an amount fits if nothing else is counted; nothing if that depends on calls
    /// in flight, or is never.
    pub(super) fn wait(&mut self, now: Duration, amount: u64) -> Option<Duration> {
        if self.fits(now, amount) {
            return Some(Duration::ZERO);
        }
        let room = self.capacity.checked_sub(amount)?;
        match &self.counted {
            Counted::Sliding { log, sum } => {
                let mut sum = *sum;
                let leaves = log.iter().find(|(_, amount)| {
                    sum -= u128::from(*amount);
                    sum <= u128::from(room)
                });
                leaves.map(|(at, _)| at.saturating_add(self.window).saturating_sub(now))
            }
            Counted::Bucket { missing, refill, .. } => {
                let window = self.window.as_nanos();
                let excess = missing.saturating_sub(u128::from(room) * window);
                let wait = excess.div_ceil(u128::from((*refill).max(1)));
                Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(u64::MAX)))
            }
            Counted::Fixed { offset, number, .. } => {
                let next =
                    (number + 1) * self.window.as_nanos() as i128 + offset.as_nanos() as i128;
                let wait = next - now.as_nanos() as i128;
                Some(Duration::from_nanos(u64::try_from(wait).unwrap_or(0)))
            }
            Counted::InFlight { .. } => None,
        }
    }
}

/// The number of the fixed window at an instant. The one at `offset` is 0.
pub(super) fn window_at(at: Duration, offset: Duration, window: Duration) -> i128 {
    let passed = at.as_nanos() as i128 - offset.as_nanos() as i128;
    passed.div_euclid(window.as_nanos().max(1) as i128)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NANO: Duration = Duration::from_nanos(1);

    /// All that was counted, looked through again for each question.
    #[derive(Default)]
    struct PlainLog(Vec<(Duration, u64)>);

    impl PlainLog {
        /// Whether one more amount keeps what the kind of limit promises.
        fn admits(&self, quota: &EnforcedQuota, now: Duration, amount: u64) -> bool {
            let all = || self.0.iter().copied().chain([(now, amount)]);
            let capacity = quota.capacity();
            let window = quota.length();
            match quota.enforcement() {
                Enforcement::FixedWindow(offset) => {
                    let number =
                        |at: Duration| (at + window - offset).as_nanos() / window.as_nanos();
                    let same = all().filter(|(at, _)| number(*at) == number(now));
                    same.map(|(_, amount)| amount).sum::<u64>() <= capacity
                }
                Enforcement::TokenBucket => {
                    // From whichever instant on, no more than the burst and what refilled since.
                    self.0.iter().map(|(at, _)| *at).chain([now]).all(|from| {
                        let since = all().filter(|(at, _)| *at >= from);
                        let sum: u64 = since.map(|(_, amount)| amount).sum();
                        let refilled = (now - from).as_nanos() * u128::from(quota.limit());
                        u128::from(sum) * window.as_nanos()
                            <= u128::from(capacity) * window.as_nanos() + refilled
                    })
                }
                _ => {
                    let inside = all().filter(|(at, _)| *at + window > now);
                    inside.map(|(_, amount)| amount).sum::<u64>() <= capacity
                }
            }
        }
    }

    fn kinds() -> [EnforcedQuota; 5] {
        [
            EnforcedQuota::sliding_window("tokens", 700, SECOND),
            EnforcedQuota::token_bucket("tokens", 700, SECOND),
            EnforcedQuota::token_bucket("tokens", 700, SECOND).burst(200),
            EnforcedQuota::fixed_window("tokens", 700, SECOND, SECOND / 3),
            EnforcedQuota::sub_windows("tokens", 7_000, SECOND, SECOND / 10),
        ]
    }

    #[test]
    fn each_kind_admits_what_a_plain_log_does_and_waits_no_nanosecond_too_long() {
        for quota in kinds() {
            let (mut log, mut plain) = (QuotaLog::new(&quota), PlainLog::default());
            let mut random = fastrand::Rng::with_seed(7);
            let mut now = Duration::ZERO;
            for _ in 0..400 {
                let cost = random.u64(1..120);
                let fits = log.fits(now, cost * PARTS);
                assert_eq!(fits, plain.admits(&quota, now, cost), "{quota:?} at {now:?}");
                if !fits {
                    let wait = log.wait(now, cost * PARTS).expect("it fits some time");
                    // A log of nanoseconds that are past would be asked twice.
                    assert!(!plain.admits(&quota, now + wait - NANO, cost), "{quota:?}");
                    now += wait;
                    assert!(log.fits(now, cost * PARTS), "{quota:?} at {now:?}");
                }
                log.count(now, cost * PARTS);
                plain.0.push((now, cost));
                now += Duration::from_micros(random.u64(0..200_000));
            }
        }
    }

    #[test]
    fn what_is_more_than_the_capacity_never_fits() {
        for quota in kinds() {
            let mut log = QuotaLog::new(&quota);
            assert_eq!(log.wait(SECOND, 701 * PARTS), None, "{quota:?}");
            assert_eq!(log.wait(SECOND, quota.capacity() * PARTS), Some(Duration::ZERO));
        }
    }

    #[test]
    fn calls_in_flight_are_free_again_when_they_end() {
        let mut log = QuotaLog::new(&EnforcedQuota::concurrency(2));
        for _ in 0..2 {
            assert!(log.fits(SECOND, 0));
            log.count(SECOND, 0);
        }
        assert!(!log.fits(SECOND, 0) && log.wait(SECOND, 0).is_none());
        log.ended();
        assert!(log.fits(SECOND, 0));
        assert_eq!(log.level(SECOND), PARTS);
    }

    #[test]
    fn no_limit_window_amount_or_time_is_too_large() {
        let (most, ever) = (u64::MAX, Duration::MAX);
        for quota in [
            EnforcedQuota::sliding_window("tokens", most, ever),
            EnforcedQuota::token_bucket("tokens", most, ever),
            EnforcedQuota::fixed_window("tokens", most, ever, ever),
            EnforcedQuota::sub_windows("tokens", most, ever, ever),
            EnforcedQuota::sub_windows("tokens", most, Duration::ZERO, Duration::ZERO),
            EnforcedQuota::token_bucket("tokens", 0, Duration::ZERO),
            EnforcedQuota::concurrency(most),
        ] {
            let mut log = QuotaLog::new(&quota);
            for now in [Duration::ZERO, NANO, SECOND, ever, ever] {
                for amount in [0, 1, most, most] {
                    log.count(now, amount);
                    log.fits(now, amount);
                    log.wait(now, amount);
                    log.level(now);
                }
            }
        }
    }

    #[test]
    fn what_is_counted_beyond_the_capacity_has_to_come_back_first() {
        let mut log = QuotaLog::new(&EnforcedQuota::token_bucket("tokens", 100, SECOND));
        log.count(Duration::ZERO, 250 * PARTS);
        assert_eq!(log.level(Duration::ZERO), 250 * PARTS);
        assert_eq!(log.wait(Duration::ZERO, 0), Some(SECOND * 3 / 2));
    }
}
