//! A stream of typed items that say what a call has used so far. It settles the call's reservation,
//! once.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use pin_project_lite::pin_project;

use super::reservation::{Reservation, Settlement};
use crate::usage::Usage;

pin_project! {
    /// A stream whose items tell the usage of a reservation: see [`Reservation::track`].
    #[must_use = "streams do nothing unless polled"]
    pub struct Tracked<S, F> {
        #[pin]
        stream: S,
        usage_of: F,
        account: Account,
    }
}

/// Settles once: at the end of the stream, or when it is dropped.
struct Account {
    reservation: Option<Reservation>,
    seen: Option<Usage>,
}

impl Account {
    fn close(&mut self, settlement: fn(Usage) -> Settlement) {
        if let Some(reservation) = self.reservation.take() {
            drop(reservation.conclude(self.seen.take().map_or(Settlement::Keep, settlement)));
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.close(Settlement::AtLeast);
    }
}

impl<S, F> Tracked<S, F> {
    pub(super) fn new(reservation: Reservation, stream: S, usage_of: F) -> Self {
        Self { stream, usage_of, account: Account { reservation: Some(reservation), seen: None } }
    }
}

impl Reservation {
    /// Follows a stream of typed items. `usage_of` reads from an item the usage of the call so far,
    /// if it says so. When the stream ends, the last one is charged; if it is dropped before, at
    /// least that.
    pub fn track<S, F>(self, stream: S, usage_of: F) -> Tracked<S, F>
    where
        S: Stream,
        F: FnMut(&S::Item) -> Option<Usage>,
    {
        Tracked::new(self, stream, usage_of)
    }
}

impl<S: Stream, F: FnMut(&S::Item) -> Option<Usage>> Stream for Tracked<S, F> {
    type Item = S::Item;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<S::Item>> {
        let this = self.project();
        let item = std::task::ready!(this.stream.poll_next(context));
        match &item {
            Some(item) => {
                if let Some(usage) = (this.usage_of)(item) {
                    this.account.seen = Some(usage);
                }
            }
            None => this.account.close(Settlement::Exact),
        }
        Poll::Ready(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        self.stream.size_hint()
    }
}

impl<S: fmt::Debug, F> fmt::Debug for Tracked<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tracked").field("stream", &self.stream).finish_non_exhaustive()
    }
}
