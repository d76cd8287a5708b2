//! Metrics of a limiter, served to Prometheus: see `run`.

use std::{sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::get};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use tokio::{net::TcpListener, time::sleep};
use tower_throttle::{
    BoxError, Demand, Limiter, Limits, Quota,
    limits::Class,
    metrics::{Metrics, SECONDS},
    usage,
};

/// Bounds for how good estimates are.
const RATIOS: [f64; 8] = [0.1, 0.25, 0.5, 0.8, 1.0, 1.25, 2.0, 5.0];
/// How often the recorder tidies up.
const UPKEEP: Duration = Duration::from_secs(5);

/// A limiter, and what it tells Prometheus.
#[derive(Debug)]
pub struct Observed {
    limiter: Limiter,
    metrics: Metrics,
    prometheus: PrometheusHandle,
}

impl Observed {
    /// Installs the recorder of this process, and makes a limiter that records with it.
    ///
    /// # Errors
    /// The process has a recorder already.
    pub fn install() -> Result<Self, BoxError> {
        let prometheus = PrometheusBuilder::new()
            .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)?
            .set_buckets_for_metric(Matcher::Suffix("_ratio".into()), &RATIOS)?
            .set_buckets_for_metric(
                Matcher::Suffix("_operations".into()),
                &[1.0, 4.0, 16.0, 64.0, 256.0],
            )?
            .install_recorder()?;
        let metrics = Metrics::new();
        let limits = Limits::new()
            .bucket("gpt-4o", [Quota::per_second("tokens", 20_000), Quota::concurrency(8)])
            .class("batch", Class::new().headroom(0.2));
        let limiter = Limiter::builder(limits).observer(metrics.clone()).build()?;
        Ok(Self { limiter, metrics, prometheus })
    }

    /// Makes some calls, each of which uses less than it reserved.
    ///
    /// # Errors
    /// Those of [`Limiter::reserve`].
    pub async fn work(&self, calls: u64) -> Result<(), BoxError> {
        for call in 0..calls {
            let demand = Demand::new("gpt-4o", usage! { tokens: 3_000 });
            let demand = if call % 2 == 0 { demand.class("batch") } else { demand };
            let reservation = self.limiter.reserve(demand).await?;
            sleep(Duration::from_millis(20)).await;
            reservation.settle(usage! { tokens: 1_000 + call }).await?;
        }
        Ok(())
    }

    /// What Prometheus reads.
    async fn scrape(&self) -> Result<String, StatusCode> {
        // Gauges of quotas are as fresh as this. Without the store the others are still told.
        drop(self.metrics.refresh(&self.limiter).await);
        Ok(self.prometheus.render())
    }
}

/// Serves `/metrics` until the process ends.
///
/// # Errors
/// Those of the listener.
pub async fn serve(observed: Arc<Observed>, listener: TcpListener) -> Result<(), BoxError> {
    let scrape = |State(observed): State<Arc<Observed>>| async move { observed.scrape().await };
    let router = Router::new().route("/metrics", get(scrape)).with_state(observed.clone());
    let upkeep = async {
        loop {
            sleep(UPKEEP).await;
            observed.prometheus.run_upkeep();
        }
    };
    tokio::select! {
        served = axum::serve(listener, router) => Ok(served?),
        () = upkeep => Ok(()),
    }
}
