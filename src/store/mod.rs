//! Where the state of buckets lives. A [`Store`] applies a batch of operations atomically, exactly
//! once, on a clock of its own. What the operations mean is the [`engine`](crate::engine)'s
//! business.

mod local_hints;
mod memory;
mod operation;
#[cfg(feature = "redis")]
mod redis;
#[cfg(feature = "sqlite")]
mod sqlite;

use std::{
    any::Any,
    fmt,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

#[cfg(feature = "redis")]
pub use self::redis::{
    BucketDetail, BucketView, QueuedView, QuotaKind, QuotaView, RedisStore, RedisView, SessionView,
};
#[cfg(feature = "sqlite")]
pub use self::sqlite::SqliteStore;
pub use self::{memory::MemoryStore, operation::Operation};
use crate::{
    box_error::BoxError,
    engine::{Answer, Micros, Op},
};
pub use crate::{
    bucket::BucketKey,
    engine::batch::{Batch, Bucket},
};

/// Applies batches of operations to buckets: atomically, each batch once, on the store's own clock.
///
/// A store must keep, with the buckets, the sequence number and the answer of each session's last
/// batch. It repeats the answer to a repeated batch and gives one that is older than the last no
/// effect. [`Batch::apply_to`] does all of that on states that the store loads and saves.
///
/// What else a store of one's own has to see to:
///
/// * `apply` is called in a task: what blocks belongs into `tokio::task::spawn_blocking`, on an
///   [`OwnedBatch`].
/// * [`StoreError::Unavailable`] is retried, and is an outage if that does not help. What trying
///   again does not mend, such as bytes that cannot be read, is [`StoreError::Rejected`].
/// * A state whose [`lasts`](crate::engine::BucketState::lasts) is over may be deleted.
/// * Hints are optional: see [`listen`](Self::listen).
///
/// A store that keeps bytes in a map, where a real one would ask a database:
///
/// ```
/// use std::{collections::HashMap, future::ready, sync::Mutex, time::SystemTime};
/// use tower_throttle::{
///     BoxError,
///     engine::{Answer, BucketState},
///     store::{Batch, Reply, Store, StoreError},
/// };
///
/// #[derive(Debug, Default)]
/// struct Bytes(Mutex<HashMap<u64, Vec<u8>>>);
///
/// impl Bytes {
///     fn answer(&self, batch: &Batch<'_>) -> Result<Answer, BoxError> {
///         // One lock, or one transaction, around all of it.
///         let mut saved = self.0.lock().map_err(|_| "a thread has panicked")?;
///         let mut states = Vec::new();
///         for bucket in batch.buckets {
///             states.push(match saved.get(&bucket.key.id()) {
///                 Some(bytes) => BucketState::from_bytes(bytes)?,
///                 None => BucketState::unused(),
///             });
///         }
///
///         let wall = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_micros() as u64;
///         let (answer, _) = batch.apply_to(&mut states.iter_mut().collect::<Vec<_>>(), wall);
///         for (bucket, state) in batch.buckets.iter().zip(&states) {
///             saved.insert(bucket.key.id(), state.to_bytes());
///         }
///         Ok(answer)
///     }
/// }
///
/// impl Store for Bytes {
///     fn apply(&self, batch: &Batch<'_>) -> Reply {
///         Reply::Later(Box::pin(ready(self.answer(batch).map_err(StoreError::Rejected))))
///     }
/// }
/// # use tower_throttle::{Demand, Limiter, Limits, Quota, usage};
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), BoxError> {
/// # let limits = Limits::new().bucket("api", [Quota::concurrency(1)]);
/// # let limiter = Limiter::with_store(limits, Bytes::default())?;
/// # let reservation = limiter.reserve(Demand::new("api", usage! { requests: 1 })).await?;
/// # assert!(limiter.try_reserve(Demand::new("api", usage! { requests: 1 })).await.is_err());
/// # reservation.settle(usage! { requests: 1 }).await?;
/// # limiter.try_reserve(Demand::new("api", usage! { requests: 1 })).await?;
/// # Ok(())
/// # }
/// ```
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// Applies `batch`, at once or in the future that is returned, which borrows nothing of the
    /// batch.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have applied its batch. Sending the same batch again is
    /// safe.
    fn apply(&self, batch: &Batch<'_>) -> Reply;

    /// Calls `hint` from now on whenever a head of this session may fit, until what is returned is
    /// dropped. A hint may be lost, and may be wrong: sessions also look by themselves, but less
    /// often where hints arrive.
    ///
    /// [`Batch::apply_to`] returns the [`Wakes`](crate::engine::Wakes) of a batch: the sessions to
    /// be called, and of which bucket. With `hints`, what sessions listen with, once the states are
    /// saved:
    ///
    /// ```
    /// use std::collections::HashMap;
    /// use tower_throttle::{engine::Wakes, store::{Batch, Hint}};
    ///
    /// fn wake(batch: &Batch<'_>, wakes: &Wakes, hints: &HashMap<u64, Hint>) {
    ///     for wake in wakes.iter() {
    ///         if let Some(hint) = hints.get(&wake.session) {
    ///             hint.call(batch.buckets[usize::from(wake.bucket)].key.name());
    ///         }
    ///     }
    /// }
    /// ```
    ///
    /// Returns nothing if the store has no hints (the default). A demand that waits for calls of
    /// another process then starts up to half a second after they end.
    fn listen(&self, partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        let _ = (partition, session, hint);
        None
    }

    /// Whether the state lives in this process: every reply is [`Reply::Now`], a batch needs no
    /// number, and nothing in flight outlives the process.
    fn in_process(&self) -> bool {
        false
    }
}

impl<S: Store + ?Sized> Store for Arc<S> {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        (**self).apply(batch)
    }

    fn listen(&self, partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        (**self).listen(partition, session, hint)
    }

    fn in_process(&self) -> bool {
        (**self).in_process()
    }
}

/// Called when a head of a session may fit: see [`Store::listen`]. It returns at once and may be
/// called from any thread.
#[derive(Clone)]
pub struct Hint(Arc<dyn Fn(&str) + Send + Sync>);

impl Hint {
    /// Calls `hint` with the name of the bucket.
    pub fn new(hint: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(hint))
    }

    /// A head may fit in the bucket of this name. An empty name says that hints may have been
    /// missed, for any bucket.
    pub fn call(&self, bucket: &str) {
        (self.0)(bucket);
    }
}

impl fmt::Debug for Hint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hint")
    }
}

/// A session's hints, which end when this is dropped: see [`Store::listen`].
pub struct Listening {
    /// Whether hints arrive at present.
    works: Arc<AtomicBool>,
    /// Ends the hints when dropped.
    _until_dropped: Box<dyn Any + Send + Sync>,
}

impl Listening {
    /// Hints for as long as `guard` is not dropped. `works` says whether they arrive: not while a
    /// connection is down.
    pub fn new(works: Arc<AtomicBool>, guard: impl Any + Send + Sync) -> Self {
        Self { works, _until_dropped: Box::new(guard) }
    }

    pub(crate) fn works(&self) -> bool {
        self.works.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for Listening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Listening").field("works", &self.works).finish_non_exhaustive()
    }
}

/// What a [`Store`] replies to a batch: there is no third way, so that a store around another one
/// can handle all of them.
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

/// A [`Batch`] that outlives its call of [`Store::apply`]: for a store that applies it in another
/// task or thread.
#[derive(Clone, Debug)]
pub struct OwnedBatch {
    session: u64,
    seq: u64,
    lease: Micros,
    unhinted: bool,
    buckets: Box<[Bucket]>,
    ops: Box<[Op]>,
}

impl OwnedBatch {
    /// The batch.
    pub fn as_batch(&self) -> Batch<'_> {
        let Self { session, seq, lease, unhinted, buckets, ops } = self;
        Batch { unhinted: *unhinted, ..Batch::new(*session, *seq, *lease, buckets, ops) }
    }
}

impl From<&Batch<'_>> for OwnedBatch {
    fn from(batch: &Batch<'_>) -> Self {
        let Batch { session, seq, lease, unhinted, buckets, ops } = *batch;
        Self { session, seq, lease, unhinted, buckets: buckets.into(), ops: ops.into() }
    }
}

/// Why a store did not answer.
#[derive(Debug)]
#[non_exhaustive]
pub enum StoreError {
    /// It could not be reached or did not answer in time: the batch may have been applied or not.
    Unavailable(BoxError),
    /// It refuses (credentials, permissions, a foreign value under our key, a script error): trying
    /// again is no use.
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
