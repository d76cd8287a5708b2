//! The code that docs/composing.md shows.

mod client;
mod gateway;

use std::{sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    routing::{get, post},
};
use examples_common::provider::{Provider, whole};
use http::StatusCode;
use tower_throttle::{Limiter, Limits, Quota, Settlement, usage};

const DOCUMENT: &str = include_str!("../../../../docs/composing.md");

#[test]
fn the_document_shows_this_code() {
    for code in [include_str!("composing/gateway.rs"), include_str!("composing/client.rs")] {
        assert!(DOCUMENT.contains(&code.replace("pub(crate) ", "")), "{code}");
        assert!(code.lines().count() < 30);
    }
}

fn used(body: &[u8]) -> Settlement {
    Settlement::Exact(usage! { tokens: body.len() as u64 })
}

#[tokio::test]
async fn the_gateway_that_it_shows_meters_its_tenants() {
    let quotas = || [Quota::per_minute("tokens", 2_000)];
    let limits = Limits::new().bucket("tenant acme", quotas()).bucket("everyone", quotas());
    let limiter = Limiter::new(limits).unwrap();
    let routes = Router::new().route("/", post(async || "It depends."));
    let router = gateway::metered(routes, limiter.clone(), used);
    let router = router.layer(Extension(gateway::Tenant("acme".into())));
    let server = axum_examples::Server::start(router).await.unwrap();

    let answer = reqwest::Client::new().post(server.url("/")).send().await.unwrap();
    assert_eq!(answer.text().await.unwrap(), "It depends.");
    for bucket in ["tenant acme", "everyone"] {
        assert_eq!(limiter.status(bucket).await.unwrap().quotas[0].charged, 11.0);
    }
}

#[tokio::test]
async fn the_client_that_it_shows_keeps_within_its_limit() {
    let provider = Provider::start(|_| whole("It rains.")).await.unwrap();
    let quota = Quota::token_bucket("requests", 1, Duration::from_millis(200));
    let limiter = Limiter::new(Limits::new().bucket("weather", [quota])).unwrap();
    let state = (client::client(limiter), provider.url().parse().unwrap());
    let router = Router::new().route("/", get(client::weather)).with_state(state);
    let server = Arc::new(axum_examples::Server::start(router).await.unwrap());

    let started = std::time::Instant::now();
    for _ in 0..3 {
        let answer = reqwest::get(server.url("/")).await.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.text().await.unwrap(), "It rains.");
    }
    assert!(started.elapsed() >= Duration::from_millis(400), "{:?}", started.elapsed());
}
