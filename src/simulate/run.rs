//! One run: callers, the provider and its other users, in virtual time.

use std::{
    cell::{Cell, RefCell, RefMut},
    convert::Infallible,
    rc::Rc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::future::{Either, join, join_all, select};
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    admissions::Admissions,
    best::{Best, used},
    chance::{Chance, chance},
    client::{AttemptEnd, Client},
    enforced::{Counting, EnforcedQuota, Enforcement, PARTS},
    provider::Provider,
    report::{RunLog, SimulationReport},
    simulation::Simulation,
    strategy::Strategy,
    trace::TraceCall,
};
use crate::limits::LimitsError;

/// The pauses of callers that were not told when to come again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// How things stand is noted once a second. In a run that takes longer than this many seconds at
/// best it is noted this often until then.
const MOMENTS: u64 = 20_000;
/// In how many pieces an answer is written.
const PIECES: u32 = 8;
/// Callers give up long after all could have been answered.
const HORIZON: u32 = 20;

/// What the callers, the provider and its other users share. All run on one thread.
pub(super) struct Run {
    simulation: Simulation,
    strategy: Strategy,
    start: Instant,
    admissions: RefCell<Admissions>,
    tally: RefCell<RunLog>,
    /// The next call to be made.
    next: Cell<usize>,
}

/// When the clock of the store starts: at the full minute, as that of the provider.
pub(super) fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

impl Run {
    /// Makes all calls of a simulation. Time must be paused.
    pub(super) async fn make(
        simulation: &Simulation,
        strategy: Strategy,
    ) -> Result<SimulationReport, LimitsError> {
        let provider = simulation.provider();
        let best = Best::of(simulation);
        let run = Rc::new(Self {
            simulation: simulation.clone(),
            strategy,
            start: Instant::now(),
            admissions: RefCell::new(Admissions::new(provider.quotas().iter().cloned())),
            tally: RefCell::new(RunLog::new(simulation.trace().calls().len(), provider)),
            next: Cell::new(0),
        });
        let client = Client::new(strategy, &run)?;
        let horizon = best.makespan * HORIZON + Duration::from_secs(600);
        let workers = simulation.worker_count().min(run.calls().len());
        let workers = (0..workers).map(|_| run.work(&client));
        let all = timeout(horizon, join_all(workers));
        let beside =
            async { join(run.watch(best.makespan), run.others(best.binding.as_deref())).await.0 };
        match select(std::pin::pin!(all), std::pin::pin!(beside)).await {
            Either::Left(_) => {}
            Either::Right((never, _)) => match never {},
        }
        let now = run.now();
        run.note(now);
        let report = run.tally.borrow().report(simulation, strategy, &best);
        Ok(report)
    }

    pub(super) fn simulation(&self) -> &Simulation {
        &self.simulation
    }

    pub(super) fn provider(&self) -> &Provider {
        self.simulation.provider()
    }

    pub(super) fn start(&self) -> Instant {
        self.start
    }

    pub(super) fn calls(&self) -> &[TraceCall] {
        self.simulation.trace().calls()
    }

    /// The `max_tokens` of a call.
    pub(super) fn bound_of(&self, call: &TraceCall) -> u64 {
        match self.strategy {
            Strategy::Exact => call.output,
            _ => call.max_tokens.unwrap_or(self.simulation.most_tokens()).max(call.output),
        }
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn admissions(&self) -> RefMut<'_, Admissions> {
        self.admissions.borrow_mut()
    }

    /// Makes calls until there are no more: one after the other, in the order of the trace.
    async fn work(self: &Rc<Self>, client: &Client) {
        loop {
            let index = self.next.get();
            let Some(call) = self.calls().get(index) else { return };
            self.next.set(index + 1);
            sleep_until(self.start + call.arrival).await;
            for attempt in 0.. {
                match client.call(self, index, attempt).await {
                    AttemptEnd::Answered => break,
                    AttemptEnd::Impossible => {
                        self.tally.borrow_mut().impossible(index);
                        break;
                    }
                    AttemptEnd::Refused(retry_after) => {
                        sleep(self.pause(index, attempt, retry_after)).await;
                    }
                }
            }
        }
    }

    /// How long a caller waits after a refusal: what it was told and up to a quarter more.
    fn pause(&self, index: usize, attempt: u32, told: Option<Duration>) -> Duration {
        let random = self.chance(index, attempt, Chance::Pause).f64();
        match told {
            Some(told) => told.mul_f64(1.0 + random / 4.0),
            None => {
                let pause = FIRST_PAUSE.saturating_mul(1 << attempt.min(8)).min(LONGEST_PAUSE);
                pause.mul_f64(1.0 - random / 4.0)
            }
        }
    }

    fn chance(&self, index: usize, attempt: u32, what: Chance) -> fastrand::Rng {
        chance(self.simulation.seed_number(), index, attempt, what)
    }

    /// The provider's side of one attempt.
    ///
    /// # Errors
    /// It is refused; the error is the `Retry-After`, if there is one.
    pub(super) async fn serve(&self, index: usize, attempt: u32) -> Result<(), Option<Duration>> {
        let (provider, call) = (self.provider(), &self.calls()[index]);
        let mut random = self.chance(index, attempt, Chance::Latency);
        sleep(provider.way_there(random.f64())).await;
        let now = self.now();
        // The provider is free again before anything is awaited.
        let admission = self.admissions().admit(now, &used(call));
        if let Err(refusal) = admission {
            self.tally.borrow_mut().refused(&refusal.quota);
            sleep(provider.way_back()).await;
            let told = refusal.retry_after.filter(|_| provider.tells_retry_after());
            // In whole seconds, as the header has it.
            return Err(told.map(|wait| Duration::from_secs(wait.as_secs_f64().ceil() as u64)));
        }
        self.tally.borrow_mut().admitted(index, now);
        self.answer(call, random.f64()).await;
        self.count(call, now);
        sleep(provider.way_back()).await;
        Ok(())
    }

    /// Writes an answer, from the admission to its end.
    async fn answer(&self, call: &TraceCall, random: f64) {
        let (first, writing) = self.provider().answer_time(call, random);
        sleep(first).await;
        let counts_pieces = |quota: &EnforcedQuota| quota.counted() == Counting::AsProduced;
        if self.provider().quotas().iter().any(counts_pieces) {
            let mut written = 0;
            for piece in 1..=PIECES {
                sleep(writing / PIECES).await;
                let so_far = u128::from(call.output) * u128::from(piece) / u128::from(PIECES);
                // No more than all of it.
                let so_far = so_far as u64;
                self.admissions().produce(self.now(), so_far - written);
                written = so_far;
            }
        } else {
            sleep(writing).await;
        }
        self.admissions().end(self.now(), &used(call));
    }

    /// Adds a call that was answered to what each limit has counted.
    fn count(&self, call: &TraceCall, admitted: Duration) {
        let (mut tally, now) = (self.tally.borrow_mut(), self.now());
        tally.answered += 1;
        tally.last_end = now;
        for (index, quota) in self.provider().quotas().iter().enumerate() {
            let amount = match quota.enforcement() {
                Enforcement::Concurrency => (now - admitted).as_secs_f64() * PARTS as f64,
                _ => quota.cost(&used(call)) as f64,
            };
            tally.count(index, amount);
        }
    }

    /// What OpenAI's headers tell of the first limits on requests and tokens.
    pub(super) fn headers(&self) -> Vec<(String, String)> {
        let (now, mut headers) = (self.now(), Vec::new());
        for metric in ["requests", "tokens"] {
            let told = self.admissions().left(now, metric);
            let Some((limit, left, reset)) = told else { continue };
            let name = |what: &str| format!("x-ratelimit-{what}-{metric}");
            headers.push((name("limit"), limit.to_string()));
            headers.push((name("remaining"), left.to_string()));
            headers.push((name("reset"), format!("{:.3}s", reset.as_secs_f64())));
        }
        headers
    }

    /// Notes again and again how things stand, in a run that takes this long at best.
    async fn watch(&self, best: Duration) -> Infallible {
        let every = Duration::from_secs(best.as_secs() / MOMENTS + 1);
        loop {
            self.note(self.now());
            sleep(every).await;
        }
    }

    fn note(&self, at: Duration) {
        let levels =
            self.admissions().levels(at).map(|level| level as f64 / PARTS as f64).collect();
        let come = self.calls().partition_point(|call| call.arrival <= at);
        self.tally.borrow_mut().note(at, levels, &self.calls()[..come]);
    }

    /// Makes the calls of the provider's other users, if it has any: like those of the trace, at
    /// random instants, as many as use their part of the limit that binds.
    async fn others(&self, binding: Option<&str>) -> Infallible {
        let (provider, calls) = (self.provider(), self.calls());
        let is_binding = |quota: &&EnforcedQuota| Some(quota.name()) == binding;
        let quota = provider.quotas().iter().find(is_binding).or(provider.quotas().first());
        let mean = quota.map_or(0.0, |quota| {
            let sum: f64 = calls.iter().map(|call| quota.cost(&used(call)) as f64).sum();
            // Seconds from one call to the next.
            sum / calls.len().max(1) as f64 / (provider.others_part() * quota.parts_per_second())
        });
        let mut random = fastrand::Rng::with_seed(self.simulation.seed_number() ^ 0x07E5);
        if calls.is_empty() || !mean.is_finite() || mean <= 0.0 {
            return std::future::pending().await;
        }
        loop {
            let pause = -(1.0 - random.f64()).ln() * mean;
            sleep(Duration::from_secs_f64(pause.min(86_400.0))).await;
            let call = used(&calls[random.usize(0..calls.len())]);
            let now = self.now();
            let is_admitted = self.admissions().admit(now, &call).is_ok();
            if is_admitted {
                // Others' answers take no time: their part of a concurrency limit is none.
                self.admissions().produce(now, call.get("output_tokens").unwrap_or(0));
                self.admissions().end(now, &call);
            }
            self.tally.borrow_mut().other(is_admitted);
        }
    }
}
