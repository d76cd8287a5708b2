//! What names stand for: buckets are made when they are first named, and forgotten when nothing is
//! on them.

use std::{
    collections::HashMap,
    hash::{BuildHasher, Hasher},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use foldhash::fast::{FoldHasher, RandomState};
use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    bucket_handle::{BucketHandle, Declaration, Outdated, declaration},
    bucket_set::BucketSet,
    context::Context,
    session::{Session, driver},
    status::BucketInfo,
    target::BucketTarget,
};
use crate::{
    engine::Micros,
    error::{BadDemand, Throttled},
    limits::{BucketSpec, Resolved, Table, Unresolved},
    name::Name,
    store::BucketKey,
};

/// With fewer names than this there is no look at which can be forgotten.
const FEW: usize = 1_024;
/// How long the resolver's answer for a name is good.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// The names of a demand's buckets.
pub(super) type Names = SmallVec<[Name; 1]>;

/// Names the bucket that a layer charges for what it calls by a name, by what is declared.
pub(crate) type Naming = Arc<dyn Fn(&str, &Table) -> String + Send + Sync>;

/// What names are looked up in. A clone is cheap.
#[derive(Clone)]
pub(super) struct Lookup {
    table: Arc<Table>,
    /// Those of the layers around this limiter, each with what it is known by.
    namings: Arc<Vec<(&'static str, Naming)>>,
}

impl Lookup {
    /// Looks a name up as the limits have it, or else as a layer does. A name that a layer names
    /// itself stays as it is, also where it is not declared.
    fn resolve(&self, name: &str) -> Result<Resolved, Unresolved> {
        let by_layer = self.namings.iter().find_map(|(_, naming)| {
            let bucket = naming(name, &self.table);
            if bucket == name { None } else { self.table.resolve_declared(&bucket) }
        });
        by_layer.unwrap_or_else(|| self.table.resolve(name))
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.table, &other.table) && Arc::ptr_eq(&self.namings, &other.namings)
    }
}

/// What the names of a demand stand for.
pub(super) struct Found {
    /// Each with the index of its name. Empty if the demand is unlimited.
    specs: SmallVec<[(u16, Arc<BucketSpec>); 1]>,
    /// When the resolver is to be asked again.
    stale_at: Option<Instant>,
}

impl Found {
    /// Looks names up. May ask the user's resolver, which may take its time or use the limiter: no
    /// lock may be held.
    pub(super) fn of(names: &Names, lookup: &Lookup) -> Result<Self, Throttled> {
        let bad = |error| Err(Throttled::BadDemand(error));
        let mut found = Self { specs: SmallVec::new(), stale_at: None };
        for (index, name) in names.iter().map(Name::as_str).enumerate() {
            let spec = match lookup.resolve(name) {
                Ok(Resolved::Unlimited) => continue,
                Ok(Resolved::Bucket(spec)) => spec,
                Ok(Resolved::Dynamic(spec)) => {
                    found.stale_at = Some(Instant::now() + RESOLVED_FOR);
                    spec
                }
                Err(error) => return bad(unresolved(name, error)),
            };
            if found.specs.iter().any(|(_, other)| other.key == spec.key) {
                return bad(BadDemand::SameBucketTwice(spec.name().into()));
            }
            if let Some((_, first)) = found.specs.first()
                && first.key.partition() != spec.key.partition()
            {
                let (one, other) = (first.key.partition().into(), spec.key.partition().into());
                return bad(BadDemand::TwoPartitions(one, other));
            }
            found.specs.push((u16::try_from(index).unwrap_or(u16::MAX), spec));
        }
        Ok(found)
    }
}

fn unresolved(name: &str, error: Unresolved) -> BadDemand {
    match error {
        Unresolved::Undeclared => BadDemand::UnknownBucket(name.into()),
        Unresolved::Invalid(error) => BadDemand::InvalidLimits(error),
    }
}

/// The limits were replaced meanwhile, or the limiter was closed.
pub(super) struct Superseded;

#[derive(Clone)]
struct Entry {
    target: Arc<BucketTarget>,
    /// When the resolver is to be asked again.
    stale_at: Option<Instant>,
}

/// Names, buckets and sessions of a limiter.
pub(super) struct Registry {
    closed: bool,
    lookup: Lookup,
    names: HashMap<Names, Entry, NameHashes>,
    buckets: HashMap<Arc<BucketKey>, Arc<BucketHandle>>,
    sessions: HashMap<Box<str>, Arc<Session>>,
    /// How many names there are when it is next looked which can be forgotten.
    tidy_at: usize,
}

impl Registry {
    pub(super) fn new(table: Arc<Table>) -> Self {
        let (names, buckets, sessions) = Default::default();
        let lookup = Lookup { table, namings: Arc::default() };
        Self { closed: false, lookup, names, buckets, sessions, tidy_at: FEW }
    }

    /// Where a demand is counted, if it is known, its limits are as they were and no resolver has
    /// to be asked again.
    #[inline]
    pub(super) fn find(&self, names: &Names) -> Option<&Arc<BucketTarget>> {
        let entry = self.names.get(names)?;
        let is_fresh = entry.stale_at.is_none_or(|stale_at| Instant::now() < stale_at);
        (is_fresh && entry.target.set.is_current()).then_some(&entry.target)
    }

    pub(super) fn table(&self) -> &Arc<Table> {
        &self.lookup.table
    }

    /// What to look a demand's names up in.
    ///
    /// # Errors
    /// The limiter was closed.
    pub(super) fn lookup(&self) -> Result<Lookup, Throttled> {
        if self.closed { Err(Throttled::Closed) } else { Ok(self.lookup.clone()) }
    }

    /// Looks names up as a layer does from now on, too. What is known already changes nothing.
    #[cfg(feature = "llm")]
    pub(super) fn learn(&mut self, known_by: &'static str, naming: Naming) {
        if self.lookup.namings.iter().all(|(known, _)| *known != known_by) {
            Arc::make_mut(&mut self.lookup.namings).push((known_by, naming));
            self.names.clear();
        }
    }

    /// Looks names up as another registry does from now on.
    pub(super) fn take_names_of(&mut self, other: &Self) {
        self.lookup.namings = other.lookup.namings.clone();
        self.names.clear();
    }

    /// Where a demand is counted whose names were found in `lookup`, made if need be; nothing if it
    /// is unlimited. With it whether the limits of a bucket have changed, so that its session has
    /// to follow.
    pub(super) fn find_or_make(
        &mut self,
        names: &Names,
        Found { specs, stale_at }: Found,
        lookup: &Lookup,
        context: &Arc<Context>,
    ) -> Result<Option<(Arc<BucketTarget>, bool)>, Superseded> {
        if let Some(target) = self.find(names) {
            return Ok(Some((target.clone(), false)));
        }
        if self.closed || !self.lookup.is(lookup) {
            return Err(Superseded);
        }
        let Some((_, first)) = specs.first() else { return Ok(None) };
        let session = self.session(first.key.partition(), context);
        let mut has_changed = false;
        let mut handles: SmallVec<[_; 1]> = SmallVec::new();
        for (index, spec) in specs {
            let (handle, is_changed) = self.declare(spec);
            has_changed |= is_changed;
            handles.push((index, handle));
        }
        // They were all declared just now, under the same lock.
        let set = BucketSet::new(handles).map_err(|_: Outdated| Superseded)?;
        let target = Arc::new(BucketTarget { session, set: Arc::new(set) });
        self.tidy();
        self.names.insert(names.clone(), Entry { target: target.clone(), stale_at });
        Ok(Some((target, has_changed)))
    }

    fn session(&mut self, partition: &str, context: &Arc<Context>) -> Arc<Session> {
        if let Some(session) = self.sessions.get(partition) {
            return session.clone();
        }
        let session = Session::new(context.clone(), partition, driver::start);
        self.sessions.insert(partition.into(), session.clone());
        session
    }

    /// The handle of a bucket, and whether it was declared otherwise before.
    fn declare(&mut self, spec: Arc<BucketSpec>) -> (Arc<BucketHandle>, bool) {
        let (key, declared) = (spec.key.clone(), declaration(spec, system_time()));
        match self.buckets.get(&key) {
            Some(handle) => {
                let before = handle.version();
                handle.declare(declared);
                (handle.clone(), handle.version() != before)
            }
            None => {
                let handle = Arc::new(BucketHandle::new(key.clone(), declared));
                self.buckets.insert(key, handle.clone());
                (handle, false)
            }
        }
    }

    /// Takes over other limits, in which every name has to be looked up anew. Returns the buckets
    /// that are in use.
    pub(super) fn replace(&mut self, table: Arc<Table>) -> Vec<Arc<BucketHandle>> {
        self.lookup.table = table;
        self.names.clear();
        self.buckets.retain(|_, handle| Arc::strong_count(handle) > 1);
        self.buckets.values().cloned().collect()
    }

    /// Declares buckets as they were found in `table`, unless other limits came meanwhile. Returns
    /// the sessions that have to follow, and the buckets that are declared no more.
    pub(super) fn declare_all(
        &mut self,
        table: &Arc<Table>,
        all: Vec<(Arc<BucketHandle>, Declaration)>,
    ) -> (Vec<Arc<Session>>, Vec<Arc<str>>) {
        let mut dropped = Vec::new();
        if Arc::ptr_eq(table, &self.lookup.table) {
            for (handle, declared) in all {
                if declared.is_err() {
                    dropped.push(handle.name().into());
                }
                handle.declare(declared);
            }
        }
        dropped.sort();
        (self.sessions(), dropped)
    }

    pub(super) fn sessions(&self) -> Vec<Arc<Session>> {
        self.sessions.values().cloned().collect()
    }

    /// The buckets that are declared or in use, by name.
    pub(super) fn buckets(&self) -> Vec<BucketInfo> {
        let unused = self.table().specs().filter(|spec| !self.buckets.contains_key(&spec.key));
        let mut buckets: Vec<_> = unused.map(|spec| BucketInfo::new(spec, true, None)).collect();
        for handle in self.buckets.values() {
            if let (_, Ok((spec, _))) = handle.declared() {
                let is_declared = self.table().declares_as(&spec);
                buckets.push(BucketInfo::new(&spec, is_declared, Some(handle.waiting())));
            }
        }
        buckets.sort_by(|one, other| one.name.cmp(&other.name));
        buckets
    }

    /// How many buckets it knows.
    pub(super) fn len(&self) -> usize {
        self.buckets.len()
    }

    /// Finds no demand a place from now on. Returns the sessions.
    pub(super) fn close(&mut self) -> Vec<Arc<Session>> {
        self.closed = true;
        self.sessions.values().cloned().collect()
    }

    /// Forgets names and buckets that are not in use, once there are twice as many as last time.
    fn tidy(&mut self) {
        if self.names.len() < self.tidy_at {
            return;
        }
        // Every user of a target or of a bucket holds an `Arc` to it, or to a set with the bucket.
        self.names.retain(|_, entry| {
            Arc::strong_count(&entry.target) > 1 || Arc::strong_count(&entry.target.set) > 1
        });
        self.buckets.retain(|_, handle| Arc::strong_count(handle) > 1);
        self.tidy_at = FEW.max(2 * self.names.len());
    }
}

/// What a bucket's own name stands for now.
pub(super) fn declared_now(handle: &BucketHandle, table: &Table) -> Declaration {
    match table.resolve(handle.name()) {
        Ok(Resolved::Bucket(spec) | Resolved::Dynamic(spec)) if spec.key == *handle.key() => {
            declaration(spec, system_time())
        }
        Ok(_) => Err(Outdated::Elsewhere),
        Err(error) => Err(Outdated::Gone(Throttled::BadDemand(unresolved(handle.name(), error)))),
    }
}

/// Only to look up calendars around the present; a store whose clock differs says so.
fn system_time() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as Micros)
}

/// Hashes names by their bytes alone, which is all there is to most: where one ends and the next
/// begins is left to the comparison.
#[derive(Clone, Default)]
struct NameHashes(RandomState);

impl BuildHasher for NameHashes {
    type Hasher = NameHasher;

    #[inline]
    fn build_hasher(&self) -> NameHasher {
        NameHasher(self.0.build_hasher())
    }
}

struct NameHasher(FoldHasher<'static>);

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
