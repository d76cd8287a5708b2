//! hyper's client in a stack of tower's layers, each in its place: `cargo run --example
//! hyper_client`.

use std::time::{Duration, Instant};

use bytes::Bytes;
use clients_example::{Counts, Provider, TOKENS, WINDOW, used};
use futures_util::future::try_join_all;
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use tower::{ServiceBuilder, ServiceExt, timeout::error::Elapsed};
use tower_throttle::{BoxError, Demand, Limiter, Limits, Quota, ThrottleLayer, inspect, usage};

const CALLS: usize = 30;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let provider = Provider::start(0).await?;
    let url = format!("http://{}/v1/chat/completions", provider.host());

    let tokens = Quota::sliding_window("tokens", TOKENS, WINDOW).guard(Duration::from_millis(400));
    let limiter = Limiter::new(Limits::new().bucket("chat", [tokens]))?;
    let throttle = ThrottleLayer::from_fn(limiter.clone(), |_: &mut Request<Full<Bytes>>| {
        Ok(Demand::new("chat", usage! { tokens: 40 }))
    })
    .inspector(inspect::by_status(inspect::bytes(1 << 20, used)));

    let client = ServiceBuilder::new()
        .timeout(Duration::from_secs(10)) // for everything
        .layer(throttle)
        .timeout(Duration::from_secs(5)) // for the call alone
        .concurrency_limit(8) // of calls, not of those that wait for tokens
        .service(Client::builder(TokioExecutor::new()).build_http());

    let started = Instant::now();
    let request = |stream: bool| {
        let body = json!({ "max_tokens": 40, "stream": stream }).to_string();
        Request::post(&url).body(Full::from(body))
    };
    let calls = (0..CALLS).map(async |n| {
        let response = client.clone().oneshot(request(n % 2 == 0)?).await?;
        Ok::<_, BoxError>(response.into_body().collect().await?.to_bytes())
    });
    let answers = try_join_all(calls).await?;
    let Counts { served, rejected, tokens, .. } = provider.counts();
    println!(
        "{} calls in {:.1?}: {served} served, {rejected} rejected",
        answers.len(),
        started.elapsed()
    );
    assert_eq!((served, rejected, tokens), (CALLS as u64, 0, 10 * CALLS as u64));
    assert!(started.elapsed() < 4 * WINDOW);

    // A call that is given up while it waits leaves nothing behind.
    limiter.pause("chat", Duration::from_secs(60)).await?;
    let impatient =
        ServiceBuilder::new().timeout(Duration::from_millis(100)).service(client.clone());
    let error = impatient.oneshot(request(false)?).await.err().ok_or("the bucket is paused")?;
    println!("while the bucket is paused: {error}");
    assert!(error.is::<Elapsed>());
    limiter.resume("chat").await?;
    let status = limiter.status("chat").await?;
    assert_eq!((status.waiting, status.quotas[0].in_flight), (0, 0));
    Ok(())
}
