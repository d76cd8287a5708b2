//! Learns from the calls of a bucket what the next ones will use.
//!
//! It keeps, per bucket, the outputs of the latest calls and the mean error of input estimates. It
//! knows nothing of providers or responses, and its memory is bounded.

use std::{
    collections::HashMap,
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// The share of calls whose output stays within what is learned.
const SHARE: f64 = 0.9;
/// How many of the latest outputs of a bucket are kept.
const OUTPUTS: usize = 128;
/// No answer is longer; a response that tells of one is not believed.
const LONGEST: u64 = 100_000_000;
/// The weight of the latest call in the mean, once there are enough calls.
const LATEST: f64 = 0.05;
/// No estimate of input is believed to be off by more than this factor.
const FACTOR: f64 = 3.0;
/// The estimate weighs as much as this many calls. One odd call must not make the next ones ask for
/// what no limit admits.
const TRUSTED: u64 = 10;
/// How many buckets are learned of.
const BUCKETS: usize = 1_000;

/// The estimate of a call before anything learned came in, kept for the end of the call.
#[derive(Clone, Debug)]
pub(crate) struct CallEstimate {
    pub(crate) bucket: String,
    pub(crate) input: u64,
    /// At least 1.
    pub(crate) choices: u64,
    /// How much an output token weighs in `tokens` at the end.
    pub(crate) output_weight: u64,
    /// The call teaches something.
    pub(crate) teaches: bool,
}

/// What one call turned out to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Observed {
    /// Input tokens, as they were estimated before anything was learned.
    pub(crate) estimated: u64,
    /// Input tokens, as they were counted.
    pub(crate) input: Option<u64>,
    /// Output tokens, of one answer.
    pub(crate) output: Option<u64>,
    /// The answer was cut off: without its bound it would have been longer.
    pub(crate) is_cut: bool,
}

/// What is known of the calls to come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Expected {
    /// Output tokens that most answers stay within; `None` before that is known.
    pub(crate) output: Option<u64>,
    /// Input tokens for each one that was estimated.
    pub(crate) ratio: f64,
}

impl Expected {
    /// Before anything is known.
    pub(crate) const UNKNOWN: Self = Self { output: None, ratio: 1.0 };

    /// The input, by its estimate.
    pub(crate) fn input(&self, estimated: u64) -> u64 {
        // The cast saturates.
        (estimated as f64 * self.ratio).ceil() as u64
    }
}

/// What has been learned, of each bucket.
#[derive(Default)]
pub(crate) struct Learned {
    buckets: Mutex<HashMap<String, BucketStats>>,
}

impl Learned {
    pub(crate) fn expected(&self, bucket: &str) -> Expected {
        let buckets = self.lock();
        buckets.get(bucket).map_or(Expected::UNKNOWN, BucketStats::expected)
    }

    pub(crate) fn observe(&self, bucket: &str, observed: Observed) {
        let mut buckets = self.lock();
        if let Some(stats) = buckets.get_mut(bucket) {
            stats.observe(observed);
        } else if buckets.len() < BUCKETS {
            buckets.entry(bucket.to_owned()).or_default().observe(observed);
        }
    }

    /// Locks the statistics. After a panic they are still numbers.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, BucketStats>> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned").field("buckets", &self.lock().len()).finish()
    }
}

/// Statistics of the calls of one bucket.
#[derive(Default)]
struct BucketStats {
    /// A ring: the outputs of the latest calls, and whether they were cut off there.
    outputs: Vec<(u64, bool)>,
    next: usize,
    /// Follows from the outputs.
    quantile: Option<u64>,
    /// Calls whose input is known, and those that weigh for the estimate.
    inputs: u64,
    /// Means over calls, in which the latest weigh most.
    estimated: f64,
    input: f64,
}

impl BucketStats {
    fn expected(&self) -> Expected {
        Expected {
            output: self.quantile,
            ratio: if self.inputs == 0 { 1.0 } else { self.input / self.estimated },
        }
    }

    fn observe(&mut self, observed: Observed) {
        if let Some(output) = observed.output.filter(|output| *output <= LONGEST) {
            self.observe_output(output, observed.is_cut);
        }
        match observed.input {
            Some(input) if observed.estimated > 0 => self.observe_input(input, observed.estimated),
            _ => {}
        }
    }

    fn observe_output(&mut self, output: u64, is_cut: bool) {
        match self.outputs.get_mut(self.next) {
            Some(oldest) => *oldest = (output, is_cut),
            None => self.outputs.push((output, is_cut)),
        }
        self.next = (self.next + 1) % OUTPUTS;
        self.quantile = quantile(self.outputs.clone(), SHARE);
    }

    /// The mean of both, and not of their ratios, so that large calls count for what they take.
    fn observe_input(&mut self, input: u64, estimated: u64) {
        let estimated = estimated as f64;
        if self.inputs == 0 {
            (self.inputs, self.estimated, self.input) = (TRUSTED, estimated, estimated);
        }
        self.inputs = self.inputs.saturating_add(1);
        let weight = (1.0 / self.inputs as f64).max(LATEST);
        let input = (input as f64).clamp(estimated / FACTOR, estimated * FACTOR);
        self.estimated += weight * (estimated - self.estimated);
        self.input += weight * (input - self.input);
    }
}

/// Returns the value that the next one stays within, in this share of cases; `None` if there are
/// too few values.
///
/// This is the estimator of Kaplan and Meier. A value that was cut off says only that the whole is
/// larger, so its share is spread over the larger values.
fn quantile(mut values: Vec<(u64, bool)>, share: f64) -> Option<u64> {
    // Of equal values those that were cut off are the larger ones.
    values.sort_unstable();
    let mut beyond = 1.0;
    for (index, (value, is_cut)) in values.iter().enumerate() {
        if *is_cut {
            continue;
        }
        // One more is to come, and may be larger than all.
        let left = values.len() - index + 1;
        beyond *= 1.0 - 1.0 / left as f64;
        if beyond <= 1.0 - share + 1e-9 {
            return Some(*value);
        }
    }
    None
}

#[cfg(test)]
pub(super) mod tests;
