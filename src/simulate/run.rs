//! One run of a simulation: its callers, in virtual time, on a thread of their own.

use std::{cell::Cell, rc::Rc, thread, time::Duration};

use futures_util::future::{Either, join, join_all, select};
use tokio::time::{sleep, sleep_until, timeout};

use super::{
    best::Best,
    chance::{Chance, chance},
    client::{AttemptEnd, Client},
    provider_side::ProviderSide,
    report::SimulationReport,
    simulation::{Simulation, SimulationError},
    strategy::Strategy,
};
use crate::{drawn, limits::LimitsError};

/// The pauses of callers that were not told when to come again.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(8);
/// Callers give up long after all could have been answered.
const HORIZON: u32 = 20;

impl Simulation {
    /// Makes all calls, by one strategy. The same simulation gives the same report.
    ///
    /// It runs on a thread of its own, on which time is paused: nothing else of the program is, and
    /// it may be called from a task that may block.
    ///
    /// # Errors
    /// The limits make no sense, a class of the trace is not declared, a limit is 0, or a call
    /// asks for more than the provider ever admits.
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn run(&self, strategy: Strategy) -> Result<SimulationReport, SimulationError> {
        self.check()?;
        let run = || {
            // What the limiter leaves to chance is the same in each run.
            fastrand::seed(self.seed_number());
            drawn::seed(self.seed_number());
            let mut runtime = tokio::runtime::Builder::new_current_thread();
            let runtime = runtime.enable_time().start_paused(true).build();
            let runtime = runtime.map_err(SimulationError::Runtime)?;
            Ok(runtime.block_on(make(self, strategy))?)
        };
        let ended = thread::scope(|scope| scope.spawn(run).join());
        ended.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    /// Makes all calls by each of these strategies. The reports are in their order.
    ///
    /// # Errors
    /// Those of [`run`](Self::run).
    ///
    /// # Panics
    /// If no thread can be started.
    pub fn compare(
        &self,
        strategies: &[Strategy],
    ) -> Result<Vec<SimulationReport>, SimulationError> {
        strategies.iter().map(|strategy| self.run(*strategy)).collect()
    }
}

/// Makes all calls of a simulation. Time must be paused.
async fn make(
    simulation: &Simulation,
    strategy: Strategy,
) -> Result<SimulationReport, LimitsError> {
    let best = Best::of(simulation);
    let provider = Rc::new(ProviderSide::new(simulation));
    let client = Client::new(strategy, &provider)?;
    let horizon = best.makespan * HORIZON + Duration::from_secs(600);
    let next = Cell::new(0);
    let workers = simulation.worker_count().min(provider.calls().len());
    let workers = (0..workers).map(|_| work(&client, &provider, &next));
    let all = timeout(horizon, join_all(workers));
    let others = provider.others(best.binding.as_deref());
    let beside = async { join(provider.watch(best.makespan), others).await.0 };
    match select(std::pin::pin!(all), std::pin::pin!(beside)).await {
        Either::Left(_) => Ok(provider.report(strategy, &best)),
        Either::Right((never, _)) => match never {},
    }
}

/// Makes calls until there are no more: one after the other, in the order of the trace.
async fn work(client: &Client, provider: &ProviderSide, next: &Cell<usize>) {
    loop {
        let index = next.get();
        let Some(call) = provider.calls().get(index) else { return };
        next.set(index + 1);
        sleep_until(provider.start() + call.arrival).await;
        for attempt in 0.. {
            match client.call(index, attempt).await {
                AttemptEnd::Answered => break,
                AttemptEnd::Impossible => {
                    provider.impossible(index);
                    break;
                }
                AttemptEnd::Refused(told) => {
                    let seed = provider.simulation().seed_number();
                    let random = chance(seed, index, attempt, Chance::Pause).f64();
                    sleep(pause(attempt, told, random)).await;
                }
            }
        }
    }
}

/// How long a caller waits after a refusal: what it was told and up to a quarter more.
fn pause(attempt: u32, told: Option<Duration>, random: f64) -> Duration {
    match told {
        Some(told) => told.mul_f64(1.0 + random / 4.0),
        None => {
            let pause = FIRST_PAUSE.saturating_mul(1 << attempt.min(8)).min(LONGEST_PAUSE);
            pause.mul_f64(1.0 - random / 4.0)
        }
    }
}
