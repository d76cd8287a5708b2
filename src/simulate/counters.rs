//! What programs count by themselves that have no such crate, with its faults.

use std::{cell::RefCell, time::Duration};

use tokio::{
    sync::Mutex,
    time::{Instant, sleep},
};

use crate::{engine::Window, quota::Meter, usage::Usage};

/// Counts of a program's own, one for each limit over a window. Calls in flight are not counted.
/// Callers wait in turn.
pub(super) struct Counters {
    start: Instant,
    kind: CounterKind,
    counts: RefCell<Vec<Count>>,
    /// Whose turn it is to wait for the counts.
    turn: Mutex<()>,
}

/// How often a waiting program looks whether something was put back.
const LOOKS_EVERY: Duration = Duration::from_millis(250);

/// How it is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CounterKind {
    FixedWindow,
    NaiveBucket,
}

struct Count {
    meter: Meter,
    window: Duration,
    capacity: f64,
    /// What is left, at an instant.
    left: f64,
    at: Duration,
}

/// What a call has taken.
#[derive(Debug)]
pub(super) struct CountedCall {
    at: Duration,
    usage: Usage,
}

impl Counters {
    pub(super) fn new(kind: CounterKind, meters: &[Meter], start: Instant) -> Self {
        let counts = meters.iter().filter_map(|meter| {
            let capacity = match (&meter.rule.window, kind) {
                (Window::TokenBucket(bucket), CounterKind::NaiveBucket) => bucket.burst,
                _ => meter.rule.limit,
            };
            let (capacity, at) = (capacity as f64, Duration::ZERO);
            let window = meter.window?;
            Some(Count { meter: meter.clone(), window, capacity, left: capacity, at })
        });
        Self { start, kind, counts: RefCell::new(counts.collect()), turn: Mutex::new(()) }
    }

    /// Waits until all counts have as much left, and takes it; nothing if they never have.
    pub(super) async fn take(&self, usage: Usage) -> Option<CountedCall> {
        let _turn = self.turn.lock().await;
        loop {
            let now = self.start.elapsed();
            let wait = self.try_take(now, &usage)?;
            if wait.is_zero() {
                return Some(CountedCall { at: now, usage });
            }
            sleep(wait.min(LOOKS_EVERY)).await;
        }
    }

    /// Takes from all counts or none. Returns how long it has to wait.
    fn try_take(&self, now: Duration, usage: &Usage) -> Option<Duration> {
        let mut counts = self.counts.borrow_mut();
        let mut longest = Duration::ZERO;
        for count in counts.iter_mut() {
            count.pass(self.kind, now);
            longest = longest.max(count.wait(self.kind, count.cost(usage))?);
        }
        if longest.is_zero() {
            for count in counts.iter_mut() {
                count.left -= count.cost(usage);
            }
        }
        Some(longest)
    }

    /// Corrects what was taken by what was used.
    pub(super) fn correct(&self, taken: &CountedCall, used: &Usage) {
        let now = self.start.elapsed();
        for count in self.counts.borrow_mut().iter_mut() {
            let back = count.cost(&taken.usage) - count.cost(used);
            count.pass(self.kind, now);
            count.put_back(self.kind, taken.at, back);
        }
    }
}

impl Count {
    fn cost(&self, usage: &Usage) -> f64 {
        self.meter.cost(usage) as f64
    }

    fn number(&self, at: Duration) -> u64 {
        (at.as_nanos() / self.window.as_nanos().max(1)) as u64
    }

    fn pass(&mut self, kind: CounterKind, now: Duration) {
        let passed = now.saturating_sub(self.at).as_secs_f64() / self.window.as_secs_f64();
        match kind {
            CounterKind::FixedWindow if self.number(now) != self.number(self.at) => {
                self.left = self.capacity;
            }
            CounterKind::FixedWindow => {}
            CounterKind::NaiveBucket => {
                let refilled = self.meter.rule.limit as f64 * passed;
                self.left = (self.left + refilled).min(self.capacity);
            }
        }
        self.at = now;
    }

    fn wait(&self, kind: CounterKind, cost: f64) -> Option<Duration> {
        if cost > self.capacity {
            return None;
        }
        let short = cost - self.left;
        Some(match kind {
            _ if short <= 0.0 => Duration::ZERO,
            CounterKind::FixedWindow => {
                let windows = u32::try_from(self.number(self.at) + 1).unwrap_or(u32::MAX);
                self.window.saturating_mul(windows).saturating_sub(self.at)
            }
            CounterKind::NaiveBucket => {
                let part = short / self.meter.rule.limit as f64;
                // At least a nanosecond, however little is short.
                self.window.mul_f64(part) + Duration::from_nanos(1)
            }
        })
    }

    fn put_back(&mut self, kind: CounterKind, taken: Duration, amount: f64) {
        if kind == CounterKind::FixedWindow && self.number(taken) != self.number(self.at) {
            return;
        }
        self.left = (self.left + amount).min(self.capacity);
    }
}
