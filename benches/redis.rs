//! What the limiter costs on Redis: `cargo bench --bench redis --features redis`.
//!
//! It starts a server of its own (`REDIS_SERVER`, or `redis-server` or `valkey-server` of the
//! path). The reference is a script that does nothing, on the same server and in the same rounds:
//! what any limiter on Redis pays at least.
//!
//! Each case is a kind of bucket and of call: `sliding` settles at once, `late` two seconds later,
//! `bucket` has token buckets, `parent` takes from two buckets and settles as late, `concurrency`
//! also counts calls in flight.
//!
//! A late call is no task of its own: to spawn one with a timer takes more of the processor than
//! the limiter does, and would be most of what is measured. All calls take the same time, so each
//! of the tasks keeps its open calls in a queue, and settles those that are over after each
//! reserve.

#[path = "../tests/support/redis_server.rs"]
#[allow(dead_code, unreachable_pub, reason = "tests need more of it")]
mod redis_server;
mod support;

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use redis::{Cmd, aio::MultiplexedConnection};
use tower_throttle::{Demand, Limiter, Limits, Quota, Reservation, store::RedisStore, usage};

use self::{
    redis_server::RedisServer,
    support::{Report, median, percentile},
};

const ROUNDS: usize = 7;
const ROUND: Duration = Duration::from_millis(500);
const LONE: usize = 300;
const CONNECTIONS: usize = 50;
const TASKS: usize = 256;
const FEWER_TASKS: [(usize, &str); 3] =
    [(1, "redis.pairs_per_s_1"), (16, "redis.pairs_per_s_16"), (64, "redis.pairs_per_s_64")];
const LIMIT: u64 = 500_000_000_000;
/// The limit of a token bucket, whose arithmetic needs room for its units.
const BURST: u64 = 1_000_000_000;
const MINUTE: Duration = Duration::from_secs(60);
/// How long a call takes in case `late`.
const CALL: Duration = Duration::from_secs(2);
/// Commands that only a client sends; all others are also the script's.
const SENT: [&str; 4] = ["cmdstat_evalsha", "cmdstat_eval", "cmdstat_ping", "cmdstat_script|load"];

/// A kind of bucket and of call.
#[derive(Clone, Copy)]
struct Case {
    name: &'static str,
    quotas: fn() -> Vec<Quota>,
    parent: bool,
    /// How long after the grant a call is settled.
    call: Duration,
    /// Pairs per second over the reference, and the median of a lone reserve over the reference: at
    /// least, at most.
    wanted: (f64, f64),
    keys: [&'static str; 3],
}

macro_rules! case {
    ($name:literal, $quotas:expr, $parent:literal, $call:expr, $wanted:expr) => {
        Case {
            name: $name,
            quotas: $quotas,
            parent: $parent,
            call: $call,
            wanted: $wanted,
            keys: [
                concat!("redis.pairs_per_s_256.", $name),
                concat!("redis.reserve_p50_us.", $name),
                concat!("redis.script_us_alone.", $name),
            ],
        }
    };
}

const CASES: [Case; 5] = [
    case!("sliding", sliding, false, Duration::ZERO, (2.0, 1.5)),
    case!("late", sliding, false, CALL, (1.5, 1.5)),
    case!("bucket", token_buckets, false, Duration::ZERO, (1.5, 1.5)),
    case!("parent", sliding, true, CALL, (1.0, 1.8)),
    case!("concurrency", with_concurrency, false, Duration::ZERO, (1.5, 1.5)),
];

fn sliding() -> Vec<Quota> {
    vec![
        Quota::per_minute("requests", LIMIT),
        Quota::per_minute("tokens", LIMIT),
        Quota::per_day("requests", LIMIT),
    ]
}

fn token_buckets() -> Vec<Quota> {
    vec![
        Quota::token_bucket("requests", BURST / 1_000, MINUTE),
        Quota::token_bucket("tokens", BURST, MINUTE),
        Quota::token_bucket("input_tokens", BURST, MINUTE),
    ]
}

fn with_concurrency() -> Vec<Quota> {
    vec![Quota::per_minute("tokens", LIMIT), Quota::concurrency(1_000_000)]
}

impl Case {
    async fn limiter(&self, server: &RedisServer) -> Limiter {
        let store =
            RedisStore::connect(&server.url()).await.expect("the server is up").prefix(self.name);
        let limits =
            Limits::new().bucket("gpt-4o", (self.quotas)()).bucket("everyone", (self.quotas)());
        Limiter::with_store(limits, store).expect("the limits are valid")
    }

    async fn reserve(&self, limiter: &Limiter) -> Reservation {
        let usage = usage! { requests: 1, tokens: 1_500, input_tokens: 1_000 };
        let demand = Demand::new("gpt-4o", usage);
        let demand = if self.parent { demand.and("everyone") } else { demand };
        limiter.reserve(demand).await.expect("it fits")
    }

    /// Settles without waiting for the answer.
    fn settle(&self, reservation: Reservation) {
        drop(reservation.settle(usage! { tokens: 412, input_tokens: 300 }));
    }
}

#[tokio::main]
async fn main() {
    let server = RedisServer::start();
    let reference = Reference::new(&server).await;
    let only = std::env::args().skip(1).find(|argument| !argument.starts_with("--"));
    let mut report = Report::default();
    for case in CASES.iter().filter(|case| only.as_deref().is_none_or(|only| case.name == only)) {
        let limiter = case.limiter(&server).await;
        // Scripts are loaded and connections are made.
        case.reserve(&limiter)
            .await
            .settle(usage! { tokens: 412 })
            .await
            .expect("the store answers");
        alone(case, &server, &reference, &limiter, &mut report).await;
        together(case, &reference, &limiter, &mut report).await;
        if case.name == CASES[0].name {
            let bytes = bytes(&server, case.name);
            report.add(
                "redis.bucket_bytes",
                bytes as f64,
                "three quotas at default slots; at most 4096",
            );
        }
        limiter.close().await;
    }
    report.publish();
}

/// What a bucket takes in the server, with all of its keys.
fn bytes(server: &RedisServer, prefix: &str) -> u64 {
    let keys: Vec<String> = server.command(&["KEYS", &format!("{prefix}:*gpt-4o*")]);
    keys.iter().map(|key| server.command::<u64>(&["MEMORY", "USAGE", key, "SAMPLES", "0"])).sum()
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

/// One at a time: latency, what is sent for it, and the server's share. Each call of the reference
/// is followed by a reserve, so that both find threads and processors as awake or asleep.
async fn alone(
    case: &Case,
    server: &RedisServer,
    reference: &Reference,
    limiter: &Limiter,
    report: &mut Report,
) {
    let mut connection = reference.connections[0].clone();
    let (mut bare, mut reserved, mut script, mut sent) = (Vec::new(), Vec::new(), Vec::new(), 0);
    for _ in 0..ROUNDS {
        let mut open = Vec::new();
        let before = Statistics::of(server);
        for _ in 0..LONE {
            let start = Instant::now();
            reference.run(&mut connection).await;
            bare.push(micros(start));
            let start = Instant::now();
            open.push(case.reserve(limiter).await);
            reserved.push(micros(start));
        }
        let after = Statistics::of(server);
        sent += after.commands - before.commands - LONE as u64;
        script.push((after.script_micros - before.script_micros) as f64 / LONE as f64);
        for reservation in open {
            reservation.settle(usage! { tokens: 412 }).await.expect("the store answers");
        }
    }
    let (bare, reserved) = (median(bare), median(reserved));
    let (_, at_most) = case.wanted;
    let [_, reserve_key, script_key] = case.keys;
    let is_first = case.name == CASES[0].name;
    if is_first {
        report.add("redis.bare_evalsha_p50_us", bare, "the reference: an empty script, alone");
        report.add("redis.commands_per_reserve", sent as f64 / (ROUNDS * LONE) as f64, "at most 1");
    }
    let remark = format!("alone; {:.2} times the reference, at most {at_most}", reserved / bare);
    report.add(reserve_key, reserved, remark);
    report.add(script_key, median(script), "the server's time for both scripts of a turn");
}

/// Many at a time: throughput, and the latency of the slowest.
async fn together(case: &Case, reference: &Reference, limiter: &Limiter, report: &mut Report) {
    let (mut bare, mut pairs, mut slowest) = (Vec::new(), Vec::new(), Vec::new());
    let mut fewer = vec![Vec::new(); FEWER_TASKS.len()];
    let is_first = case.name == CASES[0].name;
    for _ in 0..ROUNDS {
        let (rate, _) = round(CONNECTIONS, |index| reference.clone().turns(index)).await;
        bare.push(rate);
        for (rates, (tasks, _)) in fewer.iter_mut().zip(FEWER_TASKS).filter(|_| is_first) {
            rates.push(round(tasks, |_| turns(*case, limiter.clone())).await.0);
        }
        let (rate, mut times) = round(TASKS, |_| turns(*case, limiter.clone())).await;
        pairs.push(rate);
        slowest.push(percentile(&mut times, 0.99));
        // Comes after the settles of this round.
        limiter.status("gpt-4o").await.expect("the store answers");
    }
    let (bare, pairs) = (median(bare), median(pairs));
    let (at_least, _) = case.wanted;
    if is_first {
        report.add(
            "redis.bare_evalsha_per_s",
            bare,
            format!("the reference on {CONNECTIONS} connections"),
        );
        report.add("redis.reserve_p99_us_256", median(slowest), "at most 10000");
    }
    for (rates, (_, key)) in fewer.into_iter().zip(FEWER_TASKS).filter(|_| is_first) {
        let rate = median(rates);
        report.add(key, rate, format!("{:.2} times the reference", rate / bare));
    }
    let remark =
        format!("reserve + settle; {:.2} times the reference, at least {at_least}", pairs / bare);
    report.add(case.keys[0], pairs, remark);
}

/// Lets so many tasks take turns for a while. Returns how many they took per second, and how long
/// each waited.
async fn round<T>(tasks: usize, turns: impl Fn(usize) -> T) -> (f64, Vec<f64>)
where
    T: Future<Output = Vec<f64>> + Send + 'static,
{
    let tasks: Vec<_> = (0..tasks).map(|index| tokio::spawn(turns(index))).collect();
    let mut times = Vec::new();
    for task in tasks {
        times.extend(task.await.expect("no task panics"));
    }
    (times.len() as f64 / ROUND.as_secs_f64(), times)
}

/// Reserves, and settles when the call is over: meanwhile the next one is made. Counted once as
/// many calls end as begin.
async fn turns(case: Case, limiter: Limiter) -> Vec<f64> {
    let (counted, mut times) = (Instant::now() + 2 * case.call, Vec::new());
    let (end, mut open) = (counted + ROUND, VecDeque::new());
    while Instant::now() < end {
        let start = Instant::now();
        open.push_back((start + case.call, case.reserve(&limiter).await));
        if start >= counted {
            times.push(micros(start));
        }
        let ended = open.iter().take_while(|(ends, _)| *ends <= start).count();
        open.drain(..ended).for_each(|(_, reservation)| case.settle(reservation));
    }
    open.into_iter().for_each(|(_, reservation)| case.settle(reservation));
    times
}

fn micros(start: Instant) -> f64 {
    start.elapsed().as_secs_f64() * 1e6
}

/// What the server did so far.
struct Statistics {
    /// Commands from clients, those of this function not counted.
    commands: u64,
    /// Time in scripts.
    script_micros: u64,
}

impl Statistics {
    fn of(server: &RedisServer) -> Self {
        let statistics: String = server.command(&["INFO", "commandstats"]);
        let mut total = Self { commands: 0, script_micros: 0 };
        for (name, counts) in statistics.lines().filter_map(|line| line.split_once(':')) {
            let value = |key: &str| {
                let counts = counts.split(',').find_map(|count| count.strip_prefix(key));
                counts.and_then(|count| count.parse::<u64>().ok()).unwrap_or(0)
            };
            if SENT.contains(&name) {
                total.commands += value("calls=");
            }
            if name == "cmdstat_evalsha" {
                total.script_micros += value("usec=");
            }
        }
        total
    }
}
