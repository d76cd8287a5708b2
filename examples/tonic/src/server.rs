//! A gRPC server on loopback that answers whatever it is told to.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request, Response, header::CONTENT_TYPE};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{
    Code, Status,
    body::Body,
    transport::server::{Server as Transport, TcpIncoming},
};
use tower_throttle::BoxError;

use crate::{GRPC_STATUS, TOKENS};

/// A server, until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    calls: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Server {
    /// Starts one on a free port.
    ///
    /// # Errors
    /// When the system grants no port.
    pub fn start<F, A>(answer: F) -> io::Result<Self>
    where
        F: Fn(Request<Body>) -> A + Clone + Send + Sync + 'static,
        A: Future<Output = Response<Body>> + Send + 'static,
    {
        let incoming = TcpIncoming::bind(([127, 0, 0, 1], 0).into())?;
        let address = incoming.local_addr()?;
        let calls = Arc::new(AtomicUsize::new(0));
        let counted = calls.clone();
        let service = tower::service_fn(move |request| {
            counted.fetch_add(1, Ordering::Relaxed);
            let answer = answer(request);
            async { Ok::<_, Infallible>(answer.await) }
        });
        let task = tokio::spawn(async move {
            if let Err(error) = Transport::builder().serve_with_incoming(service, incoming).await {
                eprintln!("server: {error}");
            }
        });
        Ok(Self { address, calls, task })
    }

    /// Where it is.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Calls that have arrived.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What feeds an answer frame by frame. Dropped, it ends the answer; an error breaks it off.
pub type Feed = mpsc::UnboundedSender<Result<Frame<Bytes>, BoxError>>;

/// An answer that is still being made up.
pub fn fed() -> (Feed, Response<Body>) {
    let (feed, frames) = mpsc::unbounded_channel();
    (feed, headed(Body::new(StreamBody::new(UnboundedReceiverStream::new(frames)))))
}

/// An answer of these messages, which took as many tokens.
pub fn answered(messages: &[&str], tokens: u64) -> Response<Body> {
    let messages = messages.iter().map(|text| message(text));
    let frames: Vec<_> =
        messages.chain([end(Code::Ok, Some(tokens))]).map(Ok::<_, BoxError>).collect();
    headed(Body::new(StreamBody::new(tokio_stream::iter(frames))))
}

/// A refusal or a failure, told without a body.
pub fn failed(status: Status) -> Response<Body> {
    status.into_http()
}

/// A message.
pub fn message(text: &str) -> Frame<Bytes> {
    let mut frame = BytesMut::new();
    // Not compressed, and how long it is.
    frame.put_u8(0);
    frame.put_u32(u32::try_from(text.len()).unwrap_or(u32::MAX));
    frame.put_slice(text.as_bytes());
    Frame::data(frame.freeze())
}

/// The end of an answer: how it went, and what it took.
pub fn end(code: Code, tokens: Option<u64>) -> Frame<Bytes> {
    let mut trailers = HeaderMap::new();
    trailers.insert(GRPC_STATUS, HeaderValue::from(code as i32));
    if let Some(tokens) = tokens {
        trailers.insert(TOKENS, HeaderValue::from(tokens));
    }
    Frame::trailers(trailers)
}

fn headed(body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}
