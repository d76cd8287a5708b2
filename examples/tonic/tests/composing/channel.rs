use http::{Request, Response};
use tonic::{body::Body, transport::Channel};
use tonic_examples::{Budget, Follow};
use tower::{Layer, Service};
use tower_throttle::{BoxError, Demand, Limiter, MeteredBody, ThrottleLayer, inspect, usage};

pub(crate) fn throttled(
    limiter: Limiter,
    channel: Channel,
) -> impl Service<Request<Body>, Response = Response<MeteredBody<Body>>, Error = BoxError> + Clone {
    let demand = |request: &mut Request<Body>| {
        let Budget { tokens, max_wait } =
            *request.extensions().get().ok_or("the call has no budget")?;
        Ok(Demand::new(request.uri().path().to_owned(), usage! { tokens: tokens })
            .max_wait(max_wait))
    };
    // An observer of the body, which is told the trailers too.
    let inspector = inspect::by_status(inspect::body(Follow::new));
    ThrottleLayer::new(limiter, demand).inspector(inspector).layer(channel)
}
