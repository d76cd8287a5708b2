//! A provider that answers at once, or with a stream that begins and stays open.

use std::{convert::Infallible, net::SocketAddr};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Request, Response,
    body::{Frame, Incoming},
    header::CONTENT_TYPE,
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, sync::watch};

type Body = UnsyncBoxBody<Bytes, Infallible>;

const ANSWER: &str = concat!(
    r#"{"id":"chatcmpl-1","object":"chat.completion","choices":[{"index":0,"message":"#,
    r#"{"role":"assistant","content":"Rayleigh scattering."},"finish_reason":"stop"}],"#,
    r#""usage":{"prompt_tokens":14,"completion_tokens":5,"total_tokens":19}}"#
);
const EVENT: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Ray\"}}]}\n\n";

pub(crate) struct Provider {
    address: SocketAddr,
    has_ended: watch::Sender<bool>,
}

impl Provider {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let has_ended = watch::Sender::new(false);
        let streams = has_ended.clone();
        tokio::spawn(async move {
            loop {
                let (connection, _) = listener.accept().await.expect("a connection");
                connection.set_nodelay(true).expect("an option");
                let streams = streams.clone();
                let service = service_fn(move |request| answer(request, streams.subscribe()));
                let http = http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(connection), service));
            }
        });
        Self { address, has_ended }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Ends all streams.
    pub(crate) fn end_streams(&self) {
        self.has_ended.send_replace(true);
    }
}

async fn answer(
    request: Request<Incoming>,
    has_ended: watch::Receiver<bool>,
) -> Result<Response<Body>, hyper::Error> {
    let asked = request.into_body().collect().await?.to_bytes();
    let streams = asked.windows(8).any(|piece| piece == b"\"stream\"");
    let (kind, body) = match streams {
        true => ("text/event-stream", open_stream(has_ended)),
        false => ("application/json", Full::from(ANSWER).boxed_unsync()),
    };
    let response = Response::builder().header(CONTENT_TYPE, kind).body(body);
    Ok(response.expect("a response"))
}

/// A piece, and nothing more until streams end.
fn open_stream(has_ended: watch::Receiver<bool>) -> Body {
    let pieces = stream::unfold((true, has_ended), |(is_first, mut has_ended)| async move {
        if is_first {
            return Some((Ok(Frame::data(Bytes::from(EVENT))), (false, has_ended)));
        }
        // A provider that is gone has ended, too.
        let _ = has_ended.wait_for(|has_ended| *has_ended).await;
        None
    });
    StreamBody::new(pieces).boxed_unsync()
}
