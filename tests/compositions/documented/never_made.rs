use tower::{Layer, Service, load_shed::LoadShed, load_shed::error::Overloaded};
use tower_throttle::{BoxError, Demand, Limiter, Settlement, ThrottleLayer, inspect, usage};

pub(crate) fn shedding<S>(
    limiter: Limiter,
    client: S,
) -> impl Service<String, Response = S::Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static
where
    S: Service<String, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
{
    let layer = ThrottleLayer::from_fn(limiter, |text: &mut String| {
        Ok(Demand::new("api", usage! { tokens: text.len() as u64 }))
    });
    let inspector = inspect::on_failure(inspect::KeepReserved, |error| {
        error.is::<Overloaded>().then_some(Settlement::Release)
    });
    layer.inspector(inspector).layer(LoadShed::new(client))
}
