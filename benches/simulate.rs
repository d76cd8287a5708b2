//! What the simulator makes of an hour of calls at 450,000 tokens and 350 requests a minute, by
//! each kind of provider: `cargo bench --bench simulate --features simulate`.
//!
//! Each figure is the time that a caller needs which knows everything in advance, over the time
//! that was taken. Seconds are those of a run; at most 20 are wanted.
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
    (Strategy::Exact, "at least 0.97"),
    (Strategy::Bound, ""),
    (Strategy::Learned, "at least 0.92"),
];

fn main() {
    let trace = match env::var_os("TRACE") {
        Some(path) => Trace::from_file(path).expect("the trace can be read"),
        None => TraceShape::new().trace(1),
    };
    let mut report = Report::default();
    for (name, provider) in providers() {
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
                    "{least}; {binding} binds; as it comes {:.3}; refused {} and {}; {seconds:.1} s",
                    comes.efficiency(),
                    hour.refused,
                    comes.refused,
                ),
            );
        }
    }
    report.publish();
}

/// Each way to enforce the limits, and to count tokens.
fn providers() -> Vec<(&'static str, Provider)> {
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
    vec![
        ("bucket", of(&|metric, limit| EnforcedQuota::token_bucket(metric, limit, MINUTE))),
        ("sliding", of(&sliding)),
        ("minute", of(&|metric, limit| EnforcedQuota::fixed_window(metric, limit, MINUTE, offset))),
        ("parts_of_1s", parts(Duration::from_secs(1))),
        ("parts_of_10s", parts(Duration::from_secs(10))),
        ("in_flight", Provider::new([tokens.clone(), twenty])),
        ("at_end", counting(Counting::AtEnd)),
        ("as_produced", counting(Counting::AsProduced)),
    ]
}
