//! What may come over the wire, for every client: settled once, and the capacity right.

use bytes::Bytes;
use futures_util::future::Ready;
use http::{Method, Response, StatusCode, response::Parts};
use http_body::Body;
use http_body_util::{BodyExt, combinators::UnsyncBoxBody};
use tower::retry::Policy;
use tower_throttle::{
    BoxError, Limiter, Settlement,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver, ByStatus},
    usage,
};

use crate::{
    ledger::{Ledger, settled},
    probe::charged,
    provider::{BIG, Nowhere, Provider, TEXT},
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

fn cases(unzips: bool) -> Vec<Case> {
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
        case("/untold", 200, 11, kept),
        case("/until-the-end", 200, TEXT.len(), (8, 1)),
        case("/trailers", 200, 9, (8, 1)),
        case("/big", 200, BIG, (8, 1)),
        case(
            "/gzip",
            200,
            if unzips { TEXT.len() } else { 38 },
            if unzips { (8, 1) } else { kept },
        ),
        case("/429", 429, 9, (0, 0)),
        case("/500", 500, 4, kept),
    ]
}

/// How a client sends a request through the throttle.
pub(crate) trait Sender:
    AsyncFn(&Limiter, Method, String, &'static str) -> Result<Answer, BoxError>
{
}

impl<F> Sender for F where
    F: AsyncFn(&Limiter, Method, String, &'static str) -> Result<Answer, BoxError>
{
}

/// The tests that every client passes: `$send` sends with it, and `$unzips` what it gets or not.
macro_rules! on_the_wire {
    ($send:ident, unzips: $unzips:literal) => {
        crate::wire::on_the_wire! {
            whatever_is_answered_is_settled_once: whatever_is_answered($send, $unzips),
            s27_a_connection_that_is_refused_costs_nothing: a_connection_that_is_refused($send),
            s27_a_call_without_an_answer_is_kept: a_call_without_an_answer($send),
            s29_a_body_whose_end_is_not_polled_is_settled_once:
                a_body_whose_end_is_not_polled($send),
            an_answer_that_breaks_off_is_kept: an_answer_that_breaks_off($send),
            s28_a_reader_that_hangs_up_in_the_middle_is_kept: a_reader_that_hangs_up($send),
        }
    };
    ($($test:ident: $run:ident($($argument:expr),*),)*) => {
        $(
            #[tokio::test]
            async fn $test() {
                crate::wire::$run($($argument),*).await;
            }
        )*
    };
}
pub(crate) use on_the_wire;

pub(crate) async fn whatever_is_answered(send: impl Sender, unzips: bool) {
    let provider = Provider::start().await;
    for Case { path, method, request, status, length, charged } in cases(unzips) {
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
    let nowhere = Nowhere::new();
    send(&limiter, Method::GET, nowhere.url(), "").await.expect_err("nothing listens");
    settled(&limiter, &ledger, (0, 0), "it cannot have arrived").await;
}

pub(crate) async fn a_call_without_an_answer(send: impl Sender) {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    send(&limiter, Method::POST, provider.url("/nothing"), "").await.expect_err("it hangs up");
    assert_eq!(provider.hits(), 1);
    settled(&limiter, &ledger, (RESERVED, 1), "it has arrived").await;
}

pub(crate) async fn a_body_whose_end_is_not_polled(send: impl Sender) {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let mut body = send(&limiter, Method::GET, provider.url("/answer"), "")
        .await
        .expect("an answer")
        .into_body();
    let mut seen = 0;
    while seen < TEXT.len() {
        let frame = body.frame().await.expect("more of it").expect("more of it");
        seen += frame.data_ref().map_or(0, Bytes::len);
    }
    settled(&limiter, &ledger, (8, 1), "as many bytes as announced").await;
    drop(body);
    settled(&limiter, &ledger, (8, 1), "once").await;

    for (method, path) in [(Method::HEAD, "/answer"), (Method::GET, "/empty")] {
        let (limiter, ledger) = Ledger::limiter();
        drop(send(&limiter, method, provider.url(path), "").await.expect(path));
        settled(&limiter, &ledger, (RESERVED, 1), path).await;
    }
}

/// Tries three times in all until the answer is no 5xx.
pub(crate) struct UntilServed<R, A> {
    pub(crate) tries: u8,
    pub(crate) copy: fn(&R) -> Option<R>,
    pub(crate) status: fn(&A) -> StatusCode,
}

impl<R, A> Clone for UntilServed<R, A> {
    fn clone(&self) -> Self {
        Self { ..*self }
    }
}

impl<R, A> Policy<R, A, BoxError> for UntilServed<R, A> {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut R, result: &mut Result<A, BoxError>) -> Option<Ready<()>> {
        let failed = result.as_ref().is_ok_and(|answer| (self.status)(answer).is_server_error());
        self.tries = self.tries.checked_sub(1).filter(|_| failed)?;
        Some(futures_util::future::ready(()))
    }

    fn clone_request(&mut self, request: &R) -> Option<R> {
        (self.copy)(request)
    }
}

pub(crate) async fn an_answer_that_breaks_off(send: impl Sender) {
    let provider = Provider::start().await;
    for path in ["/short", "/reset"] {
        let (limiter, ledger) = Ledger::limiter();
        let response = send(&limiter, Method::GET, provider.url(path), "").await.expect(path);
        let mut body = response.into_body();
        body.frame().await.expect(path).expect(path);
        assert_eq!(charged(&limiter).await, (RESERVED, 1, RESERVED), "{path}");
        if path == "/reset" {
            provider.go_on();
        }
        body.collect().await.expect_err(path);
        settled(&limiter, &ledger, (RESERVED, 1), path).await;
    }
}

pub(crate) async fn a_reader_that_hangs_up(send: impl Sender) {
    let provider = Provider::start().await;
    let (limiter, ledger) = Ledger::limiter();
    let response =
        send(&limiter, Method::GET, provider.url("/endless"), "").await.expect("it begins");
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
