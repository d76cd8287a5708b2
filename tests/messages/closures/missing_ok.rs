use tower_throttle::{Demand, Limiter, ThrottleLayer, usage};

fn layers(limiter: Limiter) {
    let layer = ThrottleLayer::from_fn(limiter, |request: &mut String| {
        Demand::new("api", usage! { bytes: request.len() as u64 })
    });
}

fn main() {}
