use std::{
    io::{BufRead, BufReader, Lines},
    process::{Child, ChildStdout, Stdio},
    time::Duration,
};

use tower_throttle::{Demand, usage};

use crate::{
    program::{charge, limiter, program},
    support::RedisServer,
};

/// A watch that runs, and its lines.
struct Watch {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Watch {
    fn start(server: &RedisServer, arguments: &[&str]) -> Self {
        let mut child = program(&[&["watch", "--interval", "50ms"], arguments].concat())
            .env("REDIS_URL", server.url())
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
    fn says(&mut self, part: &str) -> String {
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
