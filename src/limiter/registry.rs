//! Which lane a demand goes to. Lanes are made when they are first needed and forgotten when nothing is on them.

use std::{
    borrow::Cow,
    collections::HashMap,
    hash::BuildHasher,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use smallvec::SmallVec;
use tokio::time::Instant;

use super::{
    lane::Lane,
    names::{NameHashes, Names},
    neighbours::{Neighbours, Sharers},
    path::Path,
    route::Route,
    shared::Shared,
};
use crate::{
    engine::{MAX_AMOUNT, Micros},
    error::{BadDemand, Throttled},
    limits::{BucketSpec, Resolved, Table, Unresolved},
    store::BucketKey,
};

/// Below this many lanes nobody looks whether some can go.
const FEW: usize = 1_024;
/// How long the resolver's answer for a name is good.
const RESOLVED_FOR: Duration = Duration::from_secs(5);

/// What the names of a demand stand for.
pub(super) struct Found {
    /// Nothing, if the demand is unlimited.
    path: Option<Arc<Path>>,
    /// When the resolver is to be asked again.
    stale_at: Option<Instant>,
}

impl Found {
    /// May ask the user's resolver, which may take its time or use the limiter: not to be called under its lock.
    pub(super) fn of(names: &Names, table: &Table) -> Result<Self, Throttled> {
        let bad = |error| Err(Throttled::BadDemand(error));
        let mut specs: SmallVec<[Arc<BucketSpec>; 1]> = SmallVec::new();
        let mut stale_at = None;
        for name in names {
            let spec = match table.resolve(name) {
                Ok(Resolved::Unlimited) => continue,
                Ok(Resolved::Bucket(spec)) => spec,
                Ok(Resolved::Dynamic(spec)) => {
                    stale_at = Some(Instant::now() + RESOLVED_FOR);
                    spec
                }
                Err(Unresolved::Undeclared) => {
                    return bad(BadDemand::UnknownBucket(name.as_ref().into()));
                }
                Err(Unresolved::Invalid(error)) => return bad(BadDemand::InvalidLimits(error)),
            };
            if specs.iter().any(|other| other.key == spec.key) {
                return bad(BadDemand::SameBucketTwice(spec.name().into()));
            }
            if let Some(first) =
                specs.first().filter(|first| first.key.partition() != spec.key.partition())
            {
                let (one, other) = (first.key.partition().into(), spec.key.partition().into());
                return bad(BadDemand::TwoPartitions(one, other));
            }
            specs.push(spec);
        }
        let path = (!specs.is_empty()).then(|| Arc::new(Path::new(specs, system_time())));
        Ok(Self { path, stale_at })
    }
}

/// The limits were replaced meanwhile, or it was closed.
pub(super) struct Outdated;

#[derive(Clone)]
struct Entry {
    route: Arc<Route>,
    /// When the resolver is to be asked again.
    stale_at: Option<Instant>,
    /// The names are not the buckets' own.
    is_alias: bool,
}

pub(super) struct Registry {
    closed: bool,
    pub(super) table: Arc<Table>,
    lanes: HashMap<Names, Entry, NameHashes>,
    sharers: HashMap<Arc<BucketKey>, Arc<Sharers>>,
    look_again_at: usize,
}

impl Registry {
    pub(super) fn new(table: Arc<Table>) -> Self {
        let (lanes, sharers) = Default::default();
        Self { closed: false, table, lanes, sharers, look_again_at: FEW }
    }

    /// The way of a demand, if it is known, its limits are as they were and no resolver has to be asked again.
    #[inline]
    pub(super) fn find(&self, names: &Names) -> Option<&Arc<Route>> {
        let entry = self.lanes.get(names)?;
        let is_fresh = entry.stale_at.is_none_or(|stale_at| Instant::now() < stale_at);
        (is_fresh && entry.route.is_current()).then_some(&entry.route)
    }

    /// The limits to look a demand's names up in.
    pub(super) fn table(&self) -> Result<Arc<Table>, Throttled> {
        if self.closed { Err(Throttled::Closed) } else { Ok(self.table.clone()) }
    }

    /// The lane of a demand whose names were found in `table`, made if need be; nothing if the demand is unlimited.
    /// An error if that is not known any more: other limits came meanwhile, or none do any more.
    pub(super) fn find_or_make(
        &mut self,
        names: &Names,
        Found { path, stale_at }: Found,
        table: &Arc<Table>,
        shared: &Arc<Shared>,
    ) -> Result<Option<Arc<Route>>, Outdated> {
        if let Some(route) = self.find(names) {
            return Ok(Some(route.clone()));
        }
        if self.closed || !Arc::ptr_eq(table, &self.table) {
            return Err(Outdated);
        }
        let Some(path) = path else { return Ok(None) };
        let own_names: Names =
            path.specs().iter().map(|spec| Cow::Owned(spec.name().to_owned())).collect();
        let lane = match self.lanes.get(&own_names) {
            Some(Entry { route, .. }) => {
                if !route.path.counts_like(&path) {
                    route.lane.adopt(path);
                }
                route.lane.clone()
            }
            None => self.make(&own_names, path, shared),
        };
        self.tidy();
        let is_alias = own_names != *names;
        let route = Arc::new(Route::to(lane));
        let entry = Entry { route: route.clone(), stale_at, is_alias };
        self.lanes.insert(own_names, Entry { is_alias: false, ..entry.clone() });
        self.lanes.insert(names.clone(), entry);
        Ok(Some(route))
    }

    fn make(&mut self, names: &Names, path: Arc<Path>, shared: &Arc<Shared>) -> Arc<Lane> {
        let sharers = path
            .specs()
            .iter()
            .map(|spec| self.sharers.entry(spec.key.clone()).or_default().clone());
        let neighbours = Neighbours(sharers.collect());
        // The same after the lane was forgotten: the store keeps one record of it.
        let id = shared.ids.hash_one(names) & MAX_AMOUNT;
        let lane = Arc::new(Lane::new(shared.clone(), id.max(1), path, neighbours));
        lane.neighbours.join(&lane);
        lane
    }

    /// Takes over other limits, in which every name has to be looked up anew. Answers those of the lanes.
    pub(super) fn replace(&mut self, table: Arc<Table>) -> Vec<Names> {
        self.table = table;
        self.lanes.retain(|_, entry| !entry.is_alias);
        let now = Instant::now();
        self.lanes.values_mut().for_each(|entry| entry.stale_at = Some(now));
        self.lanes.keys().cloned().collect()
    }

    /// Refuses those that wait on a lane whose names stand for nothing any more. The lane stays, for what is in flight
    /// on it and in case they do again.
    pub(super) fn refuse_waiting(&self, names: &Names, error: &Throttled) {
        if let Some(entry) = self.lanes.get(names) {
            entry.route.lane.refuse_waiting(error);
        }
    }

    /// How many names it knows lanes for.
    pub(super) fn len(&self) -> usize {
        self.lanes.len()
    }

    /// Makes no lane from now on. Answers those that there are.
    pub(super) fn close(&mut self) -> Vec<Arc<Lane>> {
        self.closed = true;
        self.lanes
            .values()
            .filter(|entry| !entry.is_alias)
            .map(|entry| entry.route.lane.clone())
            .collect()
    }

    /// Forgets aliases, and lanes with nothing on them, once there are twice as many as last time.
    fn tidy(&mut self) {
        if self.lanes.len() < self.look_again_at {
            return;
        }
        self.lanes.retain(|_, entry| !entry.is_alias);
        // Nobody can be about to use a lane that only the registry knows, for whoever is has a share of it.
        self.lanes.retain(|_, Entry { route, .. }| {
            Arc::strong_count(route) > 1
                || Arc::strong_count(&route.lane) > 1
                || !route.lane.is_idle()
        });
        self.sharers.retain(|_, sharers| !sharers.is_deserted());
        self.look_again_at = FEW.max(2 * self.lanes.len());
    }
}

/// Only to look up calendars around the present; a store whose clock differs says so.
fn system_time() -> Micros {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as Micros)
}
