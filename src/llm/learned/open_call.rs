//! A call that goes on. It ends once, also if it is dropped at any time.

use super::{BucketStats, CallShape, Expected, Learned, Observed};
use std::{fmt, mem, sync::Arc};

/// A call of a bucket, from its estimate to its end.
pub(crate) struct OpenCall {
    learned: Arc<Learned>,
    bucket: Box<str>,
    /// 0 if nothing is learned of the bucket.
    number: u64,
    /// The [`jumps`](BucketStats::jumps) of its bucket when it began.
    jumps: u64,
}

impl OpenCall {
    pub(super) fn new(learned: Arc<Learned>, bucket: Box<str>, number: u64, jumps: u64) -> Self {
        Self { learned, bucket, number, jumps }
    }

    /// Returns what is expected of the call by now, if answers have become longer more than
    /// `known` times since it began, and notes how many times they have.
    pub(crate) fn expected_anew(&self, shape: &CallShape, known: &mut u64) -> Option<Expected> {
        let anew = |stats: &mut BucketStats| {
            let jumps = stats.jumps - self.jumps;
            (mem::replace(known, jumps) < jumps).then(|| stats.expected(shape))
        };
        self.learned.with(&self.bucket, anew)?
    }

    /// Learns from what the call turned out to use.
    pub(crate) fn observe(&self, observed: Observed) {
        self.learned.with(&self.bucket, |stats| stats.observe(self.number, observed));
    }

    /// Learns that the provider refused the call.
    pub(crate) fn refused(&self) {
        self.learned.with(&self.bucket, BucketStats::refused);
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        self.learned.with(&self.bucket, |stats| stats.end(self.number));
    }
}

impl fmt::Debug for OpenCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenCall").field("bucket", &self.bucket).finish_non_exhaustive()
    }
}
