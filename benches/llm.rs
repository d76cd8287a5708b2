//! What reading LLM providers' requests and streams costs: `cargo bench --bench llm --features
//! llm`.
//!
//! Streams come over loopback through hyper's client and the layer, inspected and not. The server
//! runs on the same thread as the client. On another thread, the cost of inspection would hide in
//! the time that a thread takes to wake up. So the ratios are of the work of both sides. The server
//! yields after each event, or after each 64 KB.
//!
//! Streams to be compared follow one another, and the median of their ratios counts, so that
//! whatever else the machine does hits all alike. What merely looking at each byte takes is
//! measured too: no inspection of what comes at once can take less.
//!
//! How much of a limit estimates of output use up is measured in virtual time, of calls that are
//! generated, and of those in a file in the format of the Azure LLM inference traces if `TRACE`
//! names one.

#[path = "support/strict_provider.rs"]
mod strict_provider;
mod support;

use std::{
    env,
    fmt::Write,
    fs,
    hint::black_box,
    net::SocketAddr,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Request, Response, response::Parts};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tower::{Layer, Service, ServiceExt};
use tower_throttle::{
    BoxError, Limiter, Limits, Quota, Settlement, ThrottleLayer,
    inspect::{self, BodyEnd, BodyObserver},
    llm::openai,
    usage,
};

use self::{
    strict_provider::{Call, Estimate, Run, generate, jump},
    support::{Report, median, resident_bytes},
};

const ROUNDS: usize = 201;
const ROUNDS_AT_ONCE: usize = 1_001;
const MEGABYTE: usize = 1 << 20;
const GIGABYTE: usize = 1 << 30;
/// What is sent at once by a server that does not send event by event.
const PIECE: usize = 64 << 10;
/// An event is this with a word between.
const EVENT: [&str; 2] = [
    "data: {\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"created\":1767225600,\"model\":\"gpt-4o-2024-11-20\",\
     \"system_fingerprint\":\"fp_b1\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
    "\"},\"logprobs\":null,\"finish_reason\":null}],\"usage\":null}\n\n",
];
const WORDS: &str = "The| queue| is| fair|:| who| waits| longest| goes| first|,| however| little| it| asks| for|.|\\n\\n|What\
    | a| call| used| is| known| afterwards|,| so| the| difference| comes| back| at| once|.| \\\"";
const LAST: &str = "data: {\"id\":\"chatcmpl-b1\",\"object\":\"chat.completion.chunk\",\"choices\":[],\
    \"usage\":{\"prompt_tokens\":9,\"completion_tokens\":412,\"total_tokens\":421}}\n\ndata: [DONE]\n\n";

fn main() {
    let mut report = Report::default();
    let runtime =
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let server = start_server().await;
        memory_of_a_long_stream(&mut report, server).await;
        overhead(&mut report, server).await;
    });
    estimate(&mut report);
    utilisation(&mut report);
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
    let looking =
        layer.clone().inspector(inspect::body(|_: &Parts| Look::default())).layer(client.clone());
    let inspected = ThrottleLayer::openai(limiter()).layer(client);

    let events = format!("http://{server}/events/{MEGABYTE}");
    let pieces = format!("http://{server}/pieces/{MEGABYTE}");
    let remark = "inspected over not, event by event; at most 1.05";
    compare(report, "llm.sse_overhead", remark, ROUNDS, &events, (&bare, &inspected)).await;
    let remark = "the same, 64 KB at once";
    compare(
        report,
        "llm.sse_overhead_at_once",
        remark,
        ROUNDS_AT_ONCE,
        &pieces,
        (&bare, &inspected),
    )
    .await;
    let remark = "of that, only to look at each byte, for the ends of lines";
    compare(report, "llm.sse_look_at_once", remark, ROUNDS_AT_ONCE, &pieces, (&bare, &looking))
        .await;
}

/// How many times longer a stream takes through the second service than through the first.
async fn compare<S, T, B, C>(
    report: &mut Report,
    key: &'static str,
    remark: &str,
    rounds: usize,
    url: &str,
    services: (&S, &T),
) where
    S: Service<Request<Full<Bytes>>, Response = Response<B>, Error = BoxError> + Clone,
    T: Service<Request<Full<Bytes>>, Response = Response<C>, Error = BoxError> + Clone,
    B: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
    C: Body<Data = Bytes, Error: std::fmt::Debug> + Unpin,
{
    let mut samples: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        // In turns, since a stream may find buffers as the one before has left them.
        let [without, with] = if round % 2 == 0 {
            [stream(services.0, url).await, stream(services.1, url).await]
        } else {
            let with = stream(services.1, url).await;
            [stream(services.0, url).await, with]
        };
        for (samples, sample) in samples.iter_mut().zip([with / without, without, with]) {
            samples.push(sample);
        }
    }
    let [ratio, without, with] = samples.map(median);
    report.add(key, ratio, format!("{remark}; {:.2} ms over {:.2} ms", with * 1e3, without * 1e3));
}

/// The least that inspection can take: each byte is looked at once.
#[derive(Default)]
struct Look {
    lines: usize,
}

impl BodyObserver for Look {
    fn data(&mut self, piece: &[u8]) {
        self.lines += memchr::memchr_iter(b'\n', piece).count();
    }

    fn end(&mut self, _: BodyEnd) -> Settlement {
        Settlement::Exact(usage! { tokens: self.lines as u64 })
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
    let request = format!(
        r#"{{"model":"gpt-4o","max_tokens":500,"messages":[{{"role":"user","content":"{text}"}}]}}"#
    );
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

/// How much of a limit is used up, and how many calls are refused, by how output is reserved.
fn utilisation(report: &mut Report) {
    let per_token = Duration::from_millis(3);
    let six = Run {
        limit: 45_000,
        window: Duration::from_secs(6),
        guard: Duration::from_millis(100),
        per_token,
    };
    let by = [Estimate::Bound, Estimate::Quantile, Estimate::Learned];
    let six_seconds = ["llm.use_6s_bound", "llm.use_6s_quantile", "llm.use_6s_learned"];
    let generated: Vec<_> = (1..=5).map(|seed| generate(seed, 600)).collect();
    for (key, by) in six_seconds.into_iter().zip(by) {
        used(report, key, "generated; at least 0.93, none refused", six, &generated, by);
    }
    let minute = Run { limit: 450_000, window: Duration::from_secs(60), ..six };
    let minutes = ["llm.use_60s_bound", "llm.use_60s_quantile", "llm.use_60s_learned"];
    let generated: Vec<_> = (1..=3).map(|seed| generate(seed, 3_000)).collect();
    for (key, by) in minutes.into_iter().zip(by) {
        used(report, key, "generated; at least 0.95, none refused", minute, &generated, by);
    }
    let of_a_jump = ["llm.jump_bound", "llm.jump_quantile", "llm.jump_learned"];
    let jumps: Vec<_> = (1..=3).map(jump).collect();
    for (key, by) in of_a_jump.into_iter().zip(by) {
        used(report, key, "from 50 to 900 tokens; at most 6 of 600 refused", six, &jumps, by);
    }
    let Some(path) = env::var_os("TRACE") else { return };
    let text = fs::read_to_string(path).expect("the trace can be read");
    let calls: Vec<Call> = text.lines().filter_map(call_of_trace).collect();
    let parts: Vec<_> = calls.chunks_exact(600).step_by(4).map(<[Call]>::to_vec).collect();
    let six_seconds = ["llm.trace_6s_bound", "llm.trace_6s_quantile", "llm.trace_6s_learned"];
    for (key, by) in six_seconds.into_iter().zip(by) {
        used(report, key, "of the trace", six, &parts, by);
    }
}

/// The mean over several traces, and all refusals.
fn used(
    report: &mut Report,
    key: &'static str,
    remark: &str,
    run: Run,
    traces: &[Vec<Call>],
    by: Estimate,
) {
    let outcomes: Vec<_> = traces.iter().map(|calls| run.make(calls, by)).collect();
    let refused: Vec<_> = outcomes.iter().map(|outcome| outcome.refused).collect();
    let mean =
        outcomes.iter().map(|outcome| outcome.utilisation).sum::<f64>() / outcomes.len() as f64;
    report.add(key, mean, format!("{remark}; refused: {refused:?}"));
}

/// `TIMESTAMP,ContextTokens,GeneratedTokens`; nothing for the header.
fn call_of_trace(line: &str) -> Option<Call> {
    let mut fields = line.trim().split(',').skip(1);
    let input = fields.next()?.parse().ok()?;
    let output = fields.next()?.parse::<u64>().ok()?;
    Some((input, output.clamp(1, strict_provider::BOUND)))
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

/// A server on this thread.
async fn start_server() -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.expect("a free port");
    let address = listener.local_addr().expect("its address");
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            // Its caller may go at any time.
            tokio::spawn(async move { _ = serve(connection).await });
        }
    });
    address
}

/// Serves requests for `/events/<size>` and `/pieces/<size>`.
async fn serve(mut connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let (events, pieces) = answers();
    let mut buffer = vec![0; 4_096];
    loop {
        // Requests are small, and come one after the other.
        let length = connection.read(&mut buffer).await?;
        let request = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let path = request.split(' ').nth(1).unwrap_or_default();
        let Some((kind, size)) = path.trim_start_matches('/').split_once('/') else {
            return Ok(());
        };
        let size: usize = size.parse().unwrap_or_default();
        let parts = if kind == "events" { &events } else { &pieces };
        let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
        connection.write_all(head.as_bytes()).await?;
        let mut sent = 0;
        for part in parts.iter().cycle() {
            connection.write_all(part.as_bytes()).await?;
            tokio::task::yield_now().await;
            sent += part.len();
            if sent >= size {
                break;
            }
        }
        connection.write_all((chunk(LAST) + "0\r\n\r\n").as_bytes()).await?;
    }
}

/// What is sent event by event, and what is sent at once.
fn answers() -> (Vec<String>, Vec<String>) {
    let words: Vec<_> = WORDS.split('|').collect();
    // Streams do not differ, yet no branch predictor knows how long the next word is.
    let mut random = fastrand::Rng::with_seed(1);
    let events =
        std::iter::repeat_with(|| EVENT.join(random.choice(&words).expect("there are words")));
    let events: Vec<_> = events.take(1_000).collect();
    let mut piece = String::new();
    for event in &events {
        if piece.len() + event.len() > PIECE {
            break;
        }
        piece.push_str(event);
    }
    (events.iter().map(|event| chunk(event)).collect(), vec![chunk(&piece)])
}

/// A piece of a body, as HTTP/1.1 sends it.
fn chunk(content: &str) -> String {
    let mut chunk = String::new();
    // Writing to a string cannot fail.
    let _ = write!(chunk, "{:x}\r\n{content}\r\n", content.len());
    chunk
}
