//! Carries the batches of one lane to the store, one at a time, and the answers back.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout, timeout_at};

use super::{
    health::Rest,
    lane::{Lane, State},
    queue::{Ask, Flight, Job, Refused},
    reservation::Reservation,
    settling::ended,
};
use crate::{
    engine::{Answer, LANE_MEMORY, Micros, Mode, Op, Outcome as Applied, Verdict},
    error::{BoxError, Throttled},
    observe::Event,
    store::{Reply, StoreError},
};

/// A batch without an answer is not sent again after this long: the store remembers its number for twice that.
const DOUBT_ENDS: Duration = Duration::from_micros(LANE_MEMORY / 2);
/// With a shared store, the task waits this long for more before it ends.
const LINGER: Duration = Duration::from_secs(1);
/// Lanes of several processes do not all look again at the same instant.
const MAX_JITTER_MICROS: u64 = 10_000;
/// A calendar that does not reach to the store's present after so many looks at it never will.
pub(super) const MAX_CHARTS: u32 = 2;

/// The batch that got no answer. It may have been applied; sending it again under its number tells.
#[derive(Debug)]
pub(super) struct Doubt {
    flight: Flight,
    since: Instant,
}

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

impl Lane {
    /// A batch has come back.
    fn land(self: &Arc<Self>, flight: Flight, result: Result<Answer, StoreError>) {
        match result.map(|answer| answer.outcome) {
            Ok(Applied::Applied { now, lives, verdicts }) => {
                if self.shared.health.answered() {
                    self.shared.options.observing.tell(Event::Recovered);
                }
                self.saw(&flight.path, &lives);
                let mut state = self.lock();
                state.flying = false;
                state.heard = Instant::now();
                (state.doubt, state.rest) = (None, None);
                self.chart(&mut state, &flight.path);
                let path = flight.path.clone();
                let concerns_others =
                    flight.ops.iter().any(|op| matches!(op, Op::Settle { .. } | Op::Surface { .. }));
                let deliveries = state.land(self, flight, verdicts, now);
                drop(state);
                deliveries.into_iter().for_each(|delivery| delivery.make(self, path.name()));
                if concerns_others {
                    self.neighbours.look_now(self);
                }
            }
            Ok(Applied::Stale | Applied::Uncharted) => {
                let error = "the store knows a later batch of this process: was it restored from a copy?";
                self.fail(flight, StoreError::Rejected(error.into()));
                self.lock().doubt = None;
                self.rename();
            }
            Err(error) => self.fail(flight, error),
        }
    }

    /// A batch got no answer: everybody who waits is told, and the batch stays in doubt.
    fn fail(self: &Arc<Self>, flight: Flight, error: StoreError) {
        let error = Arc::new(error);
        let unavailable = error.is_unavailable();
        if unavailable && self.shared.health.failed(&error) {
            self.shared.options.observing.tell(Event::Degraded { error: &error });
        }
        let mut state = self.lock();
        state.flying = false;
        state.heard = Instant::now();
        if !unavailable {
            state.rest = Some(Rest::after(state.rest));
        }
        let waiting = state.queue.take_waiting();
        let reports = state.queue.take_reports();
        state.queue.landed();
        let since = state.doubt.as_ref().map_or(state.heard, |doubt| doubt.since);
        let (flight, jobs) = flight.orphaned();
        state.doubt = (!flight.ops.is_empty()).then_some(Doubt { flight, since });
        drop(state);

        let refused = || Throttled::Store(error.clone());
        for job in jobs {
            // Whoever does not listen any more need not know.
            match job {
                Job::Demand(_, waiter) => drop(waiter.answer.send(Err(refused()))),
                Job::Tell(report) => drop(report.send(Err(refused()))),
                Job::Orphan(_) | Job::Nothing => {}
            }
        }
        waiting.for_each(|waiter| drop(waiter.answer.send(Err(refused()))));
        reports.for_each(|report| drop(report.send(Err(refused()))));
    }
}

impl State {
    fn land(
        &mut self,
        lane: &Arc<Lane>,
        flight: Flight,
        verdicts: impl IntoIterator<Item = Verdict>,
        at: Micros,
    ) -> Vec<Delivery> {
        let jitter = match lane.shared.in_process {
            true => Duration::ZERO,
            false => Duration::from_micros(fastrand::u64(0..MAX_JITTER_MICROS)),
        };
        let is_current = flight.path.counts_like(&self.queue.path);
        let mut deliveries = Vec::new();
        for (job, verdict) in flight.jobs.into_iter().zip(verdicts) {
            match (job, verdict) {
                (Job::Nothing, _) => {}
                (Job::Tell(report), verdict) => deliveries.push(Delivery::Report(report, verdict)),
                (Job::Orphan(costs), Verdict::Granted) => self.queue.give_back(&flight.path, costs, at),
                (Job::Orphan(_), _) => {}
                (Job::Demand(rank, mut waiter), Verdict::Refused(violations)) => {
                    let refused = match waiter.ask.follow(&self.queue.path) {
                        Some(refusal) => {
                            Refused::ForGood(waiter.answer, Throttled::ExceedsCapacity(Box::new(refusal)))
                        }
                        None if lane.is_closed() => Refused::ForGood(waiter.answer, Throttled::Closed),
                        // Of other limits than those now it says nothing: it is looked at again.
                        None if !is_current && waiter.ask.mode == Mode::Wait => {
                            self.queue.refused(rank, waiter, &[], jitter)
                        }
                        None => self.queue.refused(rank, waiter, &violations, jitter),
                    };
                    deliveries.extend(match refused {
                        Refused::ForGood(answer, error) => Some(Delivery::Answer(answer, Err(error))),
                        Refused::HasToWait { position } => Some(Delivery::HasToWait(position)),
                        Refused::Waits => None,
                    });
                }
                (Job::Demand(_, waiter), Verdict::Fits) => {
                    deliveries.push(Delivery::Answer(
                        waiter.answer,
                        Ok(Reservation::uncounted(waiter.ask.usage, at)),
                    ));
                }
                (Job::Demand(_, waiter), _) => {
                    self.queue.granted(&waiter.ask);
                    self.open += usize::from(!lane.shared.in_process);
                    let Ask { route, usage, costs, .. } = waiter.ask;
                    let reservation = Reservation::granted(route, usage, costs, at);
                    let reservation = reservation.after(waiter.arrived.elapsed(), waiter.position);
                    deliveries.push(Delivery::Answer(waiter.answer, Ok(reservation)));
                }
            }
        }
        let turned_away = self.queue.turned_away(is_current).into_iter();
        deliveries.extend(turned_away.map(|(waiter, error)| Delivery::Answer(waiter.answer, Err(error))));
        self.queue.landed();
        deliveries
    }
}

/// Something to tell once no lock is held: a grant that nobody takes is given back when it is dropped.
enum Delivery {
    Answer(tokio::sync::oneshot::Sender<Result<Reservation, Throttled>>, Result<Reservation, Throttled>),
    Report(super::queue::Report, Verdict),
    HasToWait(usize),
}

impl Delivery {
    fn make(self, lane: &Lane, bucket: &str) {
        match self {
            Self::HasToWait(position) => {
                lane.shared.options.observing.tell(Event::WaitStarted { bucket, position });
            }
            Self::Answer(to, answer) => drop(to.send(answer)),
            Self::Report(to, verdict) => drop(to.send(Ok(verdict))),
        }
    }
}

impl Flight {
    /// The same batch, sent again after it got no answer.
    fn again(&self) -> Self {
        let jobs = self.jobs.iter().map(|job| match job {
            Job::Orphan(costs) => Job::Orphan(costs.clone()),
            _ => Job::Nothing,
        });
        Self { seq: self.seq, path: self.path.clone(), ops: self.ops.clone(), jobs: jobs.collect() }
    }

    /// The batch as it is to be sent again, its demands being nobody's now: if it was not applied the first time, they
    /// reserve nothing. And the jobs of those who are to be told.
    fn orphaned(mut self) -> (Self, Vec<Job>) {
        let orphan = |op: &mut Op| match op {
            Op::Reserve { costs, mode, .. } => {
                *mode = Mode::Dry;
                Job::Orphan(costs.clone())
            }
            _ => Job::Nothing,
        };
        let jobs = self.ops.iter_mut().map(orphan).collect();
        let told = std::mem::replace(&mut self.jobs, jobs);
        (self, told)
    }
}
