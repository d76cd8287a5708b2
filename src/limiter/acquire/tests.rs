//! A caller that is interrupted, a future that is polled too often, and a subscriber that panics.

use std::future::poll_fn;

use super::*;
use crate::{Limiter, Limits, Quota, usage};

const HOUR: Duration = Duration::from_secs(3_600);

/// A caller has found where its demand is counted, and is interrupted there while the limits are
/// replaced.
fn interrupted(
    limits: impl Fn(u64) -> Limits,
    limit: u64,
    tokens: u64,
) -> (Limiter, Arc<Target>, Demand) {
    let limiter = Limiter::new(limits(100)).expect("they are valid");
    let demand = |tokens| Demand::new("a", usage! { tokens: tokens });
    assert!(limiter.acquire_at_once(&demand(0), Mode::Try).is_ready());
    let demand = demand(tokens);
    let target = limiter.inner.known_target(&demand).expect("it is known");
    limiter.update(limits(limit)).expect("they are valid");
    (limiter, target, demand)
}

#[tokio::test]
async fn a_late_caller_is_held_to_the_new_limits() {
    let limits = |limit| Limits::new().bucket("a", [Quota::per_hour("tokens", limit)]);
    let (_limiter, target, demand) = interrupted(limits, 10, 90);
    let answer = try_on(target, &demand, Terms::default(), Mode::Try);
    assert!(matches!(answer, Some(Err(Throttled::ExceedsCapacity(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_late_caller_brings_no_older_limits_back() {
    let limits = |limit| Limits::new().bucket("a", [Quota::token_bucket("tokens", limit, HOUR)]);
    let (limiter, target, demand) = interrupted(limits, 1_000, 1);
    let call =
        limiter.try_reserve(Demand::new("a", usage! { tokens: 900 })).await.expect("it fits");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(try_on(target, &demand, Terms::default(), Mode::Try), Some(Ok(_))));
    call.settle(usage! { tokens: 0 }).await.expect("memory answers");
    let charged = limiter.status("a").await.expect("memory answers").quotas[0].charged;
    assert!(charged < 10.0, "{charged} of a call that used nothing");
}

#[tokio::test]
async fn what_is_granted_once_is_not_granted_again() {
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::concurrency(2)])).expect("they are valid");
    let mut reserve = pin!(limiter.reserve(Demand::new("a", usage! {})));
    let mut polled = async || poll_fn(|context| Poll::Ready(reserve.as_mut().poll(context))).await;
    let first = polled().await;
    assert!(matches!(first, Poll::Ready(Ok(_))));
    assert!(polled().await.is_pending());
    assert_eq!(limiter.status("a").await.expect("memory answers").quotas[0].in_flight, 1);
}

#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_that_panics_takes_no_capacity() {
    use tracing::{Metadata, Subscriber, span};

    struct Broken;

    impl Subscriber for Broken {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            panic!("the disk is full");
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).expect("they are valid");
    let ask = || limiter.acquire_at_once(&Demand::new("a", usage! {}), Mode::Try);
    for _ in 0..2 {
        let call = tracing::subscriber::with_default(Broken, ask);
        assert!(matches!(call, Poll::Ready(Ok(_))));
    }
}
