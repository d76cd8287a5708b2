use reqwest::{Client, Request, Response};
use tower::{Layer, Service};
use tower_throttle::{BoxError, Extractor, Limiter, ThrottleLayer, llm::openai};

pub(crate) fn client(
    limiter: Limiter,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let rules = openai::rules().declared_in(&limiter);
    let extractor = rules.extractor();
    let layer = ThrottleLayer::from_fn(limiter, move |request: &mut Request| {
        let demand = extractor.extract(request)?.class("batch");
        Ok(demand.and_first("tenant:acme").and("the whole company"))
    });
    layer.inspector(rules.inspector()).layer(Client::new())
}
