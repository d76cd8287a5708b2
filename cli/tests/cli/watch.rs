use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tower_throttle::{Demand, usage};

use crate::{
    program::{charge, limiter, program},
    support::RedisServer,
};

/// A watch that runs, and its lines.
pub(crate) struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    pub(crate) fn start(server: &RedisServer, arguments: &[&str]) -> Self {
        Self::start_at(&server.url(), arguments)
    }

    fn start_at(url: &str, arguments: &[&str]) -> Self {
        let mut child = program(&[&["watch", "--interval", "50ms"], arguments].concat())
            .env("REDIS_URL", url)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("it starts");
        // It has looked once then.
        let mut told = String::new();
        let mut err = BufReader::new(child.stderr.take().expect("a pipe"));
        err.read_line(&mut told).expect("a line");
        assert!(told.contains("end with Ctrl-C"), "{told}");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        Self { child, lines }
    }

    /// Waits for a line that says this. The harness ends a test that never sees it.
    pub(crate) fn says(&mut self, part: &str) -> String {
        let mut seen = Vec::new();
        for line in &mut self.lines {
            let line = line.expect("a text");
            if line.contains(part) {
                return line;
            }
            seen.push(line);
        }
        panic!("it never said {part}, but {seen:#?}");
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_happens_is_a_line_each() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "claude", 0).await;
    let mut watch = Watch::start(&server, &[]);
    charge(&limiter, "gpt-4o", 100).await;
    let line = watch.says("in use");
    assert!(line.starts_with("20") && line.contains("Z gpt-4o: is in use"), "{line}");

    limiter.pause("claude", Duration::from_secs(60)).await.expect("it is paused");
    watch.says("claude: paused for ");
    limiter.resume("claude").await.expect("it goes on");
    watch.says("claude: goes on after a pause");

    let demand = || Demand::new("claude", usage! { requests: 1 });
    let open = [limiter.reserve(demand()).await, limiter.reserve(demand()).await];
    watch.says("claude: calls in flight is used up");
    let waiting = tokio::spawn(limiter.reserve(demand()));
    watch.says("claude: demands wait: 1");
    drop(open);
    watch.says("claude: calls in flight has 1 left again");
    drop(waiting.await.expect("a task").expect("it fits"));

    limiter.close().await;
    server.command::<()>(&["DEL", "throttle:{default}:gpt-4o"]);
    watch.says("gpt-4o: has no state any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn events_are_json_if_asked_and_of_the_buckets_that_are_named() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    let mut watch = Watch::start(&server, &["--json", "claude"]);
    charge(&limiter, "gpt-4o", 100).await;
    charge(&limiter, "claude", 0).await;
    let line = watch.says("");
    let event: serde_json::Value = serde_json::from_str(&line).expect("JSON");
    assert_eq!(
        (&event["event"], &event["state"]["bucket"]),
        (&"appeared".into(), &"claude".into())
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_told_and_its_end() {
    let mut server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "claude", 0).await;
    let mut watch = Watch::start(&server, &[]);
    server.stop();
    watch.says("the store is unavailable");
    server.restart();
    watch.says("the server answers again");
}

/// A way to a server on which nothing is passed on any more once `is_stuck`; then `has_stuck` is
/// told when something was sent.
async fn stuck_way(port: u16, is_stuck: Arc<AtomicBool>, has_stuck: mpsc::Sender<()>) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let own = listener.local_addr().expect("an address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (is_stuck, has_stuck) = (is_stuck.clone(), has_stuck.clone());
            tokio::spawn(async move {
                let server = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                let (mut from, mut back) = stream.into_split();
                let (mut replies, mut to) = server.into_split();
                tokio::spawn(async move { tokio::io::copy(&mut replies, &mut back).await });
                let mut bytes = [0; 4096];
                while let Ok(count @ 1..) = from.read(&mut bytes).await {
                    if is_stuck.load(Ordering::Relaxed) {
                        // The test may have seen enough.
                        let _ = has_stuck.send(()).await;
                    } else {
                        to.write_all(&bytes[..count]).await.expect("the server reads");
                    }
                }
            });
        }
    });
    own
}

#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn it_ends_on_ctrl_c_while_a_server_does_not_answer() {
    let server = RedisServer::start();
    let (is_stuck, (has_stuck, mut stuck)) = (Arc::new(AtomicBool::new(false)), mpsc::channel(1));
    let port = stuck_way(server.port(), is_stuck.clone(), has_stuck).await;
    let mut watch = Watch::start_at(&format!("redis://127.0.0.1:{port}"), &[]);
    is_stuck.store(true, Ordering::Relaxed);
    stuck.recv().await.expect("it looks");
    let id = watch.child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &id]).status().expect("it starts").success());
    let ends = async {
        loop {
            if let Some(status) = watch.child.try_wait().expect("it was started") {
                return status;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let status = timeout(Duration::from_secs(5), ends).await.expect("it ends at once");
    assert!(status.success(), "{status}");
}
