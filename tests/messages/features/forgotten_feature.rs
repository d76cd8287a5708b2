use reqwest::{Client, Request};
use tower::{Layer, Service};
use tower_throttle::{BoxError, Limiter, ThrottleLayer};

fn client(limiter: Limiter) -> impl Service<Request, Error = BoxError, Future: Send> {
    ThrottleLayer::openai(limiter).layer(Client::new())
}

fn main() {}
