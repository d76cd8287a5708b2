//! The client with the throttle around it: all that a program adds to share an API's limits.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use reqwest::{Request, Response};
use serde_json::Value;
use tower::{Service, ServiceBuilder};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Limits, Quota, Settlement, ThrottleLayer,
    inspect::{self, by_status},
    observe::Event,
    store::RedisStore,
    usage,
};

use crate::{LIMITS, report::Metered};

/// A longer answer would be charged what was reserved for it.
const MAX_ANSWER: usize = 1 << 20;

/// What the provider enforces, as its documentation would tell. What is sent at its pace arrives a
/// little less evenly: the guard and a burst smaller than the provider's make up for a fifth of a
/// second and more of that.
fn limits() -> Limits {
    let requests = Quota::sliding_window("requests", LIMITS.requests as u64, LIMITS.window)
        .guard(Duration::from_millis(200));
    let tokens =
        Quota::token_bucket("tokens", LIMITS.tokens, LIMITS.window).burst(LIMITS.burst / 4 * 3);
    Limits::new().bucket("gpt-4o", [requests, tokens])
}

/// The most that a request may use: its prompt, at four bytes per token, and as long an answer as
/// it allows.
fn demand(request: &mut Request) -> Result<Demand, ExtractError> {
    let body = request.body().and_then(reqwest::Body::as_bytes).ok_or("the request has no body")?;
    let body: Value = serde_json::from_slice(body)?;
    let model = body["model"].as_str().ok_or("the request names no model")?.to_owned();
    let max_tokens = body["max_tokens"].as_u64().ok_or("the request has no max_tokens")?;
    let messages = body["messages"].as_array().ok_or("the request has no messages")?;
    let bytes: usize =
        messages.iter().filter_map(|message| message["content"].as_str()).map(str::len).sum();
    Ok(Demand::new(model, usage! { requests: 1, tokens: bytes.div_ceil(4) as u64 + max_tokens }))
}

/// What a call has really used, which its answer tells: in one piece, or as a stream of events.
fn used(answer: &[u8]) -> Settlement {
    let tokens =
        |json: &[u8]| serde_json::from_slice::<Value>(json).ok()?["usage"]["total_tokens"].as_u64();
    let in_event = |line: &[u8]| tokens(line.strip_prefix(b"data: ")?);
    match tokens(answer).or_else(|| answer.split(|&byte| byte == b'\n').rev().find_map(in_event)) {
        Some(tokens) => Settlement::Exact(usage! { tokens: tokens }),
        None => Settlement::Keep,
    }
}

/// The limiter, with its state in this process or on Redis.
pub(crate) async fn limiter(shared: Option<&Shared>, meter: &Meter) -> Result<Limiter, BoxError> {
    let mut builder = Limiter::builder(limits()).observer(meter.observer());
    if let Some(Shared { url, prefix }) = shared {
        builder = builder.store(RedisStore::connect(url).await?.prefix(prefix));
    }
    Ok(builder.build()?)
}

/// Where the limits are shared: all who use the same server and prefix share them.
#[derive(Clone, Debug)]
pub struct Shared {
    /// The Redis server.
    pub url: String,
    /// What its keys begin with.
    pub prefix: String,
}

impl Shared {
    /// For one run. Each has a provider of its own, which knows nothing of the runs before it.
    #[must_use]
    pub fn for_one_run(url: &str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let prefix = format!("quickstart-{}-{}", std::process::id(), now.as_micros());
        Self { url: url.into(), prefix }
    }
}

/// A client all of whose calls keep within the limits.
pub(crate) fn client(
    limiter: Limiter,
) -> impl Service<Request, Response = Response, Error = BoxError, Future: Send>
+ Clone
+ Send
+ Sync
+ 'static {
    let layer = ThrottleLayer::new(limiter, demand);
    let layer = layer.inspector(by_status(inspect::bytes(MAX_ANSWER, used)));
    ServiceBuilder::new().layer(layer).service(reqwest::Client::new())
}

/// Adds up what is reserved, and what of it is used in the end.
#[derive(Debug, Default)]
pub(crate) struct Meter {
    sums: Arc<Sums>,
}

#[derive(Debug, Default)]
struct Sums {
    reserved: AtomicU64,
    settled: AtomicU64,
}

impl Meter {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let sums = Arc::clone(&self.sums);
        move |event: &Event<'_>| {
            let (sum, usage) = match event {
                Event::Granted { reserved, .. } => (&sums.reserved, reserved),
                Event::Settled { actual, .. } => (&sums.settled, actual),
                _ => return,
            };
            sum.fetch_add(usage.get("tokens").unwrap_or(0), Ordering::Relaxed);
        }
    }

    /// The sums so far.
    pub(crate) fn read(&self) -> Metered {
        let reserved = self.sums.reserved.load(Ordering::Relaxed);
        let settled = self.sums.settled.load(Ordering::Relaxed);
        Metered { reserved, refunded: reserved.saturating_sub(settled) }
    }
}

#[cfg(test)]
mod tests {
    use reqwest::Method;
    use serde_json::json;

    use super::*;

    fn request(body: Option<&Value>) -> Request {
        let mut request = Request::new(Method::POST, "http://localhost/".parse().expect("a URL"));
        *request.body_mut() = body.map(|body| body.to_string().into());
        request
    }

    #[test]
    fn a_request_may_use_its_prompt_and_its_max_tokens() {
        let messages = json!([{ "content": "12345678" }, { "content": "9" }]);
        let body = json!({ "model": "m", "max_tokens": 100, "messages": messages });
        let demand = demand(&mut request(Some(&body))).expect("a demand");
        assert_eq!(demand.buckets().collect::<Vec<_>>(), ["m"]);
        assert_eq!(demand.usage(), &usage! { requests: 1, tokens: 103 });
    }

    #[test]
    fn a_request_that_does_not_tell_is_an_error() {
        assert!(demand(&mut request(None)).is_err());
        for body in [json!([]), json!({ "model": "m" }), json!({ "model": "m", "max_tokens": 1 })] {
            assert!(demand(&mut request(Some(&body))).is_err(), "{body}");
        }
    }

    #[test]
    fn usage_is_read_from_answers_and_streams() {
        let exact = Settlement::Exact(usage! { tokens: 7 });
        assert_eq!(used(br#"{"choices": [], "usage": {"total_tokens": 7}}"#), exact);
        let stream = "data: {\"usage\": null}\n\ndata: {\"usage\": {\"total_tokens\": 7}}\n\ndata: [DONE]\n\n";
        assert_eq!(used(stream.as_bytes()), exact);
        for other in ["", "oops", "{}", "data: {\"usage\": null}\n\ndata: [DONE]\n\n"] {
            assert_eq!(used(other.as_bytes()), Settlement::Keep, "{other}");
        }
    }
}
