//! Limits by route: the bucket is the route's pattern, never the path, so that no stranger makes up
//! keys.

use std::borrow::Cow;

use axum::extract::{MatchedPath, Request};
use tower_throttle::{Demand, ExtractError, Usage};

/// The bucket of requests without a route: of a fallback, or where the layer is around a whole
/// router.
pub const ELSEWHERE: &str = "elsewhere";

/// The bucket of a request.
pub fn bucket(request: &Request) -> Cow<'static, str> {
    let route = request.extensions().get::<MatchedPath>();
    route.map_or(ELSEWHERE.into(), |route| format!("route {}", route.as_str()).into())
}

/// Asks for one request of a route.
///
/// # Errors
/// None.
pub fn demand(request: &mut Request) -> Result<Demand, ExtractError> {
    Ok(Demand::new(bucket(request), Usage::new()))
}
