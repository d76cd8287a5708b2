//! Learns from the calls of a bucket what the next ones will use.
//!
//! It keeps, per bucket, the outputs of the latest calls and the mean error of input estimates. It
//! knows nothing of providers or responses, and its memory is bounded.
//!
//! A call is expected to use the mean of calls like it, and a margin. Calls in flight share one
//! margin: the sum of many strays from the sum of their means by the root of their number only, so
//! the part of each shrinks as they grow in number. Calls in flight are counted by those that have
//! been overtaken: they began before one that has ended.
//!
//! The part of each does not shrink below a margin of its own. Short answers end first, and what
//! they leave is granted anew, so that the long ones are left without a share. Calls that were all
//! alike may still become longer at once, up to their bound: they are taken to stray by a part of
//! what the bound leaves them.
//!
//! When answers become longer, most calls that are estimated too low wait for their grant. So they
//! are estimated again before they are granted: see [`OpenCall::expected_anew`].

mod open_call;

use std::{
    collections::{BTreeSet, HashMap},
    fmt,
    sync::Arc,
};

pub(crate) use self::open_call::OpenCall;
use crate::sync::{Mutex, MutexGuard, lock};

/// How many of the latest outputs of a bucket are kept.
const CALLS: usize = 256;
/// Nothing is expected of fewer calls.
const NEEDED: usize = 9;
/// Short answers end first. So nothing is expected either of fewer calls than this times those that
/// they have overtaken.
const PER_OVERTAKEN: usize = 4;
/// The margin that calls in flight share, in standard deviations of their sum.
const SHARED: f64 = 2.0;
/// The margin that each call has for itself at least, in standard deviations of its own.
const OWN: f64 = 1.45;
/// The least deviation of a call from the mean, as a part of what is left up to its bound: nothing
/// tells of the first answers that are longer than all before.
const UP_TO_BOUND: f64 = 0.2;
/// Calls whose inputs differ by more than this, as a logarithm, are not much alike.
const NEAR: f64 = 0.15;
/// Calls that differ in tools, format or whether they have a bound are as far apart as this many
/// times that.
const APART: f64 = 4.0;
/// The weight of a call that is not alike at all.
const UNLIKE: f64 = 0.01;
/// Evidence that answers have become longer or shorter: what one call adds at most, what it takes
/// off if it is as expected, and how much there has to be for all that was learned to be forgotten.
const EVIDENCE: f64 = 5.0;
const AS_EXPECTED: f64 = 1.0;
const ENOUGH_EVIDENCE: f64 = 8.0;
/// What a refusal by the provider adds.
const REFUSAL: f64 = 5.0;
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

/// What a request tells of how long its answer will be.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct CallShape {
    /// Input tokens, as they are estimated before anything is learned.
    pub(crate) input: u64,
    /// The most tokens of one answer, if it says so.
    pub(crate) bound: Option<u64>,
    /// It offers tools.
    pub(crate) has_tools: bool,
    /// It asks for a format.
    pub(crate) has_format: bool,
}

impl CallShape {
    /// From 1, for a call of the same shape, down to nearly nothing.
    fn likeness(&self, other: &Self) -> f64 {
        let differs = self.has_tools != other.has_tools
            || self.has_format != other.has_format
            || self.bound.is_some() != other.bound.is_some();
        let apart = if differs { APART } else { 0.0 };
        let log = |shape: &Self| (shape.input as f64 + 1.0).ln();
        let distance = (log(self) - log(other)) / NEAR;
        UNLIKE + (1.0 + distance * distance + apart * apart).powi(-2)
    }
}

/// What one call turned out to use.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Observed {
    pub(crate) shape: CallShape,
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
    /// Output tokens to reserve for an answer; `None` before that is known.
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
    /// Begins a call, and returns what is expected of it.
    pub(crate) fn begin(self: &Arc<Self>, bucket: &str, shape: CallShape) -> (Expected, OpenCall) {
        let (expected, number, jumps) = self
            .with(bucket, |stats| (stats.expected(&shape), stats.begin(), stats.jumps))
            .unwrap_or((Expected::UNKNOWN, 0, 0));
        (expected, OpenCall::new(self.clone(), bucket.into(), number, jumps))
    }

    /// Does something with the statistics of a bucket, if there is room for them.
    fn with<T>(&self, bucket: &str, act: impl FnOnce(&mut BucketStats) -> T) -> Option<T> {
        let mut buckets = self.lock();
        if let Some(stats) = buckets.get_mut(bucket) {
            return Some(act(stats));
        }
        (buckets.len() < BUCKETS).then(|| act(buckets.entry(bucket.to_owned()).or_default()))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, BucketStats>> {
        lock(&self.buckets)
    }
}

impl fmt::Debug for Learned {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Learned").field("buckets", &self.lock().len()).finish()
    }
}

/// The answer to one call.
#[derive(Clone, Copy, Debug)]
struct Answered {
    shape: CallShape,
    output: u64,
    is_cut: bool,
    /// How long it would have been; `None` if it was cut off and no whole answer was longer.
    whole: Option<f64>,
}

/// The mean of calls that are alike, their variance, and how many calls that is worth.
#[derive(Clone, Copy, Debug)]
struct Likely {
    mean: f64,
    variance: f64,
    calls: f64,
}

impl Likely {
    /// What a call reserves beyond the mean, beside others in flight.
    fn margin(&self, bound: Option<u64>, in_flight: usize) -> f64 {
        let Self { mean, variance, calls } = *self;
        // Long answers are in flight for longer, so that the mean of those in flight is larger.
        let longer = if mean > 0.0 { variance / mean } else { 0.0 };
        let up_to_bound = bound.map_or(0.0, |bound| (bound as f64 - mean).max(0.0));
        let variance = variance.max((UP_TO_BOUND * up_to_bound).powi(2));
        // The mean is uncertain by its part of the variance.
        let of_sum = (variance * (1.0 / in_flight.max(1) as f64 + 1.0 / calls)).sqrt();
        let of_one = (variance * (1.0 + 1.0 / calls)).sqrt();
        (SHARED * of_sum).max(longer + OWN * of_one)
    }
}

/// Statistics of the calls of one bucket.
#[derive(Default)]
struct BucketStats {
    /// A ring.
    answers: Vec<Answered>,
    next: usize,
    /// Evidence that answers have become longer, and shorter.
    longer: f64,
    shorter: f64,
    /// How many times all that was learned was forgotten because answers became longer.
    jumps: u64,
    /// Calls that have begun and not ended, by their number.
    open: BTreeSet<u64>,
    begun: u64,
    /// The number of the latest call that has ended.
    latest_ended: u64,
    /// Calls whose input is known, and those that weigh for the estimate.
    inputs: u64,
    /// Means over calls, in which the latest weigh most.
    estimated: f64,
    input: f64,
}

impl BucketStats {
    /// Returns the number of a call that begins.
    fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.open.insert(self.begun);
        self.begun
    }

    fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// Calls that began before one that has ended, and go on.
    fn overtaken(&self) -> usize {
        self.open.range(..self.latest_ended).take(CALLS).count()
    }

    fn expected(&self, shape: &CallShape) -> Expected {
        Expected {
            output: self.output(shape),
            ratio: if self.inputs == 0 { 1.0 } else { self.input / self.estimated },
        }
    }

    fn output(&self, shape: &CallShape) -> Option<u64> {
        let overtaken = self.overtaken();
        if self.answers.len() < (PER_OVERTAKEN * overtaken).clamp(NEEDED, CALLS) {
            return None;
        }
        let likely = self.likely(shape)?;
        // The cast saturates. Sums of equal numbers may be off by a little.
        Some((likely.mean + likely.margin(shape.bound, overtaken) - 1e-6).ceil() as u64)
    }

    /// What calls of this shape use; `None` if that is not known.
    fn likely(&self, shape: &CallShape) -> Option<Likely> {
        let (mut weights, mut squares, mut sum) = (0.0, 0.0, 0.0);
        for answer in &self.answers {
            let weight = shape.likeness(&answer.shape);
            weights += weight;
            squares += weight * weight;
            sum += weight * answer.within(shape.bound)?;
        }
        let mean = sum / weights;
        let deviations = self.answers.iter().filter_map(|answer| {
            let deviation = answer.within(shape.bound)? - mean;
            Some(shape.likeness(&answer.shape) * deviation * deviation)
        });
        let variance = deviations.sum::<f64>() / weights;
        (weights > 0.0).then(|| Likely { mean, variance, calls: weights * weights / squares })
    }

    fn observe(&mut self, number: u64, observed: Observed) {
        self.latest_ended = self.latest_ended.max(number);
        self.end(number);
        if let Some(output) = observed.output.filter(|output| *output <= LONGEST) {
            self.notice_change(&observed.shape, output);
            self.observe_output(observed.shape, output, observed.is_cut);
        }
        match observed.input {
            Some(input) if observed.shape.input > 0 => {
                self.observe_input(input, observed.shape.input);
            }
            _ => {}
        }
    }

    /// Takes note of a refusal: calls may use more than is believed.
    fn refused(&mut self) {
        self.longer += REFUSAL;
        self.forget_if_changed();
    }

    /// Compares an answer with what was expected of it.
    fn notice_change(&mut self, shape: &CallShape, output: u64) {
        if self.answers.len() < NEEDED {
            return;
        }
        let Some(Likely { mean, variance, calls }) = self.likely(shape) else { return };
        let usual = (variance * (1.0 + 1.0 / calls)).sqrt() + 1.0 + mean / 20.0;
        let beyond = ((output as f64 - mean) / usual).clamp(-EVIDENCE, EVIDENCE);
        self.longer = (self.longer + beyond - AS_EXPECTED).max(0.0);
        self.shorter = (self.shorter - beyond - AS_EXPECTED).max(0.0);
        self.forget_if_changed();
    }

    fn forget_if_changed(&mut self) {
        if self.longer.max(self.shorter) > ENOUGH_EVIDENCE {
            self.jumps += u64::from(self.longer > self.shorter);
            self.answers.clear();
            (self.next, self.longer, self.shorter) = (0, 0.0, 0.0);
        }
    }

    fn observe_output(&mut self, shape: CallShape, output: u64, is_cut: bool) {
        let answer = Answered { shape, output, is_cut, whole: Some(output as f64) };
        match self.answers.get_mut(self.next) {
            Some(oldest) => *oldest = answer,
            None => self.answers.push(answer),
        }
        self.next = (self.next + 1) % CALLS;
        complete(&mut self.answers);
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

impl Answered {
    /// How long it would have been within a bound.
    fn within(&self, bound: Option<u64>) -> Option<f64> {
        let bound = bound.map(|bound| bound as f64);
        match (self.whole, bound) {
            (Some(whole), Some(bound)) => Some(whole.min(bound)),
            (whole, bound) => whole.or(bound),
        }
    }
}

/// Takes each answer that was cut off for as long as the whole ones that were longer, on the
/// average.
fn complete(answers: &mut [Answered]) {
    if answers.iter().all(|answer| !answer.is_cut) {
        return;
    }
    let mut longest: Vec<_> =
        answers.iter().filter(|answer| !answer.is_cut).map(|answer| answer.output).collect();
    longest.sort_unstable_by(|one, other| other.cmp(one));
    for answer in answers.iter_mut().filter(|answer| answer.is_cut) {
        let longer = &longest[..longest.partition_point(|output| *output > answer.output)];
        let sum: f64 = longer.iter().map(|output| *output as f64).sum();
        answer.whole = (!longer.is_empty()).then(|| sum / longer.len() as f64);
    }
}

#[cfg(test)]
pub(super) mod tests;
