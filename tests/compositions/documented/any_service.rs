use std::convert::Infallible;
use tower::{Service, ServiceBuilder, service_fn};
use tower_throttle::{BoxError, Demand, Limiter, Settlement, ThrottleLayer, usage};

pub(crate) fn database(
    limiter: Limiter,
) -> impl Service<String, Response = Vec<u8>, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let layer = ThrottleLayer::from_fn(limiter, |_: &mut String| {
        Ok(Demand::new("db", usage! { rows: 1_000 }))
    })
    .inspector(|rows: &Vec<u8>| Settlement::Exact(usage! { rows: rows.len() as u64 }));
    let query = |query: String| async move { Ok::<_, Infallible>(query.into_bytes()) };
    ServiceBuilder::new().layer(layer).service(service_fn(query))
}
