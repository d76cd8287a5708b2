//! The simulated provider over HTTP, in real time: for a client that is to be tried against limits.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::{Request, Response, StatusCode, body::Incoming, header, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    time::sleep,
};
use tower_throttle::{
    Usage,
    simulate::{Admissions, LimitReached, Provider, TraceCall},
    usage,
};

use crate::failure::Failure;

/// A longer body is refused.
const LONGEST_BODY: usize = 16 << 20;
/// In how many pieces an answer counts while it is written.
const PIECES: u64 = 8;
/// The part of what a request allows that is written on the average, as by a chat service.
const USED: f64 = 0.2;

struct Server {
    provider: Provider,
    start: Instant,
    max_tokens: u64,
    state: Mutex<State>,
}

struct State {
    admissions: Admissions,
    random: fastrand::Rng,
}

/// Serves until the process is ended. Prints the address first.
pub(super) async fn run(
    address: SocketAddr,
    provider: Provider,
    max_tokens: u64,
    seed: u64,
) -> Result<(), Failure> {
    let admissions = Admissions::new(provider.quotas().iter().cloned());
    let state = Mutex::new(State { admissions, random: fastrand::Rng::with_seed(seed) });
    let server = Arc::new(Server { provider, start: Instant::now(), max_tokens, state });
    let listener = TcpListener::bind(address)
        .await
        .map_err(|error| Failure::Address(format!("cannot listen on {address}: {error}")))?;
    println!("listening on http://{}", listener.local_addr()?);
    loop {
        // A connection that fails before it is accepted is its client's affair.
        let Ok((connection, _)) = listener.accept().await else {
            sleep(Duration::from_millis(10)).await;
            continue;
        };
        tokio::spawn(serve(connection, server.clone()));
    }
}

/// Serves the requests of one client.
async fn serve(connection: TcpStream, server: Arc<Server>) {
    let service =
        service_fn(|request| async { Ok::<_, Infallible>(server.respond(request).await) });
    let mut http = hyper::server::conn::http1::Builder::new();
    let http = http.timer(TokioTimer::new());
    // Clients may hang up at any time.
    let _ = http.serve_connection(TokioIo::new(connection), service).await;
}

impl Server {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is admitted, at the present: read while it is locked, so that it never goes
    /// back.
    fn at_present<T>(&self, change: impl FnOnce(&mut Admissions, Duration) -> T) -> T {
        let mut state = self.state();
        change(&mut state.admissions, self.start.elapsed())
    }

    async fn respond(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let body = Limited::new(request.into_body(), LONGEST_BODY).collect().await;
        let Ok(body) = body.map(|body| body.to_bytes()) else {
            return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too long or broke off");
        };
        let Ok(Value::Object(asked)) = serde_json::from_slice(&body) else {
            return error(StatusCode::BAD_REQUEST, "the body is no JSON object");
        };
        let bound = ["max_tokens", "max_completion_tokens", "max_output_tokens"];
        let bound = bound.iter().find_map(|name| asked.get(*name)?.as_u64());
        let bound = bound.unwrap_or(self.max_tokens).min(1_000_000);
        let (chance, shape) = {
            let random = &mut self.state().random;
            (random.f64(), random.f64())
        };
        // Exponential, and within the bound.
        let output = (-(1.0 - shape).ln() * USED * bound as f64) as u64;
        let input = (body.len() / 4) as u64;
        let call = TraceCall::new(Duration::ZERO, input, output.clamp(1, bound.max(1)));
        let used = usage! { requests: 1, input_tokens: input, output_tokens: call.output };
        if let Err(refusal) = self.at_present(|admissions, now| admissions.admit(now, &used)) {
            return refused(&refusal);
        }
        let call = Admitted { server: self, call, used, is_over: false };
        call.answer(chance).await
    }
}

/// A call that was admitted. It ends once, also if its client hangs up.
struct Admitted<'a> {
    server: &'a Server,
    call: TraceCall,
    used: Usage,
    is_over: bool,
}

impl Admitted<'_> {
    async fn answer(mut self, chance: f64) -> Response<Full<Bytes>> {
        let TraceCall { input, output, .. } = self.call;
        let (first, writing) = self.server.provider.answer_time(&self.call, chance);
        sleep(first).await;
        for piece in 0..PIECES {
            sleep(writing / PIECES as u32).await;
            let written = output * (piece + 1) / PIECES - output * piece / PIECES;
            self.server.at_present(|admissions, now| admissions.produce(now, written));
        }
        self.end();
        let answer = json!({
            "id": "chatcmpl-simulated",
            "object": "chat.completion",
            "choices": [{
                "index": 0,
                "message": { "role": "assistant", "content": "word ".repeat(output as usize) },
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": input,
                "completion_tokens": output,
                "total_tokens": input + output,
            },
        });
        response(StatusCode::OK, &answer)
    }

    fn end(&mut self) {
        if !std::mem::replace(&mut self.is_over, true) {
            self.server.at_present(|admissions, now| admissions.end(now, &self.used));
        }
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        self.end();
    }
}

fn refused(refusal: &LimitReached) -> Response<Full<Bytes>> {
    let mut response = error(StatusCode::TOO_MANY_REQUESTS, &refusal.to_string());
    if let Some(wait) = refusal.retry_after {
        let seconds = wait.as_secs_f64().ceil() as u64;
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

/// An error in OpenAI's shape.
fn error(status: StatusCode, message: &str) -> Response<Full<Bytes>> {
    let kind = match status {
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        _ => "invalid_request_error",
    };
    response(status, &json!({ "error": { "message": message, "type": kind, "code": kind } }))
}

fn response(status: StatusCode, body: &Value) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let json = header::HeaderValue::from_static("application/json");
    response.headers_mut().insert(header::CONTENT_TYPE, json);
    response
}
