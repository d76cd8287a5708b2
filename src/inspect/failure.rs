//! Settles calls that failed without a response.

use std::{error::Error, fmt, ops::Deref};

use super::Inspector;
use crate::limiter::{Reservation, Settlement};

/// The error of a call that failed without a response.
///
/// It dereferences to the error: `is`, `downcast_ref`, `to_string` and `source` work as they do
/// there. A closure that took a `&dyn Error` instead could not be spawned ("`FnOnce` is not general
/// enough").
///
/// ```
/// use tower_throttle::{Settlement, inspect::{self, CallError}};
///
/// fn was_reset(error: CallError<'_>) -> Option<Settlement> {
///     let error = error.downcast_ref::<std::io::Error>()?;
///     (error.kind() == std::io::ErrorKind::ConnectionReset).then_some(Settlement::Release)
/// }
///
/// let inspector = inspect::on_failure(inspect::KeepReserved, was_reset);
/// ```
#[derive(Clone, Copy)]
pub struct CallError<'e>(&'e (dyn Error + Send + Sync + 'static));

impl<'e> CallError<'e> {
    /// Wraps an error, as the layer does before it asks an inspector.
    pub fn new(error: &'e (dyn Error + Send + Sync + 'static)) -> Self {
        Self(error)
    }

    /// Returns the error, for as long as it is borrowed.
    pub fn get_ref(self) -> &'e (dyn Error + Send + Sync + 'static) {
        self.0
    }
}

impl Deref for CallError<'_> {
    type Target = dyn Error + Send + Sync + 'static;

    fn deref(&self) -> &Self::Target {
        self.0
    }
}

impl fmt::Debug for CallError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.0, f)
    }
}

impl fmt::Display for CallError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.0, f)
    }
}

/// Settles failed calls as `settle` says. Where it returns nothing, and in all else, `inspector`
/// decides.
///
/// Some layers inside fail a call that they never made. Such a call keeps its charge unless its
/// error is known here:
///
/// ```
/// use tower::load_shed::error::Overloaded;
/// use tower_throttle::{Settlement, inspect};
///
/// let inspector = inspect::on_failure(inspect::KeepReserved, |error| {
///     error.is::<Overloaded>().then_some(Settlement::Release)
/// });
/// ```
pub fn on_failure<I, F>(inspector: I, settle: F) -> OnFailure<I, F>
where
    F: Fn(CallError<'_>) -> Option<Settlement>,
{
    OnFailure { inspector, settle }
}

/// An [`Inspector`] that settles failed calls first: see [`on_failure`].
#[derive(Clone, Copy, Debug)]
pub struct OnFailure<I, F> {
    inspector: I,
    settle: F,
}

impl<I, F, Response> Inspector<Response> for OnFailure<I, F>
where
    I: Inspector<Response>,
    F: Fn(CallError<'_>) -> Option<Settlement>,
{
    type Inspected = I::Inspected;

    fn inspect(&self, response: Response, reservation: Reservation) -> I::Inspected {
        self.inspector.inspect(response, reservation)
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        (self.settle)(error).unwrap_or_else(|| self.inspector.failed(error))
    }

    fn dropped(&self) -> Settlement {
        self.inspector.dropped()
    }
}
