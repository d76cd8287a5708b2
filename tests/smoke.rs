//! A first look.

use std::time::Duration;
use tower_throttle::*;

#[tokio::test(start_paused = true)]
async fn smoke() {
    let w = Duration::from_secs(60);
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::token_bucket("tokens", 10_000, w)])).unwrap();
    let r = limiter.reserve(Demand::new("a", usage! { tokens: 500 })).await.unwrap();
    r.settle(usage! { tokens: 2_000 }).await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].available, 8_000.0);
    let t0 = tokio::time::Instant::now();
    let hog = limiter.reserve(Demand::new("a", usage! { tokens: 8_000 })).await.unwrap();
    let l = limiter.clone();
    let waiter =
        tokio::spawn(async move { l.reserve(Demand::new("a", usage! { tokens: 1_000 })).await.unwrap() });
    let r = waiter.await.unwrap();
    assert_eq!(t0.elapsed().as_millis(), 6000);
    println!("{:?}", r.waited());
    hog.release().await.unwrap();
    r.keep().await.unwrap();
    let e = limiter
        .reserve(Demand::new("a", usage! { tokens: 10_000 }).max_wait(Duration::from_secs(1)))
        .await
        .unwrap_err();
    println!("{e}");
    assert!(limiter.reserve(Demand::new("a", usage! { tokens: 10_001 })).await.unwrap_err().is_permanent());
}
