//! What the limiter costs on a file: `cargo bench --bench sqlite --features sqlite`.
//!
//! Workers are processes of their own: this binary, executed once more. All of them reserve from
//! one bucket of three quotas, and settle. The file lies in the system's directory for temporary
//! files, or in `SQLITE_DIR`.

mod support;

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tower_throttle::{Demand, Limiter, Limits, Quota, store::SqliteStore, usage};

use self::support::{Report, median, percentile};

/// The path of the file and the number of tasks, for a worker.
const FILE: &str = "BENCH_SQLITE_FILE";
const TASKS: &str = "BENCH_SQLITE_TASKS";

const ROUND: Duration = Duration::from_secs(3);
const ROUNDS: usize = 3;
const LIMIT: u64 = 500_000_000_000;
/// Pairs per second over eight processes, at least.
const WANTED: f64 = 1_000.0;

/// Processes and tasks of each.
const CASES: [(usize, usize, &str); 4] = [
    (1, 1, "sqlite.pairs_per_s_1x1"),
    (1, 16, "sqlite.pairs_per_s_1x16"),
    (8, 1, "sqlite.pairs_per_s_8x1"),
    (8, 16, "sqlite.pairs_per_s_8x16"),
];

fn main() {
    if let Some(file) = env::var_os(FILE) {
        return work(Path::new(&file));
    }
    let directory = env::var_os("SQLITE_DIR").map_or_else(env::temp_dir, PathBuf::from);
    let directory = directory.join(format!("tower-throttle-bench-{}", std::process::id()));
    fs::create_dir_all(&directory).expect("a directory can be made");
    let mut report = Report::default();
    for (processes, tasks, key) in CASES {
        let rounds = (0..ROUNDS).map(|round| {
            let file = directory.join(format!("{processes}x{tasks}-{round}.db"));
            measure(processes, tasks, &file)
        });
        let rounds: Vec<_> = rounds.collect();
        let pairs = median(rounds.iter().map(|round| round.0).collect());
        let late = median(rounds.iter().map(|round| round.1).collect());
        let wanted = if processes == 8 { format!(", wanted {WANTED}") } else { String::new() };
        report.add(
            key,
            pairs,
            format!("{processes} processes of {tasks} tasks, p99 {late:.1} ms{wanted}"),
        );
    }
    report.publish();
    let _ = fs::remove_dir_all(directory);
}

/// Pairs per second of some processes, and the slowest worker's 99th percentile of a pair in
/// milliseconds.
fn measure(processes: usize, tasks: usize, file: &Path) -> (f64, f64) {
    let program = env::current_exe().expect("this program has a path");
    let start = |_| {
        let mut command = Command::new(&program);
        command.env(FILE, file).env(TASKS, tasks.to_string()).stdout(Stdio::piped());
        command.spawn().expect("this program can be executed")
    };
    let workers: Vec<_> = (0..processes).map(start).collect();
    let (mut pairs, mut late) = (0.0, 0.0_f64);
    for worker in workers {
        let output = worker.wait_with_output().expect("a worker can be waited for");
        let text = String::from_utf8_lossy(&output.stdout);
        let (own_pairs, own_late) = text.trim().split_once(' ').expect("a worker says two numbers");
        pairs += own_pairs.parse::<f64>().expect("a number");
        late = late.max(own_late.parse().expect("a number"));
    }
    (pairs, late)
}

/// What a worker does: says how many pairs it made in a second, and their 99th percentile in
/// milliseconds.
#[tokio::main(flavor = "current_thread")]
async fn work(file: &Path) {
    let tasks: usize = env::var(TASKS).ok().and_then(|tasks| tasks.parse().ok()).unwrap_or(1);
    let quotas = [
        Quota::per_minute("requests", LIMIT),
        Quota::per_minute("tokens", LIMIT),
        Quota::per_day("requests", LIMIT),
    ];
    let store = SqliteStore::open(file).expect("the file opens");
    let limiter = Limiter::with_store(Limits::new().bucket("api", quotas), store)
        .expect("the limits are valid");
    let started = Instant::now();
    let samples = join_all((0..tasks).map(async |_| {
        let mut samples = Vec::new();
        while started.elapsed() < ROUND {
            let began = Instant::now();
            let demand = Demand::new("api", usage! { requests: 1, tokens: 1_500 });
            let reservation = limiter.reserve(demand).await.expect("it fits");
            reservation.settle(usage! { tokens: 412 }).await.expect("the store answers");
            samples.push(began.elapsed().as_secs_f64() * 1_000.0);
        }
        samples
    }))
    .await;
    let seconds = started.elapsed().as_secs_f64();
    let mut samples: Vec<_> = samples.into_iter().flatten().collect();
    println!("{} {}", samples.len() as f64 / seconds, percentile(&mut samples, 0.99));
    limiter.close().await;
}
