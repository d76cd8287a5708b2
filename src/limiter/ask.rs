//! A demand on its way to the store, or waiting to be sent there again.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{path::Path, route::Route};
use crate::{
    engine::{Costs, Mode, Op, Violation},
    error::{Refusal, Throttled},
    limits::Standing,
    usage::Usage,
};

/// A demand on its way.
#[derive(Debug)]
pub(super) struct Ask {
    pub(super) route: Arc<Route>,
    pub(super) usage: Usage,
    pub(super) costs: Costs,
    pub(super) standing: Standing,
    pub(super) mode: Mode,
    /// When it was first asked for.
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
}

impl Ask {
    pub(super) fn op(&self, explain: bool) -> Op {
        let costs = Costs::from_slice(&self.costs);
        Op::Reserve { costs, headroom: self.standing.headroom, explain, mode: self.mode }
    }

    pub(super) fn refusal(&self, violations: &[Violation]) -> Refusal {
        self.route.path.refusal(violations, &self.costs, self.standing.headroom)
    }

    /// What becomes of it, being refused; nothing, if it is to wait.
    pub(super) fn refused(&self, violations: &[Violation]) -> Option<Throttled> {
        self.route.path.refused(violations, &self.costs, self.standing.headroom, self.mode)
    }

    /// Counts it on another version of its path. Answers why it could never be granted there.
    pub(super) fn follow(&mut self, path: &Arc<Path>) -> Option<Refusal> {
        if Arc::ptr_eq(&self.route.path, path) {
            return None;
        }
        self.route = Arc::new(self.route.on(path));
        self.costs.clear();
        path.put_demand(&mut self.costs, &self.usage, self.standing.headroom).err()
    }

    /// Whether it could be granted in time if everything in flight were refunded.
    pub(super) fn can_make_it(&self, violations: &[Violation], now: Instant) -> bool {
        let at_best = violations.iter().map(|violation| violation.at_best).max().unwrap_or(0);
        let in_time = |deadline| now < deadline && now + Duration::from_micros(at_best) <= deadline;
        self.deadline.is_none_or(in_time)
    }
}
