//! Settles by status.

use std::{error::Error, time::Duration};

use http::StatusCode;

use super::{call_error::CallError, inspector::Inspector, retry_after::retry_after};
use crate::{
    error::Throttled,
    feedback::Feedback,
    limiter::{Reservation, Settlement},
    usage::Usage,
};

/// A response with a status.
pub trait HasStatus {
    /// Returns the status.
    fn status(&self) -> StatusCode;

    /// Returns how long to wait before the next call, if the response says so (default: it does
    /// not). HTTP has the header `Retry-After` for it.
    fn retry_after(&self) -> Option<Duration> {
        None
    }
}

impl<B> HasStatus for http::Response<B> {
    fn status(&self) -> StatusCode {
        self.status()
    }

    fn retry_after(&self) -> Option<Duration> {
        retry_after(self.headers())
    }
}

/// Settles by status, and leaves all else to `inspector`:
///
/// | what came | is charged by default | changed by |
/// |---|---|---|
/// | 429 | nothing: it was not served | [`refused`](ByStatus::refused) |
/// | 4xx but 408, 429, 499 | a request, nothing else | [`bad_request`](ByStatus::bad_request) |
/// | 5xx | what was reserved: it may count | [`server_error`](ByStatus::server_error) |
/// | a refused connection | nothing: it did not arrive | [`unreachable`](ByStatus::unreachable) |
/// | a [`Throttled`] of another throttle inside | nothing: it was not sent | |
///
/// A bad request (400, 401, 403, 404, 413, 422 ..) does not keep its tokens, so that a wrong key
/// does not use up everything that others share. Providers differ: say what yours does.
///
/// A 429 or 503 with a `Retry-After` pauses the [account's](crate::Demand::account) bucket for all
/// that share it. When the pause ends one call goes first, and the others follow once it is
/// answered well; see [`ByStatus::ignore_retry_after`].
///
/// ```
/// use tower_throttle::{Settlement, inspect, usage};
///
/// let inspector = inspect::by_status(inspect::KeepReserved)
///     .refused(Settlement::Exact(usage! { tokens: 0 })) // a refused request counts as a request
///     .bad_request(Settlement::Keep);
/// ```
pub fn by_status<I>(inspector: I) -> ByStatus<I> {
    ByStatus {
        inspector,
        refused: Settlement::Release,
        bad_request: OnBadRequest::ChargeRequest,
        server_error: Settlement::Keep,
        unreachable: Settlement::Release,
        pauses: true,
    }
}

/// An [`Inspector`] that settles by status first: see [`by_status`].
#[derive(Clone, Debug)]
pub struct ByStatus<I> {
    inspector: I,
    refused: Settlement,
    bad_request: OnBadRequest,
    server_error: Settlement,
    unreachable: Settlement,
    /// Whether a `Retry-After` is obeyed.
    pauses: bool,
}

/// What becomes of a call whose request was refused as bad.
#[derive(Clone, Debug)]
enum OnBadRequest {
    /// Its requests are charged, and no other metric.
    ChargeRequest,
    Settle(Settlement),
    /// The inspector inside decides.
    Inspect,
}

impl<I> ByStatus<I> {
    /// Sets the settlement of calls that were answered 429 (default: they are released).
    #[must_use]
    pub fn refused(mut self, settlement: Settlement) -> Self {
        self.refused = settlement;
        self
    }

    /// Sets the settlement of calls that were answered with another 4xx, but 408 and 499 (default:
    /// they keep their requests and nothing else).
    #[must_use]
    pub fn bad_request(mut self, settlement: Settlement) -> Self {
        self.bad_request = OnBadRequest::Settle(settlement);
        self
    }

    /// Leaves calls that were answered with another 4xx to the inspector inside. For an API whose
    /// "not found" is an answer like any other.
    #[must_use]
    pub fn inspect_bad_requests(mut self) -> Self {
        self.bad_request = OnBadRequest::Inspect;
        self
    }

    /// Sets the settlement of calls that were answered 5xx (default: they keep their charge).
    #[must_use]
    pub fn server_error(mut self, settlement: Settlement) -> Self {
        self.server_error = settlement;
        self
    }

    /// Sets the settlement of calls whose connection was refused (default: they are released).
    #[must_use]
    pub fn unreachable(mut self, settlement: Settlement) -> Self {
        self.unreachable = settlement;
        self
    }

    /// Lets calls go on after a response with a `Retry-After` (default: the bucket is paused). For
    /// an API that says it of one of its resources and not of all that the bucket stands for.
    #[must_use]
    pub fn ignore_retry_after(mut self) -> Self {
        self.pauses = false;
        self
    }

    /// Returns how long a response asks all calls to wait, if that is obeyed.
    fn pause(&self, response: &impl HasStatus) -> Option<Duration> {
        let asks = matches!(
            response.status(),
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE
        );
        if self.pauses && asks { response.retry_after() } else { None }
    }

    /// Returns what the status decides, if it does.
    fn settlement(&self, status: StatusCode, reserved: &Usage) -> Option<Settlement> {
        if status == StatusCode::TOO_MANY_REQUESTS {
            Some(self.refused.clone())
        } else if status.is_server_error() {
            Some(self.server_error.clone())
        } else if is_bad_request(status.as_u16()) {
            match &self.bad_request {
                OnBadRequest::ChargeRequest => Some(Settlement::Exact(reserved.requests_only())),
                OnBadRequest::Settle(settlement) => Some(settlement.clone()),
                OnBadRequest::Inspect => None,
            }
        } else {
            None
        }
    }
}

/// True if a provider that answers with this status did no work: all of 4xx but 429, a time-out
/// (408) and a caller that has gone (499).
pub(crate) fn is_bad_request(status: u16) -> bool {
    matches!(status, 400..=499) && !matches!(status, 408 | 429 | 499)
}

impl<I, Response> Inspector<Response> for ByStatus<I>
where
    I: Inspector<Response>,
    Response: HasStatus,
{
    type Inspected = I::Inspected;

    fn inspect(&self, response: Response, mut reservation: Reservation) -> I::Inspected {
        if response.status().is_success() {
            // The body may take long: what waits behind a probe need not wait for its end.
            drop(reservation.answered());
        }
        if let Some(wait) = self.pause(&response) {
            // Before anything is given back, which others would take.
            drop(reservation.feedback(&Feedback::new().with_retry_after(wait)));
        }
        if let Some(settlement) = self.settlement(response.status(), reservation.usage()) {
            reservation.conclude_early(&settlement);
        }
        self.inspector.inspect(response, reservation)
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        if Throttled::find(error.get_ref()).is_some() {
            // Another throttle inside let nothing pass.
            Settlement::Release
        } else if never_connected(error.get_ref()) {
            self.unreachable.clone()
        } else {
            self.inspector.failed(error)
        }
    }

    fn dropped(&self) -> Settlement {
        self.inspector.dropped()
    }
}

/// True if the connection was refused, so that the request cannot have arrived.
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
