//! Refusals as responses.

use std::{convert::Infallible, time::Duration};

use http::{Response, StatusCode};
use tower::{Layer, ServiceExt, service_fn};
use tower_throttle::{
    Demand, Feedback, Limiter, ThrottleLayer, Throttled,
    inspect::KeepReserved,
    layer::RespondLayer,
    store::{Batch, Reply, Store, StoreError},
    usage,
};

use crate::probe::{Extract, limiter, tokens};

async fn send(layer: &RespondLayer<Extract, KeepReserved>, request: u64) -> Response<String> {
    let service =
        service_fn(async |_: u64| Ok::<_, Infallible>(Response::new(String::from("served"))));
    // The error type is the inner service's own.
    let Ok(response) = layer.layer(service).oneshot(request).await;
    response
}

fn header<'r>(response: &'r Response<String>, name: &str) -> Option<&'r str> {
    response.headers().get(name).map(|value| value.to_str().unwrap())
}

#[tokio::test(start_paused = true)]
async fn what_fits_is_served_and_what_does_not_is_told_when_to_come_again() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).reject().respond();

    assert_eq!(send(&layer, 90).await.body(), "served");
    let refused = send(&layer, 20).await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    let retry_after: u64 = header(&refused, "retry-after").unwrap().parse().unwrap();
    assert!((60..=62).contains(&retry_after), "{retry_after}");
    assert!(!refused.body().contains("api"), "a stranger need not know the buckets");
    assert_eq!(header(&refused, "ratelimit"), None);

    // Rounded up: after that time it fits.
    tokio::time::advance(Duration::from_secs(retry_after)).await;
    assert_eq!(send(&layer, 20).await.status(), StatusCode::OK);
}

#[tokio::test(start_paused = true)]
async fn the_ietf_fields_are_added_when_asked_for() {
    let layer =
        ThrottleLayer::new(limiter(), tokens as Extract).reject().respond().rate_limit_fields();
    send(&layer, 90).await;
    let refused = send(&layer, 20).await;
    let retry_after = header(&refused, "retry-after").unwrap();
    assert_eq!(header(&refused, "ratelimit-policy"), Some(r#""tokens per minute";q=100;w=60"#));
    let expected = format!(r#""tokens per minute";r=10;t={retry_after}"#);
    assert_eq!(header(&refused, "ratelimit"), Some(expected.as_str()));
}

#[tokio::test(start_paused = true)]
async fn a_provider_s_long_wait_is_handed_on_and_not_waited_for() {
    let limiter = limiter();
    let asked = Feedback::new().with_retry_after(Duration::from_millis(3_599_500));
    limiter.feedback("api", &asked).await.unwrap();
    let layer = ThrottleLayer::new(limiter.clone(), tokens as Extract).respond();
    let began = tokio::time::Instant::now();
    let refused = send(&layer, 20).await;
    assert_eq!(
        (refused.status(), began.elapsed()),
        (StatusCode::TOO_MANY_REQUESTS, Duration::ZERO)
    );
    assert_eq!(header(&refused, "retry-after"), Some("3600"));
    assert_eq!(refused.body(), "too many requests");
    let rejects = ThrottleLayer::new(limiter, tokens as Extract).reject().respond();
    assert_eq!(header(&send(&rejects, 20).await, "retry-after"), Some("3600"));
}

#[tokio::test(start_paused = true)]
async fn what_could_never_fit_is_told_no_time() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract).respond().rate_limit_fields();
    send(&layer, 20).await;
    let refused = send(&layer, 101).await;
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert_eq!(header(&refused, "retry-after"), None);
    // Nor what is left, which was not asked.
    let policy = r#""tokens per minute";q=100;w=60"#;
    assert_eq!(header(&refused, "ratelimit-policy"), Some(policy));
    assert_eq!(header(&refused, "ratelimit"), None);
    let error: &Throttled = refused.extensions().get().unwrap();
    let told = "101 asked, and `tokens per minute` admits 100 at most";
    assert!(error.to_string().contains(told), "{error}");
}

#[tokio::test(start_paused = true)]
async fn the_ietf_fields_are_on_every_response_when_asked_for() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract).reject().respond();
    assert_eq!(header(&send(&layer, 1).await, "ratelimit"), None);
    let layer = layer.rate_limit_fields_always();
    let served = send(&layer, 59).await;
    assert_eq!(served.body(), "served");
    let policy = r#""tokens per minute";q=100;w=60, "requests per minute";q=10;w=60"#;
    assert_eq!(header(&served, "ratelimit-policy"), Some(policy));
    let left = header(&served, "ratelimit").unwrap();
    assert!(left.starts_with(r#""tokens per minute";r=40;t=6"#), "{left}");
    assert!(left.contains(r#", "requests per minute";r=8;t=6"#), "{left}");
    let refused = send(&layer, 60).await;
    assert_eq!(header(&refused, "ratelimit-policy"), Some(r#""tokens per minute";q=100;w=60"#));
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_shaped_and_carries_its_error() {
    let limiter = limiter();
    let shape = |error: Option<&Throttled>, response: &mut Response<String>| {
        *response.status_mut() = StatusCode::IM_A_TEAPOT;
        *response.body_mut() = error.map_or("unread", Throttled::kind).to_owned();
        response.headers_mut().insert("x-shaped", http::HeaderValue::from_static("yes"));
    };
    let respond = |extract| ThrottleLayer::new(limiter.clone(), extract).reject().respond();
    let layer = respond(tokens as Extract).shape(shape);
    assert_eq!(send(&layer, 90).await.status(), StatusCode::OK);
    let refused = send(&layer, 20).await;
    assert_eq!((refused.status(), &**refused.body()), (StatusCode::IM_A_TEAPOT, "not_now"));
    assert_eq!(header(&refused, "x-shaped"), Some("yes"));
    assert!(header(&refused, "retry-after").is_some());
    assert!(matches!(refused.extensions().get(), Some(Throttled::NotNow(_))));

    let no_key: Extract = |_| Err("key sk-s3cret is not in table `keys`".into());
    let unread = send(&respond(no_key).shape(shape), 1).await;
    assert_eq!(unread.body(), "unread");
    assert!(unread.extensions().get::<Throttled>().is_none());
}

#[tokio::test(start_paused = true)]
async fn openais_clients_understand_a_refusal() {
    let limiter = limiter();
    let layer = ThrottleLayer::new(limiter, tokens as Extract).reject().respond().openai_errors();
    send(&layer, 90).await;
    for (request, status, kind, code) in [
        (20, 429, "rate_limit_error", "rate_limit_exceeded".into()),
        (101, 413, "invalid_request_error", serde_json::Value::Null),
    ] {
        let refused = send(&layer, request).await;
        assert_eq!(refused.status().as_u16(), status);
        assert_eq!(header(&refused, "content-type"), Some("application/json"));
        let json: serde_json::Value = serde_json::from_str(refused.body()).unwrap();
        let error = &json["error"];
        assert_eq!((error["type"].as_str(), &error["code"]), (Some(kind), &code));
        assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_metered_is_told_nothing_of_the_inside() {
    let no_key: Extract = |_| Err("key sk-s3cret is not in table `keys`".into());
    let unknown: Extract = |_| Ok(Demand::new("tenant s3cret", usage! {}));
    let twice: Extract = |_| Ok(Demand::new("api", usage! {}).and("api"));
    for extract in [no_key, unknown, twice] {
        let answer = send(&ThrottleLayer::new(limiter(), extract).respond(), 1).await;
        assert_eq!(answer.status(), StatusCode::BAD_REQUEST);
        assert_eq!(answer.body(), "this request cannot be metered");
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_is_the_server_s_own_mistake_is_its_own_fault() {
    let no_class: Extract = |_| Ok(Demand::new("api", usage! {}).class("s3cret"));
    let no_metric: Extract = |_| Ok(Demand::new("api", usage! { s3cret: 1 }));
    for extract in [no_class, no_metric] {
        let answer = send(&ThrottleLayer::new(limiter(), extract).respond(), 1).await;
        assert_eq!(answer.status(), StatusCode::INTERNAL_SERVER_ERROR);
        assert_eq!(answer.body(), "requests cannot be metered");
    }
}

#[test]
fn the_inner_service_is_at_hand() {
    let layer = ThrottleLayer::new(limiter(), tokens as Extract).respond();
    let mut service = layer.layer(7);
    *service.get_mut() += 1;
    assert_eq!((*service.get_ref(), service.into_inner()), (8, 8));
}

#[derive(Debug)]
struct Gone;

impl Store for Gone {
    fn apply(&self, _: &Batch<'_>) -> Reply {
        Reply::Later(Box::pin(async { Err(StoreError::Unavailable("gone".into())) }))
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_fails_is_not_the_callers_fault() {
    let limits = tower_throttle::Limits::new()
        .bucket("api", [tower_throttle::Quota::per_minute("tokens", 1)]);
    let limiter = Limiter::with_store(limits, Gone).unwrap();
    let answer = send(&ThrottleLayer::new(limiter, tokens as Extract).respond(), 1).await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
}
