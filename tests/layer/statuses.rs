//! Settlement by status.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use http::Response;
use tokio::{task::JoinSet, time::Instant};
use tower::{Layer, ServiceBuilder, service_fn};
use tower_throttle::{
    BoxError, Demand, Limiter, Limits, Settlement, ThrottleLayer, Throttled, inspect, usage,
};

use crate::probe::{Extract, charged, limiter, tokens};

async fn charged_for(
    status: u16,
    inspector: inspect::ByStatus<inspect::KeepReserved>,
) -> (u64, u64, u64) {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(inspector);
    let service = service_fn(move |_: u64| async move {
        Ok::<_, BoxError>(Response::builder().status(status).body(())?)
    });
    layer.layer(service).oneshot(80).await.unwrap();
    charged(&limiter).await
}

#[tokio::test(start_paused = true)]
async fn refused_calls_are_released_and_failed_ones_kept() {
    let by_status = || inspect::by_status(inspect::KeepReserved);
    assert_eq!(charged_for(200, by_status()).await, (80, 1, 0));
    assert_eq!(charged_for(408, by_status()).await, (80, 1, 0));
    assert_eq!(charged_for(429, by_status()).await, (0, 0, 0));
    assert_eq!(charged_for(503, by_status()).await, (80, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn what_a_status_means_can_be_said() {
    let only_the_request = Settlement::Exact(usage! { tokens: 0 });
    let by_status = || {
        inspect::by_status(inspect::KeepReserved)
            .refused(only_the_request.clone())
            .server_error(Settlement::Release)
    };
    assert_eq!(charged_for(429, by_status()).await, (0, 1, 0));
    assert_eq!(charged_for(500, by_status()).await, (0, 0, 0));
    let by_status = inspect::by_status(inspect::KeepReserved);
    assert_eq!(charged_for(404, by_status.clone().bad_request(Settlement::Keep)).await, (80, 1, 0));
    assert_eq!(charged_for(404, by_status.inspect_bad_requests()).await, (80, 1, 0));
}

/// A wrong key must not use up what all share.
#[tokio::test(start_paused = true)]
async fn bad_requests_keep_a_request_and_nothing_else() {
    for status in [400, 401, 403, 404, 405, 409, 413, 415, 422, 451] {
        let by_status = inspect::by_status(inspect::KeepReserved);
        assert_eq!(charged_for(status, by_status).await, (0, 1, 0), "{status}");
    }
}

/// What the body of a bad request tells is not asked, unless the inspector is.
#[tokio::test(start_paused = true)]
async fn bad_requests_can_be_left_to_the_inspector() {
    for (asked, expected) in [(false, (0, 1, 0)), (true, (7, 1, 0))] {
        let limiter = limiter();
        let seven = |_: &Response<()>| Settlement::Exact(usage! { tokens: 7 });
        let by_status = inspect::by_status(seven);
        let inspector = if asked { by_status.inspect_bad_requests() } else { by_status };
        let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(inspector);
        let service = service_fn(|_: u64| async {
            Ok::<_, BoxError>(Response::builder().status(404).body(())?)
        });
        layer.layer(service).oneshot(80).await.unwrap();
        assert_eq!(charged(&limiter).await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refused_connection_is_released_and_another_error_is_not() {
    for (kind, expected) in [
        (std::io::ErrorKind::ConnectionRefused, (0, 0, 0)),
        (std::io::ErrorKind::ConnectionReset, (80, 1, 0)),
    ] {
        let limiter = limiter();
        let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract)
            .inspector(inspect::by_status(inspect::KeepReserved));
        let service = service_fn(move |_: u64| async move {
            Err::<Response<()>, BoxError>(std::io::Error::from(kind).into())
        });
        layer.layer(service).oneshot(80).await.unwrap_err();
        assert_eq!(charged(&limiter).await, expected, "{kind}");
    }
}

/// Another throttle inside refused the call, behind a layer that wraps its errors: nothing was
/// sent.
#[tokio::test(start_paused = true)]
async fn what_a_throttle_inside_refuses_is_released() {
    let outer = limiter();
    let inner = Limiter::new(Limits::new()).unwrap();
    let strange = |_: &mut u64| Ok(Demand::new("undeclared", usage! { tokens: 1 }));
    let service =
        service_fn(|_: u64| async { Ok::<_, BoxError>(Response::builder().status(200).body(())?) });
    let service = ServiceBuilder::new()
        .layer(
            ThrottleLayer::new(outer.clone(), tokens as Extract)
                .inspector(inspect::by_status(inspect::KeepReserved)),
        )
        .map_err(std::io::Error::other::<BoxError>)
        .layer(ThrottleLayer::from_fn(inner, strange))
        .service(service);
    let error = service.oneshot(80).await.unwrap_err();
    assert!(Throttled::find(&*error).is_some(), "{error}");
    assert_eq!(charged(&outer).await, (0, 0, 0));
}

/// Returns when each of six calls reached a service that refuses the first two, and that asks each
/// time to wait for two seconds.
async fn arrivals(
    status: u16,
    inspector: inspect::ByStatus<inspect::KeepReserved>,
) -> Vec<Duration> {
    let started = Instant::now();
    let arrivals = Arc::new(Mutex::new(Vec::new()));
    let service = service_fn({
        let arrivals = arrivals.clone();
        move |_: u64| {
            let mut arrivals = arrivals.lock().unwrap();
            arrivals.push(started.elapsed());
            let response = Response::builder();
            let response = match arrivals.len() {
                1 | 2 => response.status(status).header("retry-after", "2").body(()),
                _ => response.body(()),
            };
            async { Ok::<_, BoxError>(response?) }
        }
    });
    let layer = ThrottleLayer::new(limiter(), tokens as Extract).inspector(inspector);
    let service = layer.layer(service);
    service.clone().oneshot(1).await.unwrap();
    let calls: JoinSet<_> = (0..5).map(|_| service.clone().oneshot(1)).collect();
    calls.join_all().await.into_iter().for_each(|call| drop(call.unwrap()));
    drop(service);
    Arc::into_inner(arrivals).unwrap().into_inner().unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_pauses_all_and_one_call_goes_first_when_it_ends() {
    for status in [429, 503] {
        let arrivals = arrivals(status, inspect::by_status(inspect::KeepReserved)).await;
        let [first, probe, second_probe, others @ ..] = &arrivals[..] else { unreachable!() };
        assert_eq!(first.as_secs(), 0);
        // The first pause, and the second one, which is twice as long.
        assert_eq!((probe.as_millis() / 100, second_probe.as_millis() / 100), (20, 60));
        assert!(others.iter().all(|time| (6..=7).contains(&time.as_secs())), "{arrivals:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_can_be_ignored_and_is_when_the_call_was_served() {
    let ignoring = inspect::by_status(inspect::KeepReserved).ignore_retry_after();
    let served = inspect::by_status(inspect::KeepReserved);
    for (status, inspector) in [(429, ignoring), (200, served)] {
        let arrivals = arrivals(status, inspector).await;
        assert!(arrivals.iter().all(|time| time.as_secs() == 0), "{arrivals:?}");
    }
}
