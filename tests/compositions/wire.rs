//! What may come over the wire, for every client: settled once, and the capacity right.

use bytes::Bytes;
use http::{Method, Response, StatusCode, response::Parts};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower_throttle::{
    BoxError, Limiter, Settlement,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver, ByStatus},
    usage,
};

use crate::{
    ledger::{Ledger, settled},
    probe::charged,
    provider::{BIG, Provider, TEXT},
    stacks::Told,
};

/// Reads the usage from a body's text or, failing that, from its trailers.
#[derive(Debug, Default)]
pub(crate) struct Observer {
    told: Told,
    trailer: Option<u64>,
}

impl BodyObserver for Observer {
    fn data(&mut self, piece: &[u8]) {
        self.told.data(piece);
    }

    fn trailers(&mut self, trailers: &http::HeaderMap) {
        self.trailer = trailers.get("x-used").and_then(|value| value.to_str().ok()?.parse().ok());
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        match (self.told.end(end), self.trailer) {
            (Settlement::Keep, Some(tokens)) => Settlement::Exact(usage! { tokens: tokens }),
            (settlement, _) => settlement,
        }
    }
}

pub(crate) type Inspector = ByStatus<BodyInspector<fn(&Parts) -> Observer>>;

pub(crate) fn inspector() -> Inspector {
    let observer: fn(&Parts) -> Observer = |_| Observer::default();
    inspect::by_status(inspect::body(observer))
}

/// What every request reserves.
pub(crate) const RESERVED: u64 = 30;

pub(crate) type Answer = Response<UnsyncBoxBody<Bytes, BoxError>>;

pub(crate) fn erased<B>(response: Response<B>) -> Answer
where
    B: Body<Data = Bytes, Error: Into<BoxError>> + Send + 'static,
{
    response.map(|body| body.map_err(Into::into).boxed_unsync())
}

/// One thing that a provider may answer.
struct Case {
    path: &'static str,
    method: Method,
    request: &'static str,
    status: u16,
    length: usize,
    charged: (u64, u64),
}

fn cases(unzips: bool, trailers: bool) -> Vec<Case> {
    let kept = (RESERVED, 1);
    let case = |path, status, length, charged| Case {
        path,
        method: Method::GET,
        request: "",
        status,
        length,
        charged,
    };
    vec![
        case("/answer", 200, TEXT.len(), (8, 1)),
        Case {
            method: Method::POST,
            request: "{\"model\":\"x\"}",
            ..case("/answer", 200, TEXT.len(), (8, 1))
        },
        Case { method: Method::POST, ..case("/answer", 200, TEXT.len(), (8, 1)) },
        Case { method: Method::HEAD, ..case("/answer", 200, 0, kept) },
        Case { method: Method::HEAD, ..case("/chunked", 200, 0, kept) },
        case("/empty", 204, 0, kept),
        case("/not-modified", 304, 0, kept),
        case("/chunked", 200, TEXT.len(), (8, 1)),
        case("/until-the-end", 200, TEXT.len(), (8, 1)),
        case("/trailers", 200, 9, if trailers { (8, 1) } else { kept }),
        case("/big", 200, BIG, (8, 1)),
        case("/gzip", 200, if unzips { TEXT.len() } else { 38 }, if unzips { (8, 1) } else { kept }),
        case("/429", 429, 9, (0, 0)),
        case("/500", 500, 4, kept),
    ]
}

/// How a client sends a request through the throttle.
pub(crate) trait Sender:
    AsyncFn(&Limiter, Method, String, &'static str) -> Result<Answer, BoxError>
{
}

impl<F> Sender for F where F: AsyncFn(&Limiter, Method, String, &'static str) -> Result<Answer, BoxError> {}

/// All of them; `unzips` if the client does, `trailers` if it passes trailers on.
pub(crate) async fn whatever_is_answered(send: impl Sender, unzips: bool, trailers: bool) {
    let provider = Provider::start().await;
    for Case { path, method, request, status, length, charged } in cases(unzips, trailers) {
        let name = format!("{method} {path}");
        let (limiter, ledger) = Ledger::limiter();
        let response = send(&limiter, method, provider.url(path), request).await.expect(&name);
        assert_eq!(response.status().as_u16(), status, "{name}");
        let body = response.into_body().collect().await.expect(&name).to_bytes();
        assert_eq!(body.len(), length, "{name}");
        settled(&limiter, &ledger, charged, &name).await;
    }
}

pub(crate) async fn a_connection_that_is_refused(send: impl Sender) {
    let (limiter, ledger) = Ledger::limiter();
    send(&limiter, Method::GET, Provider::nowhere().await, "").await.expect_err("nobody listens");
    settled(&limiter, &ledger, (0, 0), "it cannot have arrived").await;
}

pub(crate) async fn an_answer_that_breaks_off(send: impl Sender) {
    let provider = Provider::start().await;
    for path in ["/short", "/reset"] {
        let (limiter, ledger) = Ledger::limiter();
        let response = send(&limiter, Method::GET, provider.url(path), "").await.expect(path);
        let mut body = response.into_body();
        body.frame().await.expect(path).expect(path);
        assert_eq!(charged(&limiter).await, (RESERVED, 1, RESERVED), "{path}");
        provider.go_on();
        body.collect().await.expect_err(path);
        settled(&limiter, &ledger, (RESERVED, 1), path).await;
    }
}

pub(crate) async fn a_reader_that_hangs_up(send: impl Sender) {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let response = send(&limiter, Method::GET, provider.url("/endless"), "").await.expect("it begins");
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    body.frame().await.expect("a piece").expect("a piece");
    drop(body);
    settled(&limiter, &ledger, (RESERVED, 1), "dropped in the middle").await;
    // Nothing of the throttle keeps the connection open.
    provider.hung_up().await;
}

pub(crate) async fn a_big_body_is_not_kept(send: impl Sender) {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let response = send(&limiter, Method::GET, provider.url("/big"), "").await.expect("it begins");
    assert_eq!(response.into_body().collect().await.expect("all of it").to_bytes().len(), BIG);
    settled(&limiter, &ledger, (RESERVED, 1), "more than the inspector wants to see").await;
}
