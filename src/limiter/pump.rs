//! Carries the batches of one lane to the store, one at a time.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    lane::{Lane, State},
    queue::Flight,
    settling::ended,
};
use crate::{
    engine::{Answer, LANE_MEMORY, Outcome as Applied},
    error::BoxError,
    store::{Reply, StoreError},
};

/// A batch without an answer is not sent again after this long: the store remembers its number for twice that.
const DOUBT_ENDS: Duration = Duration::from_micros(LANE_MEMORY / 2);
/// With a shared store, the task waits this long for more before it ends.
const LINGER: Duration = Duration::from_secs(1);
/// A calendar that does not reach to the store's present after so many looks at it never will.
pub(super) const MAX_CHARTS: u32 = 2;

#[derive(Debug)]
pub(super) struct Pump {
    lane: Arc<Lane>,
    flight: Option<Flight>,
    stopped: bool,
}

enum Turn {
    Send(Flight),
    Sleep(Instant),
    Stop,
}

impl Pump {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, flight: None, stopped: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.turn() {
                Turn::Send(flight) => {
                    let flight = self.flight.insert(flight);
                    let result = transmit(&self.lane, flight).await;
                    if let Some(flight) = self.flight.take() {
                        self.lane.land(flight, result);
                    }
                }
                Turn::Sleep(until) => {
                    // Woken or not, it is time to look.
                    let _ = timeout_at(until, self.lane.wake.notified()).await;
                }
                Turn::Stop => return,
            }
        }
    }

    /// What to do next.
    fn turn(&mut self) -> Turn {
        let mut state = self.lane.lock();
        let turn = state.turn(&self.lane, Instant::now());
        match &turn {
            Turn::Send(_) => state.flying = true,
            Turn::Sleep(_) => {}
            Turn::Stop => {
                self.lane.rests(&mut state);
                self.stopped = true;
            }
        }
        turn
    }
}

/// The runtime may end while others wait: they are told, with or without a batch on its way, since nobody is left to
/// carry theirs. The next operation starts another pump, which clears up.
impl Drop for Pump {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        if let Some(flight) = self.flight.take() {
            let error = BoxError::from("the runtime that carried the batch has ended");
            self.lane.land(flight, Err(StoreError::Unavailable(error)));
        }
        let mut state = self.lane.lock();
        let waiting = state.queue.take_waiting();
        let reports = state.queue.take_reports();
        self.lane.rests(&mut state);
        drop(state);
        waiting.for_each(|waiter| drop(waiter.answer.send(Err(ended()))));
        reports.for_each(|report| drop(report.send(Err(ended()))));
    }
}

impl State {
    fn turn(&mut self, lane: &Lane, now: Instant) -> Turn {
        if self.doubt.as_ref().is_some_and(|doubt| doubt.since + DOUBT_ENDS <= now) {
            // What it reserved leaves the windows by itself, and what it held ends with the lease of the old name.
            self.doubt = None;
            lane.rename();
        }
        let rest = self.rest.filter(|_| !self.queue.is_awaited()).map(|rest| rest.until);
        let rests_until = lane.shared.health.rests_until().max(rest).filter(|until| *until > now);
        if let Some(until) = rests_until
            && (self.doubt.is_some() || !self.queue.is_empty())
        {
            return Turn::Sleep(until);
        }
        if let Some(doubt) = &self.doubt {
            return Turn::Send(doubt.flight.again());
        }

        let shared = !lane.shared.in_process;
        let heartbeat = (shared && self.open > 0).then(|| self.heard + lane.shared.options.lease / 3);
        let next = [self.queue.due(now), heartbeat].into_iter().flatten().min();
        match next {
            Some(due) if due <= now => {
                let seq = lane.shared.next_seq();
                Turn::Send(self.queue.load(seq))
            }
            Some(due) => Turn::Sleep(due),
            None if shared && self.heard + LINGER > now => Turn::Sleep(self.heard + LINGER),
            None => Turn::Stop,
        }
    }
}

/// Sends a batch until it is answered or there is no point in going on.
async fn transmit(lane: &Lane, flight: &mut Flight) -> Result<Answer, StoreError> {
    let shared = &lane.shared;
    // While the store is known to be down, one attempt tells whether it still is.
    let retries = if shared.health.is_degraded() { 0 } else { shared.options.retries.max };
    let (mut failed, mut charted) = (0, 0);
    loop {
        let batch = lane.batch(flight.seq, &flight.path, &flight.ops);
        let result = match shared.store.apply(&batch) {
            Reply::Now(answer) => Ok(answer),
            Reply::Later(answer) => match timeout(shared.options.attempt_timeout, answer).await {
                Ok(result) => result,
                Err(_) => Err(StoreError::Unavailable(
                    format!("no answer within {:?}", shared.options.attempt_timeout).into(),
                )),
            },
        };
        match result {
            Ok(Answer { wall, outcome: Applied::Uncharted }) if charted < MAX_CHARTS => {
                charted += 1;
                flight.path = Arc::new(flight.path.charted(wall));
            }
            Err(StoreError::Unavailable(_)) if failed < retries => {
                sleep(shared.options.retries.pause(failed)).await;
                failed += 1;
            }
            result => return result,
        }
    }
}
