//! The throttle in a chain of reqwest-middleware, inside the retries: `cargo run --example
//! reqwest_middleware`.

use std::time::Duration;

use clients_example::{Counts, Provider, used};
use reqwest::{Client, Request};
use reqwest_middleware::ClientBuilder;
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use serde_json::json;
use tower_throttle::{
    BoxError, Demand, Limiter, Limits, Quota, ThrottleLayer, Throttled, inspect, usage,
};

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    // Its first two answers are 500.
    let provider = Provider::start(2).await?;
    let url = format!("http://{}/v1/chat/completions", provider.host());

    let quotas = [Quota::per_minute("requests", 10), Quota::per_minute("tokens", 100)];
    let limiter = Limiter::new(Limits::new().bucket("chat", quotas))?;
    let throttle = ThrottleLayer::from_fn(limiter.clone(), |_: &mut Request| {
        Ok(Demand::new("chat", usage! { tokens: 40 }).max_wait(Duration::from_secs(1)))
    })
    .inspector(
        inspect::by_status(inspect::bytes(1 << 20, used))
            .server_error(tower_throttle::Settlement::Release),
    );

    // The first is the outermost: each attempt goes through the throttle.
    let policy = ExponentialBackoff::builder()
        .retry_bounds(Duration::from_millis(10), Duration::from_millis(100))
        .build_with_max_retries(3);
    let retry = RetryTransientMiddleware::new_with_policy(policy);
    let client = ClientBuilder::new(Client::new()).with(retry).with(throttle).build();

    let call = || client.post(&url).json(&json!({ "max_tokens": 40 })).send();
    let answer = call().await?;
    println!("{} from {}", answer.status(), answer.url());
    answer.text().await?;
    let charged = async || {
        let status = limiter.status("chat").await?;
        Ok::<_, BoxError>((status.quotas[0].charged, status.quotas[1].charged))
    };
    println!("{:?} requests and tokens charged", charged().await?);
    let Counts { served, failed, .. } = provider.counts();
    assert_eq!((served, failed), (1, 2));
    // What failed was released, as this provider counts no failures; what was served used 10 of 40.
    assert_eq!(charged().await?, (1.0, 10.0));

    // Three more use what is left: 10 + 3 * 10, and 70 are not enough for two unread answers of 40.
    for _ in 0..3 {
        call().await?.text().await?;
    }
    let unread = call().await?;
    let error = call().await.expect_err("40 of 20 left, and no more within its longest wait");
    let throttled = Throttled::find(&error).ok_or("not the throttle's")?;
    println!("{throttled}");
    assert!(throttled.retry_after().is_some_and(|wait| wait > Duration::from_secs(30)));
    // Not even an attempt: a refusal is no failure that a retry makes better.
    assert_eq!(provider.counts().served, 5);

    unread.text().await?;
    call().await?.text().await?;
    println!("{:?} requests and tokens charged", charged().await?);
    assert_eq!(charged().await?, (6.0, 60.0));
    Ok(())
}
