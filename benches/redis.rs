//! What the limiter costs on Redis: `cargo bench --bench redis --features redis`.
//!
//! It starts a server of its own (`REDIS_SERVER`, or `redis-server` or `valkey-server` of the path). The reference is a
//! script that does nothing, on the same server and in the same rounds: what any limiter on Redis pays at least.

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "tests need more of it")]
mod redis_server;
mod support;

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use redis::{Cmd, aio::MultiplexedConnection};
use tower_throttle::{Demand, Limiter, Limits, Quota, Reservation, store::RedisStore, usage};

use self::{
    redis_server::RedisServer,
    support::{Report, median, percentile},
};

const ROUNDS: usize = 15;
const ROUND: Duration = Duration::from_millis(500);
const LONE: usize = 500;
const CONNECTIONS: usize = 50;
const MOST_TASKS: usize = 256;
const TASKS: [(usize, &str); 4] = [
    (1, "redis.pairs_per_s_1"),
    (16, "redis.pairs_per_s_16"),
    (64, "redis.pairs_per_s_64"),
    (MOST_TASKS, "redis.pairs_per_s_256"),
];
const LIMIT: u64 = 500_000_000_000;
/// Commands that only a client sends; all others are also the script's.
const SENT: [&str; 4] = ["cmdstat_evalsha", "cmdstat_eval", "cmdstat_ping", "cmdstat_script|load"];

#[tokio::main]
async fn main() {
    let server = RedisServer::start();
    let reference = Reference::new(&server).await;
    let limiter = limiter(&server).await;
    // Scripts are loaded and connections are made.
    reserve(&limiter).await.settle(usage! { tokens: 412 }).await.expect("the store answers");

    let mut report = Report::default();
    lone(&server, &reference, &limiter, &mut report).await;
    together(&reference, &limiter, &mut report).await;
    let bytes: u64 =
        server.command(&["MEMORY", "USAGE", "throttle:{default}:gpt-4o", "SAMPLES", "0"]);
    report.add("redis.bucket_bytes", bytes as f64, "three quotas at default slots; below 4096");
    report.publish();
}

async fn limiter(server: &RedisServer) -> Limiter {
    let quotas = [
        Quota::per_minute("requests", LIMIT),
        Quota::per_minute("tokens", LIMIT),
        Quota::per_day("requests", LIMIT),
    ];
    let store = RedisStore::connect(&server.url()).await.expect("the server is up");
    Limiter::with_store(Limits::new().bucket("gpt-4o", quotas), store)
        .expect("the limits are valid")
}

async fn reserve(limiter: &Limiter) -> Reservation {
    let demand = Demand::new("gpt-4o", usage! { requests: 1, tokens: 1_500 });
    limiter.reserve(demand).await.expect("it fits")
}

/// A script that does nothing, and connections to run it on.
#[derive(Clone)]
struct Reference {
    script: Cmd,
    connections: Vec<MultiplexedConnection>,
}

impl Reference {
    async fn new(server: &RedisServer) -> Self {
        let client = redis::Client::open(server.url()).expect("the url is valid");
        let connect = || client.get_multiplexed_async_connection();
        let connections = join_all((0..CONNECTIONS).map(|_| connect())).await;
        let digest: String = server.command(&["SCRIPT", "LOAD", "return 1"]);
        let mut script = redis::cmd("EVALSHA");
        script.arg(digest).arg(0);
        Self {
            script,
            connections: connections.into_iter().map(|made| made.expect("it connects")).collect(),
        }
    }

    async fn run(&self, connection: &mut MultiplexedConnection) {
        let _: i64 = self.script.query_async(connection).await.expect("the server answers");
    }

    async fn turns(self, index: usize) -> Vec<f64> {
        let mut connection = self.connections[index].clone();
        let (end, mut times) = (Instant::now() + ROUND, Vec::new());
        while Instant::now() < end {
            let start = Instant::now();
            self.run(&mut connection).await;
            times.push(micros(start));
        }
        times
    }
}

/// One at a time: latency, and what is sent for it. Each call of the reference is followed by a reserve, so that both find
/// threads and processors as awake or asleep.
async fn lone(server: &RedisServer, reference: &Reference, limiter: &Limiter, report: &mut Report) {
    let mut connection = reference.connections[0].clone();
    let (mut bare, mut reserved, mut sent) = (Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let mut open = Vec::new();
        let before = commands(server);
        for _ in 0..LONE {
            let start = Instant::now();
            reference.run(&mut connection).await;
            bare.push(micros(start));
            let start = Instant::now();
            open.push(reserve(limiter).await);
            reserved.push(micros(start));
        }
        sent += commands(server) - before - LONE as u64;
        for reservation in open {
            reservation.settle(usage! { tokens: 412 }).await.expect("the store answers");
        }
    }
    let (bare, reserved) = (median(bare), median(reserved));
    report.add("redis.bare_evalsha_p50_us", bare, "the reference: an empty script, alone");
    let remark = format!("alone; {:.2} times the reference, at most 1.5", reserved / bare);
    report.add("redis.reserve_p50_us", reserved, remark);
    report.add("redis.commands_per_reserve", sent as f64 / (ROUNDS * LONE) as f64, "at most 1");
}

/// Many at a time: throughput, and the latency of the slowest.
async fn together(reference: &Reference, limiter: &Limiter, report: &mut Report) {
    let (mut bare, mut pairs, mut slowest) =
        (Vec::new(), vec![Vec::new(); TASKS.len()], Vec::new());
    for _ in 0..ROUNDS {
        let (rate, _) = round(CONNECTIONS, |index| reference.clone().turns(index)).await;
        bare.push(rate);
        for (rates, (tasks, _)) in pairs.iter_mut().zip(TASKS) {
            let (rate, mut times) = round(tasks, |_| turns(limiter.clone())).await;
            rates.push(rate);
            if tasks == MOST_TASKS {
                slowest.push(percentile(&mut times, 0.99));
            }
            // Comes after the settles of this round.
            limiter.status("gpt-4o").await.expect("the store answers");
        }
    }
    let bare = median(bare);
    report.add(
        "redis.bare_evalsha_per_s",
        bare,
        format!("the reference on {CONNECTIONS} connections"),
    );
    for (rates, (tasks, key)) in pairs.into_iter().zip(TASKS) {
        let rate = median(rates);
        let wanted = if tasks == MOST_TASKS { ", at least 2" } else { "" };
        let remark =
            format!("reserve + settle, one bucket; {:.2} times the reference{wanted}", rate / bare);
        report.add(key, rate, remark);
    }
    report.add("redis.reserve_p99_us_256", median(slowest), "at most 10000");
}

/// Lets so many tasks take turns for a while. Answers how many they took per second, and how long each waited.
async fn round<T>(tasks: usize, turns: impl Fn(usize) -> T) -> (f64, Vec<f64>)
where
    T: Future<Output = Vec<f64>> + Send + 'static,
{
    let start = Instant::now();
    let tasks: Vec<_> = (0..tasks).map(|index| tokio::spawn(turns(index))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no task panics"));
    }
    (times.len() as f64 / start.elapsed().as_secs_f64(), times)
}

/// Reserves and settles; the settle is not waited for.
async fn turns(limiter: Limiter) -> Vec<f64> {
    let (end, mut times) = (Instant::now() + ROUND, Vec::new());
    while Instant::now() < end {
        let start = Instant::now();
        let reservation = reserve(&limiter).await;
        times.push(micros(start));
        drop(reservation.settle(usage! { tokens: 412 }));
    }
    times
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// How many commands the server got from clients so far, those of this function not counted.
fn commands(server: &RedisServer) -> u64 {
    let statistics: String = server.command(&["INFO", "commandstats"]);
    let calls = |line: &str| {
        let (name, counts) = line.split_once(':')?;
        let calls = counts.strip_prefix("calls=")?.split(',').next()?;
        SENT.contains(&name).then(|| calls.parse::<u64>().ok()).flatten()
    };
    statistics.lines().filter_map(calls).sum()
}
