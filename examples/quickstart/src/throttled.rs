//! The client with the throttle around it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use reqwest::{Request, Response};
use serde_json::Value;
use tower::{Service, util::BoxCloneService};
use tower_throttle::{Demand, Event, Limiter, Limits, Quota, usage};

use crate::{BoxError, LIMITS, report::Metered};

pub(crate) type Client = BoxCloneService<Request, Response, BoxError>;

/// What the throttle reserved and got back.
#[derive(Debug)]
pub(crate) struct Meter {
    limiter: Limiter,
    sums: Arc<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    reserved: AtomicU64,
    settled: AtomicU64,
}

impl Meter {
    pub(crate) async fn read(&self) -> Metered {
        self.limiter.close().await;
        let reserved = self.sums.reserved.load(Ordering::Relaxed);
        Metered { reserved, refunded: reserved - self.sums.settled.load(Ordering::Relaxed) }
    }
}

fn limits() -> Limits {
    Limits::new().bucket(
        "gpt-4o",
        [
            Quota::sliding_window("requests", LIMITS.requests as u64, LIMITS.window)
                .guard(Duration::from_millis(200)),
            Quota::token_bucket("tokens", LIMITS.tokens, LIMITS.window).burst(LIMITS.burst * 3 / 4),
        ],
    )
}

fn demand(request: &Request) -> Result<Demand, BoxError> {
    let body = request.body().and_then(|body| body.as_bytes()).ok_or("no body")?;
    let body: Value = serde_json::from_slice(body)?;
    let max_tokens = body["max_tokens"].as_u64().ok_or("no max_tokens")?;
    let prompt = body["messages"][0]["content"].as_str().ok_or("no prompt")?;
    let input = prompt.len().div_ceil(4) as u64;
    let model = body["model"].as_str().ok_or("no model")?.to_owned();
    Ok(Demand::new(model, usage! { requests: 1, tokens: input + max_tokens }))
}

pub(crate) async fn client(_redis: Option<&str>) -> Result<(Client, Meter), BoxError> {
    let sums = Arc::new(Sums::default());
    let told = Arc::clone(&sums);
    let limiter = Limiter::builder(limits())
        .observer(move |event: &Event<'_>| match event {
            Event::Granted { reserved, .. } => {
                told.reserved.fetch_add(reserved.get("tokens").unwrap_or(0), Ordering::Relaxed);
            }
            Event::Settled { actual, .. } => {
                told.settled.fetch_add(actual.get("tokens").unwrap_or(0), Ordering::Relaxed);
            }
            _ => {}
        })
        .build()?;
    let client = reqwest::Client::new();
    let inner = limiter.clone();
    let service = tower::service_fn(move |request: Request| {
        let (limiter, mut client) = (inner.clone(), client.clone());
        async move {
            let reservation = limiter.reserve(demand(&request)?).await?;
            let response = client.call(request).await?;
            let status = response.status();
            let bytes = response.bytes().await?;
            let text = String::from_utf8_lossy(&bytes);
            let used = text.rfind("\"total_tokens\":").and_then(|at| {
                let digits = &text[at + 15..];
                digits[..digits.find(|c: char| !c.is_ascii_digit())?].parse::<u64>().ok()
            });
            if let Some(tokens) = used {
                drop(reservation.settle(usage! { tokens: tokens }));
            }
            let mut http = hyper::Response::new(reqwest::Body::from(bytes));
            *http.status_mut() = status;
            Ok::<_, BoxError>(Response::from(http))
        }
    });
    Ok((BoxCloneService::new(service), Meter { limiter, sums }))
}
