//! The key of a bucket. On its own, since limits make keys and stores look them up.

use std::hash::{Hash, Hasher};

/// The key under which a store keeps the state of a bucket. Its hash is computed once.
#[derive(Debug, PartialEq, Eq)]
pub struct BucketKey {
    hash: u64,
    partition: Box<str>,
    name: Box<str>,
}

impl BucketKey {
    /// The key of the bucket `name` in `partition`.
    pub fn new(partition: &str, name: &str) -> Self {
        let mut hasher = std::hash::DefaultHasher::new();
        (partition, name).hash(&mut hasher);
        Self { hash: hasher.finish(), partition: partition.into(), name: name.into() }
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
        state.write_u64(self.hash);
    }
}
