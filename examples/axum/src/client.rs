//! Handlers that call a provider within its limits: they share one throttled client, which is
//! cloned per request.

use std::{sync::Arc, time::Duration};

use axum::{
    Router,
    extract::State,
    http::{StatusCode, header::RETRY_AFTER},
    response::{IntoResponse, Response},
    routing::post,
};
use examples_common::{
    meter::Meter,
    openai::{self, Inspect, completion},
    provider::{self, Provider},
};
use serde_json::{Value, json};
use tower::{Layer, Service, ServiceExt};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Limits, Quota, ThrottleLayer, Throttled,
    layer::Throttle,
};

use crate::Server;

/// A client all of whose calls keep within the limits.
pub type Client =
    Throttle<reqwest::Client, fn(&mut reqwest::Request) -> Result<Demand, ExtractError>, Inspect>;

/// A client all of whose calls keep within the limits.
pub fn client(limiter: Limiter) -> Client {
    ThrottleLayer::new(limiter, openai::demand as fn(&mut reqwest::Request) -> _)
        .inspector(openai::inspect())
        .layer(reqwest::Client::new())
}

/// What handlers share.
#[derive(Clone, Debug)]
struct App<C> {
    client: C,
    provider: Arc<str>,
}

/// Returns a router that answers questions with the help of a provider.
pub fn router<C>(client: C, provider: &str) -> Router
where
    C: Service<reqwest::Request, Response = reqwest::Response, Error = BoxError, Future: Send>,
    C: Clone + Send + Sync + 'static,
{
    let app = App { client, provider: provider.into() };
    Router::new().route("/questions", post(ask::<C>)).with_state(app)
}

async fn ask<C>(State(app): State<App<C>>, question: String) -> Result<String, Failed>
where
    C: Service<reqwest::Request, Response = reqwest::Response, Error = BoxError>,
{
    let message = json!({ "role": "user", "content": question });
    let body = json!({ "model": "gpt-4o", "max_tokens": 100, "messages": [message] });
    let mut request = reqwest::Request::new(reqwest::Method::POST, app.provider.parse()?);
    *request.body_mut() = Some(body.to_string().into());

    let answer = app.client.oneshot(request).await?.error_for_status()?.bytes().await?;
    let answer: Value = serde_json::from_slice(&answer)?;
    Ok(answer["choices"][0]["message"]["content"].as_str().unwrap_or_default().to_owned())
}

/// Why there is no answer.
#[derive(Debug)]
struct Failed(BoxError);

impl<E: Into<BoxError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Failed {
    fn into_response(self) -> Response {
        match Throttled::find(self.0.as_ref()).map(Throttled::retry_after) {
            Some(Some(wait)) => {
                let seconds = wait.as_millis().div_ceil(1_000).to_string();
                (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, seconds)]).into_response()
            }
            Some(None) => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            None => StatusCode::BAD_GATEWAY.into_response(),
        }
    }
}

/// Four questions at once, of which two fit.
///
/// # Errors
/// When something does not come out as it should.
pub async fn demo() -> Result<(), BoxError> {
    let provider = Provider::start(|_| provider::json(&completion(60))).await?;
    let meter = Meter::default();
    let quotas = [
        Quota::token_bucket("requests", 2, Duration::from_secs(1)),
        Quota::per_minute("tokens", 1_000),
    ];
    let limiter = Limiter::builder(Limits::new().bucket("gpt-4o", quotas))
        .observer(meter.observer())
        .build()?;
    let server = Server::start(router(client(limiter.clone()), &provider.url())).await?;

    let (curious, url) = (reqwest::Client::new(), server.url("/questions"));
    let ask =
        async || curious.post(&url).body("May I?").send().await?.error_for_status()?.text().await;
    let answers = tokio::try_join!(ask(), ask(), ask(), ask())?;
    server.stop().await??;
    limiter.close().await;

    let totals = meter.totals();
    println!(
        "four questions, of which two are asked at once and one each half a second: {answers:?}"
    );
    println!("{totals}");
    assert_eq!(answers.3, "It depends.");
    // Two tokens for the question, a hundred for the answer.
    assert_eq!((totals.reservations, totals.reserved), (4, 4 * 102));
    assert_eq!((totals.charged, totals.refunded()), (4 * 60, 4 * 42));
    assert!(totals.waited > Duration::from_millis(1_000), "half a second, and one: {totals}");
    Ok(())
}
