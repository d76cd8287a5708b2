//! One process's queue for one path of buckets, between its callers and the store.
//!
//! One batch is on its way at a time; what comes meanwhile travels in the next. A store in this process answers at
//! once, so there a lone operation is applied by its own caller; otherwise a task, the [`pump`](super::pump), carries
//! the batches. It exists while there is something to send, to wait for or to keep alive.

use std::{
    fmt,
    hash::RandomState,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    health::{Health, Rest},
    neighbours::Neighbours,
    options::Options,
    path::Path,
    place::Place,
    pump::{Doubt, MAX_CHARTS, Pump},
    queue::{Ask, Change, Other, Queue, Rank, Waiter},
    reservation::Reservation,
    settling::Settling,
};
use crate::{
    engine::{Answer, Life, MAX_AMOUNT, Micros, Mode, Op, Outcome as Applied, Verdict},
    error::{Refusal, Throttled},
    observe::Event,
    quota::micros,
    store::{Batch, Reply, Store},
};

/// In-process state cannot outlive its process, so neither can a lease in it.
const ENDLESS: Micros = 1 << 50;

/// What all lanes of a limiter have in common.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) store: Arc<dyn Store>,
    pub(super) in_process: bool,
    pub(super) options: Options,
    pub(super) health: Health,
    /// Turns the names of a lane's buckets into its id: the same in one limiter, others in every other.
    pub(super) ids: RandomState,
    /// Batches sent so far: numbers that only grow, whatever lane they are of.
    batches: AtomicU64,
    lease: Micros,
}

impl Shared {
    pub(super) fn new(store: Arc<dyn Store>, options: Options) -> Self {
        let in_process = store.in_process();
        let lease = if in_process { ENDLESS } else { micros(options.lease) };
        let (health, ids, batches) = (Health::default(), RandomState::new(), AtomicU64::new(0));
        Self { store, in_process, options, health, ids, batches, lease }
    }
}

impl Shared {
    /// The number of the next batch.
    pub(super) fn next_seq(&self) -> u64 {
        self.batches.fetch_add(1, Ordering::Relaxed) + 1
    }
}

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) neighbours: Neighbours,
    pub(super) wake: Notify,
    state: Mutex<State>,
}

#[derive(Debug)]
pub(super) struct State {
    /// Names the lane to the store.
    id: u64,
    pub(super) queue: Queue,
    /// Reservations not settled yet.
    pub(super) open: usize,
    pub(super) closed: bool,
    pub(super) pumping: bool,
    /// When the store last heard of the lane.
    pub(super) heard: Instant,
    /// A batch is on its way.
    pub(super) flying: bool,
    /// The batch that got no answer, until one comes.
    pub(super) doubt: Option<Doubt>,
    /// After the store refused a batch: nobody asks again before, unless somebody waits for the answer.
    pub(super) rest: Option<Rest>,
    /// Buckets whose loss of state has to be told.
    lost: Vec<String>,
}

/// A demand that was entered.
pub(super) enum Entered {
    Granted(Reservation),
    Waiting(Place),
}

impl Lane {
    pub(super) fn new(shared: Arc<Shared>, id: u64, path: Arc<Path>, neighbours: Neighbours) -> Self {
        let state = State {
            id,
            queue: Queue::new(path),
            open: 0,
            closed: false,
            pumping: false,
            heard: Instant::now(),
            flying: false,
            doubt: None,
            rest: None,
            lost: Vec::new(),
        };
        Self { shared, neighbours, wake: Notify::new(), state: Mutex::new(state) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under this lock panics by design; a lane that did is still consistent enough to go on.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many demands wait.
    pub(super) fn waiting(&self) -> usize {
        self.lock().queue.waiting()
    }

    pub(super) fn path(&self) -> Arc<Path> {
        self.lock().queue.path.clone()
    }

    /// Whether forgetting the lane loses nothing.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.open == 0 && !state.pumping && state.queue.is_empty()
    }

    /// Enters a demand: grants it at once where that can be told, and queues it otherwise.
    pub(super) fn enter(self: Arc<Self>, ask: Ask) -> Result<Entered, Throttled> {
        let mut state = self.lock();
        if state.closed {
            return Err(Throttled::Closed);
        }
        if self.answers_at_once(&state) {
            match self.apply_one(&mut state, |_| ask.op(true)) {
                Some((Verdict::Granted, at)) => {
                    state.open += 1;
                    self.tell_lost(state);
                    return Ok(Entered::Granted(Reservation::new(self, ask, at, Duration::ZERO, 0)));
                }
                Some((Verdict::Fits, at)) => {
                    return Ok(Entered::Granted(Reservation::uncounted(ask.usage, at)));
                }
                Some((Verdict::Refused(violations), _)) if ask.mode != Mode::Wait => {
                    return Err(Throttled::NotNow(Box::new(ask.refusal(&violations))));
                }
                _ => {}
            }
        } else if let Some(error) = self.shared.health.is_down() {
            return Err(Throttled::Store(error));
        }
        let position = state.queue.waiting();
        if position >= self.shared.options.max_waiting {
            let bucket = ask.path.name().into();
            return Err(Throttled::QueueFull { bucket, max_waiting: self.shared.options.max_waiting });
        }
        let (sender, answer) = oneshot::channel();
        let arrived = Instant::now();
        let rank = state.queue.rank(arrived, ask.standing);
        state.queue.push(rank, Waiter { ask, arrived, position, waits: false, answer: sender });
        let has_to_wait = state.queue.waits(rank);
        self.pump(state);
        let place = Place::new(self, rank, answer);
        if has_to_wait {
            place.tell_wait_started(position);
        }
        Ok(Entered::Waiting(place))
    }

    /// Takes a demand back. Answers how its line stood, if the demand was still in it.
    pub(super) fn leave(self: &Arc<Self>, rank: Rank) -> Option<Refusal> {
        let mut state = self.lock();
        let refusal = state.waits_for(rank);
        state.queue.remove(rank)?;
        self.pump(state);
        Some(refusal.unwrap_or_default())
    }

    /// Takes a demand back whose time is up, unless the store has yet to say whether it has to wait at all.
    pub(super) fn expire(self: &Arc<Self>, rank: Rank) -> Option<Refusal> {
        let waits = self.lock().queue.waits(rank);
        if waits { self.leave(rank) } else { None }
    }

    /// What a demand waits for.
    pub(super) fn waits_for(&self, rank: Rank) -> Option<Refusal> {
        self.lock().waits_for(rank)
    }

    /// Changes what a reservation is charged: applied or queued when this returns.
    pub(super) fn change(self: &Arc<Self>, change: &Change) -> Settling {
        let mut state = self.lock();
        if change.close && change.claim.is_none() {
            state.open = state.open.saturating_sub(1);
        }
        if self.answers_at_once(&state)
            && let Some((verdict, _)) = self.apply_one(&mut state, |path| change.op(path))
        {
            self.tell_lost(state);
            self.neighbours.look_now(self);
            return Settling::done(verdict);
        }
        self.push(state, Other::Change(change.clone()))
    }

    /// Sends an operation that is worth nothing later.
    pub(super) fn send(self: &Arc<Self>, other: Other) -> Settling {
        if let Some(error) = self.shared.health.is_down() {
            return Settling::failed(Throttled::Store(error));
        }
        self.push(self.lock(), other)
    }

    /// Sends what a provider said: applied or queued when this returns.
    pub(super) fn say(self: &Arc<Self>, op: Op) -> Settling {
        let mut state = self.lock();
        if self.answers_at_once(&state)
            && let Some((verdict, _)) = self.apply_one(&mut state, |_| op.clone())
        {
            self.tell_lost(state);
            return Settling::done(verdict);
        }
        drop(state);
        self.send(Other::Said(op))
    }

    fn push(self: &Arc<Self>, mut state: MutexGuard<'_, State>, other: Other) -> Settling {
        let (report, told) = oneshot::channel();
        state.queue.push_other(other, report);
        self.pump(state);
        Settling::told(told)
    }

    /// Replaces the limits under which the lane's demands wait.
    pub(super) fn adopt(self: &Arc<Self>, path: Arc<Path>) {
        let mut state = self.lock();
        let hopeless = state.queue.adopt(path);
        self.pump(state);
        for (waiter, refusal) in hopeless {
            // Whoever does not listen any more need not know.
            let _ = waiter.answer.send(Err(Throttled::ExceedsCapacity(Box::new(refusal))));
        }
    }

    /// Capacity may have been freed elsewhere.
    pub(super) fn look_now(self: &Arc<Self>) {
        let mut state = self.lock();
        if state.queue.waiting() > 0 {
            state.queue.look_now();
            self.pump(state);
        }
    }

    /// Refuses every demand from now on, and those that wait.
    pub(super) fn close(self: &Arc<Self>) {
        self.lock().closed = true;
        self.refuse_waiting(&Throttled::Closed);
    }

    pub(super) fn refuse_waiting(&self, error: &Throttled) {
        let waiting = self.lock().queue.take_waiting();
        for waiter in waiting {
            // Whoever does not listen any more need not know.
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }

    /// Hands a reservation's charge over to a claim.
    pub(super) fn detach(self: &Arc<Self>, detach: Other) -> Settling {
        let mut state = self.lock();
        state.open = state.open.saturating_sub(1);
        self.push(state, detach)
    }

    /// Makes sure that somebody carries what there is to carry.
    fn pump(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        if state.pumping {
            drop(state);
            self.wake.notify_one();
            return;
        }
        // Outside of a runtime nobody can; the next call inside of one will.
        let Ok(runtime) = Handle::try_current() else { return };
        state.pumping = true;
        drop(state);
        runtime.spawn(Pump::new(self.clone()).run());
    }

    /// Whether an operation can be applied by its own caller, there being none before it.
    fn answers_at_once(&self, state: &State) -> bool {
        self.shared.in_process && !state.flying && state.queue.is_empty()
    }

    /// Applies one operation to a store in this process. Answers the verdict and when it fell.
    fn apply_one(&self, state: &mut State, op: impl Fn(&Arc<Path>) -> Op) -> Option<(Verdict, Micros)> {
        let seq = self.shared.next_seq();
        for _ in 0..=MAX_CHARTS {
            let path = &state.queue.path;
            let batch = self.batch(state.id, seq, path);
            let Reply::Now(Answer { wall, outcome }) =
                self.shared.store.apply(&Batch { ops: &[op(path)], ..batch })
            else {
                return None;
            };
            match outcome {
                Applied::Applied { now, lives, mut verdicts } => {
                    state.saw(lives);
                    return verdicts.pop().map(|verdict| (verdict, now));
                }
                Applied::Uncharted => state.queue.path = Arc::new(path.charted(wall)),
                Applied::Stale => return None,
            }
        }
        None
    }

    /// A batch of this lane, without its operations.
    pub(super) fn batch<'a>(&self, id: u64, seq: u64, path: &'a Path) -> Batch<'a> {
        Batch::new(id, seq, self.shared.lease, path.buckets(), &[])
    }

    /// Lets go of the state and tells which buckets have lost theirs.
    pub(super) fn tell_lost(&self, mut state: MutexGuard<'_, State>) {
        if state.lost.is_empty() {
            return;
        }
        let lost = std::mem::take(&mut state.lost);
        drop(state);
        for bucket in &lost {
            self.shared.options.observing.tell(Event::StateLost { bucket });
        }
    }
}

impl State {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    /// Starts anew under another name, should the store remember things of this one that never were.
    pub(super) fn rename(&mut self) {
        (self.id, self.doubt) = (fastrand::u64(1..MAX_AMOUNT), None);
    }

    fn waits_for(&self, rank: Rank) -> Option<Refusal> {
        let front = self.queue.front_of(rank)?;
        let passed = front.looked_at.elapsed();
        let mut refusal = front.refusal.clone();
        refusal.retry_after = refusal.retry_after.map(|wait| wait.saturating_sub(passed));
        Some(refusal)
    }

    /// Takes note of the state that the store has of each bucket. One that began anew while the old one still meant
    /// something was lost.
    pub(super) fn saw(&mut self, lives: SmallVec<[Life; 1]>) {
        let known = self.queue.lives.iter().zip(&lives).zip(self.queue.path.specs());
        for ((before, now), spec) in known {
            if before.born != now.born && before.expires > now.born {
                self.lost.push(spec.name().into());
            }
        }
        self.queue.lives = lives;
    }
}

/// Part of every reservation's, so it is short.
impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("bucket", &self.path().name()).finish_non_exhaustive()
    }
}
