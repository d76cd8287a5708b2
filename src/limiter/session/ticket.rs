//! The future of a pending demand. It waits for the outcome, no longer than the demand may wait,
//! and takes the demand back when it is dropped.

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

use super::{
    Session,
    waiter::{About, Ask, Outcome, Place, Rank},
};
use crate::{
    error::{Refusal, Throttled},
    observe::Event,
};

/// A demand that has waited this long is reported, once.
const LONG_WAIT: Duration = Duration::from_secs(5);

/// A pending demand, which is taken back when this is dropped.
#[derive(Debug)]
pub(in crate::limiter) struct Ticket {
    session: Arc<Session>,
    about: About,
    arrived: Instant,
    rank: Rank,
    answer: oneshot::Receiver<Outcome>,
    is_answered: bool,
}

impl Ticket {
    /// Enters a demand that could not be granted at once.
    ///
    /// # Errors
    /// What becomes of it at once.
    pub(in crate::limiter) fn new(
        session: Arc<Session>,
        ask: Ask,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> Result<Self, Outcome> {
        let about = About::of(&ask);
        let (rank, answer) = session.enter(ask, arrived, deadline)?;
        Ok(Self { session, about, arrived, rank, answer, is_answered: false })
    }

    /// Waits for the outcome, until `deadline`.
    pub(in crate::limiter) async fn outcome(mut self, deadline: Option<Instant>) -> Outcome {
        let long_wait = Instant::now() + LONG_WAIT;
        if deadline.is_none_or(|deadline| deadline > long_wait) {
            match timeout(LONG_WAIT, &mut self).await {
                Ok(outcome) => return outcome,
                Err(_) => self.tell_long_wait(),
            }
        }
        let Some(deadline) = deadline else { return (&mut self).await };
        if let Ok(outcome) = timeout_at(deadline, &mut self).await {
            return outcome;
        }
        let refusal = match self.session.expire(self.rank) {
            Some(refusal) => refusal,
            // The store is looking at it: its answer is worth more than a guess, and does not take
            // long.
            None => {
                match timeout(self.session.context().options().attempt_timeout, &mut self).await {
                    Ok(outcome) => return outcome,
                    Err(_) => self.session.leave(self.rank).unwrap_or_default(),
                }
            }
        };
        Outcome::Refused(Throttled::Deadline(Box::new(refusal)))
    }

    fn tell_long_wait(&self) {
        let context = self.session.context();
        if !context.is_observed() {
            return;
        }
        let Place { position, predicted, refusal } =
            self.session.place_of(self.rank).unwrap_or_default();
        let binding = refusal.as_ref().and_then(Refusal::binding);
        context.tell(|| Event::LongWait {
            id: self.about.id(),
            buckets: self.about.buckets(),
            class: self.about.class(),
            waited: self.arrived.elapsed(),
            position,
            bucket: binding.map_or("", |shortage| &shortage.bucket),
            quota: binding.map_or("", |shortage| &shortage.quota),
            predicted: predicted.map(Duration::from_micros),
        });
    }
}

/// The outcome.
impl Future for Ticket {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = ready!(Pin::new(&mut self.answer).poll(context));
        self.is_answered = true;
        // Where a session loses track of a demand it is asked for again.
        Poll::Ready(outcome.unwrap_or(Outcome::AskAgain))
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        // First, so that a refusal on its way does not queue it again.
        self.answer.close();
        if let Ok(Outcome::Granted(grant)) = self.answer.try_recv() {
            self.session.release(grant);
        }
        self.session.leave(self.rank);
    }
}
