//! A provider on loopback that answers whatever it is told to.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::TcpListener, sync::mpsc, task::JoinSet};
use tower_throttle::BoxError;

/// What a provider answers with.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A provider, until it is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl Provider {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When the system grants no port.
    pub async fn start<F>(answer: F) -> io::Result<Self>
    where
        F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
    {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let calls = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(accept(listener, calls.clone(), Arc::new(answer)));
        Ok(Self { address, calls, _tasks: tasks })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Requests that have arrived.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

/// The URL of a provider that is not there.
///
/// # Errors
/// When the system grants no port.
pub async fn gone() -> io::Result<String> {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    Ok(format!("http://{}", listener.local_addr()?))
}

async fn accept<F>(listener: TcpListener, calls: Arc<AtomicUsize>, answer: Arc<F>)
where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let mut connections = JoinSet::new();
    while let Ok((connection, _)) = listener.accept().await {
        let (calls, answer) = (calls.clone(), answer.clone());
        connections.spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (calls, answer) = (calls.clone(), answer.clone());
                async move {
                    calls.fetch_add(1, Ordering::Relaxed);
                    let (head, body) = request.into_parts();
                    let Ok(body) = body.collect().await else {
                        return Ok::<_, Infallible>(status(StatusCode::BAD_REQUEST));
                    };
                    Ok(answer(Request::from_parts(head, body.to_bytes())))
                }
            });
            // Fails for a caller that has gone, and for a body that is to break off.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
        });
        while connections.try_join_next().is_some() {}
    }
}

/// An answer without a body.
pub fn status(status: StatusCode) -> Response<Body> {
    let mut response = whole("");
    *response.status_mut() = status;
    response
}

/// An answer in one piece, its length announced.
pub fn whole(body: impl Into<Bytes>) -> Response<Body> {
    Response::new(Full::new(body.into()).map_err(|never| match never {}).boxed_unsync())
}

/// An answer of JSON.
pub fn json(body: &Value) -> Response<Body> {
    typed("application/json", whole(body.to_string()))
}

/// An answer of one event for each of these, its length not announced.
pub fn events(events: &[Value]) -> Response<Body> {
    let frames: Vec<_> = events.iter().map(event).map(Ok).collect();
    typed("text/event-stream", Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync()))
}

/// An event of a stream.
pub fn event(event: &Value) -> Frame<Bytes> {
    let text = event.as_str().map_or_else(|| event.to_string(), str::to_owned);
    Frame::data(Bytes::from(format!("data: {text}\n\n")))
}

/// What feeds an answer frame by frame. Dropped, it ends the answer; an error breaks it off.
pub type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// An answer that is still being made up.
pub fn fed() -> (Feed, Response<Body>) {
    let (feed, frames) = mpsc::unbounded_channel();
    let frames = stream::unfold(frames, async |mut frames: mpsc::UnboundedReceiver<_>| {
        Some((frames.recv().await?, frames))
    });
    (feed, typed("text/event-stream", Response::new(StreamBody::new(frames).boxed_unsync())))
}

/// Gives an answer another type.
pub fn typed(content_type: &'static str, mut response: Response<Body>) -> Response<Body> {
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}
