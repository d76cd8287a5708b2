//! Settles calls that failed without a response.

use super::{call_error::CallError, inspector::Inspector};
use crate::limiter::{Reservation, Settlement};

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
