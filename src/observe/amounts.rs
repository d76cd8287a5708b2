//! What was reserved and charged, bucket by bucket.

use smallvec::SmallVec;

use crate::usage::Usage;

/// What was reserved and charged of those buckets of a demand that were
/// [asked for something else](crate::Demand::and_with) than the first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OtherAmounts<'a>(SmallVec<[OtherAmount<'a>; 1]>);

/// What was reserved and charged of one bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct OtherAmount<'a> {
    /// The bucket.
    pub bucket: &'a str,
    /// What was reserved.
    pub reserved: &'a Usage,
    /// What it is charged now.
    pub actual: &'a Usage,
}

impl<'a> OtherAmounts<'a> {
    /// Each as its bucket, what was reserved, and what it is charged now.
    pub(crate) fn new(amounts: impl Iterator<Item = (&'a str, &'a Usage, &'a Usage)>) -> Self {
        let amounts =
            amounts.map(|(bucket, reserved, actual)| OtherAmount { bucket, reserved, actual });
        Self(amounts.collect())
    }

    /// Returns that of a bucket; nothing if it was asked for the same as the first.
    pub fn of(&self, bucket: &str) -> Option<&OtherAmount<'a>> {
        self.0.iter().find(|amount| amount.bucket == bucket)
    }

    /// Returns what was reserved and what is charged of a bucket: if it was asked for the same as
    /// the first, these.
    #[cfg(any(feature = "metrics", feature = "test-util"))]
    pub(crate) fn or<'u>(
        &'u self,
        bucket: &str,
        first: (&'u Usage, &'u Usage),
    ) -> (&'u Usage, &'u Usage) {
        self.of(bucket).map_or(first, |other| (other.reserved, other.actual))
    }

    /// Returns each.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &OtherAmount<'a>> {
        self.0.iter()
    }
}
