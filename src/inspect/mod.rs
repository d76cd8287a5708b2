//! What a call has really used, read from its response.
//!
//! An [`Inspector`] is given the response together with the reservation. It settles the reservation
//! at once, or when the body ends. A closure `Fn(&Response) -> Settlement` settles at once.
//! [`body()`] and [`bytes()`] follow a body while it passes. [`by_status`] settles refusals, bad
//! requests and server errors by their status, [`on_failure`] calls that failed without a response;
//! both leave the rest to another inspector.

pub(crate) mod body;
pub(crate) mod body_observer;
mod call_error;
mod failure;
pub(crate) mod inspector;
pub(crate) mod retry_after;
mod status;

pub(crate) use self::inspector::Inspector;
#[cfg(feature = "llm")]
pub(crate) use self::status::{is_bad_request, never_connected};
pub use self::{
    body::{BodyInspector, Carrier, Collect, body, bytes},
    body_observer::{BodyEnd, BodyObserver},
    call_error::CallError,
    failure::{OnFailure, on_failure},
    inspector::KeepReserved,
    status::{ByStatus, HasStatus, by_status},
};
