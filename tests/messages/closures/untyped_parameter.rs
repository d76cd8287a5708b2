use tower_throttle::{Demand, Limiter, ThrottleLayer, usage};

fn layers(limiter: Limiter) {
    let layer = ThrottleLayer::from_fn(limiter, |upload| {
        Ok(Demand::new("api", usage! { bytes: upload.bytes }))
    });
}

fn main() {}
