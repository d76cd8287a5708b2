//! What buckets hold, for those who look: read without a script and without a write, and without
//! the limits that were declared. It knows the layout of a bucket; what the numbers mean, the
//! engine knows.

mod bucket_view;
mod hash;
mod quota_view;
mod snapshot;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use redis::{Cmd, Pipeline, RedisResult, Value};

pub use self::{
    bucket_view::{BucketDetail, BucketView, QueuedView, SessionView},
    quota_view::{QuotaKind, QuotaView},
};
use self::{
    hash::{Fields, HashState, Shapes, digest_of, records_of},
    snapshot::Snapshot,
};
use super::{
    RedisStore,
    connection::{Commands, Connection, query},
    error::{is_denied, rejected, store_error},
    keys::{self, PartitionKeys},
    wire,
};
use crate::{
    engine::Micros,
    store::{Bucket, BucketKey, StoreError},
};

/// Commands that a user needs who only looks, for the documentation, the advice of an error and the
/// tests.
macro_rules! reading_commands {
    () => {
        "HMGET, HGETALL, SCAN, and TIME or PTTL"
    };
}

/// So many buckets are asked about at once.
const AT_ONCE: usize = 250;

/// So many keys a server looks at in one step of a search.
const SCANNED: usize = 1_000;

/// What is remembered at most: of how many declarations, and of how many buckets.
const MOST_SHAPES: usize = 10_000;
const MOST_BUCKETS: usize = 1_000_000;

/// The server keeps a bucket for so much longer than the bucket thinks: see `apply.lua`.
const KEPT_LONGER: Micros = 1_000_000;

const NOT_UNDERSTOOD: &str =
    "the state of this bucket was written by another version of tower-throttle";

/// Looks at what a [`RedisStore`] holds, and changes nothing: for dashboards and tools that know a
/// server and a prefix, and none of the limits.
///
/// Processes leave what they declare beside the state of a bucket: its quotas with their names,
/// windows, metrics and limits. So a look tells the same as
/// [`Limiter::status`](crate::Limiter::status) does to a process that has declared the bucket. Of a
/// prediction it is taken that flows are served first come, first served.
///
#[doc = concat!("The server's user needs no more than ", reading_commands!(), ",")]
/// and to read the keys below the prefix. No script runs. On a cluster it sees what the node has
/// that it is connected to.
///
/// It remembers what quotas look like, so keep it for the next look.
///
/// ```no_run
/// # async fn example() -> Result<(), tower_throttle::store::StoreError> {
/// use tower_throttle::store::RedisStore;
///
/// let mut view = RedisStore::connect("redis://localhost").await?.prefix("acme-prod").view();
/// let keys = view.buckets().await?;
/// for bucket in view.look(&keys).await?.into_iter().flatten() {
///     for quota in &bucket.quotas {
///         println!("{} {}: {} of {}", bucket.key.name(), quota.name, quota.charged, quota.limit);
///     }
/// }
/// # Ok(())
/// # }
/// ```
pub struct RedisView {
    connection: Arc<dyn Connection>,
    prefix: Arc<str>,
    /// What digests stand for.
    shapes: HashMap<u64, Arc<Shapes>>,
    /// The digest that the state of a bucket had last, by the bucket's id.
    digests: HashMap<u64, u64>,
    /// The user may not ask for the server's time.
    pub(super) is_time_denied: bool,
    /// The clock, when a test steps it.
    #[cfg(test)]
    pub(super) stepped: Option<Micros>,
}

/// What came of reading a bucket.
enum BucketRead {
    /// It has no state.
    Nothing,
    /// Its state is not understood.
    Foreign,
    Snapshot(Box<Snapshot>),
    /// Its rules have changed, or something is due that only all of it tells.
    Incomplete,
}

impl fmt::Debug for RedisView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisView")
            .field("server", &self.connection.server())
            .field("prefix", &self.prefix)
            .finish_non_exhaustive()
    }
}

impl RedisStore {
    /// Looks at what the buckets of this store hold.
    pub fn view(&self) -> RedisView {
        RedisView {
            connection: self.connection.clone(),
            prefix: self.prefix.clone(),
            shapes: HashMap::new(),
            digests: HashMap::new(),
            is_time_denied: false,
            #[cfg(test)]
            stepped: None,
        }
    }
}

impl RedisView {
    /// Finds the buckets that have a state, by partition and name.
    ///
    /// The server looks at every key of the database, a thousand at a time.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer, or does not allow it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn buckets(&self) -> Result<Vec<Arc<BucketKey>>, StoreError> {
        self.search(None).await
    }

    /// Finds the buckets of this name, which may be in several partitions.
    ///
    /// # Errors
    /// Those of [`buckets`](Self::buckets).
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn find(&self, name: &str) -> Result<Vec<Arc<BucketKey>>, StoreError> {
        self.search(Some(name)).await
    }

    /// Tells how buckets stand, in the order of the keys. Nothing for one without a state, or with
    /// one that another version of this crate has written.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer, or does not allow it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn look(
        &mut self,
        keys: &[Arc<BucketKey>],
    ) -> Result<Vec<Option<BucketView>>, StoreError> {
        let mut views = Vec::with_capacity(keys.len());
        for keys in keys.chunks(AT_ONCE) {
            let (mut reads, wall) = self.read(keys, false).await?;
            self.complete(keys, &mut reads).await?;
            let looks = keys.iter().zip(reads).map(|(key, read)| match read {
                BucketRead::Snapshot(snapshot) => snapshot.look(key, wall),
                BucketRead::Nothing | BucketRead::Foreign | BucketRead::Incomplete => None,
            });
            views.extend(looks);
        }
        Ok(views)
    }

    /// Tells how one bucket stands, with its queue and its sessions. Nothing if it has no state, or
    /// one that another version of this crate has written.
    ///
    /// # Errors
    /// [`StoreError`] if the server does not answer, or does not allow it.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn look_closely(
        &mut self,
        key: &Arc<BucketKey>,
    ) -> Result<Option<BucketDetail>, StoreError> {
        Ok(match self.read_all(key).await? {
            (BucketRead::Snapshot(snapshot), wall) => snapshot.look_closely(key, wall),
            _ => None,
        })
    }

    /// A bucket as the process declared it that used it last. Nothing if it has no state.
    ///
    /// # Errors
    /// Also if it has one that is not understood to the end.
    pub(super) async fn declared(
        &mut self,
        key: &Arc<BucketKey>,
    ) -> Result<Option<Bucket>, StoreError> {
        let (read, wall) = self.read_all(key).await?;
        let Snapshot { shapes, state } = match read {
            BucketRead::Nothing => return Ok(None),
            BucketRead::Snapshot(snapshot) => *snapshot,
            BucketRead::Foreign | BucketRead::Incomplete => return Err(rejected(NOT_UNDERSTOOD)),
        };
        let (rules, is_known) = shapes.rules(wall, &state);
        match is_known && wire::digest(&rules) == state.digest {
            true => Ok(Some(Bucket::new(key.clone(), rules))),
            false => Err(rejected(NOT_UNDERSTOOD)),
        }
    }

    async fn read_all(&mut self, key: &Arc<BucketKey>) -> Result<(BucketRead, Micros), StoreError> {
        let (mut reads, wall) = self.read(std::slice::from_ref(key), true).await?;
        Ok((reads.pop().unwrap_or(BucketRead::Nothing), wall))
    }

    async fn search(&self, name: Option<&str>) -> Result<Vec<Arc<BucketKey>>, StoreError> {
        let pattern = keys::pattern(&self.prefix, name);
        let (mut cursor, mut found) = (b"0".to_vec(), Vec::new());
        loop {
            let mut scan = redis::cmd("SCAN");
            scan.arg(&cursor).arg("MATCH").arg(&pattern).arg("COUNT").arg(SCANNED);
            scan.arg("TYPE").arg("hash");
            let reply = query::<(Vec<u8>, Vec<Vec<u8>>)>(&self.connection, scan).await;
            let (next, keys) = reply.map_err(|error| self.error(error))?;
            let keys = keys.iter().filter_map(|key| keys::bucket_at(&self.prefix, key));
            found.extend(keys.map(Arc::new));
            if next == b"0" {
                break;
            }
            cursor = next;
        }
        // A search may come upon a key twice.
        found.sort_unstable_by(|one, other| place(one).cmp(&place(other)));
        found.dedup();
        Ok(found)
    }

    /// Reads some buckets, and the server's clock. Of one that was seen before only some fields,
    /// unless `all` are asked for.
    async fn read(
        &mut self,
        keys: &[Arc<BucketKey>],
        all: bool,
    ) -> Result<(Vec<BucketRead>, Micros), StoreError> {
        let known: Vec<_> = keys.iter().map(|key| self.known(key).filter(|_| !all)).collect();
        let mut commands = Pipeline::with_capacity(keys.len() + 1);
        for (key, shapes) in keys.iter().zip(&known) {
            commands.add_command(match shapes {
                Some(shapes) => some_fields(&self.key(key), shapes),
                None => about(&self.key(key), "HGETALL"),
            });
        }
        if !self.is_time_denied {
            commands.add_command(redis::cmd("TIME"));
        }
        let replies = self.connection.clone().send(Commands::Reading(commands)).await;
        let mut replies = replies.map_err(|error| self.error(error))?;
        let time = if replies.len() > keys.len() { replies.pop() } else { None };
        let mut reads = Vec::with_capacity(keys.len());
        for ((key, shapes), reply) in keys.iter().zip(known).zip(replies) {
            let reply = reply.extract_error().and_then(|reply| self.read_of(key, shapes, reply));
            reads.push(reply.map_err(|error| self.error(error))?);
        }
        let wall = self.time(time, keys, &reads).await?;
        // Where something is due, only all fields tell what becomes of it.
        for read in &mut reads {
            if let BucketRead::Snapshot(snapshot) = read
                && !all
                && snapshot.state.is_due(wall)
            {
                *read = BucketRead::Incomplete;
            }
        }
        Ok((reads, wall))
    }

    /// Reads all of those that are incomplete so far.
    async fn complete(
        &mut self,
        keys: &[Arc<BucketKey>],
        reads: &mut [BucketRead],
    ) -> Result<(), StoreError> {
        let lacking: Vec<_> =
            (0..reads.len()).filter(|&at| matches!(reads[at], BucketRead::Incomplete)).collect();
        if lacking.is_empty() {
            return Ok(());
        }
        let keys: Vec<_> = lacking.iter().map(|&at| keys[at].clone()).collect();
        let (all, _) = self.read(&keys, true).await?;
        for (at, read) in lacking.into_iter().zip(all) {
            reads[at] = read;
        }
        Ok(())
    }

    /// What is known of the quotas of a bucket that was looked at before.
    fn known(&self, key: &BucketKey) -> Option<Arc<Shapes>> {
        self.shapes.get(self.digests.get(&key.id())?).cloned()
    }

    /// Understands what the server said of a bucket: some fields of known quotas, or all.
    fn read_of(
        &mut self,
        key: &BucketKey,
        shapes: Option<Arc<Shapes>>,
        reply: Value,
    ) -> RedisResult<BucketRead> {
        let Some(shapes) = shapes else {
            let fields: Fields = redis::from_redis_value(reply)?;
            return Ok(match self.learn(key, &fields) {
                None if fields.is_empty() => BucketRead::Nothing,
                learnt => learnt.map_or(BucketRead::Foreign, BucketRead::from),
            });
        };
        let fields: Vec<Option<Vec<u8>>> = redis::from_redis_value(reply)?;
        let Some(Some(state)) = fields.first() else {
            self.digests.remove(&key.id());
            return Ok(BucketRead::Nothing);
        };
        if digest_of(state).as_ref() != self.digests.get(&key.id()) {
            return Ok(BucketRead::Incomplete);
        }
        let names = shapes.fields();
        let get = |name: &[u8]| {
            let at = names.iter().position(|other| other == name)?;
            fields.get(at)?.as_deref()
        };
        let state = HashState::read(&shapes, state, get, Vec::new());
        Ok(state.map_or(BucketRead::Foreign, |state| Snapshot { shapes, state }.into()))
    }

    /// Takes in all fields of a bucket.
    fn learn(&mut self, key: &BucketKey, fields: &Fields) -> Option<Snapshot> {
        self.digests.remove(&key.id());
        let packed = fields.get(&b"s"[..])?;
        let digest = digest_of(packed)?;
        let shapes = match self.shapes.get(&digest) {
            Some(shapes) if shapes.are_named() => shapes.clone(),
            _ => Arc::new(Shapes::read(fields)?),
        };
        let get = |name: &[u8]| fields.get(name).map(Vec::as_slice);
        let state = HashState::read(&shapes, packed, get, records_of(fields)?)?;
        if self.shapes.len() >= MOST_SHAPES || self.digests.len() >= MOST_BUCKETS {
            self.shapes.clear();
            self.digests.clear();
        }
        self.shapes.insert(digest, shapes.clone());
        self.digests.insert(key.id(), digest);
        Some(Snapshot { shapes, state })
    }

    /// The server's clock, which it has told if the user may ask.
    async fn time(
        &mut self,
        told: Option<Value>,
        keys: &[Arc<BucketKey>],
        reads: &[BucketRead],
    ) -> Result<Micros, StoreError> {
        #[cfg(test)]
        if let Some(stepped) = self.stepped {
            return Ok(stepped);
        }
        if let Some(told) = told {
            let time = told
                .extract_error()
                .and_then(|time| Ok(redis::from_redis_value::<(u64, u64)>(time)?));
            match time {
                Ok((seconds, micros)) => {
                    return Ok(seconds.saturating_mul(1_000_000).saturating_add(micros));
                }
                Err(error) if is_denied(&error) => self.is_time_denied = true,
                Err(error) => return Err(self.error(error)),
            }
        }
        // A bucket knows when the server forgets it, and the server says how long that takes.
        let kept = keys.iter().zip(reads).find_map(|(key, read)| match read {
            BucketRead::Snapshot(snapshot) => Some((key, snapshot.state.kept_until)),
            BucketRead::Nothing | BucketRead::Foreign | BucketRead::Incomplete => None,
        });
        let Some((key, kept_until)) = kept else { return Ok(own_time()) };
        let left = query::<i64>(&self.connection, about(&self.key(key), "PTTL")).await;
        Ok(match u64::try_from(left.map_err(|error| self.error(error))?) {
            Ok(left) => (kept_until + KEPT_LONGER).saturating_sub(left.saturating_mul(1_000)),
            Err(_) => own_time(),
        })
    }

    fn key(&self, key: &BucketKey) -> Vec<u8> {
        let [state, _] = PartitionKeys::new(&self.prefix, key.partition()).of_bucket(key.name());
        state
    }

    fn error(&self, error: redis::RedisError) -> StoreError {
        let server = self.connection.server();
        if !is_denied(&error) {
            return store_error(error, server);
        }
        let what = error.detail().unwrap_or_default();
        let needs = concat!("the user needs ", reading_commands!(), " to look");
        StoreError::Rejected(
            format!("{server}: NOPERM {what}; {needs}, and the keys below the prefix").into(),
        )
    }
}

impl From<Snapshot> for BucketRead {
    fn from(snapshot: Snapshot) -> Self {
        Self::Snapshot(Box::new(snapshot))
    }
}

/// A command about one key.
fn about(key: &[u8], name: &str) -> Cmd {
    let mut command = redis::cmd(name);
    command.arg(key);
    command
}

fn some_fields(key: &[u8], shapes: &Shapes) -> Cmd {
    let mut command = about(key, "HMGET");
    command.arg(shapes.fields());
    command
}

/// The order in which buckets are listed.
fn place(key: &BucketKey) -> (&str, &str) {
    (key.partition(), key.name())
}

fn own_time() -> Micros {
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    crate::quota::micros(time)
}
