//! What a request may use at most, read from the request.

use crate::{box_error::BoxError, demand::Demand};

/// Reads from a request what it may use at most.
///
/// A closure `Fn(&mut Request) -> Result<Demand, BoxError>` is one.
#[diagnostic::on_unimplemented(
    message = "`{Self}` does not read demands from `{Request}`",
    note = "those of `llm` and `routes` read a `reqwest::Request` with feature `reqwest` of tower-throttle",
    note = "a closure `|request: &mut Request| -> Result<Demand, BoxError>` is an extractor too"
)]
pub trait Extractor<Request> {
    /// The demand of `request`, which it may change (to ask for the usage in a stream, say).
    ///
    /// # Errors
    /// Whatever keeps it from telling. The request then fails with that error, and nothing is reserved.
    fn extract(&self, request: &mut Request) -> Result<Demand, BoxError>;
}

impl<F, Request> Extractor<Request> for F
where
    F: Fn(&mut Request) -> Result<Demand, BoxError>,
{
    fn extract(&self, request: &mut Request) -> Result<Demand, BoxError> {
        self(request)
    }
}
