//! Where a demand goes: its lane, and the path it is counted on. With a store in this process an operation is applied by
//! its own caller, without the lane's lock, as long as nothing of the lane comes before it.

use std::{borrow::Cow, fmt, sync::Arc};

use tokio::time::Instant;

use super::{
    lane::Lane,
    path::Path,
    place::Place,
    queue::{Ask, Other},
    settling::Settling,
    trip::MAX_CHARTS,
};
use crate::{
    demand::Demand,
    engine::{Answer, Costs, Micros, Mode, Op, Outcome, Reserve, Verdict, Violation},
    error::Throttled,
    limits::Standing,
    store::{LocalBucket, Reply},
};

/// A lane, and its path as it was when it was looked up.
pub(super) struct Route {
    pub(super) lane: Arc<Lane>,
    pub(super) path: Arc<Path>,
    /// Of the path.
    version: u64,
    /// The only bucket of the path, where it is in this process.
    local: Option<LocalBucket>,
}

impl Route {
    pub(super) fn to(lane: Arc<Lane>) -> Self {
        // First, since a new path under an old version is looked up again, and the reverse would not be.
        let version = lane.version();
        Self::of(lane.clone(), lane.path(), version)
    }

    fn of(lane: Arc<Lane>, path: Arc<Path>, version: u64) -> Self {
        let local = match path.buckets() {
            [bucket] => lane.shared.store.local(bucket).filter(LocalBucket::is_charted),
            _ => None,
        };
        Self { lane, path, version, local }
    }

    /// Whether this is still the lane's path.
    #[inline]
    pub(super) fn is_current(&self) -> bool {
        self.version == self.lane.version()
    }

    /// The same lane with the version of the path that it has now; called under its lock.
    pub(super) fn on(&self, path: &Arc<Path>) -> Self {
        Self::of(self.lane.clone(), path.clone(), self.lane.version())
    }

    /// Grants or refuses a demand where that can be told at once, and tells when it was granted; nothing if it has to be
    /// queued.
    #[inline(never)]
    pub(super) fn enter_directly(
        &self,
        demand: &Demand,
        standing: Standing,
        mode: Mode,
    ) -> Option<Result<Micros, Throttled>> {
        let mut costs = Costs::new();
        if let Err(error) = self.put_demand(&mut costs, demand, standing) {
            return Some(Err(error));
        }
        if self.lane.is_closed() {
            return Some(Err(Throttled::Closed));
        }
        match self.reserve_directly(&costs, standing, mode)? {
            Ok(at) => Some(Ok(at)),
            Err(violations) => {
                self.path.refused(&violations, &costs, standing.headroom, mode).map(Err)
            }
        }
    }

    /// Queues a demand.
    pub(super) fn enter(
        self: Arc<Self>,
        demand: &Demand,
        standing: Standing,
        mode: Mode,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> Result<Place, Throttled> {
        let mut costs = Costs::new();
        self.put_demand(&mut costs, demand, standing)?;
        let (lane, usage) = (self.lane.clone(), demand.usage.clone());
        lane.enter(Ask { route: self, usage, costs, standing, mode, arrived, deadline })
    }

    /// Puts down what a demand asks for, if that could ever be granted.
    #[inline(always)]
    fn put_demand(
        &self,
        costs: &mut Costs,
        demand: &Demand,
        standing: Standing,
    ) -> Result<(), Throttled> {
        let beyond = |refusal| Throttled::ExceedsCapacity(Box::new(refusal));
        self.path.put_demand(costs, &demand.usage, standing.headroom).map_err(beyond)
    }

    /// Asks for costs where that can be told at once. Answers when they were granted, or why they were not.
    #[inline]
    fn reserve_directly(
        &self,
        costs: &Costs,
        standing: Standing,
        mode: Mode,
    ) -> Option<Result<Micros, Box<[Violation]>>> {
        if !self.lane.is_free() {
            return None;
        }
        let explain = mode != Mode::Wait;
        let reserve = Reserve { costs, headroom: standing.headroom, explain, mode };
        let Some(bucket) = &self.local else { return self.reserve_in_batch(reserve) };
        let (lane, lease) = self.lane.known_as();
        let (result, life) = bucket.reserve(lane, lease, reserve);
        self.lane.saw_only(&self.path, life);
        Some(result)
    }

    #[inline(never)]
    fn reserve_in_batch(&self, reserve: Reserve<'_>) -> Option<Result<Micros, Box<[Violation]>>> {
        let Reserve { costs, headroom, explain, mode } = reserve;
        let costs = Costs::from_slice(costs);
        match self.apply_directly(&self.path, &Op::Reserve { costs, headroom, explain, mode })? {
            (Verdict::Refused(violations), _) => Some(Err(violations)),
            (_, at) => Some(Ok(at)),
        }
    }

    /// Replaces what a reservation is charged, `close` if its call is over: applied or queued when this returns.
    #[inline]
    pub(super) fn settle(
        &self,
        at: Micros,
        reserved: &Costs,
        actual: &Costs,
        close: bool,
    ) -> Settling {
        match &self.local {
            Some(bucket) if self.lane.is_free() && self.is_current() => {
                let (lane, lease) = self.lane.known_as();
                if let Some(life) = bucket.settle(lane, lease, at, reserved, actual, close) {
                    self.lane.saw_only(&self.path, life);
                }
                self.hand_on();
                Settling::done()
            }
            _ => self.settle_in_batch(at, reserved, actual, close),
        }
    }

    #[inline(never)]
    fn settle_in_batch(
        &self,
        at: Micros,
        reserved: &Costs,
        actual: &Costs,
        close: bool,
    ) -> Settling {
        let (reserved, actual) = (Costs::from_slice(reserved), Costs::from_slice(actual));
        self.change(Op::Settle { at, reserved, actual, close, claim: None }, close)
    }

    /// Lets those look who may wait for what was freed.
    #[inline]
    fn hand_on(&self) {
        if !self.lane.is_free() {
            self.lane.look_now();
        }
        self.lane.neighbours.look_now(&self.lane);
    }

    /// Changes what a reservation is charged: applied or queued when this returns. `ends` says that the reservation is
    /// none of the lane's any more.
    pub(super) fn change(&self, mut op: Op, ends: bool) -> Settling {
        let lane = &self.lane;
        let mut path = Cow::Borrowed(&self.path);
        if lane.is_free() {
            if !self.is_current() {
                path = Cow::Owned(lane.path().with_those_of(&self.path));
                op = path.translated_op(op, &self.path);
            }
            if let Some((verdict, _)) = self.apply_directly(&path, &op) {
                self.hand_on();
                return Settling::answered(verdict);
            }
        }
        lane.change(Other::lasting(op, path.into_owned()), ends)
    }

    /// Sends what a provider said, about quotas by their ids: applied or queued when this returns.
    pub(super) fn say(&self, op: Op) -> Settling {
        let path = if self.is_current() { self.path.clone() } else { self.lane.path() };
        if self.lane.is_free()
            && let Some((verdict, _)) = self.apply_directly(&path, &op)
        {
            if let Op::Surface { .. } = op {
                // Whoever waits for this is not to, and would learn that later.
                self.hand_on();
            }
            return Settling::answered(verdict);
        }
        self.lane.send(op)
    }

    /// Applies one operation to a store in this process. Answers the verdict and when it fell.
    fn apply_directly(&self, path: &Arc<Path>, op: &Op) -> Option<(Verdict, Micros)> {
        let mut path = Cow::Borrowed(path);
        for _ in 0..=MAX_CHARTS {
            let batch = self.lane.batch(0, &path, std::slice::from_ref(op));
            let Reply::Now(Answer { wall, outcome }) = self.lane.shared.store.apply(&batch) else {
                return None;
            };
            match outcome {
                Outcome::Applied { now, lives, mut verdicts } => {
                    self.lane.saw(&path, &lives);
                    if let Cow::Owned(path) = path {
                        self.lane.chart(&mut self.lane.lock(), &path);
                    }
                    return verdicts.pop().map(|verdict| (verdict, now));
                }
                Outcome::Uncharted => path = Cow::Owned(Arc::new(path.charted(wall))),
                Outcome::Stale => return None,
            }
        }
        None
    }
}

/// Part of every reservation's, so it is short.
impl fmt::Debug for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Route").field("bucket", &self.path.name()).finish_non_exhaustive()
    }
}
