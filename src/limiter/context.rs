//! What all sessions of a limiter share: the store, the options, and who is told what happens.

use std::sync::Arc;

use super::builder::Options;
use crate::{
    engine::Micros,
    limits::{BucketSpec, Table},
    observe::{Event, StoreBatch},
    quota::micros,
    store::Store,
    sync::{RwLock, read, write},
    usage::Usage,
};

/// State in this process cannot outlive it, so neither can a lease in it.
const ENDLESS: Micros = 1 << 50;

/// What all sessions of a limiter share.
#[derive(Debug)]
pub(super) struct Context {
    store: Arc<dyn Store>,
    in_process: bool,
    lease: Micros,
    options: Options,
    /// The limits as of now, which know the metrics that quotas count.
    table: RwLock<Arc<Table>>,
}

impl Context {
    pub(super) fn new(store: Arc<dyn Store>, options: Options, table: Arc<Table>) -> Self {
        let in_process = store.in_process();
        let lease = if in_process { ENDLESS } else { micros(options.lease) };
        Self { store, in_process, lease, options, table: RwLock::new(table) }
    }

    /// Takes over other limits.
    pub(super) fn replace(&self, table: Arc<Table>) {
        *write(&self.table) = table;
    }

    /// The first metric that no quota and no standard name knows.
    pub(super) fn unknown_metric<'u>(
        &self,
        usage: &'u Usage,
        specs: impl ExactSizeIterator<Item = &'u Arc<BucketSpec>> + Clone,
    ) -> Option<&'u str> {
        if usage.is_standard() {
            return None;
        }
        read(&self.table).unknown_metric(usage, specs)
    }

    #[inline]
    pub(super) fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Whether callers apply their own operations, without a session's lock.
    #[inline]
    pub(super) fn in_process(&self) -> bool {
        self.in_process
    }

    /// How long a session may be silent before the store takes what it has in flight for abandoned.
    #[inline]
    pub(super) fn lease(&self) -> Micros {
        self.lease
    }

    pub(super) fn options(&self) -> &Options {
        &self.options
    }

    /// Whether observers are told anything.
    #[inline]
    pub(super) fn is_observed(&self) -> bool {
        self.options.observing.is_on()
    }

    /// Tells observers of an attempt to send a batch, if there are any. No lock may be held.
    pub(super) fn tell_batch<'a>(&self, batch: impl FnOnce() -> StoreBatch<'a>) {
        if self.options.observing.is_observed() {
            self.options.observing.tell_batch(&batch());
        }
    }

    /// Tells the observers. No lock may be held.
    #[inline]
    pub(super) fn tell<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        self.options.observing.tell(event);
    }
}
