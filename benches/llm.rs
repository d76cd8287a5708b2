//! What reading LLM providers' requests and streams costs: `cargo bench --bench llm --features llm`.
//!
//! Streams come over loopback through hyper's client and the layer, inspected and not, in turns, so that whatever else
//! the machine does hits both alike. The server sends each event by itself, as providers do, or as fast as it can.

mod support;

use std::{fmt::Write, hint::black_box, net::SocketAddr, time::Instant};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, Service, ServiceExt};
use tower_throttle::{BoxError, Limiter, Limits, Quota, ThrottleLayer, llm::openai};

use self::support::{Report, median, resident_bytes};

const ROUNDS: usize = 201;
const MEGABYTE: usize = 1 << 20;
const GIGABYTE: usize = 1 << 30;
/// What is sent at once by a server that does not send event by event.
const PIECE: usize = 64 << 10;
const EVENT: &str = "data: {\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\
    \"model\":\"gpt-4o-2024-11-20\",\"system_fingerprint\":\"fp_b1\",\"choices\":[{\"index\":0,\"delta\":\
    {\"content\":\" waits\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n";
const LAST: &str = "data: {\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"choices\":[],\
    \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":412,\"total_tokens\":421}}\n\ndata: [DONE]\n\n";

fn main() {
    let mut report = Report::default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let server = start_server();
    runtime.block_on(async {
        memory_of_a_long_stream(&mut report, server).await;
        overhead(&mut report, server).await;
    });
    estimate(&mut report);
    report.publish();
}

fn limiter() -> Limiter {
    let limits = Limits::new().bucket("gpt-4o", [Quota::per_minute("tokens", 500_000_000_000)]);
    Limiter::new(limits).expect("the limits are valid")
}

/// Streams of a megabyte.
async fn overhead(report: &mut Report, server: SocketAddr) {
    let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
    let layer = ThrottleLayer::new(limiter(), openai::rules().extractor());
    let bare = layer.layer(client.clone());
    let inspected = ThrottleLayer::openai(limiter()).layer(client);

    for (key, path, remark) in [
        ("llm.sse_overhead", "events", "inspected over not, event by event; at most 1.05"),
        ("llm.sse_overhead_at_once", "pieces", "the same, as fast as loopback is"),
    ] {
        let url = format!("http://{server}/{path}/{MEGABYTE}");
        let mut samples: [Vec<f64>; 3] = Default::default();
        for _ in 0..ROUNDS {
            let [without, with] = [stream(&bare, &url).await, stream(&inspected, &url).await];
            samples[0].push(with / without);
            samples[1].push(without);
            samples[2].push(with);
        }
        let [ratio, without, with] = samples.map(median);
        let remark = format!("{remark}; {:.2} ms over {:.2} ms", with * 1e3, without * 1e3);
        report.add(key, ratio, remark);
    }
}

/// A stream of a gigabyte, after one that has made all there is to be made.
async fn memory_of_a_long_stream(report: &mut Report, server: SocketAddr) {
    let client: Client<_, _> = Client::builder(TokioExecutor::new()).build_http();
    let inspected = ThrottleLayer::openai(limiter()).layer(client);
    stream(&inspected, &format!("http://{server}/pieces/{}", 64 * MEGABYTE)).await;
    let before = resident_bytes();
    let seconds = stream(&inspected, &format!("http://{server}/pieces/{GIGABYTE}")).await;
    let grown = resident_bytes().saturating_sub(before) as f64 / 1e3;
    report.add("llm.stream_1gb_growth_kb", grown, format!("of resident memory; {seconds:.1} s"));
}

/// What a request of ten kilobytes asks for, read and estimated.
fn estimate(report: &mut Report) {
    let mut text = String::new();
    while text.len() < 10_000 {
        text.push_str(
            "Whoever stands at the front of the line may start at once; 17 others wait (a bit). Où? ",
        );
    }
    let text: String = text.chars().take(10_000).collect();
    let request =
        format!(r#"{{"model":"gpt-4o","max_tokens":500,"messages":[{{"role":"user","content":"{text}"}}]}}"#);
    let rules = openai::rules();
    let mut samples = Vec::new();
    for _ in 0..ROUNDS {
        let start = Instant::now();
        for _ in 0..100 {
            black_box(rules.demand(black_box(request.as_bytes()))).expect("it is a request");
        }
        samples.push(start.elapsed().as_secs_f64() * 1e6 / 100.0);
    }
    report.add("llm.estimate_10kb_us", median(samples), "a whole request; at most 30");
}

/// Seconds that a stream takes, to its end.
async fn stream<S, B>(service: &S, url: &str) -> f64
where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError> + Clone,
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let body = r#"{"model":"gpt-4o","stream":true,"max_tokens":500,"messages":[]}"#;
    let request = Request::post(url).body(Full::from(body)).expect("a request");
    let start = Instant::now();
    let mut body = service.clone().oneshot(request).await.expect("an answer").into_body();
    while let Some(frame) = body.frame().await {
        black_box(frame.expect("a frame"));
    }
    start.elapsed().as_secs_f64()
}

/// A server in a thread of its own, as a provider would be elsewhere.
fn start_server() -> SocketAddr {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).expect("a free port");
    let address = listener.local_addr().expect("its address");
    listener.set_nonblocking(true).expect("a listener for tokio");
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let listener = TcpListener::from_std(listener).expect("a listener");
            while let Ok((connection, _)) = listener.accept().await {
                // Its caller may go at any time.
                tokio::spawn(async move { _ = serve(connection).await });
            }
        });
    });
    address
}

/// Answers requests for `/events/<size>` and `/pieces/<size>`.
async fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let piece = chunk(&EVENT.repeat(PIECE / EVENT.len()));
    let event = chunk(EVENT);
    let mut buffer = vec![0; 4_096];
    loop {
        // Requests are small, and come one after the other.
        let length = connection.read(&mut buffer).await?;
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let Some((kind, size)) = path.trim_start_matches('/').split_once('/') else { return Ok(()) };
        let size: usize = size.parse().unwrap_or_default();
        let (part, count) = match kind {
            "events" => (&event, size / EVENT.len()),
            _ => (&piece, size / PIECE),
        };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        connection.write_all(head.as_bytes()).await?;
        for _ in 0..count {
            connection.write_all(part.as_bytes()).await?;
        }
        connection.write_all((chunk(LAST) + "0\r\n\r\n").as_bytes()).await?;
    }
}

/// A piece of a body, as HTTP/1.1 sends it.
fn chunk(content: &str) -> String {
    let mut chunk = String::new();
    // Writing to a string cannot fail.
    let _ = write!(chunk, "{:x}\r\n{content}\r\n", content.len());
    chunk
}
