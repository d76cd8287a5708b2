//! Settlement of calls that failed.

use std::error::Error;

use super::Inspector;
use crate::limiter::{Reservation, Settlement};

/// Settles calls that failed without a response as `settle` says, where it says something, and leaves all else to
/// `inspector`.
///
/// Some layers inside fail a call that they never made, and it keeps its charge unless its error is known here:
///
/// ```
/// use std::error::Error;
/// use tower::load_shed::error::Overloaded;
/// use tower_throttle::{Settlement, inspect};
///
/// let inspector = inspect::on_failure(inspect::KeepReserved, |error| {
///     error.is::<Overloaded>().then_some(Settlement::Release)
/// });
/// ```
pub fn on_failure<I, F>(inspector: I, settle: F) -> OnFailure<I, F>
where
    F: Fn(&(dyn Error + Send + Sync + 'static)) -> Option<Settlement>,
{
    OnFailure { inspector, settle }
}

/// An [`Inspector`] that settles failed calls first: see [`on_failure`].
#[derive(Clone, Copy, Debug)]
pub struct OnFailure<I, F> {
    inspector: I,
    settle: F,
}

impl<I, F, R> Inspector<R> for OnFailure<I, F>
where
    I: Inspector<R>,
    F: Fn(&(dyn Error + Send + Sync + 'static)) -> Option<Settlement>,
{
    type Response = I::Response;

    fn inspect(&self, response: R, reservation: Reservation) -> I::Response {
        self.inspector.inspect(response, reservation)
    }

    fn failed(&self, error: &(dyn Error + Send + Sync + 'static)) -> Settlement {
        (self.settle)(error).unwrap_or_else(|| self.inspector.failed(error))
    }

    fn dropped(&self) -> Settlement {
        self.inspector.dropped()
    }
}
