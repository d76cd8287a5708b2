//! `tower-throttle` on both sides of axum, over real connections.

mod client;
mod composing;
#[path = "../../../../tests/compositions/documented/mod.rs"]
mod documented;
mod gateway;
mod hostile;
mod routes;
mod spawned;
mod stand;
mod tenants;

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_example_comes_out_as_it_says() {
    axum_examples::gateway::demo().await.expect("it does");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_client_example_comes_out_as_it_says() {
    axum_examples::client::demo().await.expect("it does");
}
