//! Bodies of requests, as far as they are read here.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::{
    Method, StatusCode,
    body::{Body, Frame, Incoming, SizeHint},
    header::{CONTENT_ENCODING, CONTENT_TYPE},
    http::request::Parts,
};
use tower_throttle::llm::Peek;

use super::errors::ServeError;

/// How much of a body is read and forgotten that is refused, and for how long: most clients read a
/// response only after they have sent all of their request.
const MOST_DISCARDED: usize = 1 << 30;
const DISCARD_FOR: Duration = Duration::from_secs(30);

/// Kinds of content that no rules read.
const UNREADABLE: [&str; 5] =
    ["multipart/", "application/octet-stream", "audio/", "image/", "video/"];

/// The body of a request to an upstream: in memory where the rules read it.
#[derive(Debug)]
pub(super) enum RequestBody {
    Whole(Option<Bytes>),
    Streamed(Incoming),
}

impl RequestBody {
    /// Reads the body as far as the rules need it.
    pub(super) async fn of(
        head: &Parts,
        body: Incoming,
        longest: usize,
    ) -> Result<Self, ServeError> {
        if !is_counted(&head.method) || !is_readable(head) {
            return Ok(Self::Streamed(body));
        }
        whole(body, longest).await.map(|bytes| Self::Whole(Some(bytes)))
    }
}

/// True if a request may ask for something that rules count. All else is about what is stored.
pub(super) fn is_counted(method: &Method) -> bool {
    *method == Method::POST
}

/// True if rules may read the body.
pub(super) fn is_readable(head: &Parts) -> bool {
    let content = head.headers.get(CONTENT_TYPE).map(|content| content.as_bytes());
    let is_kind = |kind: &str| {
        let start = content.and_then(|content| content.get(..kind.len()));
        start.is_some_and(|start| start.eq_ignore_ascii_case(kind.as_bytes()))
    };
    !head.headers.contains_key(CONTENT_ENCODING) && !UNREADABLE.into_iter().any(is_kind)
}

async fn whole(mut body: Incoming, longest: usize) -> Result<Bytes, ServeError> {
    let too_long = || {
        let message = format!(
            "the body is longer than {} MiB: `serve --max-body-mib` sets how long it may be",
            longest >> 20
        );
        ServeError::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_long", message).not_again()
    };
    if body.size_hint().lower() > longest as u64 {
        discard(body).await;
        return Err(too_long());
    }
    match Limited::new(&mut body, longest).collect().await {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<LengthLimitError>() => {
            discard(body).await;
            Err(too_long())
        }
        Err(_) => {
            let message = "the body of the request broke off";
            Err(ServeError::new(StatusCode::BAD_REQUEST, "body_broke_off", message))
        }
    }
}

/// Reads the rest of a body that is refused, so that its client gets to read why.
pub(super) async fn discard(mut body: Incoming) {
    let reading = async {
        let mut left = MOST_DISCARDED;
        while let Some(Ok(frame)) = body.frame().await {
            let length = frame.data_ref().map_or(0, Bytes::len);
            left = match left.checked_sub(length) {
                Some(left) => left,
                None => return,
            };
        }
    };
    // A client that is slower is cut off.
    let _ = tokio::time::timeout(DISCARD_FOR, reading).await;
}

impl Peek for RequestBody {
    fn peek(&self) -> Option<impl AsRef<[u8]>> {
        match self {
            Self::Whole(bytes) => bytes.as_ref(),
            Self::Streamed(_) => None,
        }
    }

    fn replace(&mut self, bytes: Bytes) {
        *self = Self::Whole(Some(bytes));
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Streamed(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
            Self::Streamed(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Streamed(body) => body.size_hint(),
        }
    }
}
