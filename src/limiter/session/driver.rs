//! The task of a session: it sends batches, one at a time, waits for what comes later, and keeps
//! alive what was granted. This is the only file that spawns.

use std::sync::Arc;

use futures_util::FutureExt;
use tokio::{runtime::Handle, task::yield_now, time::timeout_at};

use super::{Session, batch::Batch, state::Turn, transmit::transmit};
use crate::store::StoreError;

/// After this many batches in a row the driver lets other tasks run, where the store answers at
/// once. Elsewhere it does after each one: what callers that were granted do next, as giving back
/// what they did not use, then travels with the next demands.
const YIELDS_AFTER: u32 = 32;

/// Drives a session. If it is dropped before it stops, all that is pending is told.
#[derive(Debug)]
struct Driver {
    session: Arc<Session>,
    in_flight: Option<Batch>,
    stopped: bool,
}

/// Starts a driver of a session that has none.
pub(in crate::limiter) fn start(session: &Arc<Session>) {
    match Handle::try_current() {
        Ok(runtime) => {
            if session.start() {
                runtime.spawn(Driver::new(session).run());
            }
        }
        Err(_) if session.context().in_process() => drive_now(session),
        // The next call inside of a runtime will start one.
        Err(_) => {}
    }
}

/// Says to a store in this process what there is to say now.
fn drive_now(session: &Arc<Session>) {
    if session.start() {
        // It never pends: it stops where a task would sleep.
        let _ = Driver::new(session).run_now().now_or_never();
    }
}

impl Driver {
    fn new(session: &Arc<Session>) -> Self {
        Self { session: session.clone(), in_flight: None, stopped: false }
    }

    async fn run(mut self) {
        let mut in_a_row = 0;
        loop {
            match self.session.turn() {
                Turn::Send(batch) => {
                    self.send(batch).await;
                    in_a_row += 1;
                    let is_shared = !self.session.context().in_process();
                    if is_shared || in_a_row % YIELDS_AFTER == 0 {
                        yield_now().await;
                    }
                }
                Turn::Sleep(Some(until)) => {
                    let until = self.session.clock.instant_of(until);
                    // Woken or not, it is time to look.
                    let _ = timeout_at(until, self.session.wake.notified()).await;
                }
                Turn::Sleep(None) => self.session.wake.notified().await,
                Turn::Stop => {
                    self.stopped = true;
                    return;
                }
            }
        }
    }

    /// Sends what there is to send now.
    async fn run_now(mut self) {
        while let Turn::Send(batch) = self.session.turn() {
            self.send(batch).await;
        }
        self.stopped = self.session.stop();
    }

    async fn send(&mut self, batch: Batch) {
        let batch = self.in_flight.insert(batch);
        let result = transmit(&self.session, batch).await;
        if let Some(batch) = self.in_flight.take() {
            self.session.arrived(batch, result);
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if self.stopped {
            return;
        }
        // A runtime that shuts down drops its tasks; a store that panics ends this one.
        let panics = std::thread::panicking();
        if panics && let Some(batch) = self.in_flight.take() {
            self.session.arrived(batch, Err(StoreError::Unavailable("the store panicked".into())));
        }
        self.session.abandoned(self.in_flight.take());
        if !panics && self.session.context().in_process() {
            // The store must not keep heads that are none. No task can do that in a runtime that
            // shuts down.
            drive_now(&self.session);
        }
    }
}
