//! The future that reports what became of an operation which was applied or enqueued.

use std::{
    error::Error,
    fmt,
    pin::Pin,
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
/// [`Throttled::BadDemand`] at once if no quota counts a metric; the others are on their way.
///
/// # Cancel safety
/// Dropping this changes nothing.
#[derive(Debug)]
pub struct Settling(Progress);

/// Small enough to be returned in registers, where there is nothing to report.
#[derive(Debug)]
enum Progress {
    Done,
    Answered(Box<Result<Verdict, Throttled>>),
    Enqueued(oneshot::Receiver<Result<Verdict, Throttled>>),
}

impl Settling {
    /// It is applied, or there was nothing to apply.
    pub(super) fn done() -> Self {
        Self(Progress::Done)
    }

    pub(super) fn answered(verdict: Verdict) -> Self {
        Self(Progress::Answered(Box::new(Ok(verdict))))
    }

    pub(super) fn failed(error: Throttled) -> Self {
        Self(Progress::Answered(Box::new(Err(error))))
    }

    /// The verdict will come.
    pub(super) fn enqueued(verdict: oneshot::Receiver<Result<Verdict, Throttled>>) -> Self {
        Self(Progress::Enqueued(verdict))
    }

    /// The verdict itself.
    pub(super) async fn verdict(self) -> Result<Verdict, Throttled> {
        match self.0 {
            Progress::Done => Ok(Verdict::Done),
            Progress::Answered(answer) => *answer,
            Progress::Enqueued(verdict) => verdict.await.unwrap_or_else(|_| Err(runtime_ended())),
        }
    }
}

impl Future for Settling {
    type Output = Result<(), Throttled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.0 {
            Progress::Done => Poll::Ready(Ok(())),
            Progress::Answered(answer) => Poll::Ready(answer.as_ref().clone().map(drop)),
            Progress::Enqueued(verdict) => Pin::new(verdict)
                .poll(context)
                .map(|verdict| verdict.unwrap_or_else(|_| Err(runtime_ended())).map(drop)),
        }
    }
}

/// The runtime that drove the session shut down, so the outcome of what it had sent is unknown. The
/// store is none the worse for that.
#[derive(Debug)]
struct RuntimeEnded;

impl fmt::Display for RuntimeEnded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the tokio runtime that drove the limiter has ended")
    }
}

impl Error for RuntimeEnded {}

/// What is reported where the runtime ended that drove the session.
pub(super) fn runtime_ended() -> Throttled {
    Throttled::Store(StoreError::Unavailable(Box::new(RuntimeEnded)).into())
}

/// There is no task that could drive what has to be awaited.
pub(super) fn no_runtime() -> Throttled {
    Throttled::NoRuntime
}
