//! The trait of inspectors, and the two simplest ones: a closure, and [`KeepReserved`].

use super::call_error::CallError;
use crate::limiter::{Reservation, Settlement};

/// Settles a reservation on what its call has really used.
///
/// A closure `Fn(&Response) -> Settlement` is an inspector. One that keeps an own count of
/// failures:
///
/// ```
/// use std::sync::atomic::{AtomicU64, Ordering};
/// use tower_throttle::{Inspector, Reservation, Settlement, inspect::CallError, usage};
///
/// #[derive(Default)]
/// struct Rows {
///     failures: AtomicU64,
/// }
///
/// impl Inspector<Vec<u8>> for Rows {
///     type Inspected = Vec<u8>;
///
///     fn inspect(&self, rows: Vec<u8>, reservation: Reservation) -> Vec<u8> {
///         drop(reservation.settle(usage! { rows: rows.len() as u64 }));
///         rows
///     }
///
///     fn failed(&self, _: CallError<'_>) -> Settlement {
///         self.failures.fetch_add(1, Ordering::Relaxed);
///         Settlement::Keep
///     }
/// }
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not settle on `{Response}`",
    note = "those that follow bodies take a `reqwest::Response` with feature `reqwest`",
    note = "a closure has the form `|response: &Response| Settlement::Exact(usage! {{ .. }})`"
)]
pub trait Inspector<Response> {
    /// What the caller gets: the response itself, or a response whose body is followed.
    type Inspected;

    /// Settles the reservation, now or later. A reservation that is dropped keeps its charge.
    fn inspect(&self, response: Response, reservation: Reservation) -> Self::Inspected;

    /// Returns the settlement of a call that failed without a response (default: it keeps its
    /// charge). Not asked by a layer that [responds](crate::layer::RespondLayer).
    fn failed(&self, error: CallError<'_>) -> Settlement {
        let _ = error;
        Settlement::Keep
    }

    /// Returns the settlement of a call that was dropped before its response came (default: it
    /// keeps its charge).
    fn dropped(&self) -> Settlement {
        Settlement::Keep
    }
}

#[diagnostic::do_not_recommend]
impl<F, Response> Inspector<Response> for F
where
    F: Fn(&Response) -> Settlement,
{
    type Inspected = Response;

    fn inspect(&self, response: Response, reservation: Reservation) -> Response {
        drop(reservation.conclude(self(&response)));
        response
    }
}

/// Charges every call what it reserved.
#[derive(Clone, Copy, Debug, Default)]
pub struct KeepReserved;

impl<Response> Inspector<Response> for KeepReserved {
    type Inspected = Response;

    fn inspect(&self, response: Response, reservation: Reservation) -> Response {
        drop(reservation.keep());
        response
    }
}
