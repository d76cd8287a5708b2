//! One process's queue for one path of buckets, between its callers and the store.
//!
//! One batch is on its way at a time; what comes meanwhile travels in the next. A store in this process answers at
//! once, so there a lone operation is applied by its own caller (see [`Route`]); otherwise a
//! task, the [`pump`](super::pump), carries the batches, or the caller of a demand before which nobody waits (see
//! [`trip`](super::trip)). The task exists while there is something to send, to wait for or to keep alive.

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    health::Rest,
    landing::Doubt,
    lives::Lives,
    neighbours::Neighbours,
    path::Path,
    place::Place,
    pump::Pump,
    queue::{Ask, Other, Queue, Rank, Waiter},
    settling::{Settling, no_runtime},
    shared::Shared,
    trip::Carried,
};
use crate::{
    engine::{Life, MAX_AMOUNT, Micros, Op},
    error::{Refusal, Throttled},
    observe::Event,
    store::Batch,
};

pub(super) struct Lane {
    pub(super) shared: Arc<Shared>,
    pub(super) neighbours: Neighbours,
    pub(super) wake: Notify,
    lives: Lives,
    /// Names the lane to the store.
    id: AtomicU64,
    closed: AtomicBool,
    /// Something is queued or on its way, which nothing may pass. Set under the lock of the state.
    busy: AtomicBool,
    /// Counts the changes of the path.
    version: AtomicU64,
    state: Mutex<State>,
}

/// What the task of a lane is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Pumping {
    /// There is none.
    Nobody,
    /// It sleeps until it is told or it is time.
    Asleep,
    /// It is going to look what there is to do.
    Awake,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) queue: Queue,
    /// Reservations not settled yet, for as long as which the lane keeps its lease.
    pub(super) open: usize,
    pub(super) pumping: Pumping,
    /// When the store last heard of the lane.
    pub(super) heard: Instant,
    /// A batch is on its way, until all on board are told.
    pub(super) flying: bool,
    /// That batch, if a caller carries it and is not being polled.
    pub(super) carried: Option<Carried>,
    /// The batch that got no answer, until one comes.
    pub(super) doubt: Option<Doubt>,
    /// After the store refused a batch: nobody asks again before, unless somebody waits for the answer.
    pub(super) rest: Option<Rest>,
}

impl Lane {
    pub(super) fn new(
        shared: Arc<Shared>,
        id: u64,
        path: Arc<Path>,
        neighbours: Neighbours,
    ) -> Self {
        let lives = Lives::new(path.buckets().len());
        let state = State {
            queue: Queue::new(path, shared.options.max_waiting),
            open: 0,
            pumping: Pumping::Nobody,
            heard: Instant::now(),
            flying: false,
            carried: None,
            doubt: None,
            rest: None,
        };
        Self {
            shared,
            neighbours,
            wake: Notify::new(),
            lives,
            id: AtomicU64::new(id),
            closed: AtomicBool::new(false),
            busy: AtomicBool::new(false),
            version: AtomicU64::new(0),
            state: Mutex::new(state),
        }
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

    /// Whether forgetting the lane loses nothing, if nobody has a share of it.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.lock();
        state.open == 0 && !state.flying && !state.is_pumped() && state.queue.is_empty()
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Whether an operation may be applied by its own caller, there being none before it.
    ///
    /// Whoever has freed something must look once more afterwards: a demand that the store refused before that was
    /// queued before it was asked for.
    #[inline]
    pub(super) fn is_free(&self) -> bool {
        self.shared.in_process && !self.busy.load(Ordering::Acquire)
    }

    /// Counts the changes of the path.
    #[inline]
    pub(super) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    /// Queues a demand.
    pub(super) fn enter(self: &Arc<Self>, mut ask: Ask) -> Result<Place, Throttled> {
        let mut state = self.lock();
        if self.is_closed() {
            return Err(Throttled::Closed);
        }
        if !self.shared.in_process
            && let Some(error) = self.shared.health.is_down()
        {
            return Err(Throttled::Store(error));
        }
        if let Some(refusal) = ask.follow(&state.queue.path) {
            return Err(Throttled::ExceedsCapacity(Box::new(refusal)));
        }
        let position = state.queue.waiting();
        let (sender, answer) = oneshot::channel();
        let rank = state.queue.rank(ask.arrived, ask.standing);
        let waiter = Waiter { ask, position, waits: None, answer: sender };
        let has_to_wait = state.queue.push(rank, waiter)?;
        let carries = self.depart(state, rank);
        let place = Place::new(self.clone(), rank, answer, carries);
        if has_to_wait {
            place.tell_wait_started(position);
        }
        Ok(place)
    }

    /// Takes a demand back. Answers how its line stood, if the demand was still in it.
    pub(super) fn leave(self: &Arc<Self>, rank: Rank) -> Option<Refusal> {
        let mut state = self.lock();
        let refusal = state.queue.waits_for(rank);
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
        self.lock().queue.waits_for(rank)
    }

    /// Queues a change of what a reservation is charged, or gives it away.
    pub(super) fn change(self: &Arc<Self>, change: Other, ends: bool) -> Settling {
        let mut state = self.lock();
        if ends {
            state.open = state.open.saturating_sub(1);
        }
        self.push(state, change)
    }

    /// Sends an operation that is worth nothing later.
    pub(super) fn send(self: &Arc<Self>, op: Op) -> Settling {
        if let Some(error) = self.shared.health.is_down() {
            return Settling::failed(Throttled::Store(error));
        }
        let state = self.lock();
        if !state.is_pumped() && Handle::try_current().is_err() {
            drop(state);
            return Settling::failed(no_runtime());
        }
        self.push(state, Other::passing(op))
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
        self.version.fetch_add(1, Ordering::Release);
        let hopeless = state.queue.adopt(path);
        // While a caller carries a batch nobody waits. To relieve him might run users' code under the registry's lock.
        match state.carried {
            None => self.pump(state),
            Some(_) => drop(state),
        }
        for (waiter, refusal) in hopeless {
            // Whoever does not listen any more need not know.
            let _ = waiter.answer.send(Err(Throttled::ExceedsCapacity(Box::new(refusal))));
        }
    }

    /// Keeps the calendars that a batch had to look up.
    pub(super) fn chart(&self, state: &mut State, path: &Arc<Path>) {
        if path.is_chart_of(&state.queue.path) && !Arc::ptr_eq(path, &state.queue.path) {
            self.version.fetch_add(1, Ordering::Release);
            state.queue.path = path.clone();
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
        self.closed.store(true, Ordering::Relaxed);
        self.refuse_waiting(&Throttled::Closed);
    }

    pub(super) fn refuse_waiting(&self, error: &Throttled) {
        let waiting = self.lock().queue.take_waiting();
        for waiter in waiting {
            // Whoever does not listen any more need not know.
            let _ = waiter.answer.send(Err(error.clone()));
        }
    }

    /// Makes sure that somebody carries what there is to carry.
    pub(super) fn pump(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        let has_nothing = self.has_nothing(&state);
        if state.flying {
            // Whoever carries that sees to this when he arrives, so he must not depend on a caller who may not be polled.
            let carried = state.carried.take();
            drop(state);
            return carried.into_iter().for_each(Carried::hand_over);
        }
        if state.is_pumped() || !has_nothing {
            self.start_pump(state);
        }
    }

    /// Makes sure that there is a pump, and that it looks what there is to do.
    pub(super) fn start_pump(self: &Arc<Self>, mut state: MutexGuard<'_, State>) {
        match state.pumping {
            Pumping::Awake => {}
            Pumping::Asleep => {
                state.pumping = Pumping::Awake;
                drop(state);
                self.wake.notify_one();
            }
            Pumping::Nobody => {
                // Outside of a runtime nobody can; the next call inside of one will.
                let Ok(runtime) = Handle::try_current() else { return };
                state.pumping = Pumping::Awake;
                drop(state);
                runtime.spawn(Pump::new(self.clone()).run());
            }
        }
    }

    /// A batch of this lane.
    pub(super) fn batch<'a>(&self, seq: u64, path: &'a Path, ops: &'a [Op]) -> Batch<'a> {
        let (id, lease) = self.known_as();
        Batch::new(id, seq, lease, path.buckets(), ops)
    }

    /// How the store knows the lane, and how long it may be silent.
    #[inline]
    pub(super) fn known_as(&self) -> (u64, Micros) {
        (self.id.load(Ordering::Relaxed), self.shared.lease)
    }

    /// Takes note of the state that the store has of each bucket. No lock is held, since observers are told.
    pub(super) fn saw(&self, path: &Path, lives: &[Life]) {
        let callers_apply = self.shared.in_process;
        self.lives.saw(lives, callers_apply, |index| self.tell_lost(path, index));
    }

    /// The same of a path of one bucket.
    #[inline]
    pub(super) fn saw_only(&self, path: &Path, life: Life) {
        if self.lives.saw_only(life) {
            self.tell_lost(path, 0);
        }
    }

    #[cold]
    fn tell_lost(&self, path: &Path, index: usize) {
        let bucket = path.specs().get(index).map_or("", |spec| spec.name());
        self.shared.options.observing.tell(|| Event::StateLost { bucket });
    }

    /// Starts anew under another name, should the store remember things of this one that never were.
    pub(super) fn rename(&self) {
        self.id.store(fastrand::u64(1..MAX_AMOUNT), Ordering::Relaxed);
    }

    /// Nobody carries anything any more.
    pub(super) fn rests(&self, state: &mut State) {
        state.pumping = Pumping::Nobody;
        self.has_nothing(state);
    }

    /// Whether nothing is queued and nothing on its way, which is what callers go by from now on.
    fn has_nothing(&self, state: &State) -> bool {
        let has_nothing = self.shared.in_process && !state.flying && state.queue.is_empty();
        self.busy.store(!has_nothing, Ordering::Release);
        has_nothing
    }
}

impl State {
    /// Whether the lane has a task.
    pub(super) fn is_pumped(&self) -> bool {
        self.pumping != Pumping::Nobody
    }
}

/// Short, since much has one.
impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("bucket", &self.path().name()).finish_non_exhaustive()
    }
}
