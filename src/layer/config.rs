//! What a layer is told, shared by the services that it makes. It knows the limiter and no service.

use std::{sync::Arc, time::Duration};

use crate::limiter::Limiter;

/// Default of [`dispatch_within`](Config::dispatch_within). A call made later than this after its
/// grant would be counted by the provider in a window for which it was not reserved.
const DISPATCH_WITHIN: Duration = Duration::from_millis(500);

/// Default of [`max_wait`](Config::max_wait): longer than the pauses that providers ask for,
/// shorter than a silence that looks like a hang. A daily quota that is used up then is an error
/// that says so.
const MAX_WAIT: Duration = Duration::from_secs(600);

/// The settings of a layer and of the services that it makes.
pub(crate) struct Config<E, I> {
    pub(super) limiter: Limiter,
    pub(super) extractor: Arc<E>,
    pub(super) inspector: Arc<I>,
    /// True if a demand that does not fit waits.
    pub(super) waits: bool,
    /// Longest wait of demands that do not set one; for ever if there is none.
    pub(super) max_wait: Option<Duration>,
    /// Longest time from a grant to its call.
    pub(super) dispatch_within: Duration,
    /// True if calls are only measured.
    pub(super) is_shadow: bool,
}

impl<E, I> Config<E, I> {
    pub(super) fn new(limiter: Limiter, extractor: E, inspector: I) -> Self {
        Self {
            limiter,
            extractor: Arc::new(extractor),
            inspector: Arc::new(inspector),
            waits: true,
            max_wait: Some(MAX_WAIT),
            dispatch_within: DISPATCH_WITHIN,
            is_shadow: false,
        }
    }

    /// A copy with another inspector.
    pub(super) fn with_inspector<J>(&self, inspector: Arc<J>) -> Config<E, J> {
        let Self { waits, max_wait, dispatch_within, is_shadow, .. } = *self;
        let (limiter, extractor) = (self.limiter.clone(), self.extractor.clone());
        Config { limiter, extractor, inspector, waits, max_wait, dispatch_within, is_shadow }
    }
}
