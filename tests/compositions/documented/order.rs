use std::time::Duration;
use tower::{Service, ServiceBuilder};
use tower_throttle::{BoxError, Demand, Limiter, ThrottleLayer, usage};

pub(crate) fn stack<S>(
    limiter: Limiter,
    client: S,
) -> impl Service<String, Response = S::Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
where
    S: Service<String, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    let throttle = ThrottleLayer::from_fn(limiter, |text: &mut String| {
        Ok(Demand::new("api", usage! { tokens: text.len() as u64 }))
    });
    ServiceBuilder::new()
        .timeout(Duration::from_secs(60)) // all attempts, and all their waits
        // .retry(policy)                 // each attempt is a reservation of its own
        .layer(throttle.max_wait(Duration::from_secs(30)))
        .timeout(Duration::from_secs(10)) // one call, its wait not counted
        .concurrency_limit(64) // calls, and none that waits
        .service(client)
}
