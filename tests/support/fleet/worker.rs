//! The program of a worker: a limiter on the shared server that does what it is told.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, Write, stdin, stdout},
    process,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
    time::{Duration, UNIX_EPOCH},
};

use tokio::{
    runtime,
    sync::mpsc,
    task::{JoinHandle, JoinSet},
    time::timeout,
};
use tower_throttle::{
    Feedback, Limiter, Reservation, Throttled, Usage,
    limiter::{Retries, Settling},
    observe::Event,
    store::RedisStore,
};

use super::{
    api,
    ask::{Ask, limits},
    message::Message,
    micros_of, now,
    run::Run,
};

/// Makes a process of this binary a worker.
pub(super) const WORKER: &str = "FLEET_WORKER";

/// Whether this process is to be a worker.
pub fn is_worker() -> bool {
    env::var_os(WORKER).is_some()
}

/// Takes orders until there are no more, then ends the process.
pub fn serve() -> ! {
    // What the test harness has printed so far may be an open line.
    println!();
    let (sender, mut orders) = mpsc::unbounded_channel();
    thread::spawn(move || {
        let lines = stdin().lock().lines().map_while(Result::ok);
        lines.filter_map(|line| Message::parse(&line)).all(|order| sender.send(order).is_ok())
    });
    let runtime = runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    runtime.expect("a runtime").block_on(async {
        let first = orders.recv().await.expect("an order to open a limiter");
        let program = Program::open(&first).await;
        while let Some(order) = orders.recv().await {
            program.obey(order).await;
        }
    });
    process::exit(0)
}

/// Writes an answer. One that nothing reads any more is not missed.
pub(super) fn say(answer: &Message) {
    let mut stdout = stdout().lock();
    let _ = writeln!(stdout, "{answer}").and_then(|()| stdout.flush());
}

#[derive(Clone)]
struct Program {
    limiter: Limiter,
    calls: Arc<Mutex<Calls>>,
}

#[derive(Default)]
struct Calls {
    /// Granted reservations by the id of their order.
    open: HashMap<u64, Reservation>,
    /// Reserves that are not over.
    waiting: HashMap<u64, JoinHandle<()>>,
    runs: HashMap<u64, Arc<Run>>,
}

impl Program {
    async fn open(order: &Message) -> Self {
        let store = RedisStore::lazy(order.get("url").expect("a url")).expect("the url is valid");
        let mut retries = Retries::default();
        retries.max = order.value("retries");
        retries.longest_pause = Duration::from_millis(500);
        let limiter = Limiter::builder(limits(order.get("limits").unwrap_or_default()))
            .store(store)
            .lease(Duration::from_micros(order.value("lease")))
            .retries(retries)
            .observer(|event: &Event<'_>| {
                if let Event::WaitStarted { position, .. } = event {
                    say(&Message::new(0, "waits").with("position", position));
                }
            })
            .build()
            .expect("the limits are valid");
        say(&Message::new(order.id, "open").with("process", process::id()));
        Self { limiter, calls: Arc::default() }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn obey(&self, order: Message) {
        match order.verb.as_str() {
            "reserve" | "try" => self.reserve(order),
            "cancel" => self.cancel(&order).await,
            "settle" => self.conclude(&order, |call| call.settle(used(&order, "tokens"))),
            "keep" => self.conclude(&order, Reservation::keep),
            "release" => self.conclude(&order, Reservation::release),
            "refused" => self.refused(&order),
            "answered" => self.answered(&order),
            "status" => self.status(&order).await,
            "update" => self.update(&order),
            "pause" => self.pause(&order).await,
            "tries" => self.tries(&order).await,
            "blink" => self.blink(&order).await,
            "run" => self.run(order),
            "halt" => self.halt(&order),
            _ => panic!("no order: {order}"),
        }
    }

    fn reserve(&self, order: Message) {
        let (program, id, mut calls) = (self.clone(), order.id, self.calls());
        let task = tokio::spawn(async move {
            let (demand, called) = (Ask::demand(&order), now());
            let outcome = match order.verb.as_str() {
                "try" => program.limiter.try_reserve(demand).await,
                _ => program.limiter.reserve(demand).await,
            };
            let answer = outcome_of(id, called, &outcome);
            let mut calls = program.calls();
            calls.waiting.remove(&id);
            if let Ok(reservation) = outcome {
                calls.open.insert(id, reservation);
            }
            drop(calls);
            say(&answer);
        });
        calls.waiting.insert(id, task);
    }

    async fn cancel(&self, order: &Message) {
        let waiting = self.calls().waiting.remove(&order.value("call"));
        if let Some(task) = waiting {
            task.abort();
            // A task that was aborted is over once this returns.
            let _ = task.await;
        }
        say(&Message::new(order.id, "done"));
    }

    /// Ends a call; the order is given before any other, the answer when the store has it.
    fn conclude(&self, order: &Message, end: impl FnOnce(Reservation) -> Settling) {
        let call = self.calls().open.remove(&order.value("call"));
        let (id, settling) = (order.id, end(call.expect("the call was granted")));
        report(id, settling);
    }

    /// The provider refused the call and asked for a wait. Nothing of it was counted.
    fn refused(&self, order: &Message) {
        let call = self.calls().open.remove(&order.value("call")).expect("the call was granted");
        let wait = Duration::from_micros(order.value("retry_after"));
        drop(call.feedback(&Feedback::new().with_retry_after(wait)));
        report(order.id, call.release());
    }

    /// The provider answered the call well.
    fn answered(&self, order: &Message) {
        let call = self.calls().open.remove(&order.value("call")).expect("the call was granted");
        drop(api::answered_well(&call));
        report(order.id, call.settle(used(order, "tokens")));
    }

    async fn status(&self, order: &Message) {
        let answer = Message::new(order.id, "status");
        say(&match self.limiter.status(order.get("bucket").expect("a bucket")).await {
            Ok(status) => answer
                .with("waiting", api::waiting(&status))
                .with("available", join(status.quotas.iter().map(|quota| quota.available)))
                .with("in_flight", join(status.quotas.iter().map(|quota| quota.in_flight))),
            Err(error) => answer.with("error", error),
        });
    }

    fn update(&self, order: &Message) {
        let limits = limits(order.get("limits").unwrap_or_default());
        self.limiter.update(limits).expect("the limits are valid");
        say(&Message::new(order.id, "done"));
    }

    async fn pause(&self, order: &Message) {
        let time = Duration::from_micros(order.value("time"));
        let bucket = order.get("bucket").expect("a bucket");
        self.limiter.pause(bucket, time).await.expect("the store answers");
        say(&Message::new(order.id, "done"));
    }

    /// Tries at the same time, and keeps what passes.
    async fn tries(&self, order: &Message) {
        let mut tries = JoinSet::new();
        for _ in 0..order.value("times") {
            let (limiter, demand) = (self.limiter.clone(), Ask::demand(order));
            tries.spawn(async move {
                match limiter.try_reserve(demand).await {
                    Ok(call) => call.keep().await.is_ok(),
                    Err(Throttled::NotNow(_)) => false,
                    Err(error) => panic!("{error}"),
                }
            });
        }
        let passed = tries.join_all().await.into_iter().filter(|passed| *passed).count();
        say(&Message::new(order.id, "tried").with("passed", passed));
    }

    /// Reserves and drops the future after a while; what was granted before that is released.
    async fn blink(&self, order: &Message) {
        let reserve = self.limiter.reserve(Ask::demand(order));
        let granted = timeout(Duration::from_micros(order.value("after")), reserve).await;
        let was_granted = granted.is_ok();
        if let Ok(outcome) = granted {
            outcome.expect("it is granted").release().await.expect("the store answers");
        }
        say(&Message::new(order.id, "blinked").with("granted", was_granted));
    }

    fn run(&self, order: Message) {
        let id = order.id;
        let run = Run::start(self.limiter.clone(), order);
        self.calls().runs.insert(id, run);
    }

    fn halt(&self, order: &Message) {
        let run = self.calls().runs.remove(&order.value("run")).expect("the run was ordered");
        run.end(order.id);
    }
}

/// The usage that an order names with this key: metrics that it does not name stay as reserved.
pub(super) fn used(order: &Message, key: &str) -> Usage {
    let usage = Usage::new();
    if order.get(key).is_some() { usage.with("tokens", order.value(key)) } else { usage }
}

fn join<T: ToString>(values: impl Iterator<Item = T>) -> String {
    values.map(|value| value.to_string()).collect::<Vec<_>>().join(",")
}

fn report(id: u64, settling: Settling) {
    tokio::spawn(async move {
        let answer = Message::new(id, "done");
        say(&match settling.await {
            Ok(()) => answer,
            Err(error) => answer.with("error", error),
        });
    });
}

fn outcome_of(id: u64, called: u64, outcome: &Result<Reservation, Throttled>) -> Message {
    match outcome {
        Ok(reservation) => granted(id, "granted", called, reservation),
        Err(error) => {
            let answer = Message::new(id, "refused").with("called", called).with("returned", now());
            let retry_after = error.retry_after().map(micros_of);
            let answer =
                retry_after.into_iter().fold(answer, |a, time| a.with("retry_after", time));
            answer.with("kind", kind(error)).with("error", error)
        }
    }
}

/// What there is to tell of a grant.
pub(super) fn granted(id: u64, verb: &str, called: u64, reservation: &Reservation) -> Message {
    let since = reservation.granted_at().duration_since(UNIX_EPOCH).unwrap_or_default();
    Message::new(id, verb)
        .with("at", micros_of(since))
        .with("called", called)
        .with("returned", now())
        .with("waited", micros_of(reservation.waited()))
        .with("position", reservation.position())
}

fn kind(error: &Throttled) -> &'static str {
    match error {
        Throttled::NotNow(_) => "NotNow",
        Throttled::Deadline(_) => "Deadline",
        Throttled::Paused(_) => "Paused",
        Throttled::ExceedsCapacity(_) => "ExceedsCapacity",
        Throttled::QueueFull { .. } => "QueueFull",
        Throttled::Store(_) => "Store",
        Throttled::BadDemand(_) => "BadDemand",
        Throttled::Closed => "Closed",
        _ => "other",
    }
}
