//! The names of buckets that an event is about.

use std::fmt;

use smallvec::SmallVec;

/// The names of a demand's buckets, in its order.
///
/// Names of a [family](crate::Limits::family) are those of its bucket. Where a name stands for no
/// bucket, they are as the demand has them.
///
/// It prints as `gpt-4o + all tenants`.
#[derive(Clone, PartialEq, Eq)]
pub struct Buckets<'a>(SmallVec<[&'a str; 2]>);

impl<'a> Buckets<'a> {
    pub(crate) fn new(names: impl IntoIterator<Item = &'a str>) -> Self {
        Self(names.into_iter().collect())
    }

    /// Returns the first bucket; empty for a demand without any.
    pub fn first(&self) -> &'a str {
        self.0.first().copied().unwrap_or_default()
    }

    /// Returns each bucket.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a str> {
        self.0.iter().copied()
    }
}

impl fmt::Debug for Buckets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(&self.0).finish()
    }
}

impl fmt::Display for Buckets<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, name) in self.0.iter().enumerate() {
            write!(f, "{}{name}", if index > 0 { " + " } else { "" })?;
        }
        Ok(())
    }
}
