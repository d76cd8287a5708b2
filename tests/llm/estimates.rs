//! How well output is estimated, against a provider that charges it when a call arrives.

use std::time::Duration;

#[path = "../../benches/support/strict_provider.rs"]
mod strict_provider;

use strict_provider::{Estimate, Run, generate, jump};

/// 45,000 tokens in any six seconds, and answers as fast as they come today.
const SIX_SECONDS: Run = Run {
    limit: 45_000,
    window: Duration::from_secs(6),
    guard: Duration::from_millis(100),
    per_token: Duration::from_millis(3),
};

/// Ten times as much in any minute.
const MINUTE: Run = Run { limit: 450_000, window: Duration::from_secs(60), ..SIX_SECONDS };

#[test]
fn a_minute_s_limit_is_used_up() {
    for seed in 1..=3 {
        let learned = MINUTE.make(&generate(seed, 3_000), Estimate::Learned);
        assert!(learned.utilisation >= 0.95, "{seed}: {learned:?}");
        assert_eq!(learned.refused, 0, "{seed}: {learned:?}");
    }
}

#[test]
fn a_limit_is_used_up_and_no_call_is_refused() {
    let (mut by_bound, mut by_learned) = (0.0, 0.0);
    let (mut refused, mut refused_by_quantile) = (0, 0);
    for seed in 1..=5 {
        let calls = generate(seed, 600);
        let by = [Estimate::Bound, Estimate::Quantile, Estimate::Learned];
        let [bound, quantile, learned] = by.map(|by| SIX_SECONDS.make(&calls, by));
        println!("{seed}: {bound:?} {quantile:?} {learned:?}");
        by_bound += bound.utilisation / 5.0;
        by_learned += learned.utilisation / 5.0;
        refused += learned.refused;
        refused_by_quantile += quantile.refused;
    }
    assert!(by_learned >= 0.93, "{by_learned}");
    assert!(by_learned > by_bound + 0.03, "{by_learned} {by_bound}");
    assert!(refused == 0 && refused_by_quantile > 0, "{refused} {refused_by_quantile}");
}

/// The first calls that are longer than all before are sent at one instant. How many of them are
/// refused differs from run to run: the order of tasks that are ready at one instant does. Those
/// that wait at that time are estimated again.
#[test]
fn few_calls_are_refused_where_lengths_jump() {
    let (mut by_quantile, mut by_learned) = (0, 0);
    for seed in 1..=10 {
        let calls = jump(seed);
        let by = [Estimate::Quantile, Estimate::Learned];
        let [quantile, learned] = by.map(|by| SIX_SECONDS.make(&calls, by).refused);
        // Of 600.
        assert!(learned <= 6, "{seed}: {learned}");
        by_quantile += quantile;
        by_learned += learned;
    }
    // Of 6,000 in all.
    assert!(by_learned <= 45 && 2 * by_learned < by_quantile, "{by_learned} {by_quantile}");
}
