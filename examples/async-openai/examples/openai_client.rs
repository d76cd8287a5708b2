//! async-openai within limits: see the library.

#[tokio::main]
async fn main() -> Result<(), tower_throttle::BoxError> {
    async_openai_examples::demo().await
}
