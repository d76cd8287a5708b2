//! The provider that the examples call: it answers with the tokens that a call has used, in one
//! piece or as a stream, and with 429 what exceeds its limit.

use std::{
    collections::VecDeque,
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tower_throttle::{Settlement, usage};

/// A provider's limit: used tokens, in any window of this length.
pub const TOKENS: u64 = 200;
/// How long the window is.
pub const WINDOW: Duration = Duration::from_secs(1);

/// What a call has used, as the answer of this provider tells; the most it may use stays charged if
/// it does not.
///
/// A stream tells it in its last event.
pub fn used(answer: &[u8]) -> Settlement {
    let last =
        answer.rsplit(|&byte| byte == b'\n').find(|line| !line.is_empty()).unwrap_or_default();
    let last = last.strip_prefix(b"data: ").unwrap_or(last);
    let tokens = serde_json::from_slice(last)
        .ok()
        .and_then(|answer: Value| answer["usage"]["total_tokens"].as_u64());
    tokens.map_or(Settlement::Keep, |tokens| Settlement::Exact(usage! { tokens: tokens }))
}

/// A provider on a free port, which serves as long as the runtime does.
#[derive(Clone, Debug)]
pub struct Provider {
    address: SocketAddr,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    /// When which tokens were used, in the window.
    used: VecDeque<(Instant, u64)>,
    counts: Counts,
    failing: u64,
}

/// What a provider has answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Calls that were served.
    pub served: u64,
    /// Calls that were answered 429.
    pub rejected: u64,
    /// Calls that were answered 500.
    pub failed: u64,
    /// Tokens that the served calls have used.
    pub tokens: u64,
}

impl Provider {
    /// Starts a provider that answers 500 to its first `failing` calls.
    ///
    /// # Errors
    /// When the system grants no port.
    pub async fn start(failing: u64) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let state = Arc::new(Mutex::new(State { failing, ..State::default() }));
        let provider = Self { address: listener.local_addr()?, state };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((connection, _)) = listener.accept().await {
                let provider = serving.clone();
                tokio::spawn(async move {
                    let service = service_fn(|request| provider.answer(request));
                    // Fails only for a caller that has gone.
                    http1::Builder::new()
                        .serve_connection(TokioIo::new(connection), service)
                        .await
                        .ok();
                });
            }
        });
        Ok(provider)
    }

    /// Its host and port.
    pub fn host(&self) -> String {
        self.address.to_string()
    }

    /// What it has answered so far.
    pub fn counts(&self) -> Counts {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).counts
    }

    async fn answer(
        &self,
        request: Request<Incoming>,
    ) -> Result<Response<UnsyncBoxBody<Bytes, Infallible>>, hyper::Error> {
        let body = request.into_body().collect().await?.to_bytes();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        // It uses a fourth of what it might.
        let tokens = asked["max_tokens"].as_u64().unwrap_or(0).div_ceil(4);
        let status = self.admit(tokens);
        let answer = json!({ "usage": { "total_tokens": tokens } }).to_string();
        let pieces = match status {
            StatusCode::OK if asked["stream"] == true => {
                vec!["data: {\"text\": \"Hello\"}\n\n".into(), format!("data: {answer}\n\n")]
            }
            StatusCode::OK => vec![answer],
            _ => vec![],
        };
        let frames = pieces.into_iter().map(|piece| Ok(Frame::data(Bytes::from(piece))));
        let mut response = Response::new(StreamBody::new(stream::iter(frames)).boxed_unsync());
        *response.status_mut() = status;
        Ok(response)
    }

    fn admit(&self, tokens: u64) -> StatusCode {
        let State { used, counts, failing } =
            &mut *self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if *failing > 0 {
            *failing -= 1;
            counts.failed += 1;
            return StatusCode::INTERNAL_SERVER_ERROR;
        }
        let now = Instant::now();
        while used.front().is_some_and(|(then, _)| now.duration_since(*then) >= WINDOW) {
            used.pop_front();
        }
        let in_window: u64 = used.iter().map(|(_, tokens)| tokens).sum();
        if in_window + tokens > TOKENS {
            counts.rejected += 1;
            return StatusCode::TOO_MANY_REQUESTS;
        }
        used.push_back((now, tokens));
        counts.served += 1;
        counts.tokens += tokens;
        StatusCode::OK
    }
}
