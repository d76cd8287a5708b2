//! What a call has really used, read from its response.
//!
//! An [`Inspector`] is given the response together with the reservation and settles it, at once or when the body ends.
//! A closure `Fn(&Response) -> Settlement` settles at once. [`body()`] and [`bytes()`] follow a body while it passes,
//! [`by_status`] settles refusals and failures by their status and leaves the rest to another inspector, and
//! [`on_failure`] does so with errors.

mod body;
pub(crate) mod body_observer;
mod failure;
mod status;

use std::error::Error;

#[cfg(feature = "llm")]
pub(crate) use self::status::never_connected;
pub use self::{
    body::{BodyInspector, Carrier, Collect, body, bytes},
    body_observer::{BodyEnd, BodyObserver},
    failure::{OnFailure, on_failure},
    status::{ByStatus, HasStatus, by_status},
};
use crate::limiter::{Reservation, Settlement};

/// Settles a reservation on what its call has really used.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not settle on `{Response}`",
    note = "those that follow bodies take a `reqwest::Response` with feature `reqwest` of tower-throttle",
    note = "a closure `|response: &Response| -> Settlement` is an inspector too"
)]
pub trait Inspector<Response> {
    /// What becomes of the response: itself, unless its body is followed.
    type Response;

    /// Settles the reservation, now or later: dropped, it keeps its charge.
    fn inspect(&self, response: Response, reservation: Reservation) -> Self::Response;

    /// What a call is charged that was made and failed without a response.
    fn failed(&self, error: &(dyn Error + Send + Sync + 'static)) -> Settlement {
        let _ = error;
        Settlement::Keep
    }

    /// What a call is charged that was made and then given up.
    fn dropped(&self) -> Settlement {
        Settlement::Keep
    }
}

impl<F, Response> Inspector<Response> for F
where
    F: Fn(&Response) -> Settlement,
{
    type Response = Response;

    fn inspect(&self, response: Response, reservation: Reservation) -> Response {
        drop(reservation.conclude(self(&response)));
        response
    }
}

/// Charges every call what it reserved.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepReserved;

impl<Response> Inspector<Response> for KeepReserved {
    type Response = Response;

    fn inspect(&self, response: Response, reservation: Reservation) -> Response {
        drop(reservation.keep());
        response
    }
}
