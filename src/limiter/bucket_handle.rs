//! What a limiter keeps of one bucket: its declaration as of now, how many wait for it, and what
//! was seen of its state. There is one handle per bucket, shared by every set of buckets that names
//! it.

use std::sync::Arc;

use smallvec::SmallVec;

use super::{
    charge_watch::ChargeWatch,
    state_loss::{Loss, StateLoss},
};
use crate::{
    engine::{Micros, Seen},
    error::Throttled,
    limits::BucketSpec,
    store::{Bucket, BucketKey},
    sync::{
        Mutex,
        atomic::{AtomicU64, AtomicUsize, Ordering},
        lock,
    },
};

/// One bucket of a limiter.
#[derive(Debug)]
pub(super) struct BucketHandle {
    key: Arc<BucketKey>,
    /// Counts the changes of `declared`. Sets of buckets compare it to notice that they are out of
    /// date.
    version: AtomicU64,
    declared: Mutex<Declaration>,
    waiting: AtomicUsize,
    loss: StateLoss,
    /// The name of the session whose batch named it last.
    named_by: AtomicU64,
    watch: ChargeWatch,
}

/// What the limits say of a bucket at present: its quotas, if it has any.
pub(super) type Declaration = Result<(Arc<BucketSpec>, Bucket), Outdated>;

/// Why a bucket that was declared is declared no more.
#[derive(Clone, Debug)]
pub(super) enum Outdated {
    /// Its name stands for another bucket, or for one in another partition: demands have to be
    /// looked up again.
    Elsewhere,
    /// Its name stands for nothing.
    Gone(Throttled),
}

/// A bucket as stores see it, its calendars looked up around this time.
pub(super) fn bucket_of(spec: &BucketSpec, around: Micros) -> Bucket {
    Bucket::new(spec.key.clone(), spec.rules(around).into_owned()).with_notes(spec.notes().clone())
}

/// A bucket is declared like this, its calendars looked up around this time.
pub(super) fn declaration(spec: Arc<BucketSpec>, around: Micros) -> Declaration {
    let bucket = bucket_of(&spec, around);
    Ok((spec, bucket))
}

impl BucketHandle {
    pub(super) fn new(key: Arc<BucketKey>, declared: Declaration) -> Self {
        Self {
            key,
            version: AtomicU64::new(0),
            declared: Mutex::new(declared),
            waiting: AtomicUsize::new(0),
            loss: StateLoss::default(),
            named_by: AtomicU64::new(0),
            watch: ChargeWatch::default(),
        }
    }

    pub(super) fn id(&self) -> u64 {
        self.key.id()
    }

    pub(super) fn name(&self) -> &str {
        self.key.name()
    }

    pub(super) fn key(&self) -> &Arc<BucketKey> {
        &self.key
    }

    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// The declaration, with a version that is not newer than it.
    pub(super) fn declared(&self) -> (u64, Declaration) {
        let declared = lock(&self.declared);
        (self.version(), declared.clone())
    }

    /// Takes over another declaration. Nothing happens if a demand is counted the same under it.
    pub(super) fn declare(&self, new: Declaration) {
        let mut declared = lock(&self.declared);
        if let (Ok((one, _)), Ok((other, _))) = (&*declared, &new)
            && one.meters == other.meters
        {
            return;
        }
        *declared = new;
        self.watch.begin_anew();
        self.version.fetch_add(1, Ordering::Release);
    }

    /// Looks the calendars of a declaration up again, unless another one has replaced it.
    pub(super) fn chart(&self, spec: &Arc<BucketSpec>, around: Micros) {
        let mut declared = lock(&self.declared);
        if matches!(&*declared, Ok((now, _)) if Arc::ptr_eq(now, spec)) {
            *declared = declaration(spec.clone(), around);
            self.version.fetch_add(1, Ordering::Release);
        }
    }

    /// How many demands are known to wait for it.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// One demand more waits, unless `most` do. Only called under the lock of the bucket's session,
    /// so that no more do.
    pub(super) fn start_waiting(&self, most: usize) -> bool {
        let has_room = self.waiting() < most;
        if has_room {
            self.waiting.fetch_add(1, Ordering::Relaxed);
        }
        has_room
    }

    pub(super) fn stop_waiting(&self) {
        self.waiting.fetch_sub(1, Ordering::Relaxed);
    }

    /// A session of this name was part of a batch on the bucket. Returns whether the last one was.
    pub(super) fn named_by(&self, session: u64) -> bool {
        self.named_by.swap(session, Ordering::Relaxed) == session
    }

    /// Notes what a batch saw of the bucket. Returns whether, and how, the store has lost the state
    /// that was seen before.
    #[inline]
    pub(super) fn saw(&self, seen: &Seen, in_process: bool) -> Option<Loss> {
        if in_process { self.loss.saw_in_any_order(seen) } else { self.loss.saw(seen) }
    }

    /// Whether it is of interest which quotas are charged.
    #[inline]
    pub(super) fn is_watched(&self) -> bool {
        self.watch.is_on()
    }

    /// A demand was settled that charged these of its quotas. Returns which were never charged,
    /// once enough were settled.
    pub(super) fn charged(&self, quotas: &[bool]) -> Option<SmallVec<[bool; 8]>> {
        self.watch.settled(quotas)
    }
}
