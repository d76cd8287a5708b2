//! Scenarios 12 to 14: sliding windows.

use tower_throttle::{Quota, quota::ChargeAt, usage};

use crate::world::*;

on_every_store!(
    s12_never_more_than_the_limit_in_any_window,
    s13_a_settle_corrects_the_slot_of_its_reservation,
    s14_charged_at_the_end_it_leaves_a_window_after_the_end,
);

async fn s12_never_more_than_the_limit_in_any_window(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 100)]);
    spend(&limiter, tokens(100)).await;
    let (_, retry_after) = refusal(&limiter, tokens(100)).await;
    let wait = retry_after.expect("it is known");
    assert!(wait > MINUTE && wait < secs(62), "{wait:?}");
    world.advance(wait - ms(1)).await;
    assert!(!passes(&limiter, tokens(1)).await);
    world.advance(ms(1)).await;
    assert!(passes(&limiter, tokens(100)).await);

    // Any mix of amounts, at any phase.
    let mut log: Vec<(u64, u64)> = vec![(0, 100)];
    let (mut now, mut random) = (0, 1_u64);
    while now < 400_000 {
        random =
            random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let (step, amount) = (random >> 53, (random >> 40) % 30);
        world.advance(ms(step)).await;
        now += step;
        if passes(&limiter, tokens(amount)).await {
            log.push((now, amount));
        }
    }
    for &(begin, _) in &log {
        let within = log.iter().filter(|(at, _)| (begin..begin + 60_000).contains(at));
        let sum: u64 = within.map(|(_, amount)| amount).sum();
        assert!(sum <= 100, "{sum} in the minute after {begin} ms");
    }
    let total: u64 = log.iter().map(|(_, amount)| amount).sum();
    assert!(total >= 500, "{total} in 400 s: quota is wasted");
}

async fn s13_a_settle_corrects_the_slot_of_its_reservation(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 100)]);
    let call = take(&limiter, tokens(90)).await;
    world.advance(secs(10)).await;
    call.settle(usage! { tokens: 30 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [70.0]);

    // 30 at 0 s, 150 at 10 s.
    take(&limiter, tokens(70)).await.settle(usage! { tokens: 120 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [-50.0]);
    assert!(!passes(&limiter, tokens(0)).await);
    world.advance(secs(52)).await;
    // The 30 have left, which is not enough.
    assert_eq!(left(&limiter, "a").await, [-20.0]);
    assert!(!passes(&limiter, tokens(0)).await);
    world.advance(secs(10)).await;
    assert_eq!(left(&limiter, "a").await, [100.0]);
}

async fn s14_charged_at_the_end_it_leaves_a_window_after_the_end(world: World) {
    let limiter = world.bucket([Quota::per_minute("tokens", 100).charge_at(ChargeAt::End)]);
    let call = take(&limiter, tokens(100)).await;
    let quota = limiter.status("a").await.unwrap().quotas[0].clone();
    assert_eq!((quota.charged, quota.held, quota.available), (0.0, 100, 0.0));
    // It is unknown when what is held comes back.
    assert_eq!(refusal(&limiter, tokens(1)).await.1, None);
    world.advance(secs(50)).await;
    call.settle(usage! { tokens: 40 }).await.unwrap();
    assert_eq!(left(&limiter, "a").await, [60.0]);
    world.advance(secs(60)).await;
    assert_eq!(left(&limiter, "a").await, [60.0]);
    world.advance(secs(2)).await;
    assert_eq!(left(&limiter, "a").await, [100.0]);
}
