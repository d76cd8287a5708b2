//! The error that tower's layers share. On its own, since every other room needs it.

use std::error::Error;

/// Any error, in a box.
///
/// The error type of a [`Throttle`](crate::layer::Throttle) and of most of tower's own layers. One
/// that comes from the limiter itself downcasts to [`Throttled`](crate::Throttled), and
/// [`Throttled::find`](crate::Throttled::find) finds it below the errors of other layers and
/// clients.
///
/// ```
/// use tower_throttle::{BoxError, Throttled};
///
/// let error = BoxError::from(Throttled::Closed);
/// assert!(matches!(error.downcast_ref(), Some(Throttled::Closed)));
/// ```
pub type BoxError = Box<dyn Error + Send + Sync>;
