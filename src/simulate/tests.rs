//! Runs of the simulator: that they can be repeated, that limits declared rightly are never
//! exceeded, and that the faults of other strategies show.

use std::time::Duration;

use super::{
    Counting, EnforcedQuota, Enforcement, Provider, Simulation, SimulationError, SimulationReport,
    Strategy, Trace, TraceCall, TraceShape,
};
use crate::{
    limits::{Class, Limits},
    quota::Quota,
};

const MINUTE: Duration = Duration::from_secs(60);

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// Three minutes of calls, half as many again as the limits admit.
fn trace() -> Trace {
    TraceShape::new().duration(3 * MINUTE).calls_per_minute(60.0).swing(0.0).trace(7)
}

fn requests() -> EnforcedQuota {
    EnforcedQuota::sliding_window("requests", 50, MINUTE)
}

fn tokens() -> EnforcedQuota {
    EnforcedQuota::sliding_window("tokens", 55_000, MINUTE)
}

fn run(provider: Provider, trace: Trace, strategy: Strategy) -> SimulationReport {
    Simulation::declared_rightly(provider, trace).run(strategy).expect("a report")
}

/// So many calls at once, each of so many input and output tokens.
fn calls(count: usize, at: Duration, input: u64, output: u64) -> Vec<TraceCall> {
    vec![TraceCall::new(at, input, output); count]
}

/// Each way to enforce the limits, and to count tokens.
fn providers() -> Vec<Provider> {
    let second = seconds(1);
    let as_buckets = |quota: EnforcedQuota| quota.enforced(Enforcement::TokenBucket);
    let fixed = |quota: EnforcedQuota| {
        quota.enforced(Enforcement::FixedWindow(Duration::from_millis(17_300)))
    };
    let parts = |length| EnforcedQuota::sub_windows("requests", 60, MINUTE, length);
    let counted = |counting| Provider::new([requests(), tokens().counting(counting)]);
    let weighted = EnforcedQuota::sliding_window("input_tokens", 60_000, MINUTE);
    vec![
        Provider::new([requests(), tokens()]),
        Provider::new([as_buckets(requests()), as_buckets(tokens())]),
        Provider::new([fixed(requests()), fixed(tokens())]),
        Provider::new([parts(second), tokens()]),
        Provider::new([parts(10 * second), tokens()]),
        Provider::new([EnforcedQuota::concurrency(3), tokens()]),
        Provider::new([weighted.weight("output_tokens", 2.5), requests()]),
        counted(Counting::AtEnd),
        counted(Counting::AsProduced),
        counted(Counting::AsProduced).enforced(Enforcement::TokenBucket),
        counted(Counting::AtEnd).enforced(Enforcement::FixedWindow(second)),
    ]
}

#[test]
fn the_same_seed_gives_the_same_report() {
    let simulation = Simulation::declared_rightly(Provider::new([requests(), tokens()]), trace());
    for strategy in Strategy::ALL {
        let report = simulation.run(strategy).expect("a report");
        assert_eq!(report, simulation.run(strategy).expect("a report"), "{strategy}");
        let other = simulation.clone().seed(2).run(strategy).expect("a report");
        assert_ne!(report, other, "{strategy}");
    }
}

#[test]
fn limits_declared_rightly_are_never_exceeded_and_hardly_wasted() {
    for provider in providers() {
        for strategy in [Strategy::Exact, Strategy::Bound, Strategy::WithoutSettle] {
            let report = run(provider.clone(), trace(), strategy);
            assert_eq!((report.refused, report.answered), (0, report.calls), "{provider:?}");
            assert!(report.binding.is_some(), "{provider:?}");
            let least = provider.quotas().iter().map(|quota| {
                match (quota.counted(), quota.enforcement()) {
                    // A caller that knows the phase of the windows begins with two of them.
                    (Counting::AtStart, Enforcement::FixedWindow(_)) => 0.85,
                    (Counting::AtStart, _) => 0.9,
                    // What is held while a call goes on is missing in the next window.
                    _ => 0.75,
                }
            });
            let least = least.fold(1.0, f64::min);
            let efficiency = report.efficiency();
            let is_enough = strategy != Strategy::Exact || efficiency >= least;
            assert!(is_enough, "{efficiency} of {provider:?}");
            assert!(efficiency <= 1.05, "{efficiency} of {provider:?}");
        }
    }
}

#[test]
fn a_limit_that_is_declared_too_high_is_refused() {
    let limits = Limits::new().bucket("m", [Quota::per_minute("tokens", 80_000)]);
    let simulation = Simulation::new(limits, "m", trace()).expect("they make sense");
    let simulation = simulation.provided_by(Provider::new([tokens()]));
    let report = simulation.run(Strategy::Bound).expect("a report");
    assert!(report.refused > 0);
    assert_eq!((report.answered, report.unfinished()), (report.calls, 0));
    let by_quotas: u64 = report.quotas.iter().map(|quota| quota.refused).sum();
    assert_eq!(by_quotas, report.refused);
}

#[test]
fn retries_alone_are_refused_again_and_again() {
    let report = run(Provider::new([requests(), tokens()]), trace(), Strategy::RetriesOnly);
    assert!(report.refused > report.calls as u64 / 4, "{}", report.refused);
    assert_eq!(report.answered, report.calls);
}

#[test]
fn a_count_by_the_minute_admits_two_limits_around_its_end() {
    let provider = Provider::new([EnforcedQuota::sliding_window("requests", 60, MINUTE)]);
    // The first call starts the clock.
    let bursts =
        [calls(1, seconds(0), 1, 1), calls(59, seconds(50), 1, 1), calls(60, seconds(61), 1, 1)];
    let trace = Trace::new(bursts.concat());
    let counted = run(provider.clone(), trace.clone(), Strategy::FixedWindowCount);
    assert!(counted.refused >= 50, "{}", counted.refused);
    assert_eq!(run(provider, trace, Strategy::Bound).refused, 0);
}

/// 50 calls reserve much and use little, and end when a full bucket was just used up.
fn late_refunds() -> (Provider, Trace) {
    let quota = EnforcedQuota::token_bucket("tokens", 60_000, MINUTE);
    let provider = Provider::new([quota]).latency(MINUTE, Duration::ZERO).spread(0.0);
    let bursts = [
        calls(50, seconds(0), 1, 10),
        calls(59, seconds(59), 1, 1_000),
        calls(45, seconds(62), 1, 1_000),
    ];
    (provider, Trace::new(bursts.concat()))
}

#[test]
fn a_naive_refund_gives_out_twice_what_was_refilled_meanwhile() {
    let (provider, trace) = late_refunds();
    let naive = run(provider.clone(), trace.clone(), Strategy::NaiveRefund);
    assert!(naive.refused >= 30, "{}", naive.refused);
    assert_eq!(run(provider, trace, Strategy::Bound).refused, 0);
}

#[test]
fn what_is_never_settled_is_wasted() {
    let provider = Provider::new([tokens()]);
    let wasted = run(provider.clone(), trace(), Strategy::WithoutSettle);
    let settled = run(provider, trace(), Strategy::Bound);
    let (wasted_part, settled_part) = (wasted.efficiency(), settled.efficiency());
    assert!(wasted_part < 0.75 && settled_part > 0.85, "{wasted_part} and {settled_part}");
    assert_eq!((wasted.refused, settled.refused), (0, 0));
}

#[test]
fn estimates_that_are_learned_use_the_limit_up() {
    let provider = Provider::new([tokens()]);
    let report = run(provider, trace(), Strategy::Learned);
    assert!(report.efficiency() > 0.8, "{}", report.efficiency());
    assert!(report.refused <= 2, "{}", report.refused);
}

#[test]
fn other_users_are_met_and_what_the_provider_tells_is_heard() {
    let others = Provider::new([tokens()]).others(0.3);
    let blind = Simulation::declared_rightly(others.clone(), trace());
    let told = blind.clone().provided_by(others.tell_what_is_left());
    let [blind, told] = [blind, told].map(|one| one.run(Strategy::Bound).expect("a report"));
    assert!(blind.refused > 0 && blind.others.0 > 0);
    assert_ne!(told.waits, blind.waits);
    assert_eq!((blind.answered, told.answered), (blind.calls, told.calls));
}

#[test]
fn waits_are_told_by_class_and_share() {
    let quotas = [Quota::per_minute("requests", 50), Quota::per_minute("tokens", 55_000)];
    let limits = Limits::new()
        .bucket("m", quotas)
        .class("urgent", Class::new().head_start(seconds(600)))
        .weight("large", 3);
    let trace = trace()
        .with_classes(&[("urgent", 0.2)], 1)
        .with_shares(&[("large", 0.5), ("small", 0.5)], 1)
        .at_once();
    let simulation = Simulation::new(limits, "m", trace).expect("they make sense");
    let report = simulation.run(Strategy::Bound).expect("a report");
    let of = |class: Option<&str>, share: &str| {
        let is_meant = |wait: &&super::WaitReport| {
            wait.class.as_deref() == class && wait.share.as_deref() == Some(share)
        };
        report.waits.iter().find(is_meant).expect("it is told").clone()
    };
    assert_eq!(report.waits.len(), 5);
    assert_eq!(report.waits[0].calls, report.calls);
    assert!(of(Some("urgent"), "small").p95 < of(None, "small").p50);
    assert!(of(None, "large").p50 < of(None, "small").p50);
    let all = &report.waits[0];
    assert!(all.p50 <= all.p95 && all.p95 <= all.p99 && all.p99 <= all.longest);
}

#[test]
fn a_tier_that_is_doubled_takes_half_the_time() {
    let provider = Provider::new([requests(), tokens()]);
    let simulation = Simulation::declared_rightly(provider, trace().at_once());
    let once = simulation.run(Strategy::Bound).expect("a report");
    let doubled = simulation.doubled().run(Strategy::Bound).expect("a report");
    assert_eq!(doubled.quotas[0].capacity, 100);
    assert!(doubled.makespan < once.makespan.mul_f64(0.7));
    assert_eq!(doubled.refused, 0);
}

#[test]
fn moments_tell_how_things_stood() {
    let report = run(Provider::new([requests(), tokens()]), trace(), Strategy::Bound);
    let moments = &report.moments;
    assert_eq!(moments[1].at, seconds(1));
    assert!(moments.iter().all(|moment| moment.levels[0] <= 50.0 && moment.levels[1] <= 55_000.0));
    assert!(moments.iter().any(|moment| moment.waiting > 20 && moment.oldest > seconds(10)));
    let last = moments.last().expect("there are some");
    assert_eq!((last.waiting, last.admitted), (0, report.calls));
}

#[test]
fn what_makes_no_sense_is_said() {
    let limits = || Limits::new().bucket("m", [Quota::per_minute("tokens", 55_000)]);
    let unknown = Simulation::new(limits(), "n", trace()).expect_err("no such bucket");
    assert_eq!(unknown.to_string(), "bucket `n` is not declared");
    let invalid = Limits::new().bucket("m", [Quota::per_minute("tokens", 0)]);
    assert!(matches!(Simulation::new(invalid, "m", trace()), Err(SimulationError::Limits(_))));

    let with_class = trace().with_classes(&[("batch", 1.0)], 1);
    let simulation = Simulation::new(limits(), "m", with_class).expect("it makes sense");
    let error = simulation.run(Strategy::Bound).expect_err("no such class");
    assert!(error.to_string().contains("`batch`"), "{error}");

    let large = Trace::new([TraceCall::new(Duration::ZERO, 60_000, 5)]);
    let simulation = Simulation::new(limits(), "m", large).expect("it makes sense");
    let error = simulation.run(Strategy::RetriesOnly).expect_err("too large").to_string();
    assert_eq!(
        error,
        "call 1 of the trace costs 60005, and `tokens per minute` of the provider never admits \
         more than 55000"
    );
    let nothing = EnforcedQuota::sliding_window("tokens", 0, MINUTE);
    let simulation = Simulation::new(limits(), "m", trace()).expect("it makes sense");
    let error = simulation.provided_by(Provider::new([nothing])).run(Strategy::Bound);
    assert!(matches!(error, Err(SimulationError::NothingAdmitted(_))));
}

#[test]
fn a_call_that_the_limits_never_admit_is_told_and_the_others_go_on() {
    let limits = Limits::new().bucket("m", [Quota::per_minute("tokens", 2_000)]);
    let calls = [TraceCall::new(Duration::ZERO, 1_500, 5), TraceCall::new(Duration::ZERO, 10, 5)];
    let simulation = Simulation::new(limits, "m", Trace::new(calls)).expect("it makes sense");
    // With its `max_tokens` of 1,000 the first asks for 2,500.
    let report = simulation.run(Strategy::Bound).expect("a report");
    assert_eq!((report.impossible, report.answered, report.unfinished()), (1, 1, 0));
    let exact = simulation.run(Strategy::Exact).expect("a report");
    assert_eq!((exact.impossible, exact.answered), (0, 2));
}

#[test]
fn calls_in_flight_are_used_as_well_as_can_be() {
    let provider = Provider::new([EnforcedQuota::concurrency(3)]);
    let report = run(provider, trace().at_once(), Strategy::Exact);
    assert_eq!(report.refused, 0);
    assert!((0.97..=1.0).contains(&report.efficiency()), "{}", report.efficiency());
}

#[test]
fn numbers_at_their_ends_are_no_panic() {
    let provider = Provider::new([tokens()]).spread(f64::NAN).others(f64::NAN);
    assert_eq!(provider, Provider::new([tokens()]));
    let late = TraceCall::new(Duration::MAX, 5, 5);
    let mut long = TraceCall::new(Duration::MAX - seconds(1), 5, u64::MAX);
    long.max_tokens = Some(u64::MAX);
    let requests = EnforcedQuota::sliding_window("requests", u64::MAX, MINUTE);
    let input = EnforcedQuota::sliding_window("input_tokens", u64::MAX, Duration::MAX);
    let input = input.weight("cached_tokens", f64::NAN).counting(Counting::AsProduced);
    let provider = Provider::new([requests, input]).latency(Duration::MAX, Duration::MAX);
    let limits = Limits::new().bucket("m", [Quota::per_minute("requests", 900_000_000_000)]);
    let trace = Trace::new([late, TraceCall::new(Duration::ZERO, 1, 1), long]);
    assert!(trace.duration() < 11 * seconds(366 * 86_400));
    let simulation = Simulation::new(limits, "m", trace).expect("it makes sense");
    let simulation = simulation.provided_by(provider).workers(0).max_tokens(u64::MAX);
    for simulation in [simulation.clone(), simulation.doubled()] {
        for strategy in [Strategy::RetriesOnly, Strategy::NaiveRefund] {
            let report = simulation.run(strategy).expect("a report");
            assert_eq!((report.calls, report.unfinished()), (3, 0), "{strategy}");
            assert!(report.moments.len() < 500_000, "{}", report.moments.len());
        }
    }
}

#[test]
fn nothing_to_do_takes_no_time() {
    let report = run(Provider::new([tokens()]), Trace::new([]), Strategy::Bound);
    assert_eq!((report.calls, report.makespan, report.efficiency()), (0, Duration::ZERO, 1.0));
}
