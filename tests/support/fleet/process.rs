//! The other side of a worker: a handle to its process, its calls and its runs.

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader, Write},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use super::{ask::Ask, message::Message, micros_of, secs, worker::WORKER};

/// Longer than any answer takes that does not wait for quota.
const PROMPT: Duration = Duration::from_secs(10);

/// How a worker opens its limiter.
#[derive(Clone, Debug)]
pub struct Setup {
    pub url: String,
    pub limits: String,
    /// Of the test binary, so that it runs the worker and nothing else.
    pub arguments: Vec<String>,
    pub lease: Duration,
    pub retries: u32,
}

impl Setup {
    pub fn new(url: impl Into<String>, limits: impl Into<String>) -> Self {
        let (url, limits) = (url.into(), limits.into());
        Self { url, limits, arguments: Vec::new(), lease: secs(10), retries: 3 }
    }
}

/// A process that takes orders. It is killed when this is dropped.
pub struct Worker {
    name: String,
    child: Mutex<Child>,
    process: u32,
    stdin: Mutex<ChildStdin>,
    inbox: Arc<Inbox>,
    next_id: AtomicU64,
}

/// What a worker has answered so far, by the id of the order.
#[derive(Default)]
struct Inbox {
    messages: Mutex<HashMap<u64, Vec<Message>>>,
    changed: Condvar,
}

impl Inbox {
    fn read(&self, stdout: ChildStdout) {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let Some(message) = Message::parse(&line) else { continue };
            let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
            messages.entry(message.id).or_default().push(message);
            self.changed.notify_all();
        }
    }

    fn of(&self, id: u64) -> Vec<Message> {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        messages.get(&id).cloned().unwrap_or_default()
    }

    /// Waits until this is true of the messages, or until the time is over.
    fn wait(
        &self,
        within: Duration,
        is_there: impl Fn(&HashMap<u64, Vec<Message>>) -> bool,
    ) -> bool {
        let messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = self.changed.wait_timeout_while(messages, within, |all| !is_there(all));
        let (messages, _) = waiting.unwrap_or_else(PoisonError::into_inner);
        is_there(&messages)
    }
}

impl Worker {
    /// Starts a process and opens its limiter.
    pub fn start(name: &str, setup: &Setup) -> Self {
        let program = env::current_exe().expect("this binary");
        let mut child = Command::new(program)
            .args(&setup.arguments)
            .env(WORKER, name)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("a process of this binary");
        let (stdin, stdout) =
            (child.stdin.take().expect("piped"), child.stdout.take().expect("piped"));
        let inbox = Arc::new(Inbox::default());
        let reading = inbox.clone();
        thread::spawn(move || reading.read(stdout));
        let worker = Self {
            name: name.into(),
            process: child.id(),
            child: Mutex::new(child),
            stdin: Mutex::new(stdin),
            inbox,
            next_id: AtomicU64::new(1),
        };
        let order = Message::new(worker.id(), "open").with("url", &setup.url);
        let order = order.with("lease", micros_of(setup.lease)).with("retries", setup.retries);
        worker.ask(&order.with("limits", &setup.limits), PROMPT);
        worker
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    fn id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Sends an order. A worker that was killed does not get it.
    fn send(&self, order: &Message) {
        let mut stdin = self.stdin.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = writeln!(stdin, "{order}").and_then(|()| stdin.flush());
    }

    /// Waits for the first answer to an order.
    fn answer(&self, id: u64, within: Duration) -> Option<Message> {
        self.inbox.wait(within, |messages| messages.contains_key(&id));
        self.inbox.of(id).into_iter().next()
    }

    /// Sends an order and waits for its answer.
    fn ask(&self, order: &Message, within: Duration) -> Message {
        self.send(order);
        let answer = self.answer(order.id, within);
        answer.unwrap_or_else(|| {
            panic!("worker {} does not answer `{order}` in {within:?}", self.name)
        })
    }

    /// Orders a reserve and does not wait.
    pub fn reserve(&self, ask: &Ask) -> Call<'_> {
        let id = self.id();
        self.send(&ask.order(id, "reserve"));
        Call { worker: self, id }
    }

    /// Orders a reserve that has to wait, and returns when it does: when the store knows its place.
    pub fn queue(&self, ask: &Ask) -> Call<'_> {
        let waits = self.waits();
        let call = self.reserve(ask);
        let (id, told) = (call.id, waits + 1);
        let is_known = |messages: &HashMap<u64, Vec<Message>>| {
            messages.contains_key(&id) || messages.get(&0).is_some_and(|waits| waits.len() >= told)
        };
        let name = &self.name;
        assert!(
            self.inbox.wait(PROMPT, is_known),
            "worker {name} does not queue {ask:?} in {PROMPT:?}"
        );
        assert!(
            !call.is_over(),
            "worker {name} need not wait for {ask:?}: {:?}",
            call.outcome(PROMPT)
        );
        // Its process tells that it waits before the store has heard so. What is asked now is
        // answered after that.
        let _ = self.is_connected(ask.bucket());
        call
    }

    /// Orders a reserve that fits at once.
    pub fn take(&self, ask: &Ask) -> Call<'_> {
        let call = self.reserve(ask);
        call.granted(PROMPT);
        call
    }

    pub fn try_reserve(&self, ask: &Ask) -> Call<'_> {
        let id = self.id();
        self.send(&ask.order(id, "try"));
        Call { worker: self, id }
    }

    /// Orders this many tries at the same time. The answer is how many pass; they are kept.
    pub fn tries(&self, ask: &Ask, times: usize) -> impl FnOnce() -> usize + use<'_> {
        let id = self.id();
        self.send(&ask.order(id, "tries").with("times", times));
        move || self.answer(id, PROMPT).expect("an answer to the tries").value("passed")
    }

    /// Reserves, drops the future after a while, and returns whether it was granted before that.
    pub fn blink(&self, ask: &Ask, after: Duration) -> bool {
        let order = ask.order(self.id(), "blink").with("after", micros_of(after));
        self.ask(&order, PROMPT + after).value("granted")
    }

    /// How many demands of this worker have begun to wait so far.
    pub fn waits(&self) -> usize {
        self.inbox.of(0).len()
    }

    /// Waits until this many demands of this worker have begun to wait since it started.
    pub fn has_waits(&self, count: usize, within: Duration) -> bool {
        let is_there = |waits: &Vec<Message>| waits.len() >= count;
        self.inbox.wait(within, |messages| messages.get(&0).is_some_and(is_there))
    }

    pub fn status(&self, bucket: &str) -> Standing {
        let answer = self.ask(&Message::new(self.id(), "status").with("bucket", bucket), PROMPT);
        assert_eq!(answer.get("error"), None, "status of {bucket}");
        Standing {
            waiting: answer.value("waiting"),
            available: answer.list("available"),
            in_flight: answer.list("in_flight"),
        }
    }

    /// Whether the worker's limiter reaches the store.
    pub fn is_connected(&self, bucket: &str) -> bool {
        let order = Message::new(self.id(), "status").with("bucket", bucket);
        self.ask(&order, PROMPT).get("error").is_none()
    }

    /// Replaces the limits.
    pub fn update(&self, limits: &str) {
        self.ask(&Message::new(self.id(), "update").with("limits", limits), PROMPT);
    }

    pub fn pause(&self, bucket: &str, time: Duration) {
        let order = Message::new(self.id(), "pause").with("bucket", bucket);
        self.ask(&order.with("time", micros_of(time)), PROMPT);
    }

    /// Starts tasks that reserve and settle.
    pub fn run(&self, ask: &Ask, runs: Runs) -> Run<'_> {
        let Runs { tasks, hold, used, from, counted_from, until, once, told } = runs;
        let id = self.id();
        let order = ask.order(id, "run").with("tasks", tasks).with("hold", micros_of(hold));
        let order = order.with("once", once).with("told", told).with("from", from);
        let order = order.with("counted_from", counted_from);
        let order = until.into_iter().fold(order, |order, until| order.with("until", until));
        self.send(&used.into_iter().fold(order, |order, used| order.with("used", used)));
        Run { worker: self, id }
    }

    /// Stops the process where it stands; nothing is told to it. Returns when it does nothing any
    /// more: a thread in the middle of a system call stops after it, and may still send something.
    pub fn stop(&self) {
        self.signal("STOP");
        let deadline = Instant::now() + PROMPT;
        while !self.has_stopped() {
            assert!(Instant::now() < deadline, "worker {} does not stop in {PROMPT:?}", self.name);
            thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether all threads have stopped, where the system tells.
    fn has_stopped(&self) -> bool {
        let Ok(tasks) = fs::read_dir(format!("/proc/{}/task", self.process)) else { return true };
        tasks.flatten().all(|task| {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            // The state comes after the name, which may contain anything.
            stat.rsplit_once(") ").is_none_or(|(_, state)| state.starts_with(['T', 't']))
        })
    }

    /// Ends [`stop`](Self::stop).
    pub fn go_on(&self) {
        self.signal("CONT");
    }

    pub fn kill(&self) {
        self.signal("KILL");
        let _ = self.child.lock().unwrap_or_else(PoisonError::into_inner).wait();
    }

    fn signal(&self, name: &str) {
        let id = self.process.to_string();
        let status = Command::new("kill").args([format!("-{name}"), id.clone()]).status();
        assert!(status.is_ok_and(|status| status.success()), "kill -{name} {id}");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let child = self.child.get_mut().unwrap_or_else(PoisonError::into_inner);
        // A process that has ended already cannot be killed.
        let _ = child.kill();
        let _ = child.wait();
    }
}

/// How a bucket stands.
#[derive(Clone, Debug, PartialEq)]
pub struct Standing {
    pub waiting: usize,
    pub available: Vec<f64>,
    pub in_flight: Vec<u64>,
}

/// A reserve that a worker was told to make.
#[derive(Clone, Copy)]
pub struct Call<'w> {
    worker: &'w Worker,
    id: u64,
}

/// A grant: times are in microseconds since 1970.
#[derive(Clone, Debug, PartialEq)]
pub struct Grant {
    /// When the store granted it.
    pub at: u64,
    /// When the worker asked.
    pub called: u64,
    /// When the worker had it.
    pub returned: u64,
    pub waited: u64,
    pub position: usize,
}

impl Grant {
    fn of(message: &Message) -> Self {
        Self {
            at: message.value("at"),
            called: message.value("called"),
            returned: message.value("returned"),
            waited: message.value("waited"),
            position: message.value("position"),
        }
    }
}

impl Call<'_> {
    pub fn is_over(&self) -> bool {
        !self.worker.inbox.of(self.id).is_empty()
    }

    /// Whether it is over within this time.
    pub fn ends_within(&self, within: Duration) -> bool {
        self.worker.answer(self.id, within).is_some()
    }

    /// What became of it.
    pub fn outcome(&self, within: Duration) -> Message {
        let name = &self.worker.name;
        let outcome = self.worker.answer(self.id, within);
        outcome.unwrap_or_else(|| panic!("a reserve of worker {name} still waits after {within:?}"))
    }

    pub fn granted(&self, within: Duration) -> Grant {
        let outcome = self.outcome(within);
        assert_eq!(outcome.verb, "granted", "{}: {outcome}", self.worker.name);
        Grant::of(&outcome)
    }

    /// The refusal of one that is not granted.
    pub fn refused(&self, within: Duration) -> Message {
        let outcome = self.outcome(within);
        assert_eq!(outcome.verb, "refused", "{}: {outcome}", self.worker.name);
        outcome
    }

    fn end(&self, verb: &str) -> Message {
        Message::new(self.worker.id(), verb).with("call", self.id)
    }

    fn done(&self, order: &Message) {
        let answer = self.worker.ask(order, PROMPT);
        assert_eq!(answer.get("error"), None, "{order}");
    }

    /// Drops the future of one that waits.
    pub fn cancel(self) {
        self.done(&self.end("cancel"));
    }

    /// Settles a granted one on these tokens, and returns when the store has it.
    pub fn settle(self, tokens: u64) {
        self.done(&self.end("settle").with("tokens", tokens));
    }

    pub fn keep(self) {
        self.done(&self.end("keep"));
    }

    pub fn release(self) {
        self.done(&self.end("release"));
    }

    /// The provider refused it and asked for a wait.
    pub fn refuse(self, retry_after: Duration) {
        self.done(&self.end("refused").with("retry_after", micros_of(retry_after)));
    }

    /// The provider answered it well.
    pub fn answer_well(self) {
        self.done(&self.end("answered"));
    }
}

/// What tasks of a worker are told to do.
#[derive(Clone, Copy, Debug, Default)]
pub struct Runs {
    pub tasks: usize,
    /// How long each reservation is held.
    pub hold: Duration,
    /// The tokens to settle on; as reserved if none are named.
    pub used: Option<u64>,
    /// The time on the system's clock to begin at.
    pub from: u64,
    /// Grants before this time are not counted.
    pub counted_from: u64,
    /// The time to end at; without one they go on until they are told to halt.
    pub until: Option<u64>,
    /// Whether each task makes one call only.
    pub once: bool,
    /// Whether each grant is told as it is made.
    pub told: bool,
}

/// Tasks of a worker.
#[derive(Clone, Copy)]
pub struct Run<'w> {
    worker: &'w Worker,
    id: u64,
}

/// What a run got.
#[derive(Clone, Debug)]
pub struct Ran {
    pub grants: usize,
    pub errors: usize,
    pub wait_p50: Duration,
    pub wait_max: Duration,
}

impl Ran {
    fn of(message: &Message) -> Self {
        Self {
            grants: message.value("grants"),
            errors: message.value("errors"),
            wait_p50: Duration::from_micros(message.value("wait_p50")),
            wait_max: Duration::from_micros(message.value("wait_max")),
        }
    }
}

impl Run<'_> {
    /// The grants told so far.
    pub fn grants(&self) -> Vec<Grant> {
        let messages = self.worker.inbox.of(self.id);
        messages.iter().filter(|message| message.verb == "grant").map(Grant::of).collect()
    }

    /// Whether this many grants are told within a time.
    pub fn has_grants(&self, count: usize, within: Duration) -> bool {
        let is_there = |messages: &Vec<Message>| messages.len() >= count;
        self.worker.inbox.wait(within, |messages| messages.get(&self.id).is_some_and(is_there))
    }

    /// Waits for the end of a run that has one.
    pub fn ran(&self, within: Duration) -> Ran {
        let has_ran =
            |messages: &Vec<Message>| messages.iter().any(|message| message.verb == "ran");
        let id = self.id;
        self.worker.inbox.wait(within, |messages| messages.get(&id).is_some_and(has_ran));
        let messages = self.worker.inbox.of(id);
        let ran = messages.iter().find(|message| message.verb == "ran");
        Ran::of(ran.unwrap_or_else(|| panic!("a run of worker {} has no end", self.worker.name)))
    }

    /// Ends it.
    pub fn halt(self) -> Ran {
        let order = Message::new(self.worker.id(), "halt").with("run", self.id);
        Ran::of(&self.worker.ask(&order, PROMPT))
    }
}
