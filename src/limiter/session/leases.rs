//! What a session has in flight, by bucket: the store has to hear of it in each of them before its
//! lease ends there.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

use crate::{engine::Micros, limiter::bucket_set::BucketSet};

/// The buckets in which reservations are open.
#[derive(Debug)]
pub(super) struct Leases {
    /// A batch names each bucket at least this often.
    period: Micros,
    open: HashMap<u64, Open, RandomState>,
    /// None has to be named before.
    next: Micros,
}

#[derive(Debug)]
struct Open {
    /// A set that the bucket is part of.
    set: Arc<BucketSet>,
    count: usize,
    /// When a batch last named it.
    named: Micros,
}

impl Leases {
    pub(super) fn new(lease: Micros) -> Self {
        Self { period: lease / 3, open: HashMap::default(), next: Micros::MAX }
    }

    /// A reservation was granted, by a batch that named its buckets.
    pub(super) fn open(&mut self, set: &Arc<BucketSet>, now: Micros) {
        for handle in set.handles() {
            let open = || Open { set: set.clone(), count: 0, named: now };
            self.open.entry(handle.id()).or_insert_with(open).count += 1;
        }
        self.next = self.next.min(now.saturating_add(self.period));
    }

    /// A reservation is over.
    pub(super) fn close(&mut self, set: &BucketSet) {
        for handle in set.handles() {
            if let Some(open) = self.open.get_mut(&handle.id()) {
                open.count = open.count.saturating_sub(1);
                if open.count == 0 {
                    self.open.remove(&handle.id());
                }
            }
        }
    }

    /// A batch names these buckets.
    pub(super) fn named(&mut self, buckets: &[u64], now: Micros) {
        if self.open.is_empty() {
            return;
        }
        for bucket in buckets {
            if let Some(open) = self.open.get_mut(bucket) {
                open.named = now;
            }
        }
    }

    /// When a bucket may have to be named next.
    pub(super) fn due(&self) -> Option<Micros> {
        (!self.open.is_empty()).then_some(self.next)
    }

    /// The buckets to be named now, each with a set that it is part of, if that is due.
    pub(super) fn take_due(&mut self, now: Micros) -> Vec<(u64, Arc<BucketSet>)> {
        if self.next > now {
            return Vec::new();
        }
        let period = self.period;
        let is_due = |open: &Open| open.named.saturating_add(period) <= now;
        let others = self.open.values().filter(|open| !is_due(open));
        let next = others.map(|open| open.named.saturating_add(period)).min();
        // Those that find no room are looked at again with the next batch.
        self.next = next.unwrap_or(Micros::MAX).min(now.saturating_add(period));
        let due = self.open.iter().filter(|(_, open)| is_due(open));
        due.map(|(bucket, open)| (*bucket, open.set.clone())).collect()
    }

    /// Some that are to be named found no room.
    pub(super) fn name_again(&mut self, now: Micros) {
        self.next = now;
    }
}
