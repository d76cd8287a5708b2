//! Where a demand goes: its lane, and the path it is counted on. With a store in this process an operation is applied by
//! its own caller, without the lane's lock, as long as nothing of the lane comes before it.

use std::{borrow::Cow, sync::Arc};

use tokio::time::Instant;

use super::{
    lane::Lane,
    path::Path,
    place::Place,
    queue::{Ask, Other},
    reservation::Reservation,
    settling::Settling,
    trip::MAX_CHARTS,
};
use crate::{
    demand::Demand,
    engine::{Answer, Costs, Micros, Mode, Op, Outcome, Verdict},
    error::Throttled,
    limits::Standing,
    store::Reply,
};

/// A lane, and its path as it was when it was looked up.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) lane: Arc<Lane>,
    pub(super) path: Arc<Path>,
    /// Of the path.
    version: u64,
}

impl Route {
    pub(super) fn to(lane: Arc<Lane>) -> Self {
        // First, since a new path under an old version is looked up again, and the reverse would not be.
        let version = lane.version();
        Self { path: lane.path(), lane, version }
    }

    /// Whether this is still the lane's path.
    pub(super) fn is_current(&self) -> bool {
        self.version == self.lane.version()
    }

    /// The same lane with the version of the path that it has now; called under its lock.
    pub(super) fn on(&self, path: &Arc<Path>) -> Self {
        Self { lane: self.lane.clone(), path: path.clone(), version: self.lane.version() }
    }

    /// Grants or refuses a demand where that can be told at once; nothing if it has to be queued.
    pub(super) fn enter_directly(
        self: &Arc<Self>,
        demand: &Demand,
        standing: Standing,
        mode: Mode,
    ) -> Result<Option<Reservation>, Throttled> {
        if !self.is_current() {
            return Arc::new(Self::to(self.lane.clone())).enter_directly(demand, standing, mode);
        }
        let costs = self.costs(demand, standing)?;
        if self.lane.is_closed() {
            return Err(Throttled::Closed);
        }
        match self.reserve_directly(&costs, standing, mode) {
            Some((Verdict::Granted, at)) => {
                let mut reservation = Reservation::granted(self.clone(), demand.usage.clone(), costs, at);
                reservation.release_on_drop(false);
                Ok(Some(reservation))
            }
            Some((Verdict::Fits, at)) => Ok(Some(Reservation::uncounted(demand.usage.clone(), at))),
            Some((Verdict::Refused(violations), _)) if mode != Mode::Wait => {
                let refusal = self.path.refusal(&violations, &costs, standing.headroom);
                Err(Throttled::NotNow(Box::new(refusal)))
            }
            _ => Ok(None),
        }
    }

    /// Queues a demand.
    pub(super) fn enter(
        self: Arc<Self>,
        demand: &Demand,
        standing: Standing,
        mode: Mode,
        deadline: Option<Instant>,
    ) -> Result<Place, Throttled> {
        let (lane, usage, costs) = (self.lane.clone(), demand.usage.clone(), self.costs(demand, standing)?);
        lane.enter(Ask { route: self, usage, costs, standing, mode, deadline })
    }

    /// What a demand costs, if it could ever be granted.
    fn costs(&self, demand: &Demand, standing: Standing) -> Result<Costs, Throttled> {
        let costs = self.path.costs(&demand.usage);
        match self.path.beyond_capacity(&costs, standing.headroom) {
            Some(refusal) => Err(Throttled::ExceedsCapacity(Box::new(refusal))),
            None => Ok(costs),
        }
    }

    fn reserve_directly(&self, costs: &Costs, standing: Standing, mode: Mode) -> Option<(Verdict, Micros)> {
        if !self.lane.is_free() {
            return None;
        }
        let (costs, headroom) = (Costs::from_slice(costs), standing.headroom);
        self.apply_directly(&self.path, &Op::Reserve { costs, headroom, explain: mode != Mode::Wait, mode })
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
                if !lane.is_free() {
                    lane.look_now();
                }
                lane.neighbours.look_now(lane);
                return Settling::done(verdict);
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
            return Settling::done(verdict);
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
