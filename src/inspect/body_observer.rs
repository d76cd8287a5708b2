//! Follows the body of one response. On its own, since the layer's body and the inspectors of
//! bodies both need it.

use http::HeaderMap;

use crate::limiter::Settlement;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyEnd {
    /// All of it was seen.
    Complete,
    /// With an error.
    Failed,
    /// Its reader dropped it.
    Dropped,
}

/// Follows one body while it passes, unchanged and undelayed.
pub trait BodyObserver: Send + Sync {
    /// A piece of the body, cut anywhere.
    fn data(&mut self, piece: &[u8]);

    /// The trailers.
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// The body has ended: what to charge. Called once.
    fn end(&mut self, end: BodyEnd) -> Settlement;
}
