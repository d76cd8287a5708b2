use std::time::Duration;

use reqwest::{Client, Request, Response, StatusCode, header::RETRY_AFTER};
use tokio::time::{Sleep, sleep};
use tower::{Service, ServiceBuilder, retry::Policy};
use tower_throttle::{
    BoxError, Demand, Limiter, ThrottleLayer, Throttled,
    inspect::{KeepReserved, by_status},
    usage,
};

/// So many attempts more, after pauses that double.
#[derive(Clone)]
struct Attempts {
    left: u32,
    pause: Duration,
}

impl Policy<Request, Response, BoxError> for Attempts {
    type Future = Sleep;

    fn retry(&mut self, _: &mut Request, result: &mut Result<Response, BoxError>) -> Option<Sleep> {
        let told = match result {
            Ok(response) => may_pass(response.status()).then(|| retry_after(response))?,
            // The throttle has waited for as long as it makes sense.
            Err(error) if Throttled::find(error.as_ref()).is_some() => return None,
            Err(_) => None, // it timed out, or the connection broke off
        };
        self.left = self.left.checked_sub(1)?;
        let pause = self.pause;
        self.pause *= 2;
        Some(sleep(told.unwrap_or_default().max(pause)))
    }

    fn clone_request(&mut self, request: &Request) -> Option<Request> {
        request.try_clone() // nothing where the body is a stream, which is sent once
    }
}

fn may_pass(status: StatusCode) -> bool {
    status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
}

fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

pub(crate) fn client(
    limiter: Limiter,
    each: Duration,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let throttle = ThrottleLayer::from_fn(limiter, |_: &mut Request| {
        Ok(Demand::new("api", usage! { tokens: 1_500 }))
    })
    .inspector(by_status(KeepReserved));
    ServiceBuilder::new()
        .retry(Attempts { left: 3, pause: Duration::from_millis(200) })
        .layer(throttle)
        .timeout(each) // until the response begins, its wait for quota not counted
        .service(Client::new())
}
