//! `top` in a real terminal, that of tmux.

use std::{
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};

use tower_throttle::{Demand, Limiter, Limits, Quota, store::RedisStore, usage};

use crate::{
    program::{charge, limiter},
    support::RedisServer,
};

/// The longest that a healthy machine takes to show something.
const SHOWN_WITHIN: Duration = Duration::from_secs(20);

/// A terminal in which the program runs, for as long as the value lives.
pub(crate) struct Screen {
    /// The name of the tmux server, which is of this terminal alone.
    name: String,
}

impl Screen {
    /// Starts the program in a terminal of 150 columns and 40 lines. Nothing, and says so, where
    /// there is no tmux.
    pub(crate) fn start(url: &str, arguments: &[&str]) -> Option<Self> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        if Command::new("tmux").arg("-V").output().is_err() {
            eprintln!("SKIPPED: there is no tmux, so nothing was seen of a terminal");
            return None;
        }
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let screen = Self { name: format!("throttle-{}-{count}", std::process::id()) };
        // What was shown stays to be read when the program has ended.
        let program = env!("CARGO_BIN_EXE_tower-throttle");
        let script = "\"$@\"; echo \"ended with $?\"; exec sleep 600";
        let url = format!("REDIS_URL={url}");
        let begin = ["-f", "/dev/null", "new-session", "-d", "-x", "150", "-y", "40", "-e", &url];
        let command = ["sh", "-c", script, "sh", program];
        screen.tmux(&[&begin[..], &command, arguments].concat());
        Some(screen)
    }

    fn tmux(&self, arguments: &[&str]) -> Output {
        let output = Command::new("tmux").args(["-L", &self.name]).args(arguments).output();
        let output = output.expect("tmux starts");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "tmux {arguments:?}: {told}");
        output
    }

    /// Presses keys, by tmux's names of them.
    pub(crate) fn keys(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"], keys].concat());
    }

    pub(crate) fn text(&self) -> String {
        let output = self.tmux(&["capture-pane", "-p"]);
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Waits until the screen is as it should be. Returns what it shows.
    pub(crate) async fn is(&self, what: &str, condition: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + SHOWN_WITHIN;
        loop {
            let text = self.text();
            if condition(&text) {
                return text;
            }
            assert!(Instant::now() < deadline, "it never showed {what}, but\n{text}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    pub(crate) async fn shows(&self, part: &str) -> String {
        self.is(part, |text| text.contains(part)).await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = Command::new("tmux").args(["-L", &self.name, "kill-server"]).output();
    }
}

/// The line of a screen that begins with this.
fn line<'a>(text: &'a str, begin: &str) -> &'a str {
    let found = text.lines().find(|line| line.starts_with(begin));
    found.unwrap_or_else(|| panic!("no line begins with {begin}:\n{text}"))
}

/// The names of the buckets on a screen, from above.
fn names(text: &str) -> Vec<&str> {
    // Without what stands above them, and the keys below.
    let lines = text.lines().take(39).skip(2);
    let begin = lines.filter(|line| !line.starts_with(' '));
    begin.filter_map(|line| line.split_whitespace().next()).collect()
}

/// A server, and a limiter on it whose buckets are all in use.
async fn charged() -> (RedisServer, Limiter) {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    for bucket in ["gpt-4o", "claude", "idle"] {
        charge(&limiter, bucket, 1_500).await;
    }
    (server, limiter)
}

#[tokio::test(flavor = "multi_thread")]
async fn all_buckets_are_shown_live_worst_first() {
    let (server, limiter) = charged().await;
    let Some(screen) = Screen::start(&server.url(), &["top", "--interval", "100ms"]) else {
        return;
    };
    let text = screen.shows("1.5k/30k").await;
    assert!(line(&text, "tower-throttle").contains("3 buckets"), "{text}");
    for part in ["BUCKET", "QUOTA", "WAITING", "NEXT IN", "PAUSED", "GRANTS/s", "NO ROOM/s"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    for key in ["choose", "Enter", "detail", "filter", "sort", "quit", "by worst first"] {
        assert!(text.contains(key), "{key} in\n{text}");
    }
    assert!(line(&text, "claude").contains("requests per minute"), "{text}");
    assert_eq!(names(&text), ["claude", "gpt-4o", "idle"]);

    // Calls in flight that take all, and demands that wait for them.
    let demand = || Demand::new("claude", usage! { requests: 1 });
    let open = [limiter.reserve(demand()).await, limiter.reserve(demand()).await];
    // Each gives back at once what it got: which of them comes first is not known.
    let waiting = [0, 1, 2].map(|_| {
        let reserving = limiter.reserve(demand());
        tokio::spawn(async move { drop(reserving.await.expect("it fits")) })
    });
    let text = screen.is("three that wait", |text| line(text, "claude").contains(" 3 ")).await;
    assert!(text.contains("in flight"), "{text}");
    assert!(text.contains("\u{2593}\u{2593}\u{2593}"), "what is held in\n{text}");
    assert!(line(&text, "tower-throttle").contains("3 waiting"), "{text}");

    // A pause is worse.
    limiter.pause("idle", Duration::from_secs(90)).await.expect("it is paused");
    screen.is("the paused one above", |text| names(text) == ["idle", "claude", "gpt-4o"]).await;
    assert!(screen.shows("1m 2").await.contains("1 paused"));

    drop(open);
    for task in waiting {
        task.await.expect("a task");
    }
    screen.is("none that waits", |text| text.contains(" 0 waiting")).await;
    let (stop, mut stopped) = tokio::sync::oneshot::channel::<()>();
    let busy = tokio::spawn(async move {
        while stopped.try_recv().is_err() {
            charge(&limiter, "gpt-4o", 1).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    let has_rate = |text: &str| {
        let numbers: Vec<_> = line(text, "gpt-4o").split_whitespace().rev().take(2).collect();
        numbers[1].parse::<f64>().is_ok_and(|granted| granted > 2.0)
    };
    screen.is("grants a second", has_rate).await;
    stop.send(()).expect("it listens");
    busy.await.expect("it ends");
    screen.keys(&["q"]);
    screen.shows("ended with 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_filter_sort_and_open_a_bucket() {
    let (server, limiter) = charged().await;
    let Some(screen) = Screen::start(&server.url(), &["top", "--interval", "100ms"]) else {
        return;
    };
    screen.shows("by worst first").await;
    screen.keys(&["/"]);
    screen.shows("filter: _").await;
    screen.keys(&["G", "P", "T"]);
    screen.is("one bucket", |text| names(text) == ["gpt-4o"] && text.contains("1 shown")).await;
    screen.keys(&["Enter"]);
    screen.shows("filter: GPT").await;
    screen.keys(&["Escape"]);
    screen.is("all buckets", |text| names(text).len() == 3).await;
    screen.keys(&["s"]);
    screen
        .is("sorted by name", |text| {
            text.contains("by name") && names(text) == ["claude", "gpt-4o", "idle"]
        })
        .await;

    // What waits is seen closely.
    let demand = || Demand::new("claude", usage! { requests: 1 });
    let open = [limiter.reserve(demand()).await, limiter.reserve(demand()).await];
    let waiting = tokio::spawn(limiter.reserve(demand().share("acme")));
    screen.keys(&["Home", "Enter"]);
    let text = screen.shows("QUEUE  1 demand").await;
    for part in [
        "claude  partition default",
        "a new demand starts when a call ends",
        "any 1m: ",
        "counts requests",
        "0 left of 2",
        "SESSIONS  1",
        "in flight: ",
        "Esc",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = screen.shows("for calls in flight: asks 1").await;
    assert!(text.contains("share "), "{text}");
    drop(open);
    waiting.await.expect("a task").expect("it fits").keep().await.expect("it is kept");
    screen.shows("QUEUE  0 demands").await;
    screen.keys(&["Escape"]);
    screen.shows("by name").await;

    // The cursor stays with its bucket.
    screen.keys(&["End", "Enter"]);
    screen.shows("idle  partition default").await;
    screen.keys(&["Space"]);
    screen.shows("frozen").await;
    screen.keys(&["q"]);
    screen.shows("ended with 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_told_and_comes_back() {
    let mut server = RedisServer::start();
    charge(&limiter(&server).await, "gpt-4o", 1_500).await;
    let Some(screen) = Screen::start(&server.url(), &["top", "--interval", "100ms"]) else {
        return;
    };
    screen.shows("1.5k/30k").await;
    server.stop();
    let text = screen.shows("the store is unavailable").await;
    assert!(text.contains("1.5k/30k"), "what was last known stays:\n{text}");
    server.restart();
    screen
        .is("an empty server", |text| text.contains("0 buckets") && text.contains("no bucket"))
        .await;
    screen.keys(&["C-c"]);
    screen.shows("ended with 0").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn more_buckets_than_lines_are_scrolled() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let quotas = || [Quota::per_minute("requests", 5), Quota::per_hour("requests", 50)];
    let limits =
        (0..100).fold(Limits::new(), |limits, n| limits.bucket(format!("tenant-{n:03}"), quotas()));
    let limiter = Limiter::with_store(limits, store).expect("limits");
    for n in 0..100 {
        charge(&limiter, &format!("tenant-{n:03}"), 0).await;
    }
    let Some(screen) = Screen::start(&server.url(), &["top"]) else { return };
    screen.is("the first ones", |text| names(text).first() == Some(&"tenant-000")).await;
    screen.keys(&["End"]);
    screen.is("the last ones", |text| names(text).last() == Some(&"tenant-099")).await;
    screen.keys(&["PageUp", "PageUp"]);
    screen.is("some between", |text| !names(text).contains(&"tenant-099")).await;
    screen.keys(&["Home"]);
    screen.is("the first ones", |text| names(text).first() == Some(&"tenant-000")).await;
    screen.keys(&["/", "x", "x", "Enter"]);
    screen.shows("lets none through").await;
}

/// What the program has used of a core so far, in seconds.
#[cfg(target_os = "linux")]
fn seconds_of_cpu(id: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).expect("it runs");
    let (_, after) = stat.rsplit_once(')').expect("its name");
    let ticks = |at: usize| -> f64 {
        after.split_whitespace().nth(at).and_then(|ticks| ticks.parse().ok()).expect("a number")
    };
    // User and system time, in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

#[cfg(target_os = "linux")]
impl Screen {
    /// The program's own process, which is the child of the shell in the terminal.
    fn process(&self) -> u32 {
        let output = self.tmux(&["display-message", "-p", "#{pane_pid}"]);
        let shell = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        let children = std::fs::read_to_string(format!("/proc/{shell}/task/{shell}/children"));
        let children = children.expect("it runs");
        children.split_whitespace().next().and_then(|id| id.parse().ok()).expect("a child")
    }
}

/// `cargo test --release -p tower-throttle-cli -- --ignored thousand --nocapture` prints figures.
#[cfg(target_os = "linux")]
#[ignore = "it measures, which takes a quiet machine and half a minute"]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_buckets_take_a_twentieth_of_a_core_and_do_not_flicker() {
    const MEASURED: Duration = Duration::from_secs(10);
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let quotas = || {
        let tokens = Quota::token_bucket("tokens", 30_000, Duration::from_secs(60));
        [Quota::per_minute("requests", 500), tokens, Quota::per_day("requests", 10_000)]
    };
    let name = |n: usize| format!("tenant-{n:04}");
    let limits = (0..1_000).fold(Limits::new(), |limits, n| limits.bucket(name(n), quotas()));
    let limiter = Limiter::with_store(limits, store).expect("limits");
    for n in 0..1_000 {
        charge(&limiter, &name(n), 100).await;
    }
    let Some(screen) = Screen::start(&server.url(), &["top"]) else { return };
    screen.shows("1,000 buckets").await;
    let drawn = server.directory().join("drawn");
    let pipe = format!("cat > {}", drawn.display());
    screen.tmux(&["pipe-pane", "-o", &pipe]);
    let id = screen.process();
    for is_busy in [false, true] {
        let end = Instant::now() + MEASURED;
        let (before, mut charged) = (seconds_of_cpu(id), 0);
        while Instant::now() < end {
            if is_busy {
                charge(&limiter, &name(charged * 7 % 1_000), 1).await;
                charged += 1;
            } else {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
        let share = (seconds_of_cpu(id) - before) / MEASURED.as_secs_f64();
        let bytes = std::fs::metadata(&drawn).map_or(0, |file| file.len());
        println!(
            "1,000 buckets of 3 quotas, {} charges/s: {:.1} % of a core, {bytes} bytes drawn so far",
            charged / 10,
            share * 100.0
        );
        assert!(cfg!(debug_assertions) || share < 0.05, "{share}");
    }
    let drawn = std::fs::read(&drawn).expect("what was drawn");
    // After the first picture the screen is never cleared.
    assert!(!drawn.windows(4).any(|bytes| bytes == b"\x1b[2J"), "it flickers");
}
