use axum::{extract::State, http::StatusCode};
use reqwest::{Method, Request, Response, Url};
use tower::{Layer, ServiceExt, util::BoxCloneSyncService};
use tower_throttle::{BoxError, Demand, Limiter, ThrottleLayer, inspect, usage};

type Client = BoxCloneSyncService<Request, Response, BoxError>;

pub(crate) fn client(limiter: Limiter) -> Client {
    let layer = ThrottleLayer::from_fn(limiter, |_: &mut Request| {
        Ok(Demand::new("weather", usage! { requests: 1 }))
    })
    .inspector(inspect::by_status(inspect::KeepReserved));
    BoxCloneSyncService::new(layer.layer(reqwest::Client::new()))
}

pub(crate) async fn weather(
    State((client, url)): State<(Client, Url)>,
) -> Result<String, StatusCode> {
    let answer = client.oneshot(Request::new(Method::GET, url)).await;
    let answer = answer.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    answer.text().await.map_err(|_| StatusCode::BAD_GATEWAY)
}
