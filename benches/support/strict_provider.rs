//! Calls of a chat service to a provider of the strictest kind, in virtual time. It charges what a
//! call will use when it arrives, and refuses what does not fit into any window.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use tokio::time::{Instant, sleep};
use tower::{Layer, service_fn};
use tower_throttle::{
    BoxError, Limiter, Limits, Quota, ThrottleLayer,
    llm::{Output, Rules, compatible},
};

/// The most that a call may answer, and that it says it may.
pub(super) const BOUND: u64 = 1_000;
const WORKERS: usize = 64;

/// Tokens of a prompt and of its answer.
pub(super) type Call = (u64, u64);

/// Calls like those of a public trace of a chat service: prompts of 1,150 tokens on the average and
/// 14,050 at most, answers of 210 and 1,000. Two calls in five have prompts of one kind, and long
/// answers.
pub(super) fn generate(seed: u64, calls: usize) -> Vec<Call> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut log_normal = |middle: f64, sigma: f64| {
        let radius = (-2.0 * (1.0 - random.f64()).ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * random.f64()).cos();
        (middle * (sigma * normal).exp()) as u64
    };
    let call = |index: usize| match index * 7 % 5 {
        0 | 1 => (log_normal(1_080.0, 0.1), log_normal(390.0, 0.22)),
        _ => (log_normal(640.0, 1.1), log_normal(78.0, 0.5)),
    };
    let calls = (0..calls).map(call);
    calls.map(|(input, output)| (input.clamp(1, 14_050), output.clamp(1, BOUND))).collect()
}

/// Calls whose answers become longer all at once, from 50 to 900 tokens.
pub(super) fn jump(seed: u64) -> Vec<Call> {
    let mut random = fastrand::Rng::with_seed(seed);
    let mut around = |amount: u64| random.u64(amount * 9 / 10..amount * 11 / 10);
    let answer = |index: usize| if index < 300 { 50 } else { 900 };
    (0..600).map(|index| (around(300), around(answer(index)))).collect()
}

/// How output is reserved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Estimate {
    /// The bound.
    Bound,
    /// What nine tenths of the latest 128 answers stayed within.
    Quantile,
    /// [`Output::Learned`].
    Learned,
}

/// A run: so much in any window, and how long an answer takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Run {
    pub(super) limit: u64,
    pub(super) window: Duration,
    pub(super) guard: Duration,
    pub(super) per_token: Duration,
}

/// What became of a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Outcome {
    /// Of the limit, until the last call was admitted.
    pub(super) utilisation: f64,
    pub(super) refused: usize,
}

impl Run {
    /// Makes the calls, by 64 workers.
    pub(super) fn make(self, calls: &[Call], estimate: Estimate) -> Outcome {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().start_paused(true).build().expect("a runtime");
        runtime.block_on(self.all(calls, estimate))
    }

    async fn all(self, calls: &[Call], estimate: Estimate) -> Outcome {
        let quota = Quota::sliding_window("tokens", self.limit, self.window).guard(self.guard);
        let limiter = Limiter::new(Limits::new().bucket("m", [quota])).expect("valid limits");
        // A prompt is written as how many tokens it has.
        let rules = compatible::rules().estimator(|text: &str| text.parse().unwrap_or(0.0));
        let rules = rules.output(Output::Learned);
        let provider = Arc::new(Mutex::new(Provider::default()));
        let (todo, latest) = (Mutex::new(calls.iter()), Mutex::new(VecDeque::new()));
        let worker = || async {
            loop {
                let Some(call) = lock(&todo).next().copied() else { return };
                let rules = by(estimate, &rules, &latest);
                while !self.try_call(call, &limiter, &rules, &provider).await {}
                let mut latest = lock(&latest);
                latest.push_back(call.1);
                if latest.len() > 128 {
                    latest.pop_front();
                }
            }
        };
        let start = Instant::now();
        futures_util::future::join_all((0..WORKERS).map(|_| worker())).await;
        let provider = lock(&provider);
        let took = provider.last.map_or(Duration::ZERO, |last| last - start);
        let windows = took.as_secs_f64() / self.window.as_secs_f64();
        let used: u64 = calls.iter().map(|(input, output)| input + output).sum();
        let utilisation = used as f64 / self.limit as f64 / windows;
        Outcome { utilisation, refused: provider.refused }
    }

    /// Returns whether the call was admitted.
    async fn try_call(
        self,
        (input, output): Call,
        limiter: &Limiter,
        rules: &Rules,
        provider: &Mutex<Provider>,
    ) -> bool {
        let service = service_fn(async |_: Request<String>| {
            if !lock(provider).admits(input + output, self) {
                let refusal = Response::builder().status(429).header("retry-after", "1");
                return refusal.body(Full::<Bytes>::default()).map_err(BoxError::from);
            }
            sleep(Duration::from_millis(300) + self.per_token * output as u32).await;
            let answer = format!(
                r#"{{"choices":[{{"finish_reason":"stop"}}],"usage":{{"prompt_tokens":{input},"completion_tokens":{output}}}}}"#
            );
            Ok(Response::new(Full::from(answer)))
        });
        let layer = ThrottleLayer::openai_compatible(limiter.clone(), rules.clone());
        let body = format!(r#"{{"model":"m","max_tokens":{BOUND},"prompt":"{input}"}}"#);
        let response = layer.layer(service).oneshot(Request::new(body)).await.expect("an answer");
        let is_admitted = response.status() == 200;
        response.into_body().collect().await.expect("its body");
        is_admitted
    }
}

/// The rules of the next call.
fn by(estimate: Estimate, rules: &Rules, latest: &Mutex<VecDeque<u64>>) -> Rules {
    let output = match estimate {
        Estimate::Learned => Output::Learned,
        Estimate::Bound => Output::Bound,
        Estimate::Quantile => {
            let mut outputs: Vec<u64> = lock(latest).iter().copied().collect();
            outputs.sort_unstable();
            // One more is to come, and may be larger than all.
            let rank = (0.9 * (outputs.len() + 1) as f64).ceil() as usize;
            outputs.get(rank - 1).map_or(Output::Bound, |output| Output::Expected(*output))
        }
    };
    rules.clone().output(output)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A log of what was admitted in the window.
#[derive(Debug, Default)]
struct Provider {
    admitted: VecDeque<(Instant, u64)>,
    sum: u64,
    refused: usize,
    last: Option<Instant>,
}

impl Provider {
    fn admits(&mut self, tokens: u64, run: Run) -> bool {
        let now = Instant::now();
        while let Some((at, before)) = self.admitted.front().copied()
            && now - at >= run.window
        {
            self.admitted.pop_front();
            self.sum -= before;
        }
        if self.sum + tokens > run.limit {
            self.refused += 1;
            return false;
        }
        self.admitted.push_back((now, tokens));
        self.sum += tokens;
        self.last = Some(now);
        true
    }
}
