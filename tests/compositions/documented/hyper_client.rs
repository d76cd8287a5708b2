use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Full;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tower::{Service, ServiceBuilder};
use tower_throttle::{
    BoxError, Demand, Limiter, Settlement, ThrottleLayer, inspect, layer::MeteredBody, usage,
};

type Answer = Response<MeteredBody<hyper::body::Incoming>>;

pub(crate) fn client(
    limiter: Limiter,
) -> impl Service<Request<Full<Bytes>>, Response = Answer, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let by_bytes =
        inspect::bytes(1 << 20, |body| Settlement::Exact(usage! { bytes: body.len() as u64 }));
    let layer = ThrottleLayer::from_fn(limiter, |_: &mut Request<Full<Bytes>>| {
        Ok(Demand::new("files", usage! { bytes: 100_000 }))
    })
    .inspector(inspect::by_status(by_bytes));
    ServiceBuilder::new().layer(layer).service(Client::builder(TokioExecutor::new()).build_http())
}
