//! A session: the link of one limiter to one partition of a store. All demands of the limiter that
//! wait there stand in its queue, and everything that is asked for at the same time travels in one
//! batch.
//!
//! A store in this process answers at once, so there callers apply their own operations, without a
//! lock of the session, and only demands that have to wait come here. The [driver](driver) is a
//! task that exists while there is something to send, to wait for or to keep alive.

mod batch;
mod clock;
pub(super) mod driver;
mod health;
mod hinting;
mod leases;
mod line;
mod lines;
mod outbox;
mod pick;
mod refusals;
mod state;
mod surfaced;
pub(super) mod ticket;
mod transmit;
mod wait_queue;
mod waiter;
mod wakeups;

use std::{fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;
use tokio::{
    runtime::Handle,
    sync::{Notify, oneshot},
    time::Instant,
};

use self::{
    batch::Batch,
    clock::SessionClock,
    health::Health,
    hinting::Hinting,
    outbox::frees,
    state::{Conditions, Effects, Setup, State, Turn},
    transmit::MAX_CHARTS,
    wait_queue::Told,
    waiter::{QueuePlace, Rank},
    wakeups::Wakeups,
};
pub(super) use self::{
    outbox::Outgoing,
    waiter::{Ask, Grant, Outcome},
};
use super::{
    bucket_set::BucketSet,
    context::Context,
    settle::{Settling, no_runtime},
    status::Waiting,
};
use crate::{
    drawn,
    engine::{Answer, Micros, Op, Outcome as Applied, Reserve, Seen, Settle, Verdict},
    error::{Refusal, Throttled},
    observe::Event,
    store::{self, BucketKey, Hint, Reply, StoreError},
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicBool, AtomicU64, Ordering},
        lock,
    },
};

/// What comes of an operation that its caller applied, and how its buckets were found and left.
pub(super) type Direct = Result<(Verdict, SmallVec<[Seen; 1]>), Throttled>;

/// One limiter's link to one partition of a store.
pub(super) struct Session {
    context: Arc<Context>,
    partition: Arc<str>,
    /// Names it to the store.
    id: AtomicU64,
    clock: SessionClock,
    closed: AtomicBool,
    /// Demands are pending. Set under the lock of the state.
    occupied: AtomicBool,
    health: Health,
    wakeups: Wakeups,
    /// Wakes the driver.
    wake: Notify,
    /// All that was to be sent has reached the store, or could not.
    flushed: Notify,
    /// Starts a driver. Here, so that nothing that uses a session can forget to.
    start_driver: fn(&Arc<Session>),
    guarded: Mutex<Guarded>,
}

impl Drop for Session {
    fn drop(&mut self) {
        if self.health.is_degraded() {
            self.context.tell(|| Event::DroppedDegraded);
        }
    }
}

#[derive(Debug)]
struct Guarded {
    state: State,
    driver: DriverState,
}

/// What the driver is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum DriverState {
    None,
    /// It sleeps until it is woken, or until then.
    Asleep(Option<Micros>),
    /// It is going to look what there is to do.
    Awake,
}

impl Session {
    pub(super) fn new(
        context: Arc<Context>,
        partition: &str,
        start_driver: fn(&Arc<Session>),
    ) -> Arc<Self> {
        let state = State::new(Setup {
            in_process: context.in_process(),
            lease: context.lease(),
            max_waiting: context.options().max_waiting,
        });
        Arc::new(Self {
            partition: partition.into(),
            id: AtomicU64::new(new_id()),
            clock: SessionClock::start(),
            closed: AtomicBool::new(false),
            occupied: AtomicBool::new(false),
            health: Health::default(),
            wakeups: Wakeups::default(),
            wake: Notify::new(),
            flushed: Notify::new(),
            start_driver,
            guarded: Mutex::new(Guarded { state, driver: DriverState::None }),
            context,
        })
    }

    pub(super) fn context(&self) -> &Arc<Context> {
        &self.context
    }

    pub(super) fn health(&self) -> &Health {
        &self.health
    }

    #[inline]
    fn lock(&self) -> MutexGuard<'_, Guarded> {
        lock(&self.guarded)
    }

    /// Changes the state, and makes sure that a driver sees to what there is to do then.
    fn change<R>(self: &Arc<Self>, change: impl FnOnce(&mut State) -> R) -> R {
        let mut guarded = self.lock();
        let result = change(&mut guarded.state);
        let effects = self.settled(&mut guarded);
        match guarded.driver {
            DriverState::Asleep(until) if guarded.state.is_due_before(until) => {
                guarded.driver = DriverState::Awake;
                drop(guarded);
                self.wake.notify_one();
            }
            DriverState::None if guarded.state.needs_driver() => {
                drop(guarded);
                (self.start_driver)(self);
            }
            _ => drop(guarded),
        }
        self.make_true(effects);
        result
    }

    /// The state has changed. Returns what is to be done once the lock is released.
    fn settled(&self, guarded: &mut Guarded) -> Effects {
        self.occupied.store(guarded.state.is_occupied(), Ordering::Release);
        guarded.state.take_effects()
    }

    #[inline]
    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Reserves a demand where the store answers at once and no demand of the session has to go
    /// first that the store does not know. Returns nothing if it has to be queued.
    #[inline]
    pub(super) fn reserve_directly(
        &self,
        set: &Arc<BucketSet>,
        reserve: Reserve,
    ) -> Option<Direct> {
        if !self.context.in_process()
            || self.occupied.load(Ordering::Acquire) && !self.lock().state.is_registered()
        {
            return None;
        }
        Some(self.apply_directly(set, &Op::Reserve(reserve)))
    }

    /// Whether a demand that is to wait stands behind others, so that it need not be tried. No
    /// demand does where none waits.
    #[inline]
    pub(super) fn is_occupied(&self) -> bool {
        self.occupied.load(Ordering::Acquire)
    }

    /// Whether a demand that arrives now has to wait behind others.
    pub(super) fn blocks(&self, ask: &Ask) -> bool {
        let now = self.clock.now();
        self.lock().state.blocks(ask, now)
    }

    /// Applies one operation on all buckets of a set to a store in this process.
    fn apply_directly(&self, set: &Arc<BucketSet>, op: &Op) -> Direct {
        let (mut refreshed, mut set) = (None, set);
        for _ in 0..=MAX_CHARTS {
            let (id, lease) = (self.id.load(Ordering::Relaxed), self.context.lease());
            let batch = store::Batch::new(id, 0, lease, set.buckets(), std::slice::from_ref(op));
            let Reply::Now(Answer { wall, outcome }) = self.context.store().apply(&batch) else {
                break;
            };
            match outcome {
                Applied::Applied { buckets, mut verdicts } => {
                    set.saw(&buckets, true, |bucket| {
                        self.context.tell(|| Event::StateLost { bucket })
                    });
                    return Ok((verdicts.pop().unwrap_or(Verdict::Done), buckets));
                }
                Applied::Uncharted => {
                    let next = set.charted(wall);
                    set = refreshed.insert(next);
                }
                Applied::Stale => break,
            }
        }
        Err(transmit::unanswerable())
    }

    /// Takes in a demand that could not be applied at once.
    fn enter(
        self: &Arc<Self>,
        ask: Ask,
        arrived: Instant,
        deadline: Option<Instant>,
    ) -> (Rank, oneshot::Receiver<Box<Outcome>>) {
        let (sender, answer) = oneshot::channel();
        let (arrived, deadline) =
            (self.clock.time_of(arrived), deadline.map(|deadline| self.clock.time_of(deadline)));
        let enter = |state: &mut State| {
            // Under the lock: the end of a batch without an answer tells all that wait by then.
            let down = self.health.down();
            state.enter(ask, arrived, deadline, sender, down)
        };
        (self.change(enter), answer)
    }

    /// Takes out a demand whose caller has gone, if it waits.
    fn leave(self: &Arc<Self>, rank: Rank) -> Option<()> {
        self.change(|state| state.queue_mut().drop_waiter(rank))
    }

    /// Takes out a demand whose time is up, unless the store has yet to say whether it has to wait
    /// at all. Returns what it waited for, and for how long it would have.
    fn expire(self: &Arc<Self>, rank: Rank) -> Option<Refusal> {
        let place = self.place_of(rank)?;
        self.leave(rank)?;
        Some(place.into_refusal())
    }

    /// Where a demand stands that waits.
    fn place_of(&self, rank: Rank) -> Option<QueuePlace> {
        let now = self.clock.now();
        self.lock().state.queue().place_of(rank, now)
    }

    /// Time until a demand starts that comes now and needs all quotas of a bucket, if that is
    /// known, as far as the demands of this session hold it back.
    pub(super) fn newcomer(&self, bucket: u64) -> Option<Duration> {
        let now = self.clock.now();
        self.lock().state.queue().newcomer(bucket, now).map(Duration::from_micros)
    }

    /// The demands that wait, oldest first.
    pub(super) fn waiting(&self) -> Vec<Waiting> {
        let now = self.clock.now();
        let guarded = self.lock();
        let places = guarded.state.queue().places(now);
        places.map(|(waiter, place)| waiter.told(place, now)).collect()
    }

    /// Applies, or sends, an operation that must not get lost. `ends` says that a reservation is
    /// over with it.
    pub(super) fn send(self: &Arc<Self>, outgoing: Outgoing, ends: bool) -> Settling {
        if self.context.in_process() {
            self.send_directly(outgoing)
        } else {
            self.enqueue(outgoing, ends)
        }
    }

    fn enqueue(self: &Arc<Self>, mut outgoing: Outgoing, ends: bool) -> Settling {
        let (report, verdict) = oneshot::channel();
        outgoing.report_to(report);
        self.change(|state| state.push(outgoing, ends));
        Settling::enqueued(verdict)
    }

    /// Applies, or sends, an operation that is worth nothing later.
    pub(super) fn send_passing(self: &Arc<Self>, outgoing: Outgoing) -> Settling {
        if self.context.in_process() {
            return self.send_directly(outgoing);
        }
        if let Some(error) = self.health.down() {
            return Settling::failed(Throttled::Store(error));
        }
        if self.lock().driver == DriverState::None && Handle::try_current().is_err() {
            return Settling::failed(no_runtime());
        }
        self.send(outgoing, false)
    }

    fn send_directly(self: &Arc<Self>, outgoing: Outgoing) -> Settling {
        let (op, set) = outgoing.into_present();
        self.settle_directly(&set, &op)
    }

    /// Applies an operation to a store in this process, on a set that is up to date.
    #[inline]
    pub(super) fn settle_directly(self: &Arc<Self>, set: &Arc<BucketSet>, op: &Op) -> Settling {
        let applied = self.apply_directly(set, op);
        // Demands of this session that came to wait before it was applied are seen here; later ones
        // find it applied.
        if self.occupied.load(Ordering::Acquire) && frees(op) {
            let look = |bucket| self.change(|state| state.queue_mut().look(bucket));
            set.handles().for_each(|handle| look(handle.id()));
        }
        match applied {
            Ok((Verdict::Done, _)) => Settling::done(),
            Ok((verdict, _)) => Settling::answered(verdict),
            Err(error) => Settling::failed(error),
        }
    }

    /// Gives back a grant that did not reach its caller.
    fn release(self: &Arc<Self>, grant: Grant) {
        let Grant { set, costs, at, .. } = grant;
        drop(self.send(Outgoing::lasting(Settle::release(&set, costs, &at), set, 0), true));
    }

    /// The store hints that a demand of the session may fit in a bucket, or in any if that has no
    /// name.
    fn hinted(self: &Arc<Self>, bucket: &str) {
        if bucket.is_empty() {
            return self.change(|state| state.queue_mut().look_everywhere());
        }
        let (bucket, now) = (BucketKey::new(&self.partition, bucket).id(), self.clock.now());
        self.change(|state| state.queue_mut().hinted(bucket, now));
    }

    /// Counts the waiters anew whose limits have changed.
    pub(super) fn follow_limits(self: &Arc<Self>) {
        self.change(|state| state.queue_mut().follow_limits());
    }

    /// Refuses every demand from now on, and those that wait.
    pub(super) fn close(self: &Arc<Self>) {
        self.closed.store(true, Ordering::Relaxed);
        self.change(State::close);
    }

    /// Waits until all that is to be sent now has reached the store, or could not.
    pub(super) async fn flushed(self: &Arc<Self>) {
        let flushed = self.flushed.notified();
        if self.lock().state.is_flushed() || self.health.down().is_some() {
            return;
        }
        // Should there be no driver, as after its runtime ended.
        self.change(|_| ());
        if self.lock().driver == DriverState::None {
            // There is no runtime: the next call inside of one sends it.
            return;
        }
        // What could not be sent is sent again for as long as the runtime lives.
        flushed.await;
    }

    /// Begins to drive, unless another driver does.
    fn start(&self) -> bool {
        let mut guarded = self.lock();
        let starts = guarded.driver == DriverState::None;
        if starts {
            guarded.driver = DriverState::Awake;
        }
        starts
    }

    /// What the driver is to do next.
    fn turn(self: &Arc<Self>) -> Turn {
        let conditions = self.conditions();
        let mut guarded = self.lock();
        let turn = guarded.state.turn(conditions);
        let effects = self.settled(&mut guarded);
        guarded.driver = match &turn {
            Turn::Send(_) => DriverState::Awake,
            Turn::Sleep(until) => DriverState::Asleep(*until),
            Turn::Stop => DriverState::None,
        };
        drop(guarded);
        self.make_true(effects);
        turn
    }

    fn conditions(self: &Arc<Self>) -> Conditions {
        let is_awaited = || self.lock().state.is_awaited();
        let resumes_at = self.health.resumes_at(is_awaited).map(|at| self.clock.time_of(at));
        Conditions { now: self.clock.now(), hinting: self.hinting(), resumes_at }
    }

    /// Whether hints arrive. Asks for them once demands wait.
    fn hinting(self: &Arc<Self>) -> Hinting {
        if !self.is_occupied() {
            return Hinting::None;
        }
        let works = self.wakeups.work(|| {
            let session = Arc::downgrade(self);
            let hint = Hint::new(move |bucket| {
                if let Some(session) = session.upgrade() {
                    session.hinted(bucket);
                }
            });
            self.context.store().listen(&self.partition, self.id.load(Ordering::Relaxed), hint)
        });
        match (works, self.context.in_process()) {
            (false, _) => Hinting::None,
            (true, true) => Hinting::Reliable,
            (true, false) => Hinting::Works,
        }
    }

    /// The batch in flight has an answer, or will have none.
    fn arrived(self: &Arc<Self>, batch: Batch, result: Result<Answer, StoreError>) {
        match result.map(|answer| answer.outcome) {
            Ok(Applied::Applied { buckets, verdicts }) => self.applied(batch, &buckets, verdicts),
            Ok(Applied::Stale | Applied::Uncharted) => {
                self.failed(batch, Some(&transmit::unanswerable()));
                self.change(State::take_another_name);
            }
            Err(error) if !error.is_unavailable() => self.refused(batch, Arc::new(error)),
            Err(error) => {
                let error = Arc::new(error);
                if self.health.failed(&error) {
                    self.context.tell(|| Event::Degraded { error: &error });
                }
                self.failed(batch, Some(&Throttled::Store(error)));
            }
        }
    }

    fn applied(
        self: &Arc<Self>,
        batch: Batch,
        seen: &[Seen],
        verdicts: impl IntoIterator<Item = Verdict>,
    ) {
        if self.health.answered() {
            self.context.tell(|| Event::Recovered);
        }
        let (id, in_process) = (self.id.load(Ordering::Relaxed), self.context.in_process());
        let has_ghosts = batch.buckets().saw(seen, id, in_process, |bucket| {
            self.context.tell(|| Event::StateLost { bucket });
        });
        let conditions =
            Conditions { now: self.clock.now(), hinting: self.hinting(), resumes_at: None };
        self.change(|state| state.applied(batch, seen, verdicts, conditions));
        if has_ghosts {
            // They end with the lease of the old name.
            self.change(State::take_another_name);
        }
        if self.lock().state.is_flushed() {
            self.flushed.notify_waiters();
        }
    }

    fn failed(self: &Arc<Self>, batch: Batch, error: Option<&Throttled>) {
        let now = self.clock.now();
        self.change(|state| state.failed(batch, error, now));
        self.flushed.notify_waiters();
    }

    /// The store refused a batch.
    fn refused(self: &Arc<Self>, batch: Batch, error: Arc<StoreError>) {
        let (now, told) = (self.clock.now(), Throttled::Store(error.clone()));
        let refused = |state: &mut State| {
            let is_over = state.refused(batch, &told, now);
            if is_over {
                self.health.failed(&error);
            }
            is_over
        };
        if self.change(refused) {
            self.flushed.notify_waiters();
        }
    }

    /// The driver stops although there may be something to wait for. Returns false if there is.
    fn stop(&self) -> bool {
        let mut guarded = self.lock();
        let can_stop = !guarded.state.is_occupied();
        if can_stop {
            guarded.driver = DriverState::None;
        }
        can_stop
    }

    /// The driver is gone, and perhaps its runtime. `batch` was in flight.
    fn abandoned(self: &Arc<Self>, batch: Option<Batch>) {
        if let Some(batch) = batch {
            self.failed(batch, None);
        }
        let mut guarded = self.lock();
        guarded.state.abandon();
        guarded.driver = DriverState::None;
        let effects = self.settled(&mut guarded);
        drop(guarded);
        self.make_true(effects);
        self.flushed.notify_waiters();
    }

    /// Does what comes of a change of the state. No lock is held: this wakes callers and tells
    /// observers.
    fn make_true(self: &Arc<Self>, effects: Effects) {
        let Effects { told, reports, rename } = effects;
        if rename {
            self.id.store(new_id(), Ordering::Relaxed);
            self.wakeups.end();
        }
        for told in told {
            match told {
                Told::HasToWait { about, position, line } => {
                    about.tell_waits(&self.context, position, line);
                }
                Told::Outcome(to, outcome) => {
                    let lost = to.send(Box::new(outcome)).map_err(|outcome| *outcome);
                    if let Err(Outcome::Granted(grant)) = lost {
                        self.release(grant);
                    }
                }
            }
        }
        // A caller that does not listen any more need not know.
        reports.into_iter().for_each(|(to, verdict)| drop(to.send(verdict)));
    }

    /// What the store is sent.
    fn as_sent<'a>(&self, batch: &'a Batch) -> store::Batch<'a> {
        let id = self.id.load(Ordering::Relaxed);
        store::Batch::new(
            id,
            batch.seq(),
            self.context.lease(),
            batch.buckets().as_slice(),
            batch.ops(),
        )
        .unhinted(batch.unhinted())
    }
}

/// Names of sessions are drawn, since no two may be alike.
fn new_id() -> u64 {
    drawn::name()
}

/// Part of every reservation's, so it is short.
impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Session").field(&self.partition).finish()
    }
}
