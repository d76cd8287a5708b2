//! A batch's way to the store and back. Whoever is there carries it: the lane's [`pump`](super::pump), or the caller of a
//! demand before which nobody waits, who then has the answer without a task being woken for it.
//!
//! That caller may be polled late, or never again. So between two polls the batch lies in the lane, and a task takes it
//! over as soon as anything else comes to the lane, the caller goes, or he has taken too long.

use std::{
    fmt,
    pin::Pin,
    sync::{Arc, MutexGuard},
    task::{Context, Waker},
};

use tokio::{
    runtime::Handle,
    time::{Instant, sleep, timeout},
};

use super::{
    lane::{Lane, State},
    pump::Turn,
    queue::{Flight, Rank},
    settling::ended,
};
use crate::{
    engine::{Answer, Outcome},
    store::{Reply, StoreError},
};

/// A calendar that does not reach to the store's present after so many looks at it never will.
pub(super) const MAX_CHARTS: u32 = 2;

/// A batch on its way. However that ends, also if this is dropped, all on board are told.
pub(super) struct Trip {
    lane: Arc<Lane>,
    flight: Option<Flight>,
}

impl Trip {
    pub(super) fn new(lane: Arc<Lane>, flight: Flight) -> Self {
        Self { lane, flight: Some(flight) }
    }

    pub(super) async fn make(mut self) {
        let Some(flight) = &mut self.flight else { return };
        let result = transmit(&self.lane, flight).await;
        if let Some(flight) = self.flight.take() {
            self.lane.land(flight, result);
        }
    }
}

impl Drop for Trip {
    fn drop(&mut self) {
        // A runtime that ends drops one that is on its way; so does a store that panics.
        match self.flight.take() {
            Some(flight) if std::thread::panicking() => {
                self.lane.land(flight, Err(StoreError::Unavailable("the store panicked".into())));
            }
            Some(flight) => self.lane.fail(flight, ended()),
            None => {}
        }
        self.lane.arrived();
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
            Ok(Answer { wall, outcome: Outcome::Uncharted }) if charted < MAX_CHARTS => {
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

/// A trip that the caller of its one demand makes, while he is not being polled.
pub(super) struct Carried {
    by: Rank,
    /// Where its timers are.
    runtime: Handle,
    trip: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// The caller, who does not listen for the answer as long as it is he who brings it.
    caller: Option<Waker>,
}

impl Carried {
    /// Gives it to a task. From now on the caller waits for the answer like anybody else. No lock may be held: a runtime
    /// that has ended drops it at once.
    pub(super) fn hand_over(self) {
        drop(self.runtime.spawn(self.trip));
        if let Some(caller) = self.caller {
            caller.wake();
        }
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Carried").field("by", &self.by).finish_non_exhaustive()
    }
}

impl Lane {
    /// Sees to it that a demand which has just entered is carried. Answers whether its caller has to.
    pub(super) fn depart(self: &Arc<Self>, mut state: MutexGuard<'_, State>, rank: Rank) -> bool {
        let carried = self.batch_to_carry(&mut state, rank);
        let carries = carried.is_some();
        if carries {
            state.carried = carried;
        } else {
            self.pump(state);
        }
        carries
    }

    /// The batch of a demand whose caller can carry it: nothing is on its way, and nobody else waits. Settles before it go
    /// along.
    fn batch_to_carry(self: &Arc<Self>, state: &mut State, by: Rank) -> Option<Carried> {
        if self.shared.in_process || state.flying || state.queue.waiting() > 1 {
            return None;
        }
        let (runtime, now) = (Handle::try_current().ok()?, Instant::now());
        let Turn::Send(flight) = state.turn(self, now) else { return None };
        (state.flying, state.heard) = (true, now);
        let trip = Box::pin(Trip::new(self.clone(), flight).make());
        Some(Carried { by, runtime, trip, caller: None })
    }

    /// Carries a batch on for its caller. Answers whether he has to go on doing so, and will be woken when he has or when
    /// he has not any more.
    pub(super) fn carry_on(self: &Arc<Self>, by: Rank, context: &mut Context<'_>) -> bool {
        let Some(mut carried) = self.take_carried(by) else { return false };
        // No lock is held: this runs the store's code, and tells observers in the end.
        if carried.trip.as_mut().poll(context).is_ready() {
            return false;
        }
        self.put_down(carried, context.waker())
    }

    fn put_down(self: &Arc<Self>, carried: Carried, caller: &Waker) -> bool {
        let mut state = self.lock();
        if !state.queue.is_empty() {
            // It came while nobody could take this over. The caller is awake.
            drop(state);
            Carried { caller: None, ..carried }.hand_over();
            return false;
        }
        state.carried = Some(Carried { caller: Some(caller.clone()), ..carried });
        if !state.is_pumped() {
            // Somebody has to look after it, and to keep alive what it brings.
            self.start_pump(state);
        }
        true
    }

    /// The caller of a batch's demand has gone.
    pub(super) fn drop_carried(&self, by: Rank) {
        if let Some(carried) = self.take_carried(by) {
            carried.hand_over();
        }
    }

    fn take_carried(&self, by: Rank) -> Option<Carried> {
        self.lock().carried.take_if(|carried| carried.by == by)
    }

    /// Nothing is on its way any more. Whoever carried it, there has to be a pump for the rest and for what was granted.
    fn arrived(self: &Arc<Self>) {
        let mut state = self.lock();
        state.flying = false;
        if !state.is_pumped() || state.doubt.is_some() || !state.queue.is_empty() {
            self.start_pump(state);
        }
    }
}
