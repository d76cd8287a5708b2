use tower_throttle::{Demand, Limiter, ThrottleLayer, usage};

struct Upload {
    bytes: u64,
}

fn layers(limiter: Limiter) {
    let layer = ThrottleLayer::from_fn(limiter, |upload: &mut Upload| {
        Demand::new("api", usage! { bytes: upload.bytes })
    });
}

fn main() {}
