//! A throttled gRPC channel and a server on loopback.

use std::{
    future::{pending, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use examples_common::meter::{Meter, Totals};
use http::{Request, Response};
use tonic::{Code, Status, body::Body, transport::Channel};
use tonic_examples::{
    Budget, GRPC_STATUS, Metered, TOKENS, budgeted,
    chat::Client,
    server::{Server, answered, end, failed, fed, message},
    throttled,
};
use tower::Service;
use tower_throttle::{
    BoxError, Limiter, Limits, Quota, Throttled,
    limiter::Retries,
    store::{Batch, Reply, Store, StoreError},
};

const RESERVED: u64 = 300;

fn limits() -> Limits {
    Limits::new()
        .bucket("chat", [Quota::per_minute("tokens", 1_500), Quota::per_minute("requests", 100)])
        .family("/chat.Chat/*", "chat")
}

fn limiter() -> (Limiter, Meter) {
    let meter = Meter::default();
    (Limiter::builder(limits()).observer(meter.observer()).build().unwrap(), meter)
}

struct Stand {
    server: Server,
    client: Client<Metered<Channel>>,
    limiter: Limiter,
    meter: Meter,
}

/// A client that may use 1,500 tokens a minute of a server that answers so.
fn stand(
    answer: impl Fn(Request<Body>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> Stand {
    stand_before(Server::start(move |request| ready(answer(request))).unwrap())
}

fn stand_before(server: Server) -> Stand {
    let (limiter, meter) = limiter();
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let client = Client::new(throttled(limiter.clone(), channel));
    Stand { server, client, limiter, meter }
}

/// Such a stand, of a server that answers this one call.
fn stand_of(answer: Response<Body>) -> Stand {
    let answer = Arc::new(Mutex::new(Some(answer)));
    stand(move |_| {
        answer.lock().unwrap().take().unwrap_or_else(|| failed(Status::internal("called twice")))
    })
}

impl Stand {
    /// What happened, once as many reservations are settled and nothing more can happen.
    async fn end(self, reservations: u64) -> Totals {
        let totals = self.meter.settled(reservations).await.unwrap();
        let status = self.limiter.status("chat").await.unwrap();
        assert_eq!(
            (status.quotas[0].charged as u64, status.quotas[0].in_flight),
            (totals.charged, 0)
        );
        drop((self.client, self.server));
        self.limiter.close().await;
        assert_eq!(self.meter.totals(), totals, "each once");
        assert_eq!((totals.reservations, totals.reserved), (reservations, reservations * RESERVED));
        totals
    }
}

fn question() -> tonic::Request<String> {
    budgeted("May I?", RESERVED)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_example_comes_out_as_it_says() {
    tonic_examples::demo().await.expect("it does");
}

#[tokio::test]
async fn a_call_is_settled_on_its_trailers() {
    let mut stand = stand_of(answered(&["It depends."], 60));
    let answer = stand.client.answer(question()).await.unwrap();
    assert_eq!(answer.metadata().get("x-tokens").unwrap(), "60", "they are passed on");
    assert_eq!(answer.into_inner(), "It depends.");
    assert_eq!(stand.end(1).await.charged, 60);
}

#[tokio::test]
async fn a_stream_is_settled_on_its_trailers_and_not_before() {
    let (feed, answer) = fed();
    let mut stand = stand_of(answer);
    feed.send(Ok(message("It "))).unwrap();
    let mut pieces = stand.client.stream(question()).await.unwrap().into_inner();
    assert_eq!(pieces.message().await.unwrap().as_deref(), Some("It "));
    assert_eq!(stand.limiter.status("chat").await.unwrap().quotas[0].in_flight, RESERVED);

    feed.send(Ok(end(Code::Ok, Some(40)))).unwrap();
    assert_eq!(pieces.message().await.unwrap(), None);
    assert_eq!(stand.end(1).await.charged, 40);
}

#[tokio::test]
async fn ten_megabytes_in_pieces_are_settled_on_their_trailers() {
    let megabyte = "x".repeat(1 << 20);
    let mut stand = stand_of(answered(&[&*megabyte; 10], 40));
    let mut pieces = stand.client.stream(question()).await.unwrap().into_inner();
    let mut length = 0;
    while let Some(piece) = pieces.message().await.unwrap() {
        length += piece.len();
    }
    assert_eq!(length, 10 << 20);
    assert_eq!(stand.end(1).await.charged, 40);
}

#[derive(Clone, Copy, Debug)]
struct NeverReady;

impl Service<Request<Body>> for NeverReady {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = std::future::Ready<Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Err("not ready, never".into()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        panic!("it was not ready")
    }
}

#[tokio::test]
async fn s27_a_channel_that_fails_before_dispatch_costs_nothing() {
    let (limiter, meter) = limiter();
    let status = Client::new(throttled(limiter, NeverReady)).answer(question()).await.unwrap_err();
    assert_eq!(status.message(), "not ready, never");
    let totals = meter.settled(1).await.unwrap();
    assert_eq!((totals.reserved, totals.charged), (RESERVED, 0));
}

#[tokio::test]
async fn s27_a_server_that_cannot_be_reached_costs_nothing() {
    let (limiter, meter) = limiter();
    let gone = examples_common::provider::gone().await.unwrap();
    let channel = Channel::from_shared(gone).unwrap().connect_lazy();
    Client::new(throttled(limiter, channel)).answer(question()).await.unwrap_err();
    let totals = meter.settled(1).await.unwrap();
    assert_eq!((totals.reserved, totals.charged), (RESERVED, 0));
}

#[tokio::test]
async fn s27_a_call_that_fails_is_kept_and_one_that_is_refused_is_not() {
    for (code, expected) in [
        (Code::Internal, RESERVED),
        (Code::Unavailable, RESERVED),
        (Code::DeadlineExceeded, RESERVED),
        (Code::ResourceExhausted, 0),
    ] {
        let mut stand = stand_of(failed(Status::new(code, "no")));
        assert_eq!(stand.client.answer(question()).await.unwrap_err().code(), code);
        assert_eq!(stand.end(1).await.charged, expected, "{code:?}");

        // Now in trailers, after a message.
        let (feed, answer) = fed();
        feed.send(Ok(message("It "))).unwrap();
        feed.send(Ok(end(code, None))).unwrap();
        let mut stand = stand_of(answer);
        assert_eq!(stand.client.answer(question()).await.unwrap_err().code(), code);
        assert_eq!(stand.end(1).await.charged, expected, "{code:?}");
    }
}

#[tokio::test]
async fn s28_a_stream_that_its_reader_drops_keeps_its_charge() {
    let (feed, answer) = fed();
    let mut stand = stand_of(answer);
    feed.send(Ok(message("It "))).unwrap();
    let mut pieces = stand.client.stream(question()).await.unwrap().into_inner();
    pieces.message().await.unwrap();
    assert_eq!(stand.meter.totals().settled, 0);
    drop(pieces);
    assert_eq!(stand.end(1).await.charged, RESERVED);
    feed.closed().await;
}

#[tokio::test]
async fn s28_a_stream_that_does_not_tell_keeps_its_charge() {
    let (feed, answer) = fed();
    feed.send(Ok(message("It "))).unwrap();
    feed.send(Ok(end(Code::Ok, None))).unwrap();
    let mut stand = stand_of(answer);
    let mut pieces = stand.client.stream(question()).await.unwrap().into_inner();
    while pieces.message().await.unwrap().is_some() {}
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_stream_that_is_reset_keeps_its_charge() {
    let (feed, answer) = fed();
    feed.send(Ok(message("It "))).unwrap();
    let mut stand = stand_of(answer);
    let mut pieces = stand.client.stream(question()).await.unwrap().into_inner();
    pieces.message().await.unwrap();
    feed.send(Err("reset".into())).unwrap();
    pieces.message().await.unwrap_err();
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s28_a_call_past_its_deadline_keeps_its_charge() {
    let mut stand = stand_before(Server::start(|_| pending()).unwrap());
    let mut late = question();
    late.set_timeout(Duration::from_millis(50));
    let status = stand.client.answer(late).await.unwrap_err();
    assert_eq!((status.code(), stand.server.calls()), (Code::Cancelled, 1));
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

/// A deadline is the attempt's: while a call waits for quota it does not run.
#[tokio::test]
async fn a_deadline_begins_when_the_call_is_made() {
    let (feed, answer) = fed();
    let answers = Arc::new(Mutex::new(vec![answered(&["It depends."], 60), answer]));
    let mut stand = stand(move |_| answers.lock().unwrap().pop().unwrap());
    let mut large = question();
    large.extensions_mut().insert(Budget { tokens: 1_400, max_wait: Duration::ZERO });
    let first = stand.client.stream(large).await.unwrap();

    let mut waits = question();
    waits.set_timeout(Duration::from_millis(500));
    let patience = async {
        tokio::time::sleep(Duration::from_millis(600)).await;
        feed.send(Ok(end(Code::Ok, Some(60)))).unwrap();
        let mut pieces = first.into_inner();
        while pieces.message().await.unwrap().is_some() {}
    };
    let (answer, ()) = tokio::join!(stand.client.answer(waits), patience);
    assert_eq!(answer.unwrap().into_inner(), "It depends.");
    assert!(stand.meter.totals().waited > Duration::from_millis(500));
}

#[tokio::test]
async fn s28_a_call_that_is_given_up_keeps_its_charge() {
    let mut stand = stand_before(Server::start(|_| pending()).unwrap());
    tokio::select! {
        answer = stand.client.answer(question()) => panic!("{answer:?}"),
        () = async {
            while stand.server.calls() == 0 {
                tokio::task::yield_now().await;
            }
        } => {}
    }
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

#[tokio::test]
async fn s29_an_answer_without_a_body_is_settled_at_once() {
    let mut refused = failed(Status::new(Code::Aborted, "no"));
    refused.headers_mut().insert(TOKENS, 7_u64.into());
    let mut stand = stand_of(refused);
    let status = stand.client.stream(question()).await.unwrap_err();
    assert_eq!((status.code(), stand.meter.totals().settled), (Code::Aborted, 1));
    assert_eq!(stand.end(1).await.charged, 7);

    let mut nothing = Response::new(Body::empty());
    nothing.headers_mut().insert(GRPC_STATUS, 0.into());
    let mut stand = stand_of(nothing);
    drop(stand.client.stream(question()).await);
    assert_eq!(stand.end(1).await.charged, RESERVED);
}

/// A call's body is a stream, which no retry layer can send twice: to try again is to call again.
#[tokio::test]
async fn s30_each_attempt_reserves_and_is_settled_by_what_became_of_it() {
    let codes = Arc::new(Mutex::new([Code::Unavailable, Code::ResourceExhausted].into_iter()));
    let mut stand = stand(move |_| match codes.lock().unwrap().next() {
        Some(code) => failed(Status::new(code, "later")),
        None => answered(&["It depends."], 60),
    });
    let mut attempts = 0;
    let answer = loop {
        attempts += 1;
        match stand.client.answer(question()).await {
            Ok(answer) => break answer,
            Err(status) => assert!(Throttled::find(&status).is_none() && attempts < 3, "{status}"),
        }
    };
    assert_eq!((answer.into_inner().as_str(), stand.server.calls()), ("It depends.", 3));
    let status = stand.limiter.status("chat").await.unwrap();
    assert_eq!(status.quotas[1].charged, 2.0, "requests, without the one that was refused");
    assert_eq!(stand.end(3).await.charged, RESERVED + 60);
}

#[tokio::test]
async fn a_refusal_is_a_status_with_the_time_to_come_again() {
    let mut stand = stand(|_| answered(&["It depends."], 1_400));
    let mut hasty = question();
    hasty.extensions_mut().insert(Budget { tokens: RESERVED, max_wait: Duration::from_millis(10) });
    stand.client.answer(question()).await.unwrap();
    stand.meter.settled(1).await.unwrap();

    let status = stand.client.answer(hasty).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let retry_after = Throttled::find(&status).and_then(Throttled::retry_after).unwrap();
    assert!(
        (Duration::from_secs(30)..Duration::from_secs(62)).contains(&retry_after),
        "{retry_after:?}"
    );
    assert_eq!(stand.end(1).await.refused, 1);
}

#[derive(Debug)]
struct Gone;

impl Store for Gone {
    fn apply(&self, _: &Batch<'_>) -> Reply {
        Reply::Later(Box::pin(async { Err(StoreError::Unavailable("gone".into())) }))
    }
}

#[tokio::test]
async fn a_store_that_fails_is_unavailable_and_no_call() {
    let server = Server::start(|_| ready(answered(&["It depends."], 60))).unwrap();
    let limiter = Limiter::builder(limits()).store(Gone).retries(Retries::none()).build().unwrap();
    let channel = Channel::from_shared(server.url()).unwrap().connect_lazy();
    let status = Client::new(throttled(limiter, channel)).answer(question()).await.unwrap_err();
    assert_eq!((status.code(), server.calls()), (Code::Unavailable, 0));
}

#[tokio::test]
async fn a_method_nobody_limits_and_a_call_without_a_budget_are_errors() {
    let (limiter, meter) = limiter();
    let mut metered = throttled(limiter, NeverReady);
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/other.Service/Method".parse().unwrap();
    request.extensions_mut().insert(Budget { tokens: 1, max_wait: Duration::ZERO });
    assert_eq!(metered.call(request).await.unwrap_err().code(), Code::InvalidArgument);

    let status = metered.call(Request::new(Body::empty())).await.unwrap_err();
    assert_eq!(status.message(), "the request has no budget");
    assert_eq!(meter.totals().reservations, 0);
}
