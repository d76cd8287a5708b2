//! A call that goes on. It ends once, also if it is dropped at any time.

use super::{Learned, Observed};
use std::{fmt, sync::Arc};

/// A call of a bucket, from its estimate to its end.
pub(crate) struct OpenCall {
    learned: Arc<Learned>,
    bucket: Box<str>,
    /// 0 if nothing is learned of the bucket.
    number: u64,
}

impl OpenCall {
    pub(super) fn new(learned: Arc<Learned>, bucket: Box<str>, number: u64) -> Self {
        Self { learned, bucket, number }
    }

    /// Learns from what the call turned out to use.
    pub(crate) fn observe(&self, observed: Observed) {
        self.learned.with(&self.bucket, |stats| stats.observe(self.number, observed));
    }

    /// Learns that the provider refused the call.
    pub(crate) fn refused(&self) {
        self.learned.with(&self.bucket, super::BucketStats::refused);
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
