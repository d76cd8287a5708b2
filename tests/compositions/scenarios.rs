//! Scenarios 27 to 30, and 35, in every stack.

use std::time::Duration;

use bytes::Bytes;
use http::Response;
use http_body_util::BodyExt;
use tokio::time::{Instant, timeout};
use tower::{Layer, ServiceBuilder, ServiceExt};
use tower_throttle::{Limiter, Throttled};

use crate::{
    frames::Frames,
    ledger::{Ledger, settled},
    probe::{Act, Probe, charged},
    stacks::{STACKS, Stack, Stacked, Thrice, throttle},
};

fn streamed(used: u64) -> Response<Frames> {
    Response::new(match used {
        8 => Frames::of(&["some text, ", "used: 8"]),
        _ => Frames::of(&["some text, ", "cut"]),
    })
}

fn announced(_: u64) -> Response<Frames> {
    Response::new(Frames::of(&["some text, ", "used: 8"]).announced())
}

fn empty(_: u64) -> Response<Frames> {
    Response::builder().status(204).body(Frames::of(&[])).expect("a valid response")
}

fn build(
    stack: Stack,
    limiter: &Limiter,
    probe: &Probe,
    answer: fn(u64) -> Response<Frames>,
) -> Stacked {
    (stack.build)(throttle(limiter), ServiceExt::<u64>::map_response(probe.clone(), answer))
}

#[tokio::test(start_paused = true)]
async fn a_call_is_settled_on_what_its_body_tells() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Answer(8));
        let response =
            build(stack, &limiter, &probe, streamed).oneshot(30).await.expect(stack.name);
        assert_eq!(charged(&limiter).await, (30, 1, 30), "{}: not before its end", stack.name);
        assert_eq!(
            response.into_body().collect().await.unwrap().to_bytes(),
            Bytes::from("some text, used: 8")
        );
        settled(&limiter, &ledger, (8, 1), stack.name).await;
        assert_eq!(probe.calls(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn s27_a_service_that_fails_before_dispatch_costs_nothing_where_the_throttle_can_know() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::FailToBeReady);
        let error =
            build(stack, &limiter, &probe, streamed).oneshot(30).await.expect_err(stack.name);
        let mut causes =
            std::iter::successors(Some(&*error as &dyn std::error::Error), |error| error.source());
        assert!(
            causes.any(|cause| cause.to_string().contains("not ready, never")),
            "{}: {error}",
            stack.name
        );
        // A buffer takes the request, and fails it afterwards.
        let expected = if stack.asks_inner { (0, 0) } else { (30, 1) };
        settled(&limiter, &ledger, expected, stack.name).await;
        assert_eq!(probe.calls(), 0, "{}", stack.name);
    }
}

#[tokio::test(start_paused = true)]
async fn s27_a_call_that_fails_after_dispatch_is_kept() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Fail);
        let error =
            build(stack, &limiter, &probe, streamed).oneshot(30).await.expect_err(stack.name);
        assert_eq!(error.to_string(), "the call failed", "{}", stack.name);
        let (reserved, made) = stack.attempts;
        settled(&limiter, &ledger, (30 * reserved, reserved), stack.name).await;
        assert_eq!(probe.calls(), made, "{}", stack.name);
    }
}

#[tokio::test(start_paused = true)]
async fn s28_a_stream_that_is_dropped_or_tells_no_usage_is_kept() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Answer(8));
        let mut body = build(stack, &limiter, &probe, streamed)
            .oneshot(30)
            .await
            .expect(stack.name)
            .into_body();
        body.frame().await.unwrap().unwrap();
        drop(body);
        settled(&limiter, &ledger, (30, 1), stack.name).await;

        let probe = Probe::new(Act::Answer(0));
        let response =
            build(stack, &limiter, &probe, streamed).oneshot(30).await.expect(stack.name);
        response.into_body().collect().await.unwrap();
        settled(&limiter, &ledger, (60, 2), stack.name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s29_a_body_whose_end_is_not_polled_is_settled_once() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Answer(8));
        let response =
            build(stack, &limiter, &probe, announced).oneshot(30).await.expect(stack.name);
        let mut body = response.into_body();
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        settled(&limiter, &ledger, (8, 1), stack.name).await;
        drop(body);
        settled(&limiter, &ledger, (8, 1), stack.name).await;

        drop(build(stack, &limiter, &probe, empty).oneshot(30).await.expect(stack.name));
        settled(&limiter, &ledger, (38, 2), stack.name).await;
    }
}

#[tokio::test(start_paused = true)]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Fail);
        let service = ServiceBuilder::new()
            .retry(Thrice::new())
            .service(build(stack, &limiter, &probe, streamed));
        service.oneshot(10).await.expect_err(stack.name);
        let (reserved, made) = stack.attempts;
        settled(&limiter, &ledger, (30 * reserved, 3 * reserved), stack.name).await;
        assert_eq!(probe.calls(), 3 * made, "{}", stack.name);
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_its_time_are_found_outside() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Answer(0));
        let inner = ServiceExt::<u64>::map_response(probe.clone(), streamed as fn(u64) -> _);
        let service = (stack.build)(throttle(&limiter).reject(), inner);
        drop(service.clone().oneshot(90).await.expect(stack.name));
        let error = service.oneshot(20).await.expect_err(stack.name);
        let throttled = Throttled::find(error.as_ref()).expect(stack.name);
        assert!(matches!(throttled, Throttled::NotNow(_)), "{}: {throttled}", stack.name);
        assert!(
            (59..63).contains(&throttled.retry_after().expect(stack.name).as_secs()),
            "{}",
            stack.name
        );
        settled(&limiter, &ledger, (90, 1), stack.name).await;
        assert_eq!(probe.calls(), 1, "{}", stack.name);
    }
}

#[tokio::test(start_paused = true)]
async fn s35_what_is_given_up_while_it_waits_leaves_no_trace_and_later_is_kept() {
    for stack in STACKS {
        let (limiter, ledger) = Ledger::limiter();
        let service = build(stack, &limiter, &Probe::new(Act::Answer(0)), streamed);
        drop(service.clone().oneshot(90).await.expect(stack.name));
        timeout(Duration::from_secs(1), service.clone().oneshot(20)).await.expect_err(stack.name);
        settled(&limiter, &ledger, (90, 1), stack.name).await;
        assert_eq!(limiter.status("api").await.unwrap().waiting, 0, "{}", stack.name);

        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::Hang);
        let service = build(stack, &limiter, &probe, streamed);
        timeout(Duration::from_secs(1), service.oneshot(30)).await.expect_err(stack.name);
        tokio::task::yield_now().await;
        settled(&limiter, &ledger, (30, 1), stack.name).await;
        assert_eq!(probe.calls(), 1, "{}", stack.name);
    }
}

/// The service becomes ready after longer than a grant is good, twice, and another call takes what
/// is given back.
#[tokio::test(start_paused = true)]
async fn a_grant_that_grew_old_is_made_anew() {
    // A load-shed inside does not wait for it.
    for stack in STACKS.into_iter().filter(|stack| stack.name != "load-shed inside") {
        let (limiter, ledger) = Ledger::limiter();
        let probe = Probe::new(Act::BeReadyAfter(Duration::from_secs(1)));
        let started = Instant::now();
        let call = tokio::spawn(build(stack, &limiter, &probe, empty).oneshot(80));
        tokio::task::yield_now().await;
        let other = throttle(&limiter)
            .layer(ServiceExt::<u64>::map_response(Probe::new(Act::Answer(0)), empty));
        drop(
            timeout(Duration::from_secs(65), other.oneshot(30))
                .await
                .expect(stack.name)
                .expect(stack.name),
        );

        drop(call.await.expect("no panic").expect(stack.name));
        if stack.asks_inner {
            // The other took it after a second, and it left the window a minute later.
            assert!(
                (60..66).contains(&started.elapsed().as_secs()),
                "{}: {:?}",
                stack.name,
                started.elapsed()
            );
        }
        tokio::task::yield_now().await;
        assert_eq!(charged(&limiter).await.2, 0, "{}", stack.name);
        let (granted, settled) = ledger.counts();
        assert_eq!(granted, settled, "{}", stack.name);
        assert_eq!(probe.calls(), 1, "{}", stack.name);
    }
}
