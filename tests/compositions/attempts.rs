//! Retries outside of the throttle, which know when it is worth coming again.

use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tower::{ServiceBuilder, ServiceExt, retry::Policy};
use tower_throttle::{BoxError, Demand, ThrottleLayer, Throttled, usage};

use crate::{
    ledger::{Ledger, settled},
    probe::{Act, Extract, Probe, tokens},
};

/// Waits as long as the throttle says, once; what can never be granted is not tried again.
#[derive(Clone, Debug)]
struct WhenItFits {
    tries: u8,
}

impl Policy<u64, u64, BoxError> for WhenItFits {
    type Future = BoxFuture<'static, ()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, BoxError>) -> Option<Self::Future> {
        let wait = Throttled::find(result.as_ref().err()?.as_ref())?.retry_after()?;
        self.tries = self.tries.checked_sub(1)?;
        Some(Box::pin(tokio::time::sleep(wait)))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

#[tokio::test(start_paused = true)]
async fn s30_a_retry_policy_reads_when_to_come_again() {
    let (limiter, ledger) = Ledger::limiter();
    let probe = Probe::new(Act::Answer(0));
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).reject();
    let service =
        ServiceBuilder::new().retry(WhenItFits { tries: 1 }).layer(layer).service(probe.clone());

    service.clone().oneshot(90).await.unwrap();
    let started = Instant::now();
    service.oneshot(20).await.expect("it fits when the throttle said it would");
    assert!((59..63).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    settled(&limiter, &ledger, (20, 1), "the refused attempt charged nothing").await;
    assert_eq!(probe.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_for_good_tells_no_time() {
    let (limiter, ledger) = Ledger::limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract);
    let probe = Probe::new(Act::Answer(0));
    let service =
        ServiceBuilder::new().retry(WhenItFits { tries: 9 }).layer(layer).service(probe.clone());
    let error = service.oneshot(101).await.unwrap_err();
    assert!(Throttled::find(error.as_ref()).is_some_and(Throttled::is_permanent), "{error}");
    settled(&limiter, &ledger, (0, 0), "what can never be granted").await;
    assert_eq!(probe.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_longest_wait_is_for_each_attempt_and_a_total_timeout_for_all() {
    let (limiter, _) = Ledger::limiter();
    let layer = ThrottleLayer::from_fn(limiter.clone(), |request: &mut u64| {
        Ok(Demand::new("api", usage! { tokens: *request }).max_wait(Duration::from_secs(5)))
    });
    let service = ServiceBuilder::new()
        .timeout(Duration::from_secs(20))
        .retry(WhenItFits { tries: 9 })
        .layer(layer)
        .service(Probe::new(Act::Answer(0)));
    service.clone().oneshot(100).await.unwrap();
    let started = Instant::now();
    let error = service.oneshot(20).await.unwrap_err();
    assert!(error.is::<tower::timeout::error::Elapsed>(), "{error}");
    assert_eq!(started.elapsed(), Duration::from_secs(20));
}
