//! Scenarios 1 to 11: token buckets.

use tower_throttle::{Quota, Throttled, usage};

use crate::world::*;

on_every_store!(
    s01_refills_linearly_also_out_of_a_debt,
    s02_refills_beyond_the_limit_up_to_the_burst,
    s03_refused_until_exactly_six_seconds,
    s04_settling_above_the_estimate_may_leave_a_debt,
    s05_more_than_capacity_is_an_error_at_once,
    s06_each_quota_refills_on_its_own_stamp,
    s07_spacing_and_a_window_together,
    s08_smoothing_spaces_a_burst,
    s09_exactly_the_limit_passes,
    s10_a_live_change_keeps_what_was_used,
    s11_a_late_refund_never_overdraws,
);

fn per_minute(limit: u64) -> Quota {
    Quota::token_bucket("tokens", limit, MINUTE)
}

async fn s01_refills_linearly_also_out_of_a_debt(world: World) {
    let limiter = world.bucket([per_minute(100_000)]);
    spend(&limiter, tokens(100_000)).await;
    assert_eq!(left(&limiter, "a").await, [0.0]);
    for (step, expected) in [(30, 50_000.0), (30, 100_000.0), (60, 100_000.0)] {
        world.advance(secs(step)).await;
        assert_eq!(left(&limiter, "a").await, [expected]);
    }

    take(&limiter, tokens(100_000)).await.settle(usage! { tokens: 200_000 }).await.unwrap();
    for expected in [-100_000.0, -50_000.0, 0.0] {
        assert_eq!(left(&limiter, "a").await, [expected]);
        world.advance(secs(30)).await;
    }
}

async fn s02_refills_beyond_the_limit_up_to_the_burst(world: World) {
    let limiter = world.bucket([per_minute(10_000).burst(15_000)]);
    spend(&limiter, tokens(15_000)).await;
    for (step, expected) in [(60, 10_000.0), (30, 15_000.0), (30, 15_000.0)] {
        world.advance(secs(step)).await;
        assert_eq!(left(&limiter, "a").await, [expected]);
    }
}

async fn s03_refused_until_exactly_six_seconds(world: World) {
    let limiter = world.bucket([per_minute(10_000)]);
    spend(&limiter, tokens(10_000)).await;
    let (named, retry_after) = refusal(&limiter, tokens(1_000)).await;
    assert_eq!((named.len(), retry_after), (1, Some(secs(6))));
    world.advance(ms(5_999)).await;
    assert!(!passes(&limiter, tokens(1_000)).await);
    world.advance(ms(1)).await;
    assert!(passes(&limiter, tokens(1_000)).await);
}

async fn s04_settling_above_the_estimate_may_leave_a_debt(world: World) {
    let limiter = world.bucket([per_minute(10_000)]);
    take(&limiter, tokens(500)).await.settle(usage! { tokens: 2_000 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [8_000.0]);

    spend(&limiter, tokens(7_500)).await;
    take(&limiter, tokens(500)).await.settle(usage! { tokens: 2_000 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [-1_500.0]);
    // A zero demand waits out the debt: 1,500 of 10,000 a minute.
    let (_, retry_after) = refusal(&limiter, tokens(0)).await;
    assert_eq!(retry_after, Some(secs(9)));
    world.advance(ms(8_999)).await;
    assert!(!passes(&limiter, tokens(0)).await);
    world.advance(ms(1)).await;
    assert!(passes(&limiter, tokens(0)).await);
}

async fn s05_more_than_capacity_is_an_error_at_once(world: World) {
    let limiter = world.bucket([per_minute(10_000)]);
    for drain in [0, 4_000, 6_000] {
        spend(&limiter, tokens(drain)).await;
        let before = left(&limiter, "a").await;
        for result in
            [limiter.try_reserve(tokens(20_000)).await, limiter.reserve(tokens(20_000)).await]
        {
            let error = result.unwrap_err();
            assert!(matches!(error, Throttled::ExceedsCapacity(_)), "{error}");
            assert!(error.is_permanent() && error.retry_after().is_none());
            let shortage = &error.refusal().unwrap().shortages()[0];
            assert_eq!((shortage.limit, shortage.requested), (10_000, 20_000));
        }
        assert_eq!(left(&limiter, "a").await, before);
    }
}

async fn s06_each_quota_refills_on_its_own_stamp(world: World) {
    let limiter = world.bucket([
        Quota::token_bucket("requests", 100, secs(1)),
        Quota::token_bucket("requests", 1_000, secs(86_400)),
    ]);
    // Drains the day, in steps that the second allows.
    for _ in 0..10 {
        spend(&limiter, requests(100)).await;
        world.advance(secs(1)).await;
    }
    let before = left(&limiter, "a").await[1];
    for _ in 0..3_000 {
        for _ in 0..2 {
            assert!(!passes(&limiter, requests(1)).await);
        }
        world.advance(ms(20)).await;
    }
    let gained = left(&limiter, "a").await[1] - before;
    assert!((gained - 60.0 * 1_000.0 / 86_400.0).abs() < 0.000_1, "{gained}");
}

async fn s07_spacing_and_a_window_together(world: World) {
    let limiter = world.bucket([
        Quota::token_bucket("requests", 1, secs(3)).burst(1),
        Quota::per_minute("requests", 20),
    ]);
    for _ in 0..19 {
        spend(&limiter, requests(1)).await;
        assert_eq!(
            refusal(&limiter, requests(1)).await,
            (vec!["a: requests per 3 seconds".into()], Some(secs(3)))
        );
        world.advance(secs(3)).await;
    }
    spend(&limiter, requests(1)).await;
    assert_eq!(
        refusal(&limiter, requests(1)).await.0,
        ["a: requests per 3 seconds", "a: requests per minute"]
    );
    world.advance(secs(3)).await;
    // A minute after the first: the spacing would allow the 21st, the window not quite yet.
    let (named, retry_after) = refusal(&limiter, requests(1)).await;
    assert_eq!(named, ["a: requests per minute"]);
    let wait = retry_after.expect("it is known");
    assert!(wait > secs(0) && wait < secs(2), "{wait:?}");
    world.advance(wait).await;
    assert!(passes(&limiter, requests(1)).await);
}

async fn s08_smoothing_spaces_a_burst(world: World) {
    let limiter = world.bucket([Quota::per_second("requests", 10).paced()]);
    let mut waiting = Vec::new();
    for _ in 0..5 {
        waiting.push(Waiting::for_(&limiter, requests(1)).await);
    }
    for granted in 1..=5 {
        settled(&limiter).await;
        assert_eq!(waiting.iter().filter(|waiting| waiting.is_over()).count(), granted);
        world.advance(ms(99)).await;
        settled(&limiter).await;
        assert_eq!(waiting.iter().filter(|waiting| waiting.is_over()).count(), granted);
        world.advance(ms(1)).await;
    }
    for waiting in waiting {
        waiting.granted().await.keep().await.unwrap();
    }
    world.advance(secs(30)).await;
    assert!(passes(&limiter, requests(1)).await);
    assert!(!passes(&limiter, requests(1)).await);
}

async fn s09_exactly_the_limit_passes(world: World) {
    for (n, quota) in [
        per_minute(10),
        Quota::per_minute("tokens", 10),
        Quota::fixed_window("tokens", 10, secs(86_400)),
        Quota::per_minute("tokens", 10).charge_at(tower_throttle::quota::ChargeAt::End),
    ]
    .into_iter()
    .enumerate()
    {
        // A partition of its own each, so that they do not share the state of `a`.
        let limits = tower_throttle::Limits::new().partition(n.to_string()).bucket("a", [quota]);
        let limiter = world.limiter(limits);
        let whole = take(&limiter, tokens(10)).await;
        assert!(!passes(&limiter, tokens(1)).await);
        assert_eq!(left(&limiter, "a").await, [0.0]);
        whole.release().await.unwrap();
        assert_eq!(left(&limiter, "a").await, [10.0]);
        assert!(limiter.try_reserve(tokens(11)).await.unwrap_err().is_permanent());
        assert_eq!(left(&limiter, "a").await, [10.0]);
    }
}

async fn s10_a_live_change_keeps_what_was_used(world: World) {
    let limits = |name: &str, limit| {
        tower_throttle::Limits::new().partition(name).bucket("a", [per_minute(limit)])
    };

    let limiter = world.limiter(limits("raised", 10));
    spend(&limiter, tokens(10)).await;
    world.advance(secs(30)).await;
    limiter.update(limits("raised", 1_000)).unwrap();
    assert_eq!(left(&limiter, "a").await, [995.0]);

    let limiter = world.limiter(limits("lowered", 1_000));
    spend(&limiter, tokens(1_000)).await;
    world.advance(secs(30)).await;
    limiter.update(limits("lowered", 10)).unwrap();
    assert_eq!(left(&limiter, "a").await, [0.0]);
    world.advance(secs(6)).await;
    assert_eq!(left(&limiter, "a").await, [1.0]);

    let limiter = world.limiter(limits("in debt", 1_000));
    take(&limiter, tokens(1_000)).await.settle(usage! { tokens: 1_100 }).await.unwrap();
    limiter.update(limits("in debt", 60)).unwrap();
    assert_eq!(left(&limiter, "a").await, [-100.0]);
    world.advance(ms(2_250)).await;
    assert_eq!(left(&limiter, "a").await, [-97.75]);
    // The state outlives the debt, not only the window.
    world.advance(secs(97)).await;
    assert_eq!(left(&limiter, "a").await, [-0.75]);
}

async fn s11_a_late_refund_never_overdraws(world: World) {
    let limiter = world.bucket([per_minute(100_000)]);
    let first = take(&limiter, tokens(80_000)).await;
    world.advance(secs(48)).await;
    let mut log = vec![(0, 2_000), (48_000, 100_000)];
    spend(&limiter, tokens(100_000)).await;
    first.settle(usage! { tokens: 2_000 }).await.unwrap();
    for now in (48_000..120_000).step_by(100) {
        while passes(&limiter, tokens(500)).await {
            log.push((now, 500));
        }
        world.advance(ms(100)).await;
    }
    // The provider's bucket, in thousandths: 100,000 tokens that refill with 5,000 / 3 a second.
    let (mut used, mut then) = (0_i64, 0_i64);
    for &(now, charge) in &log {
        used = (used - (now - then) * 5_000 / 3).max(0) + charge * 1_000;
        assert!(used <= 100_000_000, "overdrawn at {now} ms: {used}");
        then = now;
    }
    // And what it would have admitted since was not wasted, but for a slot of refill.
    let since: i64 = log[2..].iter().map(|(_, charge)| charge).sum();
    assert!(since >= 72 * 100_000 / 60 - 2_500 * 100 / 60 - 500, "{since}");
}
