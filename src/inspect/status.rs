//! Settlement by status.

use std::error::Error;

use http::StatusCode;

use super::{CallError, Inspector};
use crate::limiter::{Reservation, Settlement};

/// A response with a status.
pub trait HasStatus {
    /// The status.
    fn status(&self) -> StatusCode;
}

impl<B> HasStatus for http::Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }
}

/// Settles refusals (429), server errors (5xx) and failed connections, and leaves all else to `inspector`.
///
/// By default a refused call is released, since its provider did not serve it, a failed connection is released, and
/// a server error keeps its charge, since providers may count it. Providers differ: say what yours does.
pub fn by_status<I>(inspector: I) -> ByStatus<I> {
    ByStatus {
        inspector,
        refused: Settlement::Release,
        server_error: Settlement::Keep,
        unreachable: Settlement::Release,
    }
}

/// An [`Inspector`] that settles by status first: see [`by_status`].
#[derive(Clone, Debug)]
pub struct ByStatus<I> {
    inspector: I,
    refused: Settlement,
    server_error: Settlement,
    unreachable: Settlement,
}

impl<I> ByStatus<I> {
    /// What a call is charged that was answered 429.
    #[must_use]
    pub fn refused(mut self, settlement: Settlement) -> Self {
        self.refused = settlement;
        self
    }

    /// What a call is charged that was answered 5xx.
    #[must_use]
    pub fn server_error(mut self, settlement: Settlement) -> Self {
        self.server_error = settlement;
        self
    }

    /// What a call is charged whose connection was refused, so that it cannot have arrived.
    #[must_use]
    pub fn unreachable(mut self, settlement: Settlement) -> Self {
        self.unreachable = settlement;
        self
    }
}

impl<I, R> Inspector<R> for ByStatus<I>
where
    I: Inspector<R>,
    R: HasStatus,
{
    type Inspected = I::Inspected;

    fn inspect(&self, response: R, mut reservation: Reservation) -> I::Inspected {
        let settlement = match response.status() {
            StatusCode::TOO_MANY_REQUESTS => Some(&self.refused),
            status if status.is_server_error() => Some(&self.server_error),
            _ => None,
        };
        if let Some(settlement) = settlement {
            reservation.conclude_early(settlement);
        }
        self.inspector.inspect(response, reservation)
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        if never_connected(error.get_ref()) {
            self.unreachable.clone()
        } else {
            self.inspector.failed(error)
        }
    }

    fn dropped(&self) -> Settlement {
        self.inspector.dropped()
    }
}

/// Whether the connection was refused, so that the request cannot have arrived.
pub(crate) fn never_connected(error: &(dyn Error + 'static)) -> bool {
    #[cfg(feature = "reqwest")]
    if error.downcast_ref::<reqwest::Error>().is_some_and(reqwest::Error::is_connect) {
        return true;
    }
    #[cfg(feature = "reqwest-middleware")]
    if let Some(reqwest_middleware::Error::Reqwest(error)) = error.downcast_ref() {
        return never_connected(error);
    }
    let io = error.downcast_ref::<std::io::Error>();
    io.is_some_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
        || error.source().is_some_and(never_connected)
}
