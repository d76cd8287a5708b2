//! A gateway in front of a provider of language models. Each tenant has a limit of its own, and all
//! of them share what the provider admits. A request is charged what its answer has really used,
//! told at the end of the stream.

use std::{collections::HashMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::{Request, State},
    http::{
        HeaderMap, HeaderName, StatusCode,
        header::{self, AUTHORIZATION},
        response::Parts,
    },
    middleware::{Next, from_fn, from_fn_with_state},
    response::{IntoResponse, Response},
    routing::any,
};
use examples_common::{
    meter::Meter,
    openai::{Asked, Follow, last_piece, piece},
    provider::{self, Provider},
};
use serde_json::json;
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Limits, Quota, Settlement, ThrottleLayer,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver},
    layer::RespondLayer,
    usage,
};

use crate::Server;

/// A request waits no longer than this for quota before it is refused.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// A larger request is refused: it is held in memory while it waits.
const MAX_BODY: usize = 16 << 20;

/// Whose request it is, as [`Keys`] told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenant(pub Arc<str>);

/// Where a proxy in front of the gateway says whose request it is, if there are no [`Keys`].
pub const TENANT: HeaderName = HeaderName::from_static("x-tenant");

/// The tenant of each API key.
pub type Keys = Arc<HashMap<String, Tenant>>;

/// Tokens a minute: for each tenant those of its plan, for all of them together `everyone`.
///
/// Nothing is ever kept of a tenant without a plan: strangers cannot make up names.
pub fn limits(plans: HashMap<String, u64>, everyone: u64) -> Limits {
    Limits::new().bucket("everyone", [Quota::per_minute("tokens", everyone)]).resolver(
        move |bucket| {
            let tokens = *plans.get(bucket.strip_prefix("tenant ")?)?;
            Some(vec![Quota::per_minute("tokens", tokens), Quota::per_minute("requests", 100)])
        },
    )
}

/// The most tokens that a request may use.
#[derive(Clone, Copy, Debug, Default)]
struct Estimate(u64);

fn demand(request: &mut Request) -> Result<Demand, ExtractError> {
    let known = request.extensions().get::<Tenant>().map(|Tenant(name)| name.as_ref());
    let told = || request.headers().get(TENANT).and_then(|value| value.to_str().ok());
    // The prefix keeps a tenant that calls itself `everyone` in its place.
    let tenant = format!("tenant {}", known.or_else(told).ok_or("whose request is this?")?);
    let Estimate(tokens) = request.extensions().get().copied().unwrap_or_default();
    Ok(Demand::new(tenant, usage! { requests: 1, tokens: tokens })
        .and("everyone")
        .max_wait(MAX_WAIT))
}

/// What the layer of this gateway is.
pub type Metering = RespondLayer<
    fn(&mut Request) -> Result<Demand, ExtractError>,
    BodyInspector<fn(&Parts) -> Answer>,
>;

/// Meters tenants, and answers by itself what does not fit.
pub fn metering(limiter: Limiter) -> Metering {
    ThrottleLayer::new(limiter, demand as fn(&mut Request) -> _)
        .inspector(inspect::body(Answer::new as fn(&Parts) -> _))
        .respond()
        .rate_limit_fields()
}

/// Where requests go.
#[derive(Clone, Debug)]
pub struct Upstream {
    client: reqwest::Client,
    url: Arc<str>,
}

impl Upstream {
    /// A provider at this URL.
    pub fn new(url: &str) -> Self {
        // What is compressed passes as it is, whatever reqwest was built to decode.
        let client = reqwest::Client::builder().no_gzip().no_brotli().no_deflate().no_zstd();
        Self { client: client.build().unwrap_or_default(), url: url.into() }
    }
}

/// The gateway, for those who know whose request it is and say so in the [`TENANT`] header.
pub fn router(limiter: Limiter, upstream: Upstream) -> Router {
    // The last layer comes first: a request is measured and then metered.
    Router::new()
        .route("/v1/{*path}", any(forward))
        .route_layer(metering(limiter))
        .route_layer(from_fn(measure))
        .with_state(upstream)
}

/// The gateway, for those who have a key.
pub fn router_with_keys(limiter: Limiter, upstream: Upstream, keys: Keys) -> Router {
    router(limiter, upstream).route_layer(from_fn_with_state(keys, authenticate))
}

async fn authenticate(State(keys): State<Keys>, mut request: Request, next: Next) -> Response {
    let key = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
    let Some(tenant) = key.and_then(|key| keys.get(key)) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    request.extensions_mut().insert(tenant.clone());
    next.run(request).await
}

/// Reads what a request asks for, which its demand is made of.
async fn measure(request: Request, next: Next) -> Response {
    let (mut head, body) = request.into_parts();
    let Ok(body) = to_bytes(body, MAX_BODY).await else {
        return StatusCode::PAYLOAD_TOO_LARGE.into_response();
    };
    // What is no chat completion counts as a request and no tokens.
    head.extensions
        .insert(Asked::read(&body).map_or(Estimate(0), |asked| Estimate(asked.tokens())));
    next.run(Request::from_parts(head, Body::from(body))).await
}

/// Marks an answer of the gateway's own to a request that its provider has never seen.
#[derive(Clone, Copy, Debug)]
struct NotSent;

async fn forward(State(upstream): State<Upstream>, request: Request) -> Response {
    match send(&upstream, request).await {
        Ok(response) => response,
        Err(error) if error.is_connect() => {
            (StatusCode::BAD_GATEWAY, axum::Extension(NotSent)).into_response()
        }
        Err(_) => StatusCode::BAD_GATEWAY.into_response(),
    }
}

async fn send(upstream: &Upstream, request: Request) -> Result<Response, reqwest::Error> {
    let (head, body) = request.into_parts();
    let url = format!("{}{}", upstream.url, head.uri);
    let mut outgoing = upstream.client.request(head.method, url).headers(end_to_end(head.headers));
    if !axum::body::HttpBody::is_end_stream(&body) {
        outgoing = outgoing.body(reqwest::Body::wrap_stream(body.into_data_stream()));
    }
    let (mut head, body) =
        axum::http::Response::<reqwest::Body>::from(outgoing.send().await?).into_parts();
    head.headers = end_to_end(head.headers);
    Ok(Response::from_parts(head, Body::new(body)))
}

/// Headers without those that concern one connection only, or the gateway. Trailers are passed on.
fn end_to_end(mut headers: HeaderMap) -> HeaderMap {
    const NOT: [HeaderName; 6] = [
        header::CONNECTION,
        header::HOST,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
        AUTHORIZATION,
        TENANT,
    ];
    NOT.iter().for_each(|name| while headers.remove(name).is_some() {});
    headers
}

/// Follows an answer to the usage it tells.
#[derive(Debug)]
pub struct Answer {
    follow: Follow,
    is_free: bool,
}

impl Answer {
    fn new(head: &Parts) -> Self {
        let refused = head.status == StatusCode::TOO_MANY_REQUESTS;
        Self {
            follow: Follow::new(head),
            is_free: refused || head.extensions.get::<NotSent>().is_some(),
        }
    }
}

impl BodyObserver for Answer {
    fn data(&mut self, piece: &[u8]) {
        self.follow.data(piece);
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        if self.is_free { Settlement::Release } else { self.follow.end(end) }
    }
}

/// A stream that takes a while, and this many tokens.
fn slowly(tokens: u64) -> axum::http::Response<provider::Body> {
    let (feed, answer) = provider::fed();
    tokio::spawn(async move {
        for event in [piece(), last_piece(tokens), json!("[DONE]")] {
            tokio::time::sleep(Duration::from_millis(50)).await;
            // The client may have hung up.
            let _ = feed.send(Ok(provider::event(&event)));
        }
    });
    answer
}

/// Two requests of one tenant at once, of which one fits until it is refunded, and one of a
/// stranger.
///
/// # Errors
/// When something does not come out as it should.
pub async fn demo() -> Result<(), BoxError> {
    let provider = Provider::start(|_| slowly(40)).await?;
    let meter = Meter::default();
    let limits = limits(HashMap::from([("acme".into(), 500)]), 10_000);
    let limiter = Limiter::builder(limits).observer(meter.observer()).build()?;
    let server = Server::start(router(limiter.clone(), Upstream::new(&provider.url()))).await?;

    let client = reqwest::Client::new();
    let url = server.url("/v1/chat/completions");
    let ask = async |tenant: &str| -> Result<_, reqwest::Error> {
        let body = json!({ "model": "gpt-4o", "max_tokens": 380, "stream": true }).to_string();
        let answer = client.post(&url).header(TENANT, tenant).body(body).send().await?;
        let status = answer.status();
        answer.bytes().await?;
        Ok(status)
    };
    let answers = tokio::try_join!(ask("acme"), ask("acme"))?;
    let stranger = ask("a stranger").await?;
    server.stop().await??;
    limiter.close().await;

    let totals = meter.totals();
    println!("two requests of one tenant, one waiting for the refund of the other: {answers:?}");
    println!("{totals}");
    println!("a stranger: {stranger}");
    assert_eq!(answers, (StatusCode::OK, StatusCode::OK));
    assert_eq!(stranger, StatusCode::BAD_REQUEST);
    assert_eq!((totals.reservations, totals.reserved), (2, 2 * 380));
    assert_eq!((totals.charged, totals.refunded()), (2 * 40, 2 * 340));
    assert!(!totals.waited.is_zero(), "one after the other");
    Ok(())
}
