//! A gRPC client within limits. The layer is around the channel; calls are settled on what the
//! trailers tell.

pub mod chat;
pub mod server;

use std::{sync::Arc, time::Duration};

use examples_common::meter::Meter;
use http::{HeaderMap, HeaderName, Request, response::Parts};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, util::MapErr};
use tower_throttle::{
    BoxError, Demand, ExtractError, Limiter, Limits, Quota, Settlement, ThrottleLayer, Throttled,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver, ByStatus},
    layer::Throttle,
    usage,
};

use crate::{chat::Client, server::Server};

/// How a call went: in the trailers, or in the headers of an answer without a body.
pub const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
/// What a call took: this service tells it in the trailers.
pub const TOKENS: HeaderName = HeaderName::from_static("x-tokens");

/// What a call may cost at most: an extension of its request, since the layer sees its message only
/// as a stream.
#[derive(Clone, Copy, Debug)]
pub struct Budget {
    /// The most tokens that it may use.
    pub tokens: u64,
    /// The longest that it may wait for them. A deadline of `grpc-timeout` begins only when the
    /// call is made.
    pub max_wait: Duration,
}

/// A request with a budget.
pub fn budgeted(question: &str, tokens: u64) -> tonic::Request<String> {
    let mut request = tonic::Request::new(question.to_owned());
    request.extensions_mut().insert(Budget { tokens, max_wait: Duration::from_secs(5) });
    request
}

fn demand(request: &mut Request<Body>) -> Result<Demand, ExtractError> {
    let Budget { tokens, max_wait } =
        *request.extensions().get().ok_or("the request has no budget")?;
    // The method is the bucket, or of a family that is.
    let method = request.uri().path().to_owned();
    Ok(Demand::new(method, usage! { requests: 1, tokens: tokens }).max_wait(max_wait))
}

/// A throttled channel, or whatever sends gRPC requests.
pub type Metered<S> = MapErr<
    Throttle<
        S,
        fn(&mut Request<Body>) -> Result<Demand, ExtractError>,
        ByStatus<BodyInspector<fn(&Parts) -> Follow>>,
    >,
    fn(BoxError) -> Status,
>;

/// Throttles a channel.
pub fn throttled<S>(limiter: Limiter, channel: S) -> Metered<S>
where
    S: Service<Request<Body>>,
{
    let layer = ThrottleLayer::new(limiter, demand as fn(&mut Request<Body>) -> _)
        .inspector(inspect::by_status(inspect::body(Follow::new as fn(&Parts) -> Follow)));
    MapErr::new(layer.layer(channel), status as fn(BoxError) -> Status)
}

/// The status of a call that was refused. Without it that would be `Unknown`.
fn status(error: BoxError) -> Status {
    let code = match Throttled::find(error.as_ref()) {
        Some(Throttled::Store(_) | Throttled::NoRuntime | Throttled::Closed) => Code::Unavailable,
        Some(Throttled::BadDemand(_)) => Code::InvalidArgument,
        Some(_) => Code::ResourceExhausted,
        None => return Status::from_error(error),
    };
    let mut status = Status::new(code, error.to_string());
    // There the refusal is found, with the time to come again.
    status.set_source(Arc::from(error));
    status
}

/// Follows an answer to its trailers.
#[derive(Debug, Default)]
pub struct Follow {
    code: Option<Code>,
    tokens: Option<u64>,
}

impl Follow {
    /// Follows the answer with this head.
    pub fn new(head: &Parts) -> Self {
        let mut follow = Self::default();
        follow.look_into(&head.headers);
        follow
    }

    fn look_into(&mut self, headers: &HeaderMap) {
        let number = |name| headers.get(name)?.to_str().ok()?.parse::<u64>().ok();
        self.code =
            headers.get(GRPC_STATUS).map(|code| Code::from_bytes(code.as_bytes())).or(self.code);
        self.tokens = number(TOKENS).or(self.tokens);
    }
}

impl BodyObserver for Follow {
    fn data(&mut self, _: &[u8]) {}

    fn trailers(&mut self, trailers: &HeaderMap) {
        self.look_into(trailers);
    }

    fn end(&mut self, _: BodyEnd) -> Settlement {
        match (self.code, self.tokens) {
            // With a status it has ended, whatever the body says.
            (Some(_), Some(tokens)) => Settlement::Exact(usage! { tokens: tokens }),
            (Some(Code::ResourceExhausted), None) => Settlement::Release,
            (None, Some(tokens)) => Settlement::AtLeast(usage! { tokens: tokens }),
            _ => Settlement::Keep,
        }
    }
}

/// Three calls of 300 tokens where there are 700, the last of which waits for what the first did
/// not use.
///
/// # Errors
/// When something does not come out as it should.
pub async fn demo() -> Result<(), BoxError> {
    let server = Server::start(|request| {
        let (feed, answer) = server::fed();
        let tokens = if request.uri().path() == chat::STREAM { 40 } else { 60 };
        tokio::spawn(async move {
            for frame in [server::message("It depends."), server::end(Code::Ok, Some(tokens))] {
                tokio::time::sleep(Duration::from_millis(50)).await;
                // The client may have hung up.
                let _ = feed.send(Ok(frame));
            }
        });
        std::future::ready(answer)
    })?;
    let meter = Meter::default();
    let limits = Limits::new()
        .bucket("chat", [Quota::per_minute("requests", 100), Quota::per_minute("tokens", 700)])
        .family("/chat.Chat/*", "chat");
    let limiter = Limiter::builder(limits).observer(meter.observer()).build()?;
    let channel = tonic::transport::Endpoint::new(server.url())?.connect_lazy();
    let throttled = throttled(limiter.clone(), channel);

    let answer = async || Client::new(throttled.clone()).answer(budgeted("May I?", 300)).await;
    let stream = async || -> Result<usize, Status> {
        let answer = Client::new(throttled.clone()).stream(budgeted("May I?", 300)).await?;
        let (mut pieces, mut count) = (answer.into_inner(), 0);
        while pieces.message().await?.is_some() {
            count += 1;
        }
        Ok(count)
    };
    let (one, pieces, other) = tokio::try_join!(answer(), stream(), answer())?;
    let refused = Client::new(throttled.clone()).answer(budgeted("A novel, please", 1_000)).await;
    limiter.close().await;

    let totals = meter.totals();
    println!("`{}`, `{}` and a stream of {pieces}", one.into_inner(), other.into_inner());
    println!("{totals}");
    let Err(refused) = refused else {
        return Err("a thousand tokens passed where there are 700".into());
    };
    println!("refused: {refused}");
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(Throttled::find(&refused).is_some_and(Throttled::is_permanent));
    assert_eq!((totals.reservations, totals.reserved), (3, 900));
    assert_eq!((totals.charged, totals.refunded()), (60 + 40 + 60, 240 + 260 + 240));
    assert!(!totals.waited.is_zero(), "the third waited for a refund");
    Ok(())
}
