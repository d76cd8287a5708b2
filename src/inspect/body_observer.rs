//! Follows the body of one response. On its own, since the layer's body and the inspectors of
//! bodies both need it.

use http::HeaderMap;

use crate::limiter::Settlement;

/// How a body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BodyEnd {
    /// All of the body was seen.
    Complete,
    /// The body ended with an error.
    Failed,
    /// The reader dropped the body before its end.
    Dropped,
}

/// Follows one body while it passes, unchanged and undelayed, and returns its settlement.
///
/// ```
/// use tower_throttle::{
///     Settlement,
///     inspect::{BodyEnd, BodyObserver},
///     usage,
/// };
///
/// /// Charges the bytes that were sent, to a reader that hangs up as well.
/// #[derive(Default)]
/// struct Bytes(u64);
///
/// impl BodyObserver for Bytes {
///     fn data(&mut self, piece: &[u8]) {
///         self.0 += piece.len() as u64;
///     }
///
///     fn end(&mut self, end: BodyEnd) -> Settlement {
///         match end {
///             BodyEnd::Failed => Settlement::Keep,
///             _ => Settlement::Exact(usage! { bytes: self.0 }),
///         }
///     }
/// }
///
/// let inspector = tower_throttle::inspect::body(|_: &http::response::Parts| Bytes::default());
/// ```
pub trait BodyObserver: Send + Sync {
    /// Sees a piece of the body, cut anywhere.
    fn data(&mut self, piece: &[u8]);

    /// Sees the trailers.
    fn trailers(&mut self, trailers: &HeaderMap) {
        let _ = trailers;
    }

    /// Returns the settlement of the call, now that its body has ended. Called once.
    fn end(&mut self, end: BodyEnd) -> Settlement;
}
