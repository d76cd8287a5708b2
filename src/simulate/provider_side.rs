//! The provider's side of a run: it admits, answers and refuses calls, and keeps the log.

use std::{
    cell::{RefCell, RefMut},
    convert::Infallible,
    time::Duration,
};

use tokio::time::{Instant, sleep};

use super::{
    admissions::Admissions,
    best::Best,
    chance::{Chance, chance},
    enforced::{Counting, EnforcedQuota, Enforcement, PARTS},
    provider::Provider,
    report::{RunLog, SimulationReport},
    simulation::Simulation,
    strategy::Strategy,
    trace_call::TraceCall,
};

/// How things stand is noted once a second. In a run that takes longer than this many seconds at
/// best it is noted this often until then.
const MOMENTS: u64 = 20_000;
/// In how many pieces an answer is written.
const PIECES: u32 = 8;

/// What callers and other users of a run meet. All run on one thread, in paused time.
pub(super) struct ProviderSide {
    simulation: Simulation,
    start: Instant,
    admissions: RefCell<Admissions>,
    log: RefCell<RunLog>,
}

impl ProviderSide {
    /// The run starts now.
    pub(super) fn new(simulation: &Simulation) -> Self {
        let provider = simulation.provider();
        Self {
            start: Instant::now(),
            admissions: RefCell::new(Admissions::new(provider.quotas().iter().cloned())),
            log: RefCell::new(RunLog::new(simulation.trace().calls().len(), provider)),
            simulation: simulation.clone(),
        }
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

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn admissions(&self) -> RefMut<'_, Admissions> {
        self.admissions.borrow_mut()
    }

    /// A call can never be made.
    pub(super) fn impossible(&self, index: usize) {
        self.log.borrow_mut().impossible(index);
    }

    /// Ends the run.
    pub(super) fn report(&self, strategy: Strategy, best: &Best) -> SimulationReport {
        self.note(self.now());
        self.log.borrow().report(&self.simulation, strategy, best)
    }

    /// Serves one attempt of a call.
    ///
    /// # Errors
    /// It is refused; the error is the `Retry-After`, if there is one.
    pub(super) async fn serve(&self, index: usize, attempt: u32) -> Result<(), Option<Duration>> {
        let (provider, call) = (self.provider(), &self.calls()[index]);
        let mut random = chance(self.simulation.seed_number(), index, attempt, Chance::Latency);
        sleep(provider.way_there(random.f64())).await;
        let now = self.now();
        // The provider is free again before anything is awaited.
        let admission = self.admissions().admit(now, &call.used());
        if let Err(refusal) = admission {
            self.log.borrow_mut().refused(&refusal.quota);
            sleep(provider.way_back()).await;
            let told = refusal.retry_after.filter(|_| provider.tells_retry_after());
            // In whole seconds, as the header has it.
            return Err(told.map(|wait| Duration::from_secs(wait.as_secs_f64().ceil() as u64)));
        }
        self.log.borrow_mut().admitted(index, now);
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
        self.admissions().end(self.now(), &call.used());
    }

    /// Adds a call that was answered to what each limit has counted.
    fn count(&self, call: &TraceCall, admitted: Duration) {
        let (mut log, now) = (self.log.borrow_mut(), self.now());
        log.answered += 1;
        log.last_end = now;
        for (index, quota) in self.provider().quotas().iter().enumerate() {
            let amount = match quota.enforcement() {
                Enforcement::Concurrency => (now - admitted).as_secs_f64() * PARTS as f64,
                _ => quota.cost(&call.used()) as f64,
            };
            log.count(index, amount);
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
    pub(super) async fn watch(&self, best: Duration) -> Infallible {
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
        self.log.borrow_mut().note(at, levels, &self.calls()[..come]);
    }

    /// Makes the calls of the provider's other users, if it has any: like those of the trace, at
    /// random instants, as many as use their part of the limit that binds.
    pub(super) async fn others(&self, binding: Option<&str>) -> Infallible {
        let (provider, calls) = (self.provider(), self.calls());
        let is_binding = |quota: &&EnforcedQuota| Some(quota.name()) == binding;
        let quota = provider.quotas().iter().find(is_binding).or(provider.quotas().first());
        let mean = quota.map_or(0.0, |quota| {
            let sum: f64 = calls.iter().map(|call| quota.cost(&call.used()) as f64).sum();
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
            let call = calls[random.usize(0..calls.len())].used();
            let now = self.now();
            let is_admitted = self.admissions().admit(now, &call).is_ok();
            if is_admitted {
                // Others' answers take no time: their part of a concurrency limit is none.
                self.admissions().produce(now, call.get("output_tokens").unwrap_or(0));
                self.admissions().end(now, &call);
            }
            self.log.borrow_mut().other(is_admitted);
        }
    }
}
