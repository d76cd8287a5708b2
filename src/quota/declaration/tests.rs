//! What is declared, and what it compiles to.

use super::*;
use crate::usage;

fn id(quota: Quota) -> u64 {
    quota.compile().expect("it is valid").rule.id
}

#[test]
fn a_quota_stays_the_same_whatever_its_limit_and_burst() {
    let bucket = |limit, burst| {
        Quota::token_bucket("tokens", limit, Duration::from_secs(1_234)).burst(burst)
    };
    // So different that the ticks differ too.
    assert_eq!(id(bucket(10, 10)), id(bucket(3_000_000_000, 1)));
    assert_eq!(id(bucket(10, 10)), id(bucket(10, 3_000_000_000)));
    assert_eq!(
        id(Quota::per_minute("tokens", 1)),
        id(Quota::per_minute("tokens", 900_000_000_000))
    );
}

#[test]
fn what_counts_differently_is_another_quota() {
    let quotas = [
        Quota::per_minute("tokens", 1),
        Quota::per_hour("tokens", 1),
        Quota::per_minute("requests", 1),
        Quota::per_minute("tokens", 1).weight("requests", 1.0),
        Quota::per_minute("tokens", 1).weight("tokens", 2.0),
        Quota::per_minute("tokens", 1).slots(30),
        Quota::per_minute("tokens", 1).guard(Duration::ZERO),
        Quota::per_minute("tokens", 1).charge_at(ChargeAt::End),
        Quota::per_minute("tokens", 1).named("other"),
        Quota::per_minute("requests", 2).paced(),
        Quota::per_minute("tokens", 1).anchored(Duration::ZERO),
        Quota::per_minute("tokens", 1).anchored(Duration::from_secs(1)),
        Quota::concurrency(1),
    ];
    let ids: std::collections::HashSet<_> = quotas.iter().cloned().map(id).collect();
    assert_eq!(ids.len(), quotas.len());
}

/// State that another version has stored is found by it.
#[test]
fn an_id_never_changes() {
    assert_eq!(id(Quota::per_minute("tokens", 30_000)), PER_MINUTE);
}
const PER_MINUTE: u64 = 3_206_383_264_455_543;

#[test]
fn a_cost_is_a_weighted_sum_rounded_up() {
    let meter = |quota: Quota| quota.compile().expect("it is valid");
    let combined = meter(
        Quota::per_minute("input_tokens", 100).weight("output_tokens", 5.0).weight("cached", 0.1),
    );
    let cost = |usage| combined.cost(&usage);
    assert_eq!(cost(usage! { input_tokens: 3, output_tokens: 2, cached: 1 }), 14);
    assert_eq!(cost(usage! { tokens: 7 }), 7);
    assert_eq!(cost(usage! { requests: 7 }), 0);
    assert_eq!(cost(usage! { input_tokens: u64::MAX, output_tokens: u64::MAX }), u64::MAX);
    assert_eq!(combined.actual_cost(&usage! { tokens: u64::MAX }), 500);
    let calls = meter(Quota::concurrency(3));
    for usage in [usage! {}, usage! { tokens: 0 }, usage! { tokens: 500 }] {
        assert_eq!((calls.cost(&usage), calls.actual_cost(&usage)), (1, 1));
    }
}

#[test]
fn nonsense_is_told_with_the_quota_and_the_reason() {
    let day = Duration::from_secs(86_400);
    for (quota, reason) in [
        (
            Quota::per_minute("tokens", 0),
            "quota `tokens per minute`: its limit is 0, so that nothing could ever pass",
        ),
        (
            Quota::per_minute("tokens", u64::MAX),
            "quota `tokens per minute`: limits above 900000000000 are not supported",
        ),
        (
            Quota::per_minute("tokens", 1).weight("tokens", f64::NAN),
            "quota `tokens per minute`: the weight of `tokens` is NaN, and must be between 0 and 1000000",
        ),
        (
            Quota::per_minute("a", 1).weight("b", -1.0),
            "quota `a + b per minute`: the weight of `b` is -1.0, and must be between 0 and 1000000",
        ),
        (Quota::per_minute("", 1), "quota ` per minute`: a metric has an empty name"),
        (
            Quota::sliding_window("a", 1, Duration::ZERO).named("n"),
            "quota `n`: a window must be between a millisecond and 400 days long",
        ),
        (
            Quota::sliding_window("a", 1, 401 * day).named("n"),
            "quota `n`: a window must be between a millisecond and 400 days long",
        ),
        (
            Quota::per_minute("a", 1).named("n").slots(0),
            "quota `n`: slots must be between 1 and 1000",
        ),
        (
            Quota::token_bucket("a", 1, day).burst(0).named("n"),
            "quota `n`: its burst is 0, and must be between 1 and 900000000000",
        ),
        (
            Quota::per_minute("token", 3),
            "quota `token per minute`: it counts `token`: do you mean `tokens`? Anything else needs another name",
        ),
        (
            Quota::per_minute("tokens", 3).weight("Output-Tokens", 5.0).named("n"),
            "quota `n`: it counts `Output-Tokens`: do you mean `output_tokens`? Anything else needs another name",
        ),
        (
            Quota::per_minute("tokens", 30_000).paced(),
            "quota `tokens per minute`: it admits 11 at once, and calls ask for more tokens: pace tokens over a longer interval, with `paced_over`",
        ),
        (
            Quota::per_minute("requests", 60).weight("requests", 1.5).paced(),
            "quota `requests per minute`: one request costs 2, and it admits 1 at once",
        ),
        (
            Quota::per_minute("a", 60).weight("b", 1e-7).named("n"),
            "quota `n`: the weight of `b` is 0.0000001, which is 0 in millionths: make the limit and the weights larger",
        ),
        (
            Quota::per_minute("a", 60).weight("a", 0.0).named("n"),
            "quota `n`: all its weights are 0, so that nothing would ever be charged",
        ),
        (
            Quota::per_minute("a", 60).burst(5).named("n"),
            "quota `n`: a burst means nothing to a sliding window: for a burst, declare a token bucket",
        ),
        (
            Quota::token_bucket("a", 60, day).guard(day).named("n"),
            "quota `n`: a guard means nothing to a token bucket",
        ),
        (
            Quota::per_minute("a", 60).guard(day).anchored(day).named("n"),
            "quota `n`: a guard means nothing to a fixed window",
        ),
        (
            Quota::per_minute("a", 60).longest_call(day).named("n"),
            "quota `n`: `longest_call` means nothing to a sliding window: for a burst, declare a token bucket",
        ),
        (
            Quota::per_minute("a", 60).paced().anchored(day).named("n"),
            "quota `n`: an anchor or time zone means nothing to a token bucket",
        ),
        (
            Quota::per_minute("a", 60).paced().burst(9).named("n"),
            "quota `n`: its burst is set twice, or it is paced and has a burst",
        ),
        (
            Quota::concurrency(3).weight("tokens", 1.0).named("n"),
            "quota `n`: a weight means nothing to calls in flight",
        ),
        (
            Quota::token_bucket("a", 900_000_000_000, 365 * day).named("n"),
            "quota `n`: its burst is too large for its period: use a sliding window",
        ),
    ] {
        assert_eq!(quota.compile().map(|_| ()), Err(reason.to_owned()));
    }
}

#[test]
fn short_odd_and_long_windows_work() {
    let windows = [300, 1_500, 30 * 86_400_000].map(Duration::from_millis);
    for window in windows {
        assert!(Quota::sliding_window("a", 1, window).compile().is_ok());
        assert!(Quota::token_bucket("a", 1_000_000_000, window).compile().is_ok());
        assert!(Quota::fixed_window("a", 1, window).compile().is_ok());
    }
}

#[test]
fn settings_come_to_the_same_in_any_order() {
    let minute = || Quota::per_minute("requests", 60);
    let second = Duration::from_secs(1);
    assert_eq!(minute().longest_call(second).paced(), minute().paced().longest_call(second));
    assert!(minute().longest_call(second).paced().compile().is_ok());
    let both = |quota: Quota| quota.compile().map(drop).is_err();
    assert!(both(minute().guard(second).paced()) && both(minute().paced().guard(second)));
}

#[test]
fn a_quota_names_itself_in_words() {
    let minute = Duration::from_secs(60);
    for (quota, words) in [
        (Quota::per_second("requests", 5), "5 requests per second"),
        (Quota::per_day("requests", 5), "5 requests per day"),
        (Quota::token_bucket("tokens", 5, 5 * minute), "5 tokens per 5 minutes"),
        (Quota::fixed_window("a", 5, 90 * minute / 60), "5 a per 90 seconds"),
        (Quota::sliding_window("a", 5, minute / 240), "5 a per 250ms"),
        (Quota::per_hour("a", 5).weight("b", 2.0), "5 a + b per hour"),
        (Quota::concurrency(5), "5 calls in flight"),
        (Quota::per_hour("a", 5).named("mine"), "5 in quota \"mine\""),
    ] {
        assert_eq!(quota.to_string(), words);
    }
}
