//! A service: the built program, and a client of it.

use std::{
    env, fs,
    io::{BufRead, BufReader, Read},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, header::CONTENT_TYPE};
use hyper_util::{
    client::legacy::{Client, Error, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;

use crate::program::{Ended, program};

/// Nothing that is awaited here takes longer.
const WITHIN: Duration = Duration::from_secs(30);

/// Limits for two providers at `url`.
pub(crate) fn limits(url: &str) -> String {
    format!(
        r#"
[buckets.gpt-4o]
quotas = [
    {{ metric = "requests", limit = 500, per = "1 m" }},
    {{ metric = "tokens", limit = 30_000, per = "1 m" }},
]

[buckets.claude-sonnet-4-5]
quotas = [
    {{ metric = "requests", limit = 50, per = "1 h" }},
    {{ metric = "output_tokens", limit = 10_000, per = "1 h" }},
    {{ kind = "concurrency", limit = 2 }},
]

[classes.batch]
headroom = 0.5

[upstreams.openai]
url = "{url}"

[upstreams.anthropic]
url = "{url}"
"#
    )
}

/// A service, and what it prints.
pub(crate) struct Service {
    child: Child,
    /// Its first line.
    pub(crate) line: String,
    base: String,
    file: PathBuf,
    out: Option<JoinHandle<String>>,
    err: Option<JoinHandle<String>>,
}

impl Service {
    pub(crate) fn start(limits: &str) -> Self {
        Self::start_with(limits, &[])
    }

    /// Starts a service with more arguments, and waits until it listens.
    pub(crate) fn start_with(limits: &str, arguments: &[&str]) -> Self {
        Self::start_by(limits, arguments, |_| ())
    }

    /// Starts a service by a command that is changed first.
    pub(crate) fn start_by(
        limits: &str,
        arguments: &[&str],
        change: impl FnOnce(&mut Command),
    ) -> Self {
        let file = written(limits);
        let mut command = program(&["serve", "--limits"]);
        command.arg(&file).args(arguments);
        if !arguments.contains(&"--listen") {
            command.args(["--listen", "127.0.0.1:0"]);
        }
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        change(&mut command);
        let mut child = command.spawn().expect("it starts");
        let mut out = BufReader::new(child.stdout.take().expect("a pipe"));
        let mut err = child.stderr.take().expect("a pipe");
        let err = std::thread::spawn(move || {
            let mut text = String::new();
            err.read_to_string(&mut text).expect("a text");
            text
        });
        let mut line = String::new();
        out.read_line(&mut line).expect("a text");
        if line.is_empty() {
            panic!("it ended: {}", err.join().expect("what it printed"));
        }
        let rest = std::thread::spawn(move || {
            let mut text = String::new();
            out.read_to_string(&mut text).expect("a text");
            text
        });
        let base = line.split_whitespace().find(|word| word.starts_with("http://"));
        let base = base.expect("its address").trim_end_matches(':').to_owned();
        Self { child, line, base, file, out: Some(rest), err: Some(err) }
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let status = Command::new("kill").args(["-s", name, &self.id().to_string()]).status();
        assert!(status.expect("kill").success(), "kill -s {name}");
    }

    /// Waits until it has ended, and returns all that it printed.
    pub(crate) fn ended(mut self) -> Ended {
        let began = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("a state") {
                break status;
            }
            assert!(began.elapsed() < WITHIN, "it does not end");
            std::thread::sleep(Duration::from_millis(5));
        };
        let text = |thread: Option<JoinHandle<String>>| {
            thread.expect("once").join().expect("what it printed")
        };
        let out = format!("{}{}", self.line, text(self.out.take()));
        let err = text(self.err.take());
        Ended { code: status.code().expect("it was not killed"), out, err }
    }

    /// Ends it as an init system does.
    pub(crate) fn stop(self) -> Ended {
        self.signal("TERM");
        self.ended()
    }

    /// The value of a metric, by the beginning of its line.
    pub(crate) async fn metric(&self, start: &str) -> Option<f64> {
        let (status, _, text) = get(&self.url("/metrics")).await;
        assert_eq!(status, 200, "{text}");
        let line = text.lines().find(|line| line.starts_with(start))?;
        line.rsplit(' ').next()?.parse().ok()
    }

    /// Waits until a metric has a value.
    pub(crate) async fn metric_is(&self, start: &str, value: f64) {
        until(&format!("{start} to be {value}"), async || {
            self.metric(start).await.unwrap_or_default() == value
        })
        .await;
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = fs::remove_file(&self.file);
    }
}

/// Writes limits into a file of their own.
pub(crate) fn written(limits: &str) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let number = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!("throttle-serve-{}-{number}.toml", std::process::id());
    let path = env::temp_dir().join(name);
    fs::write(&path, limits).expect("it is written");
    path
}

/// Asks again and again until something is so.
pub(crate) async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < WITHIN, "waited in vain for {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn client() -> Client<HttpConnector, Full<Bytes>> {
    Client::builder(TokioExecutor::new()).build_http()
}

/// Sends a request with these headers, and returns the response as soon as its head is there.
pub(crate) async fn send(
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> Result<Response<Incoming>, Error> {
    let mut request = Request::post(url);
    if !headers.iter().any(|(name, _)| *name == "content-type") {
        request = request.header(CONTENT_TYPE, "application/json");
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    client().request(request.body(Full::new(body.into())).expect("a request")).await
}

/// Sends a request, and returns status, headers and text of the response.
pub(crate) async fn post(
    url: &str,
    headers: &[(&str, &str)],
    body: impl Into<Bytes>,
) -> (u16, hyper::HeaderMap, String) {
    whole(send(url, headers, body).await.expect("a response")).await
}

pub(crate) async fn get(url: &str) -> (u16, hyper::HeaderMap, String) {
    let request = Request::get(url).body(Full::default()).expect("a request");
    whole(client().request(request).await.expect("a response")).await
}

pub(crate) async fn whole(response: Response<Incoming>) -> (u16, hyper::HeaderMap, String) {
    let (head, body) = response.into_parts();
    let body = body.collect().await.expect("a body").to_bytes();
    let text = String::from_utf8(body.to_vec()).expect("a text");
    (head.status.as_u16(), head.headers, text)
}

pub(crate) fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

pub(crate) const CHAT: &str = "/openai/v1/chat/completions";
pub(crate) const MESSAGES: &str = "/anthropic/v1/messages";
/// Requests that ask for 100 tokens at most.
pub(crate) const GPT: &str = r#"{"model":"gpt-4o","max_tokens":100,"messages":[]}"#;
pub(crate) const CLAUDE: &str = r#"{"model":"claude-sonnet-4-5","max_tokens":100,"messages":[]}"#;
