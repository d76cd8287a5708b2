//! A provider in the test's process: it keeps what it was sent, and responds as it is told.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, mpsc::Receiver},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{
    net::TcpListener,
    sync::mpsc::{self, UnboundedSender},
};

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A request that came, with all of its body.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A provider on loopback, for as long as its runtime lives.
#[derive(Clone)]
pub(crate) struct Mock {
    address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Mock {
    /// Starts a provider, which hangs up where it has no answer.
    pub(crate) async fn start<A: Into<Option<Response<Body>>>>(
        answer: impl Fn(&Seen) -> A + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let mock = Self { address, seen: Arc::default() };
        let (kept, answer) = (mock.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                connection.set_nodelay(true).expect("an option");
                let (kept, answer) = (kept.clone(), answer.clone());
                let service = service_fn(move |request: Request<Incoming>| {
                    let (kept, answer) = (kept.clone(), answer.clone());
                    async move {
                        let Some(seen) = kept.keep(request).await else {
                            return Err("the client is gone");
                        };
                        answer(&seen).into().ok_or("the provider hangs up")
                    }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
            }
        });
        mock
    }

    /// A provider that answers every call alike.
    pub(crate) async fn answering(text: &'static str) -> Self {
        Self::start(move |_| json(200, text)).await
    }

    /// A provider that responds with streams. What feeds each of them is received.
    pub(crate) async fn streaming() -> (Receiver<UnboundedSender<Bytes>>, Self) {
        let (sender, streams) = std::sync::mpsc::channel();
        let sender = Mutex::new(sender);
        let mock = Self::start(move |_| {
            let (feed, response) = fed();
            sender.lock().expect("it is whole").send(feed).expect("the test lives");
            response
        });
        (streams, mock.await)
    }

    async fn keep(&self, request: Request<Incoming>) -> Option<Seen> {
        let (head, body) = request.into_parts();
        let body = body.collect().await.ok()?.to_bytes();
        let path = head.uri.to_string();
        let seen = Seen { method: head.method, path, headers: head.headers, body };
        self.seen.lock().expect("it is whole").push(seen.clone());
        Some(seen)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().expect("it is whole").clone()
    }
}

pub(crate) fn json(status: u16, text: impl Into<Bytes>) -> Response<Body> {
    Response::builder()
        .status(status)
        .header(CONTENT_TYPE, "application/json")
        .body(Full::new(text.into()).boxed_unsync())
        .expect("a response")
}

/// A stream of events that comes in the pieces that are sent into it, until the sender is dropped.
pub(crate) fn fed() -> (UnboundedSender<Bytes>, Response<Body>) {
    let (feed, pieces) = mpsc::unbounded_channel::<Bytes>();
    let frames = stream::unfold(pieces, |mut pieces| async {
        let piece = pieces.recv().await?;
        Some((Ok(Frame::data(piece)), pieces))
    });
    let response = Response::builder()
        .header(CONTENT_TYPE, "text/event-stream")
        .body(StreamBody::new(frames).boxed_unsync())
        .expect("a response");
    (feed, response)
}

/// A stream that is at hand as a whole.
pub(crate) fn events(text: impl Into<Bytes>) -> Response<Body> {
    let (feed, response) = fed();
    feed.send(text.into()).expect("its stream lives");
    response
}
