//! Tasks of a worker that reserve and settle, once or over and over.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, UNIX_EPOCH},
};

use tokio::{task::AbortHandle, time::sleep};
use tower_throttle::{Demand, Limiter, Usage};

use super::{
    ask::Ask,
    message::Message,
    micros_of, now,
    worker::{granted, say, used},
};

/// Tasks that each reserve, hold the reservation for a while and settle it, until a time.
pub(super) struct Run {
    id: u64,
    limiter: Limiter,
    demand: Demand,
    used: Usage,
    hold: Duration,
    from: u64,
    /// Grants before this time are not counted.
    counted_from: u64,
    until: u64,
    is_once: bool,
    /// Whether each grant is told as it is made.
    is_told: bool,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    tasks: Vec<AbortHandle>,
    /// How long each grant waited, in microseconds.
    waits: Vec<u64>,
    errors: usize,
}

impl Run {
    pub(super) fn start(limiter: Limiter, order: Message) -> Arc<Self> {
        let run = Arc::new(Self {
            id: order.id,
            limiter,
            demand: Ask::demand(&order),
            used: used(&order, "used"),
            hold: Duration::from_micros(order.value_or("hold", 0)),
            from: order.value_or("from", 0),
            counted_from: order.value_or("counted_from", 0),
            until: order.value_or("until", u64::MAX),
            is_once: order.value_or("once", false),
            is_told: order.value_or("told", false),
            state: Mutex::default(),
        });
        let tasks = (0..order.value("tasks")).map(|_| tokio::spawn(run.clone().turns()));
        run.state().tasks = tasks.map(|task| task.abort_handle()).collect();
        if run.until < u64::MAX {
            tokio::spawn(run.clone().end_in_time());
        }
        run
    }

    /// Ends the tasks and tells what they got.
    pub(super) fn end(&self, id: u64) {
        let State { tasks, mut waits, errors } = std::mem::take(&mut *self.state());
        tasks.iter().for_each(AbortHandle::abort);
        waits.sort_unstable();
        let p50 = waits.get(waits.len() / 2).copied().unwrap_or_default();
        let max = waits.last().copied().unwrap_or_default();
        let answer = Message::new(id, "ran").with("grants", waits.len()).with("errors", errors);
        say(&answer.with("wait_p50", p50).with("wait_max", max));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn end_in_time(self: Arc<Self>) {
        sleep_until(self.until).await;
        self.end(self.id);
    }

    async fn turns(self: Arc<Self>) {
        sleep_until(self.from).await;
        loop {
            self.turn().await;
            if self.is_once {
                return;
            }
        }
    }

    async fn turn(&self) {
        let called = now();
        let call = match self.limiter.reserve(self.demand.clone()).await {
            Ok(call) => call,
            Err(error) => {
                self.state().errors += 1;
                eprintln!("run {}: {error}", self.id);
                return sleep(Duration::from_millis(50)).await;
            }
        };
        let at = micros_of(call.granted_at().duration_since(UNIX_EPOCH).unwrap_or_default());
        if (self.counted_from..self.until).contains(&at) {
            self.state().waits.push(now().saturating_sub(called));
        }
        if self.is_told {
            say(&granted(self.id, "grant", called, &call));
        }
        if !self.hold.is_zero() {
            sleep(self.hold).await;
        }
        drop(call.settle(self.used.clone()));
    }
}

/// Sleeps until a time on the system's clock.
async fn sleep_until(time: u64) {
    sleep(Duration::from_micros(time.saturating_sub(now()))).await;
}
