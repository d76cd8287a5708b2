//! What the service says of itself: whether it lives, whether its store answers, and its metrics.

use std::{convert::Infallible, time::Duration};

use hyper::{
    Response, StatusCode,
    header::{CONTENT_TYPE, HeaderValue},
};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use serde_json::json;
use tower_throttle::{
    Limiter,
    metrics::{Metrics, SECONDS},
};

use super::errors::json_response;
use crate::failure::Failure;

/// Bounds for how good estimates are.
const RATIOS: [f64; 8] = [0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0];
/// Bounds for how much is in a batch.
const OPERATIONS: [f64; 5] = [1.0, 4.0, 16.0, 64.0, 256.0];
/// How often the recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);
/// A store that takes longer than this to answer is not ready.
const READY_WITHIN: Duration = Duration::from_secs(2);

/// The metrics of this process.
pub(super) struct Recorder {
    metrics: Metrics,
    prometheus: PrometheusHandle,
}

impl Recorder {
    /// Installs the recorder of this process.
    pub(super) fn install() -> Result<Self, Failure> {
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_ratio".into()), &RATIOS)
            })
            .and_then(|builder| {
                builder.set_buckets_for_metric(Matcher::Suffix("_operations".into()), &OPERATIONS)
            })
            .and_then(PrometheusBuilder::install_recorder)
            .map_err(Failure::other)?;
        Ok(Self { metrics: Metrics::new(), prometheus })
    }

    /// What the limiter reports to.
    pub(super) fn observer(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Tidies up for as long as it is polled.
    pub(super) async fn tidy(&self) -> Infallible {
        loop {
            tokio::time::sleep(UPKEEP).await;
            self.prometheus.run_upkeep();
        }
    }

    /// What Prometheus reads.
    pub(super) async fn scrape(&self, limiter: &Limiter) -> Response<String> {
        // Gauges of quotas are as fresh as this. Without the store the others are still told.
        let _ = tokio::time::timeout(READY_WITHIN, self.metrics.refresh(limiter)).await;
        let mut response = Response::new(self.prometheus.render());
        let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, text);
        response
    }
}

/// Says that the process lives.
pub(super) fn alive() -> Response<String> {
    json_response(StatusCode::OK, json!({ "status": "alive" }).to_string())
}

/// Says whether the store answers.
pub(super) async fn ready(limiter: &Limiter) -> Response<String> {
    let Some(bucket) = limiter.buckets().into_iter().next() else {
        return json_response(StatusCode::OK, json!({ "status": "ready" }).to_string());
    };
    let asked = tokio::time::timeout(READY_WITHIN, limiter.status(&bucket.name)).await;
    let reason = match asked {
        Ok(Ok(status)) if !status.degraded => None,
        Ok(Ok(_)) => Some("the store cannot be reached, limits are kept in this process".into()),
        Ok(Err(error)) => Some(error.to_string()),
        Err(_) => Some("the store does not answer".to_owned()),
    };
    match reason {
        None => json_response(StatusCode::OK, json!({ "status": "ready" }).to_string()),
        Some(reason) => json_response(
            StatusCode::SERVICE_UNAVAILABLE,
            json!({ "status": "not ready", "reason": reason }).to_string(),
        ),
    }
}
