//! The key of a bucket. On its own, since limits make keys and stores look them up.

use std::hash::{Hash, Hasher};

use crate::fingerprint::fingerprint;

/// The key under which a store keeps the state of a bucket. Its id is computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct BucketKey {
    id: u64,
    partition: Box<str>,
    name: Box<str>,
}

impl BucketKey {
    /// The key of the bucket `name` in `partition`.
    pub fn new(partition: &str, name: &str) -> Self {
        let id = fingerprint(partition.bytes().chain([0xff]).chain(name.bytes()));
        Self { id, partition: partition.into(), name: name.into() }
    }

    /// The key of a bucket that has this id.
    #[cfg(test)]
    pub(crate) fn with_id(id: u64) -> Self {
        Self { id, partition: "".into(), name: "".into() }
    }

    /// Identifies the bucket to every process that knows it: below 2^53, and the same in all
    /// versions.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The partition. Buckets of one partition may be part of one batch.
    pub fn partition(&self) -> &str {
        &self.partition
    }

    /// The name, unique in its partition.
    pub fn name(&self) -> &str {
        &self.name
    }
}

impl Hash for BucketKey {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u64(self.id);
    }
}
