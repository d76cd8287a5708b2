//! The task of a lane. It carries batches to the store, one at a time, waits for what comes later, and keeps alive what was
//! granted.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, timeout_at};

use super::{
    lane::{Lane, Pumping, State},
    queue::Flight,
    settling::ended,
    trip::{Carried, Trip},
};
use crate::{engine::LANE_MEMORY, error::Throttled};

/// A batch without an answer is not sent again after this long: the store remembers its number for twice that.
const DOUBT_ENDS: Duration = Duration::from_micros(LANE_MEMORY / 2);
/// With a shared store, the task waits this long for more before it ends.
const LINGER: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Pump {
    lane: Arc<Lane>,
    stopped: bool,
}

/// What there is to do on a lane.
pub(super) enum Turn {
    Send(Flight),
    /// A caller takes too long over what he carries.
    Relieve(Carried),
    Sleep(Instant),
    Stop,
}

impl Pump {
    pub(super) fn new(lane: Arc<Lane>) -> Self {
        Self { lane, stopped: false }
    }

    pub(super) async fn run(mut self) {
        loop {
            match self.turn() {
                Turn::Send(flight) => Trip::new(self.lane.clone(), flight).make().await,
                Turn::Relieve(carried) => carried.hand_over(),
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
        state.pumping = Pumping::Awake;
        match &turn {
            Turn::Send(_) => state.flying = true,
            Turn::Relieve(_) => {}
            Turn::Sleep(_) => state.pumping = Pumping::Asleep,
            Turn::Stop => {
                self.lane.rests(&mut state);
                self.stopped = true;
            }
        }
        turn
    }
}

/// The runtime may end while others wait: they are told, since nobody is left to carry theirs. The next operation starts
/// another pump, which clears up.
impl Drop for Pump {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        let mut state = self.lane.lock();
        let waiting = state.queue.take_waiting();
        let reports = state.queue.take_reports();
        self.lane.rests(&mut state);
        drop(state);
        waiting.for_each(|waiter| drop(waiter.answer.send(Err(Throttled::Store(ended())))));
        reports.for_each(|report| drop(report.send(Err(Throttled::Store(ended())))));
    }
}

impl State {
    /// What to do next.
    pub(super) fn turn(&mut self, lane: &Lane, now: Instant) -> Turn {
        let linger = LINGER.min(lane.shared.options.lease / 3);
        if self.flying {
            return self.watch(linger, now);
        }
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
        let heartbeat =
            (shared && self.open > 0).then(|| self.heard + lane.shared.options.lease / 3);
        let next = [self.queue.due(now), heartbeat].into_iter().flatten().min();
        match next {
            Some(due) if due <= now => {
                let seq = lane.shared.next_seq();
                Turn::Send(self.queue.load(seq))
            }
            Some(due) => Turn::Sleep(due),
            None if shared && self.heard + linger > now => Turn::Sleep(self.heard + linger),
            None => Turn::Stop,
        }
    }

    /// What to do while a caller carries a batch: nothing, unless he has not been polled for so long that what was granted
    /// to him or to others might be taken for abandoned.
    fn watch(&mut self, patience: Duration, now: Instant) -> Turn {
        let until = self.heard + patience;
        if now < until {
            return Turn::Sleep(until);
        }
        self.carried.take().map_or(Turn::Sleep(now + patience), Turn::Relieve)
    }
}
