//! Inspectors that follow a response's body.

use http::{HeaderMap, response::Parts};

use super::{
    body_observer::{BodyEnd, BodyObserver},
    inspector::Inspector,
};
use crate::{
    layer::body::MeteredBody,
    limiter::{Reservation, Settlement},
};

/// Follows the body of every response, with an observer made from its head.
pub fn body<F, O>(observer: F) -> BodyInspector<F>
where
    F: Fn(&Parts) -> O,
    O: BodyObserver + 'static,
{
    BodyInspector { observer }
}

/// Hands all bytes of a body to a closure, at its end. A body of more than `max_bytes`, or one that
/// ended early, keeps what it reserved; the bytes pass on in any case.
///
/// ```
/// use tower_throttle::{Settlement, inspect, usage};
///
/// let inspector = inspect::bytes(1 << 20, |bytes| match bytes.len() {
///     0 => Settlement::Keep,
///     length => Settlement::Exact(usage! { tokens: length as u64 / 4 }),
/// });
/// ```
pub fn bytes<F>(
    max_bytes: usize,
    usage_of: F,
) -> BodyInspector<impl Fn(&Parts) -> Collect<F> + Clone + Send + Sync>
where
    F: Fn(&[u8]) -> Settlement + Clone + Send + Sync + 'static,
{
    body(move |_: &Parts| Collect {
        collected: Vec::new(),
        max_bytes,
        overflowed: false,
        usage_of: usage_of.clone(),
    })
}

/// An [`Inspector`] that follows bodies: see [`body()`] and [`bytes()`].
#[derive(Clone, Copy, Debug)]
pub struct BodyInspector<F> {
    observer: F,
}

impl<F, O, R> Inspector<R> for BodyInspector<F>
where
    F: Fn(&Parts) -> O,
    O: BodyObserver + 'static,
    R: Carrier,
{
    type Inspected = R::Metered;

    fn inspect(&self, response: R, reservation: Reservation) -> R::Metered {
        response.metered(reservation, |head| Box::new((self.observer)(head)))
    }
}

/// A response with a body that can be followed: `http::Response<B>`, and with feature `reqwest`
/// `reqwest::Response`. Sealed: a response of another kind is inspected by an [`Inspector`] of its
/// own.
pub trait Carrier: sealed::Sealed {
    /// The response with its body followed.
    type Metered;

    /// Returns the headers.
    fn headers(&self) -> &HeaderMap;

    /// Lets the body take the reservation along to its end.
    fn metered(
        self,
        reservation: Reservation,
        observer: impl FnOnce(&Parts) -> Box<dyn BodyObserver>,
    ) -> Self::Metered;
}

pub(crate) mod sealed {
    /// Implemented by the responses that this crate knows.
    pub trait Sealed {}
}

impl<B> sealed::Sealed for http::Response<B> {}

impl<B: http_body::Body<Data = bytes::Bytes>> Carrier for http::Response<B> {
    type Metered = http::Response<MeteredBody<B>>;

    fn headers(&self) -> &HeaderMap {
        self.headers()
    }

    fn metered(
        self,
        reservation: Reservation,
        observer: impl FnOnce(&Parts) -> Box<dyn BodyObserver>,
    ) -> Self::Metered {
        let (head, body) = self.into_parts();
        let observer = observer(&head);
        http::Response::from_parts(head, MeteredBody::new(body, reservation, observer))
    }
}

/// The observer of [`bytes()`].
#[derive(Debug)]
pub struct Collect<F> {
    collected: Vec<u8>,
    max_bytes: usize,
    overflowed: bool,
    usage_of: F,
}

impl<F> BodyObserver for Collect<F>
where
    F: Fn(&[u8]) -> Settlement + Send + Sync,
{
    fn data(&mut self, piece: &[u8]) {
        self.overflowed |= piece.len() > self.max_bytes - self.collected.len();
        if self.overflowed {
            self.collected = Vec::new();
        } else {
            self.collected.extend_from_slice(piece);
        }
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        match end {
            BodyEnd::Complete if !self.overflowed => (self.usage_of)(&self.collected),
            _ => Settlement::Keep,
        }
    }
}
