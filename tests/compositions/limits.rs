//! What does not compose as one might hope, and what the order of layers changes.

use std::time::Duration;

use http::Response;
use tokio::time::{Instant, timeout};
use tower::{
    Service, ServiceBuilder, ServiceExt, load_shed::error::Overloaded, service_fn,
    timeout::error::Elapsed,
};
use tower_throttle::{BoxError, Settlement, ThrottleLayer, inspect};

use crate::{
    ledger::{Ledger, settled},
    probe::{Act, Extract, Probe, charged, limiter, tokens},
    stacks::throttle,
};

const SOON: Duration = Duration::from_millis(10);

fn keeping(limiter: &tower_throttle::Limiter) -> ThrottleLayer<Extract> {
    ThrottleLayer::new(limiter.clone(), tokens as Extract)
}

#[tokio::test(start_paused = true)]
async fn a_throttle_is_always_ready_so_an_outer_load_shed_never_sheds() {
    let limiter = limiter();
    let probe = Probe::new(Act::Answer(0));
    let service = ServiceBuilder::new().load_shed().layer(keeping(&limiter)).service(probe.clone());
    service.clone().oneshot(100).await.unwrap();
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(service.clone().oneshot(1))).collect();
    tokio::time::sleep(SOON).await;
    assert_eq!(limiter.status("api").await.unwrap().waiting, 5);
    for call in waiting {
        call.await.unwrap().expect("not shed");
    }
}

#[tokio::test(start_paused = true)]
async fn an_outer_buffer_never_fills() {
    let limiter = limiter();
    let service = ServiceBuilder::new()
        .buffer(1)
        .layer(keeping(&limiter))
        .service(Probe::new(Act::Answer(0)));
    service.clone().oneshot(100).await.unwrap();
    let waiting: Vec<_> = (0..5).map(|_| tokio::spawn(service.clone().oneshot(1))).collect();
    tokio::time::sleep(SOON).await;
    assert_eq!(limiter.status("api").await.unwrap().waiting, 5);
    drop(waiting);
}

#[tokio::test(start_paused = true)]
async fn an_inner_load_shed_sheds_in_the_call_which_only_its_error_tells() {
    let overloaded = || Probe::new(Act::BeReadyAfter(Duration::from_secs(1)));

    let (limiter, ledger) = Ledger::limiter();
    let mut service =
        ServiceBuilder::new().layer(keeping(&limiter)).load_shed().service(overloaded());
    let error = service.ready().await.unwrap().call(80).await.unwrap_err();
    assert!(error.is::<Overloaded>(), "{error}");
    settled(&limiter, &ledger, (80, 1), "it counts as a call that was made").await;

    let (limiter, ledger) = Ledger::limiter();
    let inspector = inspect::on_failure(inspect::KeepReserved, |error| {
        error.is::<Overloaded>().then_some(Settlement::Release)
    });
    let layer = keeping(&limiter).inspector(inspector);
    ServiceBuilder::new()
        .layer(layer)
        .load_shed()
        .service(overloaded())
        .oneshot(80)
        .await
        .unwrap_err();
    settled(&limiter, &ledger, (0, 0), "unless the inspector knows better").await;
}

#[tokio::test(start_paused = true)]
async fn an_inner_service_that_is_never_ready_fails_the_call_and_not_the_throttle() {
    let limiter = limiter();
    let mut service =
        ServiceBuilder::new().layer(keeping(&limiter)).service(Probe::new(Act::FailToBeReady));
    let error = service.ready().await.expect("always ready").call(80).await.unwrap_err();
    assert_eq!(error.to_string(), "not ready, never");
    assert_eq!(charged(&limiter).await, (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_concurrency_limit_inside_counts_calls_and_outside_also_those_that_wait() {
    let limiter = limiter();
    let layer = keeping(&limiter);
    let inside = ServiceBuilder::new()
        .layer(layer.clone())
        .concurrency_limit(1)
        .service(Probe::new(Act::Answer(0)));
    let outside =
        ServiceBuilder::new().concurrency_limit(1).layer(layer).service(Probe::new(Act::Answer(0)));
    inside.clone().oneshot(90).await.unwrap();
    let _waits =
        [tokio::spawn(inside.clone().oneshot(50)), tokio::spawn(outside.clone().oneshot(50))];
    tokio::time::sleep(SOON).await;

    // Both permits are free for what asks for nothing, and needs none of the tokens they wait for.
    let mut inside = inside;
    timeout(SOON, inside.ready()).await.expect("the permit is free").unwrap();
    let mut outside = outside;
    timeout(SOON, outside.ready()).await.expect_err("the permit is held while its request waits");
}

#[tokio::test(start_paused = true)]
async fn a_timeout_outside_limits_the_wait_and_one_inside_only_the_call() {
    let (limiter, ledger) = Ledger::limiter();
    let second = Duration::from_secs(1);
    let probe = Probe::new(Act::Answer(0));
    let outside =
        ServiceBuilder::new().timeout(second).layer(keeping(&limiter)).service(probe.clone());
    let inside =
        ServiceBuilder::new().layer(keeping(&limiter)).timeout(second).service(probe.clone());
    let slow = ServiceBuilder::new()
        .layer(keeping(&limiter))
        .timeout(second)
        .service(Probe::new(Act::Hang));
    inside.clone().oneshot(80).await.unwrap();

    let error = outside.oneshot(40).await.unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    settled(&limiter, &ledger, (80, 1), "its wait left no trace").await;

    let started = Instant::now();
    inside.oneshot(40).await.expect("a wait of a minute is no call of a minute");
    assert!((58..63).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let error = slow.oneshot(40).await.unwrap_err();
    assert!(error.is::<Elapsed>(), "{error}");
    settled(&limiter, &ledger, (80, 2), "a call that timed out was made").await;
}

#[tokio::test(start_paused = true)]
async fn a_filter_outside_costs_nothing_and_one_inside_comes_too_late() {
    let (limiter, ledger) = Ledger::limiter();
    let refuse = |_: u64| Err::<u64, BoxError>("filtered".into());
    let outside = ServiceBuilder::new()
        .filter(refuse)
        .layer(keeping(&limiter))
        .service(Probe::new(Act::Answer(0)));
    assert_eq!(outside.oneshot(80).await.unwrap_err().to_string(), "filtered");
    settled(&limiter, &ledger, (0, 0), "nothing was reserved").await;

    let inside = ServiceBuilder::new()
        .layer(keeping(&limiter))
        .filter(refuse)
        .service(Probe::new(Act::Answer(0)));
    assert_eq!(inside.oneshot(80).await.unwrap_err().to_string(), "filtered");
    settled(&limiter, &ledger, (80, 1), "it counts as a call that was made").await;
}

/// Steer is ready when all its services are, so that a slow one delays the others, inside as
/// outside.
#[tokio::test(start_paused = true)]
async fn a_steer_inside_waits_for_all_its_services() {
    let limiter = limiter();
    let services =
        [Probe::new(Act::Answer(0)), Probe::new(Act::BeReadyAfter(Duration::from_millis(300)))];
    let steer = tower::steer::Steer::new(services, |_: &u64, _: &[Probe]| 0);
    let started = Instant::now();
    ServiceBuilder::new().layer(keeping(&limiter)).service(steer).oneshot(80).await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_millis(300));
}

/// No HTTP anywhere: a request is a number and the answer another.
#[tokio::test(start_paused = true)]
async fn a_plain_service_is_settled_on_its_answer() {
    let (limiter, ledger) = Ledger::limiter();
    let layer = keeping(&limiter)
        .inspector(|answer: &u64| Settlement::Exact(tower_throttle::usage! { tokens: *answer }));
    let double = service_fn(async |request: u64| Ok::<_, BoxError>(request * 2));
    assert_eq!(ServiceBuilder::new().layer(layer).service(double).oneshot(30).await.unwrap(), 60);
    settled(&limiter, &ledger, (60, 1), "a plain service").await;
}

#[test]
fn a_stack_goes_wherever_its_inner_service_goes() {
    fn everywhere<T: Clone + Send + Sync + 'static>(_: &T) {}
    fn elsewhere<T: Send>(_: &T) {}
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    let _entered = runtime.enter();
    let body = |_| Response::new(crate::frames::Frames::of(&[]));
    let inner = ServiceExt::<u64>::map_response(Probe::new(Act::Answer(0)), body);
    let mut service = ServiceBuilder::new().layer(throttle(&limiter())).service(inner);
    elsewhere(&service.call(1));
    // As a router or a client must be able to hold it.
    let boxed = tower::util::BoxCloneSyncService::new(service);
    everywhere(&boxed);
}
