use async_openai::{Client, config::OpenAIConfig, error::OpenAIError, middleware};
use tower::ServiceBuilder;
use tower_throttle::{BoxError, Demand, Limiter, Settlement, ThrottleLayer, inspect, usage};

type OpenAI = Client<OpenAIConfig>;

pub(crate) fn throttled(client: OpenAI, limiter: Limiter, used: fn(&[u8]) -> Settlement) -> OpenAI {
    let layer = ThrottleLayer::from_fn(limiter, |_: &mut reqwest::Request| {
        Ok(Demand::new("gpt-4o", usage! { tokens: 1_500 }))
    })
    .inspector(inspect::by_status(inspect::bytes(1 << 20, used)));
    let service = ServiceBuilder::new()
        .layer(middleware::retry::OpenAIRetryLayer::default())
        .map_err(|error: BoxError| {
            error.downcast().map_or_else(OpenAIError::Boxed, |e| OpenAIError::Reqwest(*e))
        })
        .filter_async(async |attempt: middleware::HttpRequestFactory| attempt.build().await)
        .layer(layer)
        .service(reqwest::Client::new());
    client.with_http_service(service)
}
