//! Makes the calls of a load, each in a task of its own, through any service that takes `reqwest`
//! requests. A call that is answered with 429 is tried again the way most clients do.

use std::time::{Duration, Instant};

use reqwest::{Method, Request, Response, StatusCode, header};
use serde_json::Value;
use tokio::task::JoinSet;
use tower::{Service, ServiceExt};

use tower_throttle::BoxError;

use crate::{Call, Load};

/// After so many tries a call is given up.
const ATTEMPTS: u32 = 10;
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What the callers saw.
#[derive(Debug, Default)]
pub(crate) struct Driven {
    /// Calls made.
    pub(crate) calls: u64,
    /// Calls answered.
    pub(crate) ok: u64,
    /// Tokens used, as the answers say.
    pub(crate) used: u64,
    /// From the first call to the end of the last answer.
    pub(crate) elapsed: Duration,
    /// Why the first call that was given up was.
    pub(crate) error: Option<BoxError>,
}

/// Makes all calls and waits for all answers.
pub(crate) async fn drive<S>(service: S, url: String, load: &Load) -> Driven
where
    S: Service<Request, Response = Response> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    let start = Instant::now();
    let mut tasks = JoinSet::new();
    for &call in load.calls() {
        let (service, url) = (service.clone(), url.clone());
        tasks.spawn(async move {
            tokio::time::sleep(call.at.saturating_sub(start.elapsed())).await;
            make(service, &url, call).await
        });
    }
    let mut driven = Driven { calls: load.calls().len() as u64, ..Driven::default() };
    while let Some(made) = tasks.join_next().await {
        match made.unwrap_or_else(|panicked| Err(panicked.into())) {
            Ok(used) => {
                driven.ok += 1;
                driven.used += used;
            }
            Err(error) => {
                driven.error.get_or_insert(error);
            }
        }
    }
    driven.elapsed = start.elapsed();
    driven
}

/// Makes one call and answers the tokens it used.
async fn make<S>(service: S, url: &str, call: Call) -> Result<u64, BoxError>
where
    S: Service<Request, Response = Response> + Clone,
    S::Error: Into<BoxError>,
{
    let body = call.body();
    for attempt in 0..ATTEMPTS {
        let mut request = Request::new(Method::POST, url.parse()?);
        request
            .headers_mut()
            .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        *request.body_mut() = Some(body.clone().into());
        let response = service.clone().oneshot(request).await.map_err(Into::into)?;
        match response.status() {
            StatusCode::OK if call.stream => return read_stream(response).await,
            StatusCode::OK => {
                return used(&serde_json::from_slice(&response.bytes().await?)?)
                    .ok_or("no usage".into());
            }
            StatusCode::TOO_MANY_REQUESTS => tokio::time::sleep(pause(&response, attempt)).await,
            status => return Err(format!("answered with {status}").into()),
        }
    }
    Err(format!("answered with 429 for {ATTEMPTS} times").into())
}

/// As long as the provider says, and at least an exponential backoff with jitter: what clients do
/// by default.
fn pause(response: &Response, attempt: u32) -> Duration {
    let backoff = (FIRST_PAUSE * 2_u32.pow(attempt)).min(LONGEST_PAUSE);
    let backoff = backoff.mul_f64(0.75 + 0.25 * fastrand::f64());
    let told = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let told = told.and_then(|seconds| seconds.parse().ok());
    let told = told.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok());
    told.unwrap_or(Duration::ZERO).max(backoff)
}

/// Reads a stream to its end, for the usage that its last event tells.
async fn read_stream(mut response: Response) -> Result<u64, BoxError> {
    let mut text = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(text)?;
    let mut events = text.lines().filter_map(|line| line.strip_prefix("data: "));
    let usage = events.by_ref().find_map(|event| used(&serde_json::from_str(event).ok()?));
    if events.next() != Some("[DONE]") {
        return Err("the stream ended too early".into());
    }
    usage.ok_or("no usage".into())
}

fn used(answer: &Value) -> Option<u64> {
    answer["usage"]["total_tokens"].as_u64()
}
