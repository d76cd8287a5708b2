//! A gateway that meters its tenants: see the library.

#[tokio::main]
async fn main() -> Result<(), tower_throttle::BoxError> {
    axum_examples::gateway::demo().await
}
