//! What becomes of a batch that has come back, answered or not: everybody on board is told.

use std::{sync::Arc, time::Duration};

use tokio::{sync::oneshot, time::Instant};

use super::{
    health::Rest,
    lane::{Lane, State},
    queue::{Ask, Flight, Job, Refused, Report},
    reservation::Reservation,
};
use crate::{
    engine::{Answer, Micros, Mode, Op, Outcome as Applied, Verdict},
    error::Throttled,
    observe::Event,
    store::StoreError,
};

/// Lanes of several processes do not all look again at the same instant.
const MAX_JITTER_MICROS: u64 = 10_000;

/// The batch that got no answer. It may have been applied; sending it again under its number tells.
#[derive(Debug)]
pub(super) struct Doubt {
    pub(super) flight: Flight,
    pub(super) since: Instant,
}

impl Lane {
    /// A batch has come back.
    pub(super) fn land(self: &Arc<Self>, flight: Flight, result: Result<Answer, StoreError>) {
        match result.map(|answer| answer.outcome) {
            Ok(Applied::Applied { now, lives, verdicts }) => {
                if self.shared.health.answered() {
                    self.shared.options.observing.tell(|| Event::Recovered);
                }
                self.saw(&flight.path, &lives);
                let mut state = self.lock();
                state.heard = Instant::now();
                (state.doubt, state.rest) = (None, None);
                self.chart(&mut state, &flight.path);
                let path = flight.path.clone();
                let concerns_others = flight
                    .ops
                    .iter()
                    .any(|op| matches!(op, Op::Settle { .. } | Op::Surface { .. }));
                let deliveries = state.land(self, flight, verdicts, now);
                drop(state);
                deliveries.into_iter().for_each(|delivery| delivery.make(self, path.name()));
                if concerns_others {
                    self.neighbours.look_now(self);
                }
            }
            Ok(Applied::Stale | Applied::Uncharted) => {
                let error =
                    "the store knows a later batch of this process: was it restored from a copy?";
                self.fail(flight, StoreError::Rejected(error.into()).into());
                self.lock().doubt = None;
                self.rename();
            }
            Err(error) => {
                let error = Arc::new(error);
                if error.is_unavailable() && self.shared.health.failed(&error) {
                    self.shared.options.observing.tell(|| Event::Degraded { error: &error });
                }
                self.fail(flight, error);
            }
        }
    }

    /// A batch got no answer: everybody who waits is told, and the batch stays in doubt.
    pub(super) fn fail(self: &Arc<Self>, flight: Flight, error: Arc<StoreError>) {
        let mut state = self.lock();
        state.heard = Instant::now();
        if !error.is_unavailable() {
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
                (Job::Orphan(costs), Verdict::Granted) => {
                    self.queue.give_back(&flight.path, costs, at)
                }
                (Job::Orphan(_), _) => {}
                (Job::Demand(rank, mut waiter), Verdict::Refused(violations)) => {
                    let refused = match waiter.ask.follow(&self.queue.path) {
                        Some(refusal) => Refused::ForGood(
                            waiter.answer,
                            Throttled::ExceedsCapacity(Box::new(refusal)),
                        ),
                        None if lane.is_closed() => {
                            Refused::ForGood(waiter.answer, Throttled::Closed)
                        }
                        // Of other limits than those now it says nothing: it is looked at again.
                        None if !is_current && waiter.ask.mode == Mode::Wait => {
                            self.queue.refused(rank, waiter, &[], jitter)
                        }
                        None => self.queue.refused(rank, waiter, &violations, jitter),
                    };
                    deliveries.extend(match refused {
                        Refused::ForGood(answer, error) => {
                            Some(Delivery::Answer(answer, Err(error)))
                        }
                        Refused::HasToWait { position } => Some(Delivery::HasToWait(position)),
                        Refused::Waits => None,
                    });
                }
                (Job::Demand(_, waiter), Verdict::Fits) => {
                    deliveries.push(Delivery::Answer(
                        waiter.answer,
                        Ok(Reservation::on_its_way(waiter.ask.usage, at, None)),
                    ));
                }
                (Job::Demand(_, waiter), _) => {
                    self.queue.granted(&waiter.ask);
                    self.open += usize::from(!lane.shared.in_process);
                    let Ask { route, usage, arrived, .. } = waiter.ask;
                    let reservation = Reservation::on_its_way(usage, at, Some(route));
                    let reservation = reservation.after(arrived.elapsed(), waiter.position);
                    deliveries.push(Delivery::Answer(waiter.answer, Ok(reservation)));
                }
            }
        }
        let turned_away = self.queue.turned_away(is_current).into_iter();
        deliveries
            .extend(turned_away.map(|(waiter, error)| Delivery::Answer(waiter.answer, Err(error))));
        self.queue.landed();
        deliveries
    }
}

/// Something to tell once no lock is held: a grant that nobody takes is given back when it is dropped.
enum Delivery {
    Answer(oneshot::Sender<Result<Reservation, Throttled>>, Result<Reservation, Throttled>),
    Report(Report, Verdict),
    HasToWait(usize),
}

impl Delivery {
    fn make(self, lane: &Lane, bucket: &str) {
        match self {
            Self::HasToWait(position) => {
                lane.shared.options.observing.tell(|| Event::WaitStarted { bucket, position });
            }
            Self::Answer(to, answer) => drop(to.send(answer)),
            Self::Report(to, verdict) => drop(to.send(Ok(verdict))),
        }
    }
}

impl Flight {
    /// The same batch, sent again after it got no answer.
    pub(super) fn again(&self) -> Self {
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
