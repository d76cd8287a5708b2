//! What `tower-throttle serve` adds to a call on loopback, how its throughput compares with a proxy
//! of hyper alone, and how much memory 2,000 streams at a time take:
//!
//!     cargo bench --package tower-throttle-cli --bench serve
//!
//! Provider and clients are in this process, each proxy in one of its own. All share the cores.

mod bare;
mod provider;

use std::{
    env, fs,
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, body::Incoming, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::task::JoinSet;

use self::provider::Provider;

type Http = Client<HttpConnector, Full<Bytes>>;

const BODY: &str = concat!(
    r#"{"model":"gpt-4o","max_tokens":100,"#,
    r#""messages":[{"role":"user","content":"Why is the sky blue?"}]}"#
);
const STREAMED: &str = r#"{"model":"gpt-4o","max_tokens":100,"stream":true,"messages":[]}"#;
const CALLS: usize = 1_000;
const CALLERS: usize = 32;
const STREAMS: usize = 2_000;
/// Short ones, so that what else the machine does falls on both.
const ROUNDS: usize = 21;
const ROUND: Duration = Duration::from_millis(400);

const LIMITS: &str = r#"
[buckets.gpt-4o]
quotas = [
    { metric = "requests", limit = 900_000_000, per = "1 m" },
    { metric = "tokens", limit = 900_000_000_000, per = "1 m" },
    { kind = "concurrency", limit = 10_000 },
]

[upstreams.openai]
url = "URL"
"#;

/// A process that listens, for as long as the value lives.
struct Proxy {
    child: Child,
    base: String,
}

impl Proxy {
    /// Starts a command, whose first line tells its address.
    fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe");
        BufReader::new(out).read_line(&mut line).expect("a line");
        let base = line.split_whitespace().find(|word| word.starts_with("http://"));
        let base = base.expect("its address").trim_end_matches(':').to_owned();
        Self { child, base }
    }

    /// Its memory now, in MiB.
    fn memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()));
        let status = status.expect("a system that tells of processes");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
        let kib = line.split_whitespace().nth(1).expect("a number");
        kib.parse::<u64>().expect("a number") / 1_024
    }
}

impl Proxy {
    /// The time that its threads have run, in seconds.
    fn busy(&self) -> f64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id()));
        let threads = threads.expect("a system that tells of threads");
        let nanos = threads.filter_map(|thread| {
            // It may have ended.
            let text = fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?;
            text.split_whitespace().next()?.parse::<u64>().ok()
        });
        nanos.sum::<u64>() as f64 / 1e9
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn main() {
    allow_many_connections();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    match (env::var(bare::UPSTREAM), env::args().any(|argument| argument == "--bench")) {
        (Ok(upstream), _) => runtime.block_on(bare::serve(&upstream)),
        (_, true) => runtime.block_on(measure()),
        // `cargo test` runs benches to see that they can be run.
        _ => {}
    }
}

async fn measure() {
    let provider = Provider::start().await;
    let limits = written(&provider.url());
    let bare = env::current_exe().expect("this program");
    let bare = Proxy::start(Command::new(bare).env(bare::UPSTREAM, provider.url()));
    let mut serve = Command::new(env!("CARGO_BIN_EXE_tower-throttle"));
    serve.args(["serve", "--listen", "127.0.0.1:0", "--limits"]).arg(&limits);
    let serve = Proxy::start(serve.env_remove("REDIS_URL"));
    let path = "/v1/chat/completions";
    let urls = [
        format!("{}{path}", provider.url()),
        format!("{}{path}", bare.base),
        format!("{}/openai{path}", serve.base),
    ];

    latency(&urls).await;
    throughput([(&bare, &urls[1]), (&serve, &urls[2])]).await;
    streams(&urls[2], &serve, &provider).await;
    // Those that are left behind do no harm.
    let _ = fs::remove_file(limits);
}

fn written(upstream: &str) -> PathBuf {
    let path = env::temp_dir().join(format!("throttle-serve-bench-{}.toml", std::process::id()));
    fs::write(&path, LIMITS.replace("URL", upstream)).expect("it is written");
    path
}

fn client() -> Http {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    Client::builder(TokioExecutor::new()).build(connector)
}

async fn call(client: &Http, url: &str, body: &'static str) -> hyper::Response<Incoming> {
    let request = Request::post(url).header(CONTENT_TYPE, "application/json");
    let request = request.body(Full::from(body)).expect("a request");
    let response = client.request(request).await.expect("a response");
    assert_eq!(response.status(), 200);
    response
}

async fn whole_call(client: &Http, url: &str) {
    call(client, url, BODY).await.into_body().collect().await.expect("a body");
}

/// One call after the other, in turns at each.
async fn latency(urls: &[String; 3]) {
    let client = client();
    let mut times = [const { Vec::new() }; 3];
    for round in 0..CALLS + 100 {
        for (url, times) in urls.iter().zip(&mut times) {
            let began = Instant::now();
            whole_call(&client, url).await;
            // The first ones open connections.
            if round >= 100 {
                times.push(began.elapsed());
            }
        }
    }
    let [direct, bare, serve] = times.map(|mut times| {
        times.sort_unstable();
        (times[times.len() / 2], times[times.len() * 99 / 100])
    });
    let added = |of: Duration| of.saturating_sub(direct.0).as_secs_f64() * 1e3;
    println!("{CALLS} calls, one after the other: p50, p99");
    for (name, (half, most)) in [("direct", direct), ("bare proxy", bare), ("serve", serve)] {
        println!("  {name:<11}{half:>9.1?}{most:>9.1?}");
    }
    println!("  a bare proxy adds {:.3} ms, serve {:.3} ms (p50)", added(bare.0), added(serve.0));
}

/// Calls a second of several callers, in turns at each proxy.
async fn throughput(proxies: [(&Proxy, &str); 2]) {
    let [mut rates, mut costs] = [const { [const { Vec::new() }; 2] }; 2];
    let mut ratios = Vec::new();
    for _ in 0..ROUNDS {
        let mut pair = [0.0; 2];
        for (side, (proxy, url)) in proxies.into_iter().enumerate() {
            let busy = proxy.busy();
            let (calls, seconds) = round(url).await;
            costs[side].push((proxy.busy() - busy) * 1e6 / calls);
            pair[side] = calls / seconds;
            rates[side].push(pair[side]);
        }
        ratios.push(pair[1] / pair[0]);
    }
    let ([bare, serve], [bare_cost, serve_cost]) = (rates.map(median), costs.map(median));
    println!("{CALLERS} callers, median of {ROUNDS} rounds of {ROUND:?}");
    println!("  bare proxy {bare:>6.0}/s, {bare_cost:.0} us of a core for a call");
    println!("  serve      {serve:>6.0}/s, {serve_cost:.0} us of a core for a call");
    println!("  serve's throughput is {:.2} of the bare proxy's", median(ratios));
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many calls were made, and in how many seconds.
async fn round(url: &str) -> (f64, f64) {
    let (client, began) = (client(), Instant::now());
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (client, url) = (client.clone(), url.to_owned());
        callers.spawn(async move {
            let mut calls = 0;
            while began.elapsed() < ROUND {
                whole_call(&client, &url).await;
                calls += 1;
            }
            calls
        });
    }
    let calls: u32 = callers.join_all().await.into_iter().sum();
    (f64::from(calls), began.elapsed().as_secs_f64())
}

/// Streams that have begun and do not end.
async fn streams(url: &str, serve: &Proxy, provider: &Provider) {
    let (before, client) = (serve.memory(), client());
    let mut begun = JoinSet::new();
    for _ in 0..STREAMS {
        let (client, url) = (client.clone(), url.to_owned());
        begun.spawn(async move {
            let mut body = call(&client, &url, STREAMED).await.into_body();
            body.frame().await.expect("a piece").expect("a piece");
            body
        });
    }
    let bodies = begun.join_all().await;
    let during = serve.memory();
    println!("{STREAMS} streams at a time: {during} MiB ({before} MiB before)");
    assert_eq!(bodies.len(), STREAMS);
    provider.end_streams();
    for body in bodies {
        body.collect().await.expect("its end");
    }
}

/// Each stream takes two files here, and systems allow a thousand by default.
fn allow_many_connections() {
    #[cfg(unix)]
    {
        use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
        let Rlimit { maximum, .. } = getrlimit(Resource::Nofile);
        setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }).expect("a limit");
    }
}
