//! Where the state of buckets lives. A [`Store`] applies a batch of operations atomically, exactly once, on a
//! clock of its own. What the operations mean is the [`engine`](crate::engine)'s business.

mod memory;
#[cfg(feature = "redis")]
mod redis;

use std::{fmt, pin::Pin, sync::Arc};

pub use self::memory::{LocalBucket, MemoryStore};
#[cfg(feature = "redis")]
pub use self::redis::RedisStore;
pub use crate::bucket::BucketKey;
use crate::{
    box_error::BoxError,
    engine::{Answer, Micros, Op, Rule},
};

/// Applies batches of operations to buckets: atomically, each batch once, on the store's own clock.
///
/// A store must keep, with the buckets, the sequence number and the answer of each lane's last batch. It answers a
/// repeated batch as before and gives one that is older than the last no effect. [`engine::apply`](crate::engine::apply)
/// does all of that on a state that the store loads and saves.
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Applies `batch`, at once or in the future that is answered. Nothing of the batch is borrowed by that future.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have applied its batch. Sending the same batch again is safe.
    fn apply(&self, batch: &Batch<'_>) -> Reply;

    /// Whether this process is the only one to use the store and every reply is [`Reply::Now`].
    fn in_process(&self) -> bool {
        false
    }

    /// A bucket at hand, where it is in this process: a way to its state that is quicker than a batch. Only
    /// [`MemoryStore`] has one; a store that wraps it may pass it on.
    fn local(&self, _bucket: &Bucket) -> Option<LocalBucket> {
        None
    }
}

/// What a [`Store`] replies to a batch.
pub enum Reply {
    /// The answer, where no waiting is needed.
    Now(Answer),
    /// The answer, once this is awaited.
    Later(Pin<Box<dyn Future<Output = Result<Answer, StoreError>> + Send>>),
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Now(answer) => f.debug_tuple("Now").field(answer).finish(),
            Self::Later(_) => f.write_str("Later(..)"),
        }
    }
}

/// Operations of one lane, for one bucket or several of one partition.
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Batch<'a> {
    /// Who sends this; below 2^53.
    pub lane: u64,
    /// Counts the batches of a lane from 1. To a store in this process also 0: the batch comes once.
    pub seq: u64,
    /// Without another batch for this long, what the lane has in flight is taken for abandoned.
    pub lease: Micros,
    /// The buckets, all of one partition and none of them twice.
    pub buckets: &'a [Bucket],
    /// What to do.
    pub ops: &'a [Op],
}

impl<'a> Batch<'a> {
    /// A batch of `lane`, its `seq`-th.
    pub fn new(lane: u64, seq: u64, lease: Micros, buckets: &'a [Bucket], ops: &'a [Op]) -> Self {
        Self { lane, seq, lease, buckets, ops }
    }
}

/// A bucket as a store sees it.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Bucket {
    /// What the state is found by.
    pub key: Arc<BucketKey>,
    /// What the state must obey.
    pub rules: Arc<[Rule]>,
}

impl Bucket {
    /// The bucket found by `key`, obeying `rules`.
    pub fn new(key: Arc<BucketKey>, rules: Arc<[Rule]>) -> Self {
        Self { key, rules }
    }
}

/// Why a store did not answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be reached or did not answer in time: the batch may have been applied or not.
    Unavailable(BoxError),
    /// It refuses (credentials, permissions, a foreign value under our key, a script error): trying again is no use.
    Rejected(BoxError),
}

impl StoreError {
    pub(crate) fn is_unavailable(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unavailable(cause) => write!(f, "the store is unavailable: {cause}"),
            Self::Rejected(cause) => write!(f, "the store cannot be used: {cause}"),
        }
    }
}

impl std::error::Error for StoreError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            // Its text is printed already.
            Self::Unavailable(cause) | Self::Rejected(cause) => cause.source(),
        }
    }
}
