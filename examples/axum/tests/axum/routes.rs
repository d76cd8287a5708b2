//! Where axum tells the pattern of a route, and where it does not.

use axum::{Router, body::Body, extract::Request, response::IntoResponse, routing::get};
use axum_examples::routes::{ELSEWHERE, bucket, demand};
use http::StatusCode;
use tower::{Layer, ServiceExt};
use tower_throttle::{
    Demand, ExtractError, Limiter, Limits, Quota, ThrottleLayer, inspect::KeepReserved,
    layer::RespondLayer, limits::Undeclared,
};

use crate::stand::{Names, Noting};

type Metering = RespondLayer<fn(&mut Request) -> Result<Demand, ExtractError>, KeepReserved>;

fn metering() -> (Metering, Names) {
    let store = Noting::default();
    let names = store.names.clone();
    let quotas = || [Quota::per_minute("requests", 2)];
    let limits = Limits::new()
        .bucket("route /files/{id}", quotas())
        .bucket("route /api/files/{*path}", quotas())
        .bucket(ELSEWHERE, quotas())
        .undeclared(Undeclared::Unlimited);
    let limiter = Limiter::with_store(limits, store).unwrap();
    (ThrottleLayer::new(limiter, demand as fn(&mut Request) -> _).reject().respond(), names)
}

/// What is answered to a GET of each of these, and the buckets that were asked.
async fn get_all<S>(service: S, names: &Names, paths: &[&str]) -> (Vec<u16>, Vec<String>)
where
    S: tower::Service<Request, Response = http::Response<Body>, Error: std::fmt::Debug> + Clone,
{
    let mut answers = Vec::new();
    for path in paths {
        let request = Request::get(*path).body(Body::empty()).unwrap();
        answers.push(service.clone().oneshot(request).await.unwrap().status().as_u16());
    }
    (answers, names.lock().unwrap().iter().cloned().collect())
}

fn files() -> Router {
    Router::new().route("/files/{id}", get(async || "a file"))
}

const PATHS: [&str; 4] = ["/files/1", "/files/2", "/files/%7Bx%7D%0A", "/nowhere/3"];

/// It mounts as it is, both ways: there is no error to handle.
#[tokio::test]
async fn a_route_layer_meters_routes_by_their_pattern_and_nothing_else() {
    let (metering, names) = metering();
    let (answers, names) = get_all(files().route_layer(metering), &names, &PATHS).await;
    assert_eq!(answers, [200, 200, 429, 404]);
    assert_eq!(names, ["route /files/{id}"]);
}

#[tokio::test]
async fn a_layer_meters_the_fallback_too_which_has_no_pattern() {
    let (metering, names) = metering();
    let router = files().fallback(async || StatusCode::IM_A_TEAPOT).layer(metering);
    let paths = ["/files/1", "/nowhere/1", "/nowhere/2", "/nowhere/3"];
    let (answers, names) = get_all(router, &names, &paths).await;
    assert_eq!(answers, [200, 418, 418, 429]);
    assert_eq!(names, [ELSEWHERE, "route /files/{id}"]);
}

#[tokio::test]
async fn inside_a_nested_router_the_pattern_is_the_whole_one() {
    let (metering, names) = metering();
    let inner = Router::new().route("/files/{*path}", get(async || "a file")).route_layer(metering);
    let (answers, names) =
        get_all(Router::new().nest("/api", inner), &names, &["/api/files/a/b", "/api/x"]).await;
    assert_eq!(answers, [200, 404]);
    assert_eq!(names, ["route /api/files/{*path}"]);
}

/// Nothing is matched yet when the layer sees the request.
#[tokio::test]
async fn around_a_whole_router_there_is_no_pattern() {
    let (metering, names) = metering();
    let service = metering.layer(files()).map_response(IntoResponse::into_response);
    let (answers, names) = get_all(service, &names, &PATHS).await;
    assert_eq!(answers, [200, 200, 429, 429]);
    assert_eq!(names, [ELSEWHERE]);
}

/// A route without a limit is not kept, however many paths it has.
#[tokio::test]
async fn a_route_nobody_limits_makes_no_key() {
    let (metering, names) = metering();
    let router = Router::new().route("/free/{id}", get(async || "a file")).route_layer(metering);
    let (answers, names) = get_all(router, &names, &["/free/1", "/free/2", "/free/3"]).await;
    assert_eq!((answers, names), (vec![200; 3], vec![]));
}

#[test]
fn without_a_route_the_bucket_is_the_same_whatever_the_path() {
    for path in PATHS {
        assert_eq!(bucket(&Request::get(path).body(Body::empty()).unwrap()), ELSEWHERE);
    }
}
