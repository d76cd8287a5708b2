//! What becomes of a settle that was enqueued.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::{
    engine::Verdict,
    error::{BoxError, Throttled},
    store::StoreError,
};

/// Reports that a change has reached the store.
///
/// The change is applied, or on its way, whether this is awaited or not.
///
/// # Errors
/// [`Throttled::Store`] if the store does not answer. The change is then sent again for a while.
///
/// # Cancel safety
/// Dropping this changes nothing.
#[derive(Debug)]
pub struct Settling(Progress);

#[derive(Debug)]
enum Progress {
    Done(Result<Verdict, Throttled>),
    Told(oneshot::Receiver<Result<Verdict, Throttled>>),
}

impl Settling {
    pub(super) fn done(verdict: Verdict) -> Self {
        Self(Progress::Done(Ok(verdict)))
    }

    /// There was nothing to change.
    pub(super) fn nothing() -> Self {
        Self::done(Verdict::Done)
    }

    pub(super) fn failed(error: Throttled) -> Self {
        Self(Progress::Done(Err(error)))
    }

    pub(super) fn told(told: oneshot::Receiver<Result<Verdict, Throttled>>) -> Self {
        Self(Progress::Told(told))
    }

    /// The verdict itself.
    pub(super) async fn verdict(self) -> Result<Verdict, Throttled> {
        match self.0 {
            Progress::Done(outcome) => outcome,
            Progress::Told(told) => told.await.unwrap_or_else(|_| Err(ended())),
        }
    }
}

impl Future for Settling {
    type Output = Result<(), Throttled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Done(outcome) => Poll::Ready(outcome.clone().map(drop)),
            Progress::Told(told) => {
                Pin::new(told).poll(context).map(|told| told.unwrap_or_else(|_| Err(ended())).map(drop))
            }
        }
    }
}

/// Nobody is left to tell.
pub(super) fn ended() -> Throttled {
    let error = BoxError::from("the runtime that carried the batch has ended");
    Throttled::Store(StoreError::Unavailable(error).into())
}
