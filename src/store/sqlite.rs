//! Buckets in an SQLite file, for the processes of one host. It knows files, rows and transactions;
//! what operations mean, only the engine knows.

mod file;
#[cfg(test)]
mod tests;
mod worker;

use std::{fmt, path::Path, sync::mpsc, thread};

use tokio::sync::oneshot;

use self::{
    file::Database,
    worker::{Queued, Worker},
};
use super::{
    Batch, Hint, Listening, OwnedBatch, Reply, Store, StoreError, local_hints::LocalHints,
};

/// Keeps the state of buckets in a file that the processes of one host share: no server, no port.
///
/// Every process opens the same path. SQLite is compiled in. Time is the system's clock, which all
/// processes of a host share. A bucket that was not used for longer than its windows is deleted.
///
/// ```no_run
/// use tower_throttle::{Limiter, Limits, Quota, store::SqliteStore};
///
/// # fn run() -> Result<(), Box<dyn std::error::Error>> {
/// let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 500)]);
/// let store = SqliteStore::open("/var/lib/my-service/limits.db")?;
/// let limiter = Limiter::with_store(limits, store)?;
/// # Ok(())
/// # }
/// ```
///
/// # Crashes
/// A batch is one transaction, or a part of one: it is applied whole or not at all, and once. A
/// process that is killed loses at most the batch that it was writing; its calls in flight are
/// given up when their lease ends. A host that loses power may lose the last moments before that,
/// never the file.
///
/// # Performance
/// One thread writes for all sessions of a store, and batches that meet share a transaction. The
/// processes of a host take turns: a few thousand transactions a second in all.
/// [`RedisStore`](crate::store::RedisStore) does more, and over the network, where a file must not
/// be: SQLite's locks do not work on network file systems.
#[cfg_attr(docsrs, doc(cfg(feature = "sqlite")))]
pub struct SqliteStore {
    queue: mpsc::Sender<Queued>,
    hints: LocalHints,
}

impl SqliteStore {
    /// Opens the file at `path`, which is created if there is none. Two more files appear beside
    /// it, whose names end with `-wal` and `-shm`.
    ///
    /// This blocks for as long as opening a file takes, and up to five seconds while other
    /// processes create it.
    ///
    /// # Errors
    /// [`StoreError::Rejected`] if the file is not such a store's or may not be written,
    /// [`StoreError::Unavailable`] if it is locked for longer or the disk fails.
    pub fn open(path: impl AsRef<Path>) -> Result<Self, StoreError> {
        let database = Database::open(path.as_ref())?;
        let (queue, received) = mpsc::channel();
        let hints = LocalHints::default();
        let worker = Worker::new(received, hints.clone());
        let thread = thread::Builder::new().name("tower-throttle-sqlite".into());
        thread
            .spawn(move || worker.run(&database))
            .map_err(|error| StoreError::Unavailable(error.into()))?;
        Ok(Self { queue, hints })
    }
}

impl Store for SqliteStore {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let (reply, answer) = oneshot::channel();
        // Without the thread, nothing sends to `answer`, which then says so.
        let _ = self.queue.send(Queued { batch: OwnedBatch::from(batch), reply });
        Reply::Later(Box::pin(async move {
            answer
                .await
                .unwrap_or_else(|_| Err(StoreError::Unavailable("its thread has ended".into())))
        }))
    }

    fn listen(&self, _partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        Some(self.hints.listen(session, hint))
    }
}

impl fmt::Debug for SqliteStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("hints", &self.hints).finish_non_exhaustive()
    }
}
