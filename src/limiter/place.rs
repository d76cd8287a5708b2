//! Waiting for an answer in a lane's queue.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    sync::oneshot,
    time::{Instant, timeout, timeout_at},
};

use super::{lane::Lane, queue::Rank, reservation::Reservation, settling::ended};
use crate::{error::Throttled, observe::Event};

/// A demand that has waited this long is reported, once.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// A place in a lane's queue, given up when this is dropped.
pub(super) struct Place {
    lane: Arc<Lane>,
    rank: Rank,
    answer: oneshot::Receiver<Result<Reservation, Throttled>>,
    /// Whether it is here that the batch with the demand is carried, until it arrives or a task takes it over.
    carries: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        // First, so that a refusal on its way does not queue it again.
        self.answer.close();
        self.lane.leave(self.rank);
        if self.carries {
            self.lane.drop_carried(self.rank);
        }
    }
}

/// The answer.
impl Future for Place {
    type Output = Result<Reservation, Throttled>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.carries {
            self.carries = self.lane.carry_on(self.rank, context);
            if self.carries {
                return Poll::Pending;
            }
        }
        let told = ready!(Pin::new(&mut self.answer).poll(context));
        Poll::Ready(told.unwrap_or_else(|_| Err(Throttled::Store(ended()))))
    }
}

impl Place {
    pub(super) fn new(
        lane: Arc<Lane>,
        rank: Rank,
        answer: oneshot::Receiver<Result<Reservation, Throttled>>,
        carries: bool,
    ) -> Self {
        Self { lane, rank, answer, carries }
    }

    pub(super) async fn wait(
        mut self,
        deadline: Option<Instant>,
    ) -> Result<Reservation, Throttled> {
        let long_wait = Instant::now() + LONG_WAIT;
        if deadline.is_none_or(|deadline| deadline > long_wait) {
            match timeout(LONG_WAIT, &mut self).await {
                Ok(outcome) => return outcome,
                Err(_) => self.tell_long_wait(),
            }
        }
        let Some(deadline) = deadline else { return self.await };
        if let Ok(outcome) = timeout_at(deadline, &mut self).await {
            return outcome;
        }
        let refusal = match self.lane.expire(self.rank) {
            Some(refusal) => refusal,
            // The store is looking at it: its answer is worth more than a guess, and does not take long.
            None => match timeout(self.lane.shared.options.attempt_timeout, &mut self).await {
                Ok(outcome) => return outcome,
                Err(_) => self.lane.leave(self.rank).unwrap_or_default(),
            },
        };
        Err(Throttled::Deadline(Box::new(refusal)))
    }

    /// To be told here if it is known already, and otherwise by the pump.
    pub(super) fn tell_wait_started(&self, position: usize) {
        let path = self.lane.path();
        self.tell(|| Event::WaitStarted { bucket: path.name(), position });
    }

    fn tell<'a>(&self, event: impl FnOnce() -> Event<'a>) {
        self.lane.shared.options.observing.tell(event);
    }

    fn tell_long_wait(&self) {
        let path = self.lane.path();
        let refusal = self.lane.waits_for(self.rank);
        let shortage = refusal.as_ref().and_then(|refusal| refusal.binding());
        let predicted = refusal.as_ref().and_then(|refusal| refusal.retry_after());
        self.tell(|| Event::LongWait {
            bucket: path.name(),
            quota: shortage.map_or("", |shortage| &shortage.quota),
            predicted,
        });
    }
}
