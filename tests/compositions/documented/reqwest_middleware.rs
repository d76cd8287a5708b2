use reqwest::{Client, Request};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_retry::{RetryTransientMiddleware, policies::ExponentialBackoff};
use tower_throttle::{Demand, Limiter, ThrottleLayer, inspect, usage};

pub(crate) fn client(limiter: Limiter) -> ClientWithMiddleware {
    let throttle = ThrottleLayer::from_fn(limiter, |_: &mut Request| {
        Ok(Demand::new("gpt-4o", usage! { tokens: 1_500 }))
    })
    .inspector(inspect::by_status(inspect::KeepReserved));
    let policy = ExponentialBackoff::builder().build_with_max_retries(3);
    ClientBuilder::new(Client::new())
        .with(RetryTransientMiddleware::new_with_policy(policy)) // the first is the outermost
        .with(throttle)
        .build()
}
