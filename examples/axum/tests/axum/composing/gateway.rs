use axum::{Router, extract::Request};
use tower_throttle::{Demand, Limiter, Settlement, ThrottleLayer, inspect, usage};

/// Put into a request by the middleware that authenticates it.
#[derive(Clone)]
pub(crate) struct Tenant(pub(crate) String);

pub(crate) fn metered(routes: Router, limiter: Limiter, used: fn(&[u8]) -> Settlement) -> Router {
    let layer = ThrottleLayer::from_fn(limiter, |request: &mut Request| {
        let Tenant(name) = request.extensions().get().ok_or("whose request is this?")?;
        Ok(Demand::new(format!("tenant {name}"), usage! { tokens: 1_500 }).and("everyone"))
    })
    .inspector(inspect::bytes(1 << 20, used));
    routes.route_layer(layer.respond().rate_limit_fields())
}
