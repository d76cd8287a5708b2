//! What buckets hold, for those who look: read without a script and without a write, and without
//! the limits that were declared. It knows the layout of a bucket; what the numbers mean, the
//! engine knows.

mod hash;

use std::{
    collections::HashMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use redis::{Cmd, Pipeline, RedisResult, Value};
use smallvec::smallvec;

use self::hash::{Fields, HashState, Shapes, digest_of};
use super::{
    RedisStore,
    connection::Connection,
    error::{is_denied, rejected, store_error},
    keys::{self, PartitionKeys},
    wire,
};
use crate::{
    engine::{
        self, Batch, BucketLevel, BucketRules, Costs, Flow, Level, Micros, Mode, Op, Outcome,
        Reserve, Rule, Verdict, Window,
    },
    quota::QuotaNote,
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

/// So many records that are due end in one batch.
const ENDED: usize = 16;

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

/// How a bucket stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BucketView {
    /// Its partition and name.
    pub key: Arc<BucketKey>,
    /// When this was, by the server's clock.
    pub at: SystemTime,
    /// Its quotas, as the process declared them that used it last.
    pub quotas: Vec<QuotaView>,
    /// How many demands wait for it, of all processes, as of their last batches.
    pub waiting: u64,
    /// Time until a demand would start that comes now and asks for one of everything that the
    /// quotas count; nothing if that depends on calls in flight.
    pub predicted: Option<Duration>,
    /// Until when it is paused.
    pub paused_until: Option<SystemTime>,
    /// Until when a provider asked to wait, if that is longer than the pause.
    pub asked_until: Option<SystemTime>,
    /// How many demands were granted since the state began.
    pub granted: u64,
    /// How many were refused since then, or made to wait: one that waits is counted whenever it is
    /// looked at and does not fit.
    pub refused: u64,
    /// When the state began.
    pub since: SystemTime,
    /// When a process used it last.
    pub used: SystemTime,
}

/// How a quota stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuotaView {
    /// What it is called.
    pub name: Arc<str>,
    /// How what is charged comes back.
    pub kind: QuotaKind,
    /// Its window; nothing for calls in flight.
    pub window: Option<Duration>,
    /// The metrics that it counts, with their weights.
    pub metrics: Vec<(String, f64)>,
    /// What it admits per window; for a token bucket, at once.
    pub limit: u64,
    /// What a token bucket refills per window; otherwise the limit.
    pub per_window: u64,
    /// Charged in the window.
    pub charged: f64,
    /// Held by reservations, to be charged when they are settled.
    pub held: u64,
    /// Reserved and not settled yet, held or charged.
    pub in_flight: u64,
    /// Withheld, since the provider said that no more is left.
    pub withheld: f64,
    /// For how long at most.
    pub withheld_for: Duration,
    /// What is left of a wait for this quota that a provider asked for and that is not waited out.
    pub asked: Option<Duration>,
    /// What it has left; negative in debt.
    pub available: f64,
    /// Time until everything charged has come back, or until the next fixed window.
    pub reset: Duration,
}

/// How what is charged to a quota comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuotaKind {
    /// A window's length after it was charged.
    SlidingWindow,
    /// Steadily.
    TokenBucket,
    /// All of it, when the next window begins.
    FixedWindow,
    /// When its call ends.
    Concurrency,
}

/// How a bucket stands, what waits for it, and which processes use it.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BucketDetail {
    /// How it stands.
    pub bucket: BucketView,
    /// What waits, in the order in which it came.
    pub queue: Vec<QueuedView>,
    /// The sessions of processes that used it in the last ten minutes, and detached reservations.
    pub sessions: Vec<SessionView>,
}

/// The front of those that wait in one process for one quota, of one class and share.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QueuedView {
    /// Identifies the session.
    pub session: u64,
    /// The quota that it waits for.
    pub quota: Arc<str>,
    /// The part of the limit that its class leaves to others.
    pub headroom: f64,
    /// Identifies its share, if it has one. It is a number made from the share's name.
    pub share: Option<u64>,
    /// When the first one came; with a head start, earlier than it did.
    pub arrived: SystemTime,
    /// What the first one asks of the quota.
    pub cost: u64,
    /// How many wait there.
    pub count: u64,
    /// What all of them ask.
    pub sum: u64,
    /// Its process has not come back in time: others pass it.
    pub is_late: bool,
}

/// What a bucket knows of a session of a process, or of a detached reservation.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct SessionView {
    /// Identifies it.
    pub id: u64,
    /// It is a detached reservation.
    pub is_detached: bool,
    /// How long its lease lasts from now on; nothing if that has ended.
    pub lease: Option<Duration>,
    /// What it has in flight, by quota.
    pub in_flight: Vec<(Arc<str>, u64)>,
}

/// What a bucket held when it was read.
struct Snapshot {
    shapes: Arc<Shapes>,
    state: HashState,
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
            let reply = self.connection.clone().query(scan).await;
            let reply = reply
                .and_then(|reply| Ok(redis::from_redis_value::<(Vec<u8>, Vec<Vec<u8>>)>(reply)?));
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
        let replies = self.connection.clone().read(commands).await;
        let mut replies = replies.map_err(|error| self.error(error))?;
        let time = if replies.len() > keys.len() { replies.pop() } else { None };
        let mut reads = Vec::with_capacity(keys.len());
        for ((key, shapes), reply) in keys.iter().zip(known).zip(replies) {
            let reply = reply.extract_error().and_then(|reply| self.read_of(key, shapes, reply));
            reads.push(reply.map_err(|error| self.error(error))?);
        }
        let wall = self.time(time, keys, &reads).await?;
        reads.iter_mut().for_each(|read| read.doubt(all, wall));
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
        let state = HashState::read(&shapes, state, get);
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
        let mut state =
            HashState::read(&shapes, packed, |name| fields.get(name).map(Vec::as_slice))?;
        state.read_records(fields)?;
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
                Ok((seconds, micros)) => return Ok(seconds * 1_000_000 + micros),
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
        let left = self.connection.clone().query(about(&self.key(key), "PTTL")).await;
        let left = left.and_then(|left| Ok(redis::from_redis_value::<i64>(left)?));
        match left.map_err(|error| self.error(error))? {
            left @ 0.. => Ok((kept_until + KEPT_LONGER).saturating_sub(left as u64 * 1_000)),
            _ => Ok(own_time()),
        }
    }

    fn key(&self, key: &BucketKey) -> Vec<u8> {
        let [state, _] = PartitionKeys::new(&self.prefix, key.partition()).of_bucket(key.name());
        state
    }

    fn error(&self, error: redis::RedisError) -> StoreError {
        match is_denied(&error) {
            true => rejected_reading(&error, self.connection.server()),
            false => store_error(error, self.connection.server()),
        }
    }
}

impl BucketRead {
    /// Where something is due, only all fields tell what becomes of it.
    fn doubt(&mut self, all: bool, wall: Micros) {
        if matches!(self, Self::Snapshot(snapshot) if !all && snapshot.state.is_due(wall)) {
            *self = Self::Incomplete;
        }
    }
}

impl From<Snapshot> for BucketRead {
    fn from(snapshot: Snapshot) -> Self {
        Self::Snapshot(Box::new(snapshot))
    }
}

impl Snapshot {
    fn look(&self, key: &Arc<BucketKey>, wall: Micros) -> Option<BucketView> {
        let (rules, _) = self.shapes.rules(wall, &self.state);
        let (level, predicted) = self.ask(key, &rules, wall)?;
        let quotas = rules.iter().zip(&self.shapes.quotas).zip(&level.quotas);
        let quotas = quotas.map(|((rule, shape), level)| QuotaView::new(rule, &shape.note, level));
        let stored = &self.state.bucket;
        // The bucket's time may be ahead of the server's.
        let ahead = stored.now.max(wall + stored.offset) - wall;
        let time = |time: Micros| UNIX_EPOCH + Duration::from_micros(time.saturating_sub(ahead));
        let some_time = |at: Micros| (at > 0).then(|| time(at));
        Some(BucketView {
            key: key.clone(),
            at: UNIX_EPOCH + Duration::from_micros(wall),
            quotas: quotas.collect(),
            waiting: level.waiting,
            predicted,
            paused_until: some_time(level.paused_until),
            asked_until: some_time(level.asked_until),
            granted: level.granted,
            refused: level.refused,
            since: time(stored.born),
            used: time(stored.now),
        })
    }

    /// Asks the engine how the bucket stands, and when a demand would start.
    fn ask(
        &self,
        key: &BucketKey,
        rules: &[Rule],
        wall: Micros,
    ) -> Option<(BucketLevel, Option<Duration>)> {
        let mut state = self.state.state(rules)?;
        let costs: Costs = rules
            .iter()
            .zip(&self.shapes.quotas)
            .map(|(rule, shape)| cost(rule, &shape.note))
            .collect();
        let dry = Op::Reserve(Reserve {
            on: smallvec![0],
            costs,
            headroom: 0,
            mode: Mode::Dry,
            waiter: 0,
            age: 0,
            flow: Flow::default(),
        });
        let ops = [Op::Status { bucket: 0 }, dry];
        let buckets = [BucketRules { id: key.id(), rules }];
        let batch = Batch { session: 0, seq: 0, lease: 0, buckets: &buckets, ops: &ops };
        if self.state.is_due(wall) {
            // A batch ends some of what is due.
            for _ in 0..=self.state.bucket.records.len() / ENDED {
                engine::apply(&mut [&mut state], &Batch { ops: &[], ..batch }, wall);
            }
        }
        let (answer, _) = engine::apply(&mut [&mut state], &batch, wall);
        let Outcome::Applied { verdicts, .. } = answer.outcome else { return None };
        let mut verdicts = verdicts.into_iter();
        let Some(Verdict::Status(level)) = verdicts.next() else { return None };
        Some((*level, predicted(verdicts.next()?)))
    }

    fn look_closely(&self, key: &Arc<BucketKey>, wall: Micros) -> Option<BucketDetail> {
        let bucket = self.look(key, wall)?;
        let stored = &self.state.bucket;
        let now = stored.now.max(wall + stored.offset);
        let name = |id: u64| -> Arc<str> {
            let at = self.shapes.uncharted().iter().position(|rule| rule.id == id);
            let named = at.and_then(|at| bucket.quotas.get(at)).map(|quota| quota.name.clone());
            named.unwrap_or_else(|| "(a quota that is declared no more)".into())
        };
        let queue = stored.heads.iter().map(|head| QueuedView {
            session: head.session,
            quota: name(head.quota),
            headroom: head.headroom as f64 / engine::HEADROOM_PARTS as f64,
            share: (head.flow > 0).then_some(head.flow),
            arrived: UNIX_EPOCH + Duration::from_micros(head.arrival.saturating_sub(now - wall)),
            cost: head.cost,
            count: head.count,
            sum: head.sum,
            is_late: head.due > 0 && now > head.due + engine::LATE,
        });
        let sessions = stored.records.iter().map(|record| SessionView {
            id: record.id,
            is_detached: record.is_claim,
            lease: record
                .lease_until
                .checked_sub(now)
                .filter(|left| *left > 0)
                .map(Duration::from_micros),
            in_flight: record
                .in_flight
                .iter()
                .filter(|(_, amount)| *amount > 0)
                .map(|(quota, amount)| (name(*quota), *amount))
                .collect(),
        });
        Some(BucketDetail { queue: queue.collect(), sessions: sessions.collect(), bucket })
    }
}

impl QuotaView {
    fn new(rule: &Rule, note: &QuotaNote, level: &Level) -> Self {
        let (kind, units) = match &rule.window {
            Window::Sliding { .. } => (QuotaKind::SlidingWindow, 1),
            Window::TokenBucket(bucket) => (QuotaKind::TokenBucket, bucket.units),
            Window::Fixed { .. } | Window::Calendar { .. } => (QuotaKind::FixedWindow, 1),
            Window::InFlight => (QuotaKind::Concurrency, 1),
        };
        let limit = rule.capacity(0);
        let (charged, withheld) =
            (level.charged as f64 / units as f64, level.withheld as f64 / units as f64);
        let held = if rule.holds() { level.in_flight } else { 0 };
        let weights = note.weights.iter();
        Self {
            name: note.name.as_str().into(),
            kind,
            window: note.window.map(Duration::from_micros),
            metrics: weights.map(|(metric, parts)| (metric.clone(), *parts as f64 / 1e6)).collect(),
            limit,
            per_window: rule.limit,
            charged,
            held,
            in_flight: level.in_flight,
            withheld,
            withheld_for: Duration::from_micros(level.withheld_for),
            asked: level.asked.map(Duration::from_micros),
            available: limit as f64 - charged - held as f64 - withheld,
            reset: Duration::from_micros(level.reset),
        }
    }
}

/// What a demand costs here that asks for one of everything.
fn cost(rule: &Rule, note: &QuotaNote) -> u64 {
    let parts: u64 = note.weights.iter().fold(0, |sum, (_, parts)| sum.saturating_add(*parts));
    match &rule.window {
        Window::InFlight => 1,
        _ if note.weights.is_empty() => 1,
        _ => parts.div_ceil(1_000_000),
    }
}

/// Time until a demand starts, if that is known.
fn predicted(verdict: Verdict) -> Option<Duration> {
    let Verdict::Refused(refused) = verdict else { return Some(Duration::ZERO) };
    let violations = &refused.violations;
    let waits = violations.iter().map(|violation| violation.wait.max(violation.asked));
    let wait = match violations.iter().any(|violation| violation.asked.is_some()) {
        // That is known, whatever else is not.
        true => waits.flatten().max(),
        false => waits.reduce(|one, other| Some(one?.max(other?))).flatten(),
    };
    wait.map(Duration::from_micros)
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

/// The user may not even look.
fn rejected_reading(error: &redis::RedisError, server: &str) -> StoreError {
    let what = error.detail().unwrap_or_default();
    let needs = concat!("the user needs ", reading_commands!(), " to look");
    StoreError::Rejected(
        format!("{server}: NOPERM {what}; {needs}, and the keys below the prefix").into(),
    )
}
