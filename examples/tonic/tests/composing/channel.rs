use http::{Request, Response};
use tonic::{body::Body, transport::Channel};
use tonic_examples::{Budget, Follow};
use tower::{Layer, Service};
use tower_throttle::{
    BoxError, Demand, Limiter, ThrottleLayer, inspect, layer::MeteredBody, usage,
};

type Answer = Response<MeteredBody<Body>>;

pub(crate) fn throttled(
    limiter: Limiter,
    channel: Channel,
) -> impl Service<Request<Body>, Response = Answer, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let layer = ThrottleLayer::from_fn(limiter, |request: &mut Request<Body>| {
        let budget = request.extensions().get().ok_or("the call has no budget")?;
        let Budget { tokens, max_wait } = *budget;
        let method = request.uri().path().to_owned();
        Ok(Demand::new(method, usage! { tokens: tokens }).max_wait(max_wait))
    });
    // An observer of the body, which is told the trailers too.
    layer.inspector(inspect::by_status(inspect::body(Follow::new))).layer(channel)
}
