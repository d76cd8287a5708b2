//! The names of a demand's buckets, which its lane is found by.

use std::{
    borrow::Cow,
    hash::{BuildHasher, Hasher},
};

use foldhash::fast::{FoldHasher, RandomState};
use smallvec::SmallVec;

/// The names of a demand's buckets.
pub(super) type Names = SmallVec<[Cow<'static, str>; 1]>;

/// Hashes names by their bytes alone, which is all there is to tell of most: where one ends and the next begins is left
/// to the comparison.
#[derive(Clone, Default)]
pub(super) struct NameHashes(RandomState);

impl BuildHasher for NameHashes {
    type Hasher = NameHasher;

    #[inline]
    fn build_hasher(&self) -> NameHasher {
        NameHasher(self.0.build_hasher())
    }
}

pub(super) struct NameHasher(FoldHasher<'static>);

impl Hasher for NameHasher {
    #[inline]
    fn write(&mut self, bytes: &[u8]) {
        self.0.write(bytes);
    }

    /// The end of a name.
    #[inline]
    fn write_u8(&mut self, _: u8) {}

    /// How many names there are.
    #[inline]
    fn write_usize(&mut self, _: usize) {}

    #[inline]
    fn finish(&self) -> u64 {
        self.0.finish()
    }
}
