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

/// Small enough to be answered in registers, where there is nothing to tell.
#[derive(Debug)]
enum Progress {
    Done,
    Answered(Box<Result<Verdict, Throttled>>),
    Told(oneshot::Receiver<Result<Verdict, Throttled>>),
}

impl Settling {
    /// It was changed, or there was nothing to change.
    pub(super) fn done() -> Self {
        Self(Progress::Done)
    }

    pub(super) fn answered(verdict: Verdict) -> Self {
        Self(Progress::Answered(Box::new(Ok(verdict))))
    }

    pub(super) fn failed(error: Throttled) -> Self {
        Self(Progress::Answered(Box::new(Err(error))))
    }

    pub(super) fn told(told: oneshot::Receiver<Result<Verdict, Throttled>>) -> Self {
        Self(Progress::Told(told))
    }

    /// The verdict itself.
    pub(super) async fn verdict(self) -> Result<Verdict, Throttled> {
        match self.0 {
            Progress::Done => Ok(Verdict::Done),
            Progress::Answered(answer) => *answer,
            Progress::Told(told) => told.await.unwrap_or_else(|_| Err(ended())),
        }
    }
}

impl Future for Settling {
    type Output = Result<(), Throttled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Done => Poll::Ready(Ok(())),
            Progress::Answered(answer) => Poll::Ready(answer.as_ref().clone().map(drop)),
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
