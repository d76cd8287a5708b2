//! `reqwest::Client` as the inner service, over real connections.

use http::Method;
use reqwest::{Client, Request, Response};
use tower::{ServiceBuilder, ServiceExt};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Settlement, ThrottleLayer, inspect, usage,
};

use crate::{
    ledger::{Ledger, settled},
    probe::charged,
    provider::Provider,
    wire::{self, Answer, RESERVED, UntilServed, erased, inspector},
};

fn demand(_: &mut Request) -> Result<Demand, ExtractError> {
    Ok(Demand::new("api", usage! { tokens: RESERVED }))
}

fn request(method: Method, url: &str, body: &'static str) -> Request {
    let mut request = Request::new(method, url.parse().expect("a URL"));
    *request.body_mut() = (!body.is_empty()).then(|| body.into());
    request
}

async fn execute(limiter: &Limiter, request: Request) -> Result<Response, BoxError> {
    let layer = ThrottleLayer::new(limiter.clone(), demand).inspector(inspector());
    ServiceBuilder::new().layer(layer).service(Client::new()).oneshot(request).await
}

async fn send(
    limiter: &Limiter,
    method: Method,
    url: String,
    body: &'static str,
) -> Result<Answer, BoxError> {
    let response = execute(limiter, request(method, &url, body)).await?;
    Ok(erased(http::Response::<reqwest::Body>::from(response)))
}

wire::on_the_wire!(send, unzips: true);

#[tokio::test]
async fn ten_megabytes_pass_an_inspector_that_wants_one() {
    let send = async |limiter: &Limiter, method: Method, url: String, body: &'static str| {
        let layer = ThrottleLayer::new(limiter.clone(), demand)
            .inspector(inspect::bytes(1 << 20, |_| Settlement::Release));
        let service = ServiceBuilder::new().layer(layer).service(Client::new());
        let response = service.oneshot(request(method, &url, body)).await?;
        Ok(erased(http::Response::<reqwest::Body>::from(response)))
    };
    wire::a_big_body_is_not_kept(send).await;
}

#[tokio::test]
async fn s30_each_attempt_of_a_retry_outside_reserves_and_settles() {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let layer = ThrottleLayer::new(limiter.clone(), demand).inspector(inspector());
    let policy = UntilServed { tries: 2, copy: Request::try_clone, status: Response::status };
    let service = ServiceBuilder::new().retry(policy).layer(layer).service(Client::new());
    let request = request(Method::POST, &provider.url("/third-time"), "{}");
    let response = service.oneshot(request).await.expect("an answer");
    assert_eq!(provider.hits(), 3);
    response.text().await.expect("text");
    settled(&limiter, &ledger, (2 * RESERVED + 8, 3), "two that failed are kept").await;
}

/// All that a response tells about itself.
async fn told(response: Response) -> String {
    let head = format!(
        "{} {:?} {} {:?} {:?} {:?}",
        response.url(),
        response.version(),
        response.status(),
        response.content_length(),
        response.headers(),
        response.remote_addr(),
    );
    let body = match response.bytes().await {
        Ok(body) => format!("{} bytes", body.len()),
        Err(error) => format!("{} {} {}", error.is_body(), error.is_decode(), error.is_timeout()),
    };
    format!("{head}\n{body}")
}

#[tokio::test]
async fn a_response_stays_what_it_is() {
    let provider = Provider::start().await;
    for path in [
        "/answer?q=1",
        "/redirect",
        "/empty",
        "/not-modified",
        "/chunked",
        "/until-the-end",
        "/trailers",
        "/big",
        "/gzip",
        "/500",
        "/short",
    ] {
        for method in [Method::GET, Method::HEAD, Method::POST] {
            let (limiter, ledger) = Ledger::limiter();
            let bare = Client::new()
                .execute(request(method.clone(), &provider.url(path), ""))
                .await
                .expect(path);
            let throttled = execute(&limiter, request(method.clone(), &provider.url(path), ""))
                .await
                .expect(path);
            assert_eq!(told(throttled).await, told(bare).await, "{method} {path}");
            assert_eq!(charged(&limiter).await.2, 0, "{method} {path}");
            assert_eq!(ledger.counts(), (1, 1), "{method} {path}");
        }
    }
}

#[tokio::test]
async fn a_stream_of_bytes_is_settled_at_its_end() {
    use futures_util::StreamExt;

    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let response = execute(&limiter, request(Method::GET, &provider.url("/chunked"), ""))
        .await
        .expect("it begins");
    let pieces: Vec<_> = response.bytes_stream().collect().await;
    assert!(pieces.iter().all(Result::is_ok));
    settled(&limiter, &ledger, (8, 1), "a stream").await;

    let response = execute(&limiter, request(Method::GET, &provider.url("/chunked"), ""))
        .await
        .expect("it begins");
    response.error_for_status().expect("200").text().await.expect("text");
    settled(&limiter, &ledger, (16, 2), "a text").await;
}
