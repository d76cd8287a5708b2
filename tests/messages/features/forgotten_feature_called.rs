use reqwest::{Client, Request};
use tower::Layer;
use tower_throttle::{Limiter, ThrottleLayer};

async fn call(limiter: Limiter, request: Request) {
    let client = ThrottleLayer::openai(limiter).layer(Client::new());
    let answer = client.oneshot(request).await;
}

fn main() {}
