use reqwest::{Client, Request, Response};
use tower::{Service, ServiceBuilder};
use tower_throttle::{
    BoxError, Limiter, ThrottleLayer, inspect,
    routes::{Route, Routes, RoutesError},
    usage,
};

pub(crate) fn client(
    limiter: Limiter,
) -> Result<
    impl Service<Request, Response = Response, Error = BoxError, Future: Send>
    + Clone
    + Send
    + Sync
    + 'static,
    RoutesError,
> {
    let chat = Route::to("gpt-4o").usage(usage! { tokens: 1_500 });
    let claude = Route::to("claude").usage_of(|request: &Request| {
        let body = request.body().and_then(|body| body.as_bytes()).ok_or("it has no body")?;
        Ok(usage! { input_tokens: body.len() as u64 / 3, output_tokens: 1_000 })
    });
    let routes = Routes::builder()
        .route("POST api.openai.com/v1/chat/completions", chat)
        .route("api.anthropic.com", claude)
        .otherwise(Route::unlimited()) // without this, other requests are refused
        .build()?;
    let layer = ThrottleLayer::new(limiter, routes);
    let layer = layer.inspector(inspect::by_status(inspect::KeepReserved));
    Ok(ServiceBuilder::new().layer(layer).service(Client::new()))
}
