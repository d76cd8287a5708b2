//! Pauses, resumes and resets a bucket for a tool that knows its name, and none of the limits.

use std::{sync::Arc, time::Duration};

use super::{
    RedisStore,
    connection::query,
    error::{is_denied, rejected, store_error},
};
use crate::{
    drawn,
    engine::{MAX_PAUSE, Op},
    quota::micros,
    store::{Batch, BucketKey, Reply, Store, StoreError},
};

impl RedisStore {
    /// Lets nothing pass on a bucket for at least this long, as
    /// [`Limiter::pause`](crate::Limiter::pause) does, with the quotas that are in use. Returns
    /// false if the bucket has no state: then no limiter has used it, or not for long.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), tower_throttle::store::StoreError> {
    /// use std::{sync::Arc, time::Duration};
    /// use tower_throttle::store::{BucketKey, RedisStore};
    ///
    /// let store = RedisStore::connect("redis://localhost").await?;
    /// let key = Arc::new(BucketKey::new("default", "gpt-4o"));
    /// assert!(store.pause(&key, Duration::from_secs(60)).await?);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] if the server does not answer. [`StoreError::Rejected`] if it
    /// refuses, or if another version of this crate has written the state.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have paused it. Pausing it again is safe.
    pub async fn pause(
        &self,
        key: &Arc<BucketKey>,
        duration: Duration,
    ) -> Result<bool, StoreError> {
        self.set_pause(key, micros(duration).clamp(1, MAX_PAUSE)).await
    }

    /// Ends all pauses of a bucket and of its quotas, as
    /// [`Limiter::resume`](crate::Limiter::resume) does. Returns false if the bucket has no state.
    ///
    /// # Errors
    /// Those of [`pause`](Self::pause).
    ///
    /// # Cancel safety
    /// A dropped future may or may not have resumed it. Resuming it again is safe.
    pub async fn resume(&self, key: &Arc<BucketKey>) -> Result<bool, StoreError> {
        self.set_pause(key, 0).await
    }

    /// Deletes the state of a bucket: what is charged, held and withheld, its pauses and its queue.
    /// Returns false if it had none.
    ///
    /// Its limits are open again at once, whatever its provider has counted. Processes notice, and
    /// say that the state was [lost](crate::observe::Event::StateLost); what waits there registers
    /// again.
    /// The user needs the command DEL.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer, or does not allow it.
    ///
    /// # Cancel safety
    /// A dropped future may or may not have deleted it.
    pub async fn reset(&self, key: &BucketKey) -> Result<bool, StoreError> {
        let mut command = redis::cmd("DEL");
        command.arg(&self.partition_keys(key.partition()).of_bucket(key.name()));
        match query::<u64>(&self.connection, command).await {
            Ok(deleted) => Ok(deleted > 0),
            Err(error) if is_denied(&error) => Err(rejected(
                "NOPERM: the user needs the command DEL, and the keys below the prefix",
            )),
            Err(error) => Err(store_error(error, self.connection.server())),
        }
    }

    async fn set_pause(&self, key: &Arc<BucketKey>, lasts: u64) -> Result<bool, StoreError> {
        let Some(bucket) = self.view().declared(key).await? else { return Ok(false) };
        // Without a number, no session is remembered. What it does twice it does once.
        let session = drawn::name();
        let (buckets, ops) = ([bucket], [Op::Pause { bucket: 0, lasts }]);
        match self.apply(&Batch::new(session, 0, 0, &buckets, &ops)) {
            Reply::Now(_) => {}
            Reply::Later(answer) => drop(answer.await?),
        }
        Ok(true)
    }
}
