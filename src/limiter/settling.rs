//! What becomes of a settle that was enqueued.

use std::{
    error::Error,
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use crate::{engine::Verdict, error::Throttled, store::StoreError};

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
            Progress::Told(told) => told.await.unwrap_or_else(|_| Err(Throttled::Store(ended()))),
        }
    }
}

impl Future for Settling {
    type Output = Result<(), Throttled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Done => Poll::Ready(Ok(())),
            Progress::Answered(answer) => Poll::Ready(answer.as_ref().clone().map(drop)),
            Progress::Told(told) => Pin::new(told)
                .poll(context)
                .map(|told| told.unwrap_or_else(|_| Err(Throttled::Store(ended()))).map(drop)),
        }
    }
}

/// The runtime ended in which a batch was carried: nobody is left to tell what became of it. The store is none the worse.
#[derive(Debug)]
struct Ended;

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the runtime that carried the batch has ended")
    }
}

impl Error for Ended {}

pub(super) fn ended() -> Arc<StoreError> {
    StoreError::Unavailable(Box::new(Ended)).into()
}

/// There is no task that could drive what has to be awaited.
pub(super) fn no_runtime() -> Throttled {
    Throttled::NoRuntime
}

/// Whether a demand may as well be asked for again, in a runtime that has not ended.
pub(super) fn has_ended(error: &StoreError) -> bool {
    matches!(error, StoreError::Unavailable(cause) if cause.is::<Ended>())
}
