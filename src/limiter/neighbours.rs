//! The lanes of one limiter that share a bucket: what one of them gives back another may be waiting for.

use std::sync::{
    Arc, Mutex, PoisonError, Weak,
    atomic::{AtomicUsize, Ordering},
};

use smallvec::SmallVec;

use super::lane::Lane;

/// The lanes that take from one bucket.
#[derive(Debug, Default)]
pub(super) struct Sharers {
    lanes: Mutex<Vec<Weak<Lane>>>,
    /// Spares a lone lane the lock.
    count: AtomicUsize,
}

impl Sharers {
    #[inline]
    fn are_several(&self) -> bool {
        self.count.load(Ordering::Relaxed) > 1
    }

    fn join(&self, lane: Weak<Lane>) {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(lane);
        self.count.store(lanes.len(), Ordering::Relaxed);
    }

    fn others(&self, me: &Arc<Lane>) -> Vec<Arc<Lane>> {
        if !self.are_several() {
            return Vec::new();
        }
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().filter_map(Weak::upgrade).filter(|lane| !Arc::ptr_eq(lane, me)).collect()
    }

    /// Whether no lane takes from the bucket any more.
    pub(super) fn is_deserted(&self) -> bool {
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        lanes.iter().all(|lane| lane.strong_count() == 0)
    }
}

/// The sharers of each bucket of a lane.
#[derive(Clone, Debug, Default)]
pub(super) struct Neighbours(pub(super) SmallVec<[Arc<Sharers>; 1]>);

impl Neighbours {
    pub(super) fn join(&self, lane: &Arc<Lane>) {
        self.0.iter().for_each(|sharers| sharers.join(Arc::downgrade(lane)));
    }

    /// How many demands wait on a lane of one bucket and on all that share that bucket.
    pub(super) fn waiting(&self, me: &Arc<Lane>) -> usize {
        let others = self.0.iter().flat_map(|sharers| sharers.others(me));
        me.waiting() + others.map(|lane| lane.waiting()).sum::<usize>()
    }

    /// Lets the other lanes look whether what they wait for fits now.
    #[inline]
    pub(super) fn look_now(&self, me: &Arc<Lane>) {
        for sharers in self.0.iter().filter(|sharers| sharers.are_several()) {
            sharers.others(me).iter().for_each(Lane::look_now);
        }
    }
}
