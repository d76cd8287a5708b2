//! A client of Bedrock whose calls are throttled by tokens.

use aws_sdk_bedrockruntime::{Client, Config, config::HttpClient};
use tower_throttle::{Limiter, ThrottleLayer, llm::bedrock};

/// Makes a client of `config` whose calls wait for what `limiter` declares.
///
/// `inner` sends the requests: `aws_smithy_http_client::Builder::new().tls_provider(..).build_https()`
/// against the real service.
pub fn client(config: Config, inner: impl HttpClient + 'static, limiter: Limiter) -> Client {
    let layer = ThrottleLayer::openai_compatible(limiter, bedrock::rules());
    let config = config.to_builder().http_client(layer.http_client(inner)).build();
    Client::from_conf(config)
}
