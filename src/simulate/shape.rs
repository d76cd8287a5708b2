//! Calls that are made up.

use std::time::Duration;

use super::{enforced::LONGEST, trace::Trace, trace_call::TraceCall};

/// The shape of a trace that is made up: by default an hour of a chat service.
///
/// Calls come at random instants (a Poisson process), 332 a minute on the average. Their rate is a
/// wave: it begins and ends 45 % below its mean and is 45 % above it in the middle. Two calls in
/// five have prompts of about 1,080 tokens and answers of about 390 (log-normal, sigma 0.1 and
/// 0.22), the others prompts of 640 and answers of 78 in the middle (sigma 1.1 and 0.5). Prompts
/// are 14,050 tokens at most, answers 1,000. That is near to a public trace of a chat service,
/// whose calls have 1,155 and 211 tokens on the average.
///
/// Settings that are no number change nothing. No more than ten million calls are made.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::simulate::TraceShape;
///
/// let shape = TraceShape::new().calls_per_minute(100.0).duration(Duration::from_secs(600));
/// assert!((900..1_100).contains(&shape.trace(1).calls().len()));
/// assert_eq!(shape.trace(1), shape.trace(1));
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TraceShape {
    calls_per_minute: f64,
    duration: Duration,
    swing: f64,
    scale: f64,
}

const LONGEST_INPUT: u64 = 14_050;
const LONGEST_OUTPUT: u64 = 1_000;
const MOST_CALLS: usize = 10_000_000;

impl Default for TraceShape {
    fn default() -> Self {
        Self {
            calls_per_minute: 332.0,
            duration: Duration::from_secs(3_600),
            swing: 0.45,
            scale: 1.0,
        }
    }
}

impl TraceShape {
    /// An hour of a chat service.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets how many calls come in a minute, on the average (default: 332).
    #[must_use]
    pub fn calls_per_minute(mut self, calls: f64) -> Self {
        if !calls.is_nan() {
            self.calls_per_minute = calls.clamp(0.001, 1e6);
        }
        self
    }

    /// Sets how long calls come (default: an hour).
    #[must_use]
    pub fn duration(mut self, duration: Duration) -> Self {
        self.duration = duration;
        self
    }

    /// Sets by which part the rate of calls rises above its mean and falls below it, from 0 to 1
    /// (default: 0.45).
    #[must_use]
    pub fn swing(mut self, part: f64) -> Self {
        if !part.is_nan() {
            self.swing = part.clamp(0.0, 1.0);
        }
        self
    }

    /// Makes prompts this many times as long (default: 1).
    #[must_use]
    pub fn input_scale(mut self, scale: f64) -> Self {
        if !scale.is_nan() {
            self.scale = scale.clamp(0.0, 1e3);
        }
        self
    }

    /// Makes the calls. The same seed makes the same ones.
    #[must_use]
    pub fn trace(&self, seed: u64) -> Trace {
        let mut random = fastrand::Rng::with_seed(seed);
        let whole = self.duration.min(LONGEST).as_secs_f64();
        // Candidates come at the highest rate and are thinned out.
        let highest = self.calls_per_minute / 60.0 * (1.0 + self.swing);
        let (mut at, mut calls) = (0.0, Vec::new());
        while calls.len() < MOST_CALLS {
            at -= (1.0 - random.f64()).ln() / highest;
            if at >= whole {
                break;
            }
            let phase = std::f64::consts::TAU * at / whole;
            let rate = (1.0 - self.swing * phase.cos()) / (1.0 + self.swing);
            if random.f64() < rate {
                calls.push(self.call(Duration::from_secs_f64(at), &mut random));
            }
        }
        Trace::new(calls)
    }

    fn call(&self, arrival: Duration, random: &mut fastrand::Rng) -> TraceCall {
        let is_long = random.u8(0..5) < 2;
        let mut log_normal = |middle: f64, sigma: f64| {
            // Box and Muller's way. The logarithm is of (0, 1], and finite.
            let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
            let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
            middle * (sigma * normal).exp()
        };
        let (input, output) = match is_long {
            true => (log_normal(1_080.0, 0.1), log_normal(390.0, 0.22)),
            false => (log_normal(640.0, 1.1), log_normal(78.0, 0.5)),
        };
        let input = (input * self.scale) as u64;
        let longest = (LONGEST_INPUT as f64 * self.scale) as u64;
        let output = (output as u64).clamp(1, LONGEST_OUTPUT);
        TraceCall::new(arrival, input.clamp(1, longest.max(1)), output)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_makes_the_calls_that_are_described() {
        let trace = TraceShape::new().trace(1);
        assert_ne!(trace, TraceShape::new().trace(2));
        let calls = trace.calls();
        let count = calls.len() as u64;
        assert!((19_000..21_000).contains(&count), "{count}");
        let mean = |of: fn(&TraceCall) -> u64| calls.iter().map(of).sum::<u64>() / count;
        assert!((1_000..1_300).contains(&mean(|call| call.input)));
        assert!((190..240).contains(&mean(|call| call.output)));
        assert!(calls.iter().all(|call| call.input <= 14_050 && call.output <= 1_000));
        let within = |from: u64, to: u64| {
            calls.iter().filter(|call| (from..to).contains(&(call.arrival.as_secs() / 60))).count()
        };
        assert!(2 * within(0, 5) < within(27, 32));
    }

    #[test]
    fn settings_that_are_no_number_change_nothing() {
        let shape = TraceShape::new().calls_per_minute(f64::NAN).swing(f64::NAN);
        assert_eq!(shape.input_scale(f64::NAN), TraceShape::new());
        let rare = TraceShape::new().calls_per_minute(-1.0).duration(Duration::MAX);
        let calls = rare.trace(1);
        assert!(calls.duration() <= LONGEST && calls.calls().len() > 1_000);
    }

    #[test]
    fn nothing_in_no_time() {
        assert!(TraceShape::new().duration(Duration::ZERO).trace(1).calls().is_empty());
    }
}
