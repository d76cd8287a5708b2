//! What the simulator makes of an hour of calls at 450,000 tokens and 350 requests a minute, by
//! each kind of provider: `cargo bench --bench simulate --features simulate`.
//!
//! Each figure is the time that a caller needs which knows everything in advance, over the time
//! that was taken. Seconds are those of a run; at most 20 are wanted.
//!
//! A client that is never refused cannot be as fast: it counts a call for the window and the
//! longest jitter, and what counts at the end of a call from its beginning on. Of what that leaves,
//! at least 0.97 is wanted with exact estimates, and 0.92 with learned ones.
//!
//! The trace is made up; `TRACE` names a file with another one, such as one of the Azure LLM
//! inference traces. All calls are at hand from the start, so that the limits bind from the first
//! second to the last.

mod support;

use std::{
    env,
    time::{Duration, Instant},
};

use tower_throttle::simulate::{
    Counting, EnforcedQuota, Provider, Simulation, Strategy, Trace, TraceShape,
};

use self::support::Report;

const MINUTE: Duration = Duration::from_secs(60);
const REQUESTS: u64 = 350;
const TOKENS: u64 = 450_000;
/// Enough that none is missing when a whole window is free at once.
const WORKERS: usize = 2_000;
const STRATEGIES: [(Strategy, &str); 3] = [
    (Strategy::Exact, "at least 0.97 wanted"),
    (Strategy::Bound, "no figure wanted"),
    (Strategy::Learned, "at least 0.92 wanted"),
];
/// By how much the way to the provider takes longer at most, and a timer.
const JITTER: Duration = Duration::from_millis(51);

fn main() {
    let trace = match env::var_os("TRACE") {
        Some(path) => Trace::from_file(path).expect("the trace can be read"),
        None => TraceShape::new().trace(1),
    };
    let mut report = Report::default();
    for (name, provider, window, longer) in providers(mean_length(&trace)) {
        let left = window.as_secs_f64() / (window + longer).as_secs_f64();
        let at_once = Simulation::declared_rightly(provider.clone(), trace.clone().at_once())
            .workers(WORKERS);
        let as_it_comes = Simulation::declared_rightly(provider, trace.clone()).workers(WORKERS);
        for (strategy, least) in STRATEGIES {
            let start = Instant::now();
            let hour = at_once.run(strategy).expect("a report");
            let seconds = start.elapsed().as_secs_f64();
            let comes = as_it_comes.run(strategy).expect("a report");
            let binding = hour.binding.as_deref().unwrap_or("nothing");
            report.add(
                format!("simulate.{name}.{strategy:?}").to_lowercase(),
                hour.efficiency(),
                format!(
                    "{:.3} of the {left:.3} that can be, {least}; {binding} binds; as it comes \
                     {:.3}; refused {} and {}; {seconds:.1} s",
                    hour.efficiency() / left,
                    comes.efficiency(),
                    hour.refused,
                    comes.refused,
                ),
            );
        }
    }
    report.publish();
}

/// How long a call takes on the average, from its reservation until it is settled.
fn mean_length(trace: &Trace) -> Duration {
    let (mut sum, way) = (Duration::ZERO, Duration::from_millis(20));
    let provider = Provider::new([]);
    for call in trace.calls() {
        let (first, writing) = provider.answer_time(call, 0.5);
        sum += 2 * way + JITTER / 2 + first + writing;
    }
    sum.div_f64(trace.calls().len().max(1) as f64)
}

/// Each way to enforce the limits and to count tokens, with the window that binds, and for how much
/// longer than that a call is counted which takes this long. A token bucket holds less instead.
fn providers(length: Duration) -> Vec<(&'static str, Provider, Duration, Duration)> {
    let of = |quota: &dyn Fn(&str, u64) -> EnforcedQuota| {
        Provider::new([quota("requests", REQUESTS), quota("tokens", TOKENS)])
    };
    let sliding = |metric: &str, limit| EnforcedQuota::sliding_window(metric, limit, MINUTE);
    let offset = Duration::from_millis(17_300);
    let tokens = sliding("tokens", TOKENS);
    let parts = |length| {
        let requests = EnforcedQuota::sub_windows("requests", REQUESTS, MINUTE, length);
        Provider::new([requests, tokens.clone()])
    };
    let counting = |counting| {
        Provider::new([sliding("requests", REQUESTS), tokens.clone().counting(counting)])
    };
    let twenty = EnforcedQuota::concurrency(20);
    let bucket = |metric: &str, limit| EnforcedQuota::token_bucket(metric, limit, MINUTE);
    let minute = |metric: &str, limit| EnforcedQuota::fixed_window(metric, limit, MINUTE, offset);
    let second = Duration::from_secs(1);
    vec![
        ("bucket", of(&bucket), MINUTE, Duration::ZERO),
        ("sliding", of(&sliding), MINUTE, JITTER),
        ("minute", of(&minute), MINUTE, JITTER),
        ("parts_of_1s", parts(second), second, JITTER),
        ("parts_of_10s", parts(10 * second), 10 * second, JITTER),
        ("in_flight", Provider::new([tokens.clone(), twenty]), MINUTE, JITTER),
        ("at_end", counting(Counting::AtEnd), MINUTE, JITTER + length),
        ("as_produced", counting(Counting::AsProduced), MINUTE, JITTER + length),
    ]
}
