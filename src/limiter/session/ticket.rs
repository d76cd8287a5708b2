//! The future of a pending demand. It waits for the outcome, no longer than the demand may wait,
//! and takes the demand back when it is dropped.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_util::future::{Either, select};
use tokio::{
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use super::{
    Session,
    waiter::{Ask, Outcome, QueuePlace, Rank},
};
use crate::{
    call_span::CallSpan,
    demand::Demand,
    engine::Mode,
    error::{Refusal, Throttled},
    limiter::bucket_set::BucketSet,
    observe::Event,
};

/// What is asked for, and when it first was.
#[derive(Debug)]
pub(in crate::limiter) struct Query<'a> {
    /// Identifies it to observers; the id of its reservation.
    pub(in crate::limiter) id: u64,
    pub(in crate::limiter) demand: &'a Demand,
    pub(in crate::limiter) mode: Mode,
    pub(in crate::limiter) arrived: Instant,
    pub(in crate::limiter) deadline: Option<Instant>,
    /// The span of its reservation.
    pub(in crate::limiter) call: CallSpan,
}

/// A pending demand, which is taken back when this is dropped.
#[derive(Debug)]
pub(in crate::limiter) struct Ticket<'a> {
    session: Arc<Session>,
    set: Arc<BucketSet>,
    asked: &'a Query<'a>,
    rank: Rank,
    answer: oneshot::Receiver<Box<Outcome>>,
    is_answered: bool,
}

impl<'a> Ticket<'a> {
    /// Enters a demand that could not be granted at once.
    pub(in crate::limiter) fn new(session: Arc<Session>, ask: Ask, asked: &'a Query<'a>) -> Self {
        let set = ask.set().clone();
        let (rank, answer) = session.enter(ask, asked.arrived, asked.deadline);
        Self { session, set, asked, rank, answer, is_answered: false }
    }

    /// Waits for the outcome, for as long as the demand may wait.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    pub(in crate::limiter) fn outcome(&mut self) -> impl Future<Output = Outcome> + Send {
        async move {
            if self.asked.deadline.is_none() && !self.session.context().is_observed() {
                return self.await;
            }
            // One timer for all, and apart: a waiter's future is as large as all that it may ever
            // wait for.
            let mut timer = Box::pin(sleep(self.session.context().options().long_wait));
            let long = timer.deadline();
            if self.asked.deadline.is_none_or(|deadline| deadline > long) {
                if let Some(outcome) = self.until(timer.as_mut()).await {
                    return outcome;
                }
                self.tell_long_wait();
            }
            let Some(deadline) = self.asked.deadline else { return self.await };
            timer.as_mut().reset(deadline);
            if let Some(outcome) = self.until(timer.as_mut()).await {
                return outcome;
            }
            if let Some(refusal) = self.session.expire(self.rank) {
                return Outcome::Refused(Throttled::Deadline(Box::new(refusal)));
            }
            // The store is looking at it: its answer is worth more than a guess, and does not take
            // long.
            timer.as_mut().reset(Instant::now() + self.session.context().options().attempt_timeout);
            if let Some(outcome) = self.until(timer.as_mut()).await {
                return outcome;
            }
            let refusal = self.session.expire(self.rank).unwrap_or_default();
            Outcome::Refused(Throttled::Deadline(Box::new(refusal)))
        }
    }

    /// The outcome, unless time is up before.
    #[allow(clippy::manual_async_fn, reason = "an async fn holds its arguments twice")]
    fn until(&mut self, timer: Pin<&mut Sleep>) -> impl Future<Output = Option<Outcome>> + Send {
        async move {
            match select(self, timer).await {
                Either::Left((outcome, _)) => Some(outcome),
                Either::Right(_) => None,
            }
        }
    }

    fn tell_long_wait(&self) {
        let context = self.session.context();
        if !context.is_observed() {
            return;
        }
        let QueuePlace { position, predicted, refusal } =
            self.session.place_of(self.rank).unwrap_or_default();
        let binding = refusal.as_ref().and_then(Refusal::binding);
        context.tell(|| Event::LongWait {
            id: self.asked.id,
            buckets: self.set.names(),
            class: self.asked.demand.class_name(),
            share: self.asked.demand.share_name(),
            waited: self.asked.arrived.elapsed(),
            position,
            bucket: binding.map_or("", |shortage| &shortage.bucket),
            quota: binding.map_or("", |shortage| &shortage.quota),
            predicted: predicted.map(Duration::from_micros),
        });
    }
}

/// The outcome.
impl Future for Ticket<'_> {
    type Output = Outcome;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Outcome> {
        let outcome = ready!(Pin::new(&mut self.answer).poll(context));
        self.is_answered = true;
        // Where a session loses track of a demand it is asked for again.
        Poll::Ready(outcome.map_or(Outcome::AskAgain, |outcome| *outcome))
    }
}

impl Drop for Ticket<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        // First, so that a refusal on its way does not queue it again.
        self.answer.close();
        if let Ok(Outcome::Granted(grant)) = self.answer.try_recv().map(|outcome| *outcome) {
            self.session.release(grant);
        }
        self.session.leave(self.rank);
    }
}
