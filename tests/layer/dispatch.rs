//! What is reserved, waited for and given back, whatever the inner service does.

use std::time::Duration;

use futures_util::FutureExt;
use tokio::time::{Instant, timeout};
use tower::{Layer, Service, ServiceBuilder, ServiceExt, service_fn};
use tower_throttle::{
    BoxError, Demand, Inspector, Reservation, Settlement, ThrottleLayer, Throttled,
    inspect::CallError, usage,
};

use crate::probe::{Act, Extract, Probe, charged, limiter, tokens};

fn settled_on_answer(answer: &u64) -> Settlement {
    Settlement::Exact(usage! { tokens: *answer })
}

#[tokio::test(start_paused = true)]
async fn a_call_is_settled_on_its_answer() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(settled_on_answer);
    let service = layer.layer(Probe::new(Act::Answer(7)));

    assert_eq!(service.oneshot(80).await.unwrap(), 7);
    assert_eq!(charged(&limiter).await, (7, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn without_an_inspector_a_call_keeps_what_it_reserved() {
    let limiter = limiter();
    let service =
        ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(Probe::new(Act::Answer(7)));

    assert_eq!(service.oneshot(80).await.unwrap(), 7);
    assert_eq!(charged(&limiter).await, (80, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_until_it_fits() {
    let limiter = limiter();
    let service =
        ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(Probe::new(Act::Answer(0)));
    let started = Instant::now();

    service.clone().oneshot(100).await.unwrap();
    service.oneshot(1).await.unwrap();
    assert!((60..63).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_rejecting_layer_does_not_wait() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).reject();
    let service = layer.layer(Probe::new(Act::Answer(0)));

    service.clone().oneshot(100).await.unwrap();
    let error = service.oneshot(1).await.unwrap_err();
    assert!(matches!(Throttled::find(error.as_ref()), Some(Throttled::NotNow(_))), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_bounds_the_wait_of_demands_that_do_not() {
    let own = |request: &mut u64| {
        let demand = Demand::new("api", usage! { tokens: 1 });
        Ok(if *request == 1 { demand } else { demand.max_wait(Duration::from_secs(70)) })
    };
    let layer = ThrottleLayer::new(limiter(), own).max_wait(Duration::from_secs(10));
    let service = layer.layer(Probe::new(Act::Answer(0)));
    for _ in 0..10 {
        service.clone().oneshot(1).await.unwrap();
    }

    let started = Instant::now();
    let error = service.clone().oneshot(1).await.unwrap_err();
    assert!(matches!(Throttled::find(error.as_ref()), Some(Throttled::Deadline(_))), "{error}");
    assert_eq!(started.elapsed(), Duration::ZERO);
    service.oneshot(2).await.unwrap();
}

/// A quota of which nothing comes back for an hour.
fn hourly() -> tower_throttle::Limiter {
    let quotas = [tower_throttle::Quota::per_hour("tokens", 100)];
    let limits = tower_throttle::Limits::new().bucket("api", quotas);
    tower_throttle::Limiter::new(limits).expect("the limits are valid")
}

#[tokio::test(start_paused = true)]
async fn a_layer_waits_for_ten_minutes_at_most_and_says_for_what_and_how_long() {
    let limiter = hourly();
    let service =
        ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(Probe::new(Act::Hang));
    // While a call may still give something back, the next one waits.
    let in_flight = tokio::spawn(service.clone().oneshot(100));
    tokio::task::yield_now().await;
    let started = Instant::now();
    let error = service.clone().oneshot(1).await.unwrap_err();
    let waited = started.elapsed();
    assert!((599..602).contains(&waited.as_secs()), "{waited:?}");
    let told = error.to_string();
    assert!(told.contains("`tokens per hour`") && told.contains("retry after 30"), "{told}");
    let Some(Throttled::Deadline(refusal)) = error.downcast_ref() else { panic!("{error}") };
    assert_eq!(&*refusal.binding().expect("the quota").bucket, "api");
    assert!(refusal.retry_after() > Some(Duration::from_secs(2_900)), "{refusal}");

    // Once nothing can come back in time, there is nothing to wait for.
    in_flight.abort();
    in_flight.await.unwrap_err();
    let started = Instant::now();
    let error = service.oneshot(1).await.unwrap_err();
    assert_eq!(started.elapsed(), Duration::ZERO);
    assert!(error.to_string().contains("`tokens per hour`"), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_layer_waits_for_ever_where_it_is_told_to() {
    let limiter = hourly();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).wait_forever();
    let service = layer.layer(Probe::new(Act::Answer(7)));
    service.clone().oneshot(100).await.unwrap();
    let started = Instant::now();
    assert_eq!(service.oneshot(1).await.unwrap(), 7);
    assert!(started.elapsed() >= Duration::from_secs(3_600));

    // The limiter alone waits as long as it is asked to.
    let limiter = hourly();
    limiter
        .reserve(Demand::new("api", usage! { tokens: 100 }))
        .await
        .unwrap()
        .keep()
        .await
        .unwrap();
    let started = Instant::now();
    drop(limiter.reserve(Demand::new("api", usage! { tokens: 1 })).await.unwrap());
    assert!(started.elapsed() >= Duration::from_secs(3_600));
}

#[tokio::test(start_paused = true)]
async fn it_is_ready_at_once_whatever_the_inner_service_is() {
    let mut service =
        ThrottleLayer::new(limiter(), tokens as Extract).layer(Probe::new(Act::FailToBeReady));
    assert!(service.ready().await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn s27_a_service_that_fails_before_dispatch_costs_nothing() {
    let limiter = limiter();
    let service = ThrottleLayer::new(limiter.clone(), tokens as Extract)
        .layer(Probe::new(Act::FailToBeReady));

    let error = service.oneshot(80).await.unwrap_err();
    assert_eq!(error.to_string(), "not ready, never");
    assert_eq!(charged(&limiter).await, (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn s27_a_call_that_fails_after_dispatch_is_kept() {
    let limiter = limiter();
    let service =
        ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(Probe::new(Act::Fail));

    let error = service.oneshot(80).await.unwrap_err();
    assert_eq!(error.to_string(), "the call failed");
    assert_eq!(charged(&limiter).await, (80, 1, 0));
}

/// Has its own mind about everything.
struct Lenient;

impl Inspector<u64> for Lenient {
    type Inspected = u64;

    fn inspect(&self, response: u64, reservation: Reservation) -> u64 {
        drop(reservation.settle(usage! { tokens: response }));
        response
    }

    fn failed(&self, error: CallError<'_>) -> Settlement {
        assert_eq!(error.to_string(), "the call failed");
        Settlement::Exact(usage! { tokens: 3 })
    }

    fn dropped(&self) -> Settlement {
        Settlement::Release
    }
}

#[tokio::test(start_paused = true)]
async fn s27_an_inspector_may_say_otherwise_of_a_failed_call() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(Lenient);

    layer.layer(Probe::new(Act::Fail)).oneshot(80).await.unwrap_err();
    assert_eq!(charged(&limiter).await, (3, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn s35_a_future_dropped_while_it_waits_leaves_no_trace() {
    let limiter = limiter();
    let service =
        ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(Probe::new(Act::Answer(0)));

    service.clone().oneshot(90).await.unwrap();
    timeout(Duration::from_secs(1), service.clone().oneshot(20)).await.unwrap_err();
    assert_eq!(charged(&limiter).await, (90, 1, 0));
    assert_eq!(limiter.status("api").await.unwrap().waiting, 0);
    // Nothing stands before those that come later.
    timeout(Duration::from_millis(1), service.oneshot(10)).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn s35_a_future_dropped_before_dispatch_gives_everything_back() {
    let limiter = limiter();
    let probe = Probe::new(Act::BeReadyAfter(Duration::from_millis(300)));
    let service = ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(probe.clone());

    timeout(Duration::from_millis(100), service.oneshot(80)).await.unwrap_err();
    assert_eq!((charged(&limiter).await, probe.calls()), ((0, 0, 0), 0));
}

#[tokio::test(start_paused = true)]
async fn s35_a_future_dropped_after_dispatch_keeps_its_charge() {
    let limiter = limiter();
    let probe = Probe::new(Act::Hang);
    let service = ThrottleLayer::new(limiter.clone(), tokens as Extract).layer(probe.clone());

    timeout(Duration::from_secs(1), service.oneshot(80)).await.unwrap_err();
    assert_eq!((charged(&limiter).await, probe.calls()), ((80, 1, 0), 1));
}

#[tokio::test(start_paused = true)]
async fn s35_an_inspector_may_say_otherwise_of_a_dropped_call() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(Lenient);

    timeout(Duration::from_secs(1), layer.layer(Probe::new(Act::Hang)).oneshot(80))
        .await
        .unwrap_err();
    assert_eq!(charged(&limiter).await, (0, 0, 0));
}

/// With a window of a second, a grant of two seconds ago means nothing.
#[tokio::test(start_paused = true)]
async fn a_grant_that_grew_old_is_made_anew() {
    let limiter = limiter();
    let probe = Probe::new(Act::BeReadyAfter(Duration::from_secs(2)));
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract);
    let started = Instant::now();

    layer.layer(probe.clone()).oneshot(80).await.unwrap();
    assert_eq!(started.elapsed().as_secs(), 2);
    assert_eq!((charged(&limiter).await, probe.calls()), ((80, 1, 0), 1));

    // The charge is that of the second grant: it leaves two seconds later than the first would
    // have.
    tokio::time::advance(Duration::from_millis(59_500)).await;
    assert_eq!(charged(&limiter).await, (80, 1, 0));
    tokio::time::advance(Duration::from_millis(3_000)).await;
    assert_eq!(charged(&limiter).await, (0, 0, 0));
}

/// A pool of one permit inside: it must not be held while a request waits for quota.
#[tokio::test(start_paused = true)]
async fn nothing_inside_is_held_while_a_request_waits() {
    let limiter = limiter();
    let layer = ThrottleLayer::from_fn(limiter.clone(), |request: &mut (&'static str, u64)| {
        Ok(Demand::new(request.0, usage! { tokens: request.1 }))
    });
    let limits = tower_throttle::Limits::new()
        .bucket("api", [tower_throttle::Quota::per_minute("tokens", 100)])
        .bucket("other", [tower_throttle::Quota::per_minute("tokens", 100)]);
    limiter.update(limits).unwrap();
    let service = ServiceBuilder::new()
        .layer(layer)
        .concurrency_limit(1)
        .service(service_fn(async |_: (&'static str, u64)| Ok::<_, BoxError>(())));

    service.clone().oneshot(("api", 100)).await.unwrap();
    let waits = tokio::spawn(service.clone().oneshot(("api", 50)));
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(!waits.is_finished());
    timeout(Duration::from_millis(10), service.oneshot(("other", 50))).await.unwrap().unwrap();
    waits.await.unwrap().unwrap();
}

/// As calls of several buckets through one client with few connections.
#[tokio::test(start_paused = true)]
async fn nothing_inside_is_held_while_an_old_grant_is_made_anew() {
    let quotas = || [tower_throttle::Quota::per_minute("tokens", 100)];
    let limits = tower_throttle::Limits::new().bucket("api", quotas()).bucket("other", quotas());
    let layer = ThrottleLayer::from_fn(
        tower_throttle::Limiter::new(limits).unwrap(),
        |request: &mut (&'static str, u64, u64)| {
            Ok(Demand::new(request.0, usage! { tokens: request.1 }))
        },
    );
    let service = ServiceBuilder::new().layer(layer).concurrency_limit(1).service(service_fn(
        async |call: (_, _, u64)| {
            tokio::time::sleep(Duration::from_secs(call.2)).await;
            Ok::<_, BoxError>(())
        },
    ));
    let begin = |call| {
        let call = tokio::spawn(service.clone().oneshot(call));
        async { tokio::task::yield_now().await }.map(|()| call)
    };

    let holds_the_permit = begin(("other", 1, 2)).await;
    let granted = begin(("api", 100, 0)).await;
    let waits = begin(("api", 50, 0)).await;
    holds_the_permit.await.unwrap().unwrap();
    // The grant has become too old, and went to the one that waited; its own call has to wait for
    // it.
    let soon = Duration::from_millis(10);
    timeout(soon, waits).await.expect("the permit is free").unwrap().unwrap();
    timeout(soon, service.clone().oneshot(("other", 1, 0))).await.expect("nor now").unwrap();
    let started = Instant::now();
    granted.await.unwrap().unwrap();
    assert!((58..63).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_longest_wait_counts_from_the_first_time_it_is_asked_for() {
    let limiter = limiter();
    let layer = ThrottleLayer::from_fn(limiter.clone(), |request: &mut u64| {
        Ok(Demand::new("api", usage! { tokens: *request }).max_wait(Duration::from_secs(61)))
    });
    let probe = Probe::new(Act::BeReadyAfter(Duration::from_secs(30)));
    let call = tokio::spawn(layer.clone().layer(probe.clone()).oneshot(60));
    tokio::task::yield_now().await;
    let waits = tokio::spawn(layer.layer(Probe::new(Act::Answer(0))).oneshot(100));

    // After half a minute the grant goes to the one that waits, and would come again only after a
    // minute more.
    let error = call.await.unwrap().unwrap_err();
    assert!(matches!(Throttled::find(error.as_ref()), Some(Throttled::Deadline(_))), "{error}");
    assert_eq!((waits.await.unwrap().unwrap(), probe.calls()), (0, 0));
}

#[derive(Clone)]
struct Thrice;

impl tower::retry::Policy<u64, u64, BoxError> for Thrice {
    type Future = std::future::Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<u64, BoxError>) -> Option<Self::Future> {
        let refused = result.as_ref().is_err_and(|error| Throttled::find(error.as_ref()).is_some());
        (result.is_err() && !refused).then(|| std::future::ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

#[tokio::test(start_paused = true)]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    let limiter = limiter();
    let probe = Probe::new(Act::Fail);
    let service = ServiceBuilder::new()
        .retry(Thrice)
        .layer(ThrottleLayer::new(limiter.clone(), tokens as Extract).reject())
        .service(probe.clone());

    // 30 tokens fit three times; the fourth attempt is refused, and no retry makes that better.
    let error = service.oneshot(30).await.unwrap_err();
    assert!(
        Throttled::find(error.as_ref()).is_some_and(|throttled| throttled.retry_after().is_some())
    );
    assert_eq!((charged(&limiter).await, probe.calls()), ((90, 3, 0), 3));
}

#[tokio::test(start_paused = true)]
async fn an_extractor_that_errs_fails_the_request_and_reserves_nothing() {
    let limiter = limiter();
    let layer = ThrottleLayer::from_fn(limiter.clone(), |_: &mut u64| Err("no model named".into()));
    let probe = Probe::new(Act::Answer(0));

    let error = layer.layer(probe.clone()).oneshot(1).await.unwrap_err();
    assert_eq!((error.to_string().as_str(), probe.calls()), ("no model named", 0));
    assert_eq!(charged(&limiter).await, (0, 0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_demand_of_a_misspelt_metric_is_an_error() {
    let layer = ThrottleLayer::from_fn(limiter(), |_: &mut u64| {
        Ok(Demand::new("api", usage! { tokenz: 1 }))
    });
    let error = layer.layer(Probe::new(Act::Answer(0))).call(1).await.unwrap_err();
    assert_eq!(error.to_string(), "no quota counts metric `tokenz`: is it misspelt?");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_could_never_fit_fails_at_once() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract);
    let error = layer.layer(Probe::new(Act::Answer(0))).call(u64::MAX).await.unwrap_err();
    let throttled = Throttled::find(error.as_ref()).unwrap();
    assert!(throttled.is_permanent() && throttled.retry_after().is_none(), "{throttled}");
}

/// As `#[error(transparent)]` makes an error: what it shows and its source are those of the error
/// inside.
#[derive(Debug)]
struct Transparent(BoxError);

impl std::fmt::Display for Transparent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for Transparent {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source()
    }
}

/// Clients wrap errors of their middleware so.
#[tokio::test(start_paused = true)]
async fn a_refusal_is_found_inside_an_error_that_shows_only_the_source_of_what_it_wraps() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract);
    let refused = layer.layer(Probe::new(Act::Answer(0))).call(101).await.unwrap_err();
    let shown = refused.to_string();
    let wrapped = Transparent(refused);

    let found = Throttled::find(&wrapped).expect("it is in there");
    assert!(matches!(found, Throttled::ExceedsCapacity(_)), "{found}");
    assert_eq!((wrapped.to_string(), found.to_string()), (shown.clone(), shown));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_downcasts_where_nothing_wraps_it() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract);
    let refused = layer.layer(Probe::new(Act::Answer(0))).call(101).await.unwrap_err();
    let throttled = refused.downcast_ref::<Throttled>().expect("it is the error itself");
    assert_eq!(throttled.kind(), "exceeds_capacity");
    let again = refused.source().expect("where it comes from").to_string();
    assert!(!refused.to_string().contains(&again), "{refused}: {again}");
}

/// A program that calls through a layer before its runtime has started.
#[test]
fn to_wait_without_a_runtime_is_an_error_of_its_own() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract);
    let mut now = std::task::Context::from_waker(std::task::Waker::noop());
    let mut poll = |amount| {
        let mut call = Box::pin(layer.layer(Probe::new(Act::Answer(0))).call(amount));
        std::future::Future::poll(call.as_mut(), &mut now)
    };
    // What fits in memory needs none.
    assert!(matches!(poll(100), std::task::Poll::Ready(Ok(0))));
    let std::task::Poll::Ready(Err(error)) = poll(1) else { panic!("it cannot wait") };
    assert!(matches!(error.downcast_ref(), Some(Throttled::NoRuntime)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn a_refused_request_asks_for_nothing_more() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).reject();
    let probe = Probe::new(Act::Answer(7));
    let all = limiter.reserve(Demand::new("api", usage! { tokens: 100 })).await.unwrap();

    let mut refused = layer.layer(probe.clone()).call(30);
    let error = (&mut refused).await.unwrap_err();
    assert!(matches!(Throttled::find(error.as_ref()), Some(Throttled::NotNow(_))), "{error}");
    all.release().await.unwrap();
    assert!(refused.await.is_err(), "polled after it was done");
    assert_eq!((charged(&limiter).await, probe.calls()), ((0, 0, 0), 0));
}
