//! A gRPC client within limits: see the library.

#[tokio::main]
async fn main() -> Result<(), tower_throttle::BoxError> {
    tonic_examples::demo().await
}
