//! Handlers that call a provider within its limits: see the library.

#[tokio::main]
async fn main() -> Result<(), tower_throttle::BoxError> {
    axum_examples::client::demo().await
}
