//! A provider of language models on loopback, on a thread and a clock of its own. Every request
//! passes [`Admission`] or is answered with 429; the answers are made up, but as long and as late
//! as real ones are.

use std::{
    convert::Infallible,
    io,
    net::{SocketAddr, TcpListener},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::stream;
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    Method, Request, Response, StatusCode,
    body::{Frame, Incoming},
    header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::admission::{Admission, Counts, ProviderLimits, Refusal};

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A provider that runs until it is dropped.
#[derive(Debug)]
pub struct Provider {
    address: SocketAddr,
    admission: Arc<Mutex<Admission>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Provider {
    /// Starts a provider on a free port of loopback.
    ///
    /// # Errors
    /// When the system grants no port or no thread.
    pub fn start(limits: ProviderLimits) -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let admission = Arc::new(Mutex::new(Admission::new(limits)));
        let (stop, stopped) = oneshot::channel();
        let shared = Arc::clone(&admission);
        let thread = std::thread::Builder::new().name("provider".into()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    () = accept(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self { address, admission, stop: Some(stop), thread: Some(thread) })
    }

    /// Where chat completions are asked for.
    pub fn url(&self) -> String {
        format!("http://{}/v1/chat/completions", self.address)
    }

    /// What was admitted and refused so far.
    pub fn counts(&self) -> Counts {
        lock(&self.admission).counts()
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // A panic of the provider has been reported on stderr by then.
            let _ = thread.join();
        }
    }
}

fn lock(admission: &Mutex<Admission>) -> MutexGuard<'_, Admission> {
    admission.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(listener: TcpListener, admission: Arc<Mutex<Admission>>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return eprintln!("provider: {error}"),
    };
    let epoch = Instant::now();
    loop {
        let Ok((connection, _)) = listener.accept().await else {
            // Out of file descriptors, or a caller that has gone again.
            tokio::time::sleep(Duration::from_millis(1)).await;
            continue;
        };
        let admission = Arc::clone(&admission);
        tokio::spawn(async move {
            // Fails only for a caller that has gone.
            let _ = connection.set_nodelay(true);
            let service = service_fn(|request| answer(request, &admission, epoch));
            let _ = http1::Builder::new().serve_connection(TokioIo::new(connection), service).await;
        });
    }
}

/// What is asked for in the body of a request.
struct Asked {
    input: u64,
    output: u64,
    stream: bool,
}

impl Asked {
    /// A token is a word here. A real provider decides by itself how much it answers; this one is
    /// told by the trace, in the metadata, and stops at `max_tokens` like any.
    fn read(body: &[u8]) -> Result<Self, String> {
        let body: Value = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        let max_tokens = body["max_tokens"].as_u64().ok_or("max_tokens is not a number")?;
        let messages = body["messages"].as_array().ok_or("messages is not a list")?;
        let words =
            |message: &Value| message["content"].as_str().unwrap_or("").split_whitespace().count();
        let input = messages.iter().map(words).sum::<usize>() as u64;
        let output =
            body["metadata"]["answer_tokens"].as_str().and_then(|tokens| tokens.parse().ok());
        let output = output.unwrap_or(16).min(max_tokens);
        Ok(Self { input, output, stream: body["stream"].as_bool().unwrap_or(false) })
    }

    fn usage(&self) -> Value {
        let (input, output) = (self.input, self.output);
        json!({ "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output })
    }
}

async fn answer(
    request: Request<Incoming>,
    admission: &Mutex<Admission>,
    epoch: Instant,
) -> Result<Response<Body>, hyper::Error> {
    if request.method() != Method::POST || request.uri().path() != "/v1/chat/completions" {
        return Ok(error(
            StatusCode::NOT_FOUND,
            "not_found",
            "POST /v1/chat/completions is all there is",
        ));
    }
    let body = request.into_body().collect().await?.to_bytes();
    let asked = match Asked::read(&body) {
        Ok(asked) => asked,
        Err(why) => return Ok(error(StatusCode::BAD_REQUEST, "invalid_request_error", &why)),
    };
    let admitted = {
        let mut admission = lock(admission);
        admission.admit(epoch.elapsed(), asked.input + asked.output)
    };
    Ok(match admitted {
        Ok(()) if asked.stream => streamed(asked),
        Ok(()) => whole(&asked).await,
        Err(Refusal::Later(wait)) => {
            let mut refused =
                error(StatusCode::TOO_MANY_REQUESTS, "rate_limit_exceeded", "slow down");
            // Rounded up: a caller that comes back then finds room, unless another has taken it.
            let millis = wait.as_nanos().div_ceil(1_000_000);
            let wait = format!("{}.{:03}", millis / 1_000, millis % 1_000);
            if let Ok(wait) = wait.parse() {
                refused.headers_mut().insert(RETRY_AFTER, wait);
            }
            refused
        }
        Err(Refusal::Never) => {
            error(StatusCode::TOO_MANY_REQUESTS, "request_too_large", "never fits")
        }
    })
}

/// 20 to 200 ms, the longer the answer is.
async fn whole(asked: &Asked) -> Response<Body> {
    tokio::time::sleep(Duration::from_millis((20 + asked.output).min(200))).await;
    let content = "word ".repeat(usize::try_from(asked.output).unwrap_or(0));
    reply(
        StatusCode::OK,
        &json!({
            "object": "chat.completion",
            "choices": [{ "index": 0, "message": { "role": "assistant", "content": content } }],
            "usage": asked.usage(),
        }),
    )
}

/// A few chunks over 100 to 400 ms, then the usage, then the end.
fn streamed(asked: Asked) -> Response<Body> {
    const CHUNKS: u64 = 4;
    let pause = Duration::from_millis((100 + 2 * asked.output).min(400))
        / u32::try_from(CHUNKS).unwrap_or(1);
    let events = stream::unfold(0, move |sent| {
        let event = if sent < CHUNKS {
            let share = asked.output * (sent + 1) / CHUNKS - asked.output * sent / CHUNKS;
            let content = "word ".repeat(usize::try_from(share).unwrap_or(0));
            let choice = json!({ "index": 0, "delta": { "content": content } });
            format!("data: {}\n\n", json!({ "choices": [choice], "usage": null }))
        } else {
            format!(
                "data: {}\n\ndata: [DONE]\n\n",
                json!({ "choices": [], "usage": asked.usage() })
            )
        };
        async move {
            if sent > CHUNKS {
                return None;
            }
            if sent < CHUNKS {
                tokio::time::sleep(pause).await;
            }
            Some((Ok(Frame::data(Bytes::from(event))), sent + 1))
        }
    });
    let mut response = Response::new(StreamBody::new(events).boxed_unsync());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

fn error(status: StatusCode, code: &str, message: &str) -> Response<Body> {
    reply(status, &json!({ "error": { "code": code, "message": message } }))
}

fn reply(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = Response::new(Full::from(body.to_string()).boxed_unsync());
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
