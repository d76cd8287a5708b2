//! One reqwest client for two providers, each with limits of its own: `cargo run --example
//! reqwest_client`.

use std::time::{Duration, Instant};

use clients_example::{Counts, Provider, TOKENS, WINDOW, used};
use futures_util::future::try_join_all;
use reqwest::{Client, Request, Response};
use serde_json::{Value, json};
use tower::ServiceBuilder;
use tower_throttle::{
    BoxError, ExtractError, Limiter, Limits, Quota, ThrottleLayer, Usage, inspect,
    routes::{Route, RouteError, Routes},
    usage,
};

const CALLS: usize = 30;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let (one, other) = (Provider::start(0).await?, Provider::start(0).await?);

    // Which requests go to which bucket, and the most that they may use.
    let routes = Routes::builder()
        .route(
            format!("POST {}/v1/chat/completions", one.host()),
            Route::to("one").usage_of(max_tokens),
        )
        .route(format!("POST {}", other.host()), Route::to("other").usage_of(max_tokens))
        .build()?;
    // What the providers enforce. Two fifths of a second for requests that arrive less evenly than
    // they were sent.
    let tokens =
        || [Quota::sliding_window("tokens", TOKENS, WINDOW).guard(Duration::from_millis(400))];
    let limiter = Limiter::new(Limits::new().bucket("one", tokens()).bucket("other", tokens()))?;

    let layer = ThrottleLayer::new(limiter, routes)
        .inspector(inspect::by_status(inspect::bytes(1 << 20, used)));
    let client = ServiceBuilder::new().layer(layer).service(Client::new());

    let started = Instant::now();
    let urls = [
        format!("http://{}/v1/chat/completions", one.host()),
        format!("http://{}/messages", other.host()),
    ];
    let calls = urls.iter().flat_map(|url| (0..CALLS).map(move |n| request(url, n % 2 == 0)));
    let calls = calls.map(async |request| answer(client.clone().oneshot(request?).await?).await);
    let answered = try_join_all(calls).await?;
    println!("{} calls in {:.1?}", answered.len(), started.elapsed());

    for (name, provider) in [("one", &one), ("other", &other)] {
        let Counts { served, rejected, tokens, .. } = provider.counts();
        println!("provider {name}: {served} served, {rejected} rejected, {tokens} tokens used");
        assert_eq!((served, rejected, tokens), (CALLS as u64, 0, 10 * CALLS as u64));
    }
    // Forty tokens are reserved for a call that uses ten: with refunds, all fit in two windows and
    // not in six.
    assert!(started.elapsed() < 4 * WINDOW);

    // What no route is for goes nowhere.
    let stray = client.oneshot(request(&format!("http://{}/v1/images", one.host()), false)?).await;
    let error = stray.expect_err("no such route");
    println!("{error}");
    assert!(matches!(error.downcast_ref(), Some(RouteError::NoRoute { .. })));
    assert_eq!(one.counts().served, CALLS as u64);
    Ok(())
}

fn request(url: &str, stream: bool) -> Result<Request, BoxError> {
    Ok(Client::new().post(url).json(&json!({ "max_tokens": 40, "stream": stream })).build()?)
}

/// Reads an answer to its end, which is when its call is settled.
async fn answer(response: Response) -> Result<String, BoxError> {
    Ok(response.error_for_status()?.text().await?)
}

fn max_tokens(request: &Request) -> Result<Usage, ExtractError> {
    let body = request.body().and_then(reqwest::Body::as_bytes).ok_or("the request has no body")?;
    let body: Value = serde_json::from_slice(body)?;
    Ok(usage! { tokens: body["max_tokens"].as_u64().ok_or("the request has no max_tokens")? })
}
