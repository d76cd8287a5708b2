//! Some sessions and the engine, with made-up delays: what waits starts soon after there is room,
//! and no two sessions hint each other without end.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use super::*;
use crate::{
    engine::{Answer as Applied, BucketState, Outcome as AppliedOutcome},
    limiter::session::waiter::Grant,
    store,
};

/// Sessions that send more batches than this while nothing starts, hint each other without end.
const SPINS: usize = 60;

/// Who waits for what.
#[derive(Clone, Copy, Debug)]
struct Shape {
    sessions: u64,
    shares: u64,
    /// All flows take turns in one bucket.
    has_parent: bool,
    /// Calls take 100 ms at most, and windows 500 ms. While demands wait, something starts within
    /// this.
    within: Micros,
}

/// What a demand of a task asks.
#[derive(Clone, Copy, Debug)]
struct Task {
    session: usize,
    set: usize,
    flow: u64,
    tokens: u64,
    lasts: Micros,
    /// How often it asks again.
    again: u32,
}

enum Event {
    Asks(Task),
    Arrives(usize, Batch),
    Answered(usize, Batch, Applied),
    Hinted(usize, u64),
    Ends(usize, Grant),
    /// It is time to look.
    Look(usize),
}

struct Peer {
    id: u64,
    state: State,
    sets: Vec<Arc<BucketSet>>,
    waits: Vec<(Answer, Task)>,
}

struct Fleet {
    random: fastrand::Rng,
    within: Micros,
    now: Micros,
    store: HashMap<u64, BucketState>,
    peers: Vec<Peer>,
    /// By time, and then in the order in which they came.
    events: BTreeMap<(Micros, usize), Event>,
    count: usize,
    /// When something was granted last, and the batches since then.
    granted_at: Micros,
    batches: usize,
}

fn quotas(random: &mut fastrand::Rng) -> Vec<Quota> {
    let tokens = || Quota::token_bucket("tokens", 20, Duration::from_millis(500));
    match random.u8(0..4) {
        0 => vec![Quota::concurrency(random.u64(1..4))],
        1 => vec![tokens()],
        2 => vec![Quota::sliding_window("tokens", 20, Duration::from_millis(500))],
        _ => vec![Quota::concurrency(random.u64(1..4)), tokens()],
    }
}

impl Fleet {
    fn new(shape: Shape, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let names = ["a", "b", "c", "parent"];
        let quotas: Vec<_> = names.iter().map(|_| quotas(&mut random)).collect();
        let kinds: Vec<Vec<usize>> = (0..random.usize(2..6))
            .map(|_| {
                let mut buckets = vec![0, 1, 2, 3];
                random.shuffle(&mut buckets);
                buckets.truncate(random.usize(1..4));
                if shape.has_parent {
                    buckets.retain(|bucket| *bucket != 3);
                    buckets.push(3);
                }
                buckets
            })
            .collect();
        let kinds: Vec<&[usize]> = kinds.iter().map(AsRef::as_ref).collect();
        let peers = (0..shape.sessions).map(|index| Peer {
            id: 11 + index,
            state: state(false),
            sets: sets_of(&names, |index| quotas[index].clone(), &kinds),
            waits: Vec::new(),
        });
        let peers: Vec<_> = peers.collect();
        let mut fleet = Self {
            random,
            within: shape.within,
            now: START,
            store: HashMap::new(),
            peers,
            events: BTreeMap::new(),
            count: 0,
            granted_at: START,
            batches: 0,
        };
        let random = &mut fleet.random;
        let tasks: Vec<_> = (0..random.usize(4..40))
            .map(|_| Task {
                session: random.usize(0..fleet.peers.len()),
                set: random.usize(0..kinds.len()),
                flow: random.u64(0..shape.shares),
                tokens: random.u64(1..10),
                lasts: random.u64(0..100_000),
                again: random.u32(0..6),
            })
            .collect();
        tasks.into_iter().for_each(|task| fleet.after(1000, Event::Asks(task)));
        fleet
    }

    /// An event that comes within this time.
    fn after(&mut self, most: Micros, event: Event) {
        let at = self.now + self.random.u64(0..=most);
        self.at(at, event);
    }

    fn at(&mut self, at: Micros, event: Event) {
        self.count += 1;
        self.events.insert((at, self.count), event);
    }

    fn waiting(&self) -> usize {
        self.peers.iter().map(|peer| peer.waits.len()).sum()
    }

    fn run(&mut self) -> Result<(), String> {
        while let Some(((at, _), event)) = self.events.pop_first() {
            self.now = self.now.max(at);
            if self.waiting() == 0 {
                (self.granted_at, self.batches) = (self.now, 0);
            }
            let gap = self.now - self.granted_at;
            if gap > self.within || self.batches > SPINS {
                return Err(format!("{gap} us, {} batches, {} wait", self.batches, self.waiting()));
            }
            let session = match event {
                Event::Asks(task) => self.asks(task),
                Event::Arrives(session, batch) => {
                    self.apply(session, batch);
                    continue;
                }
                Event::Answered(session, batch, applied) => self.answered(session, batch, applied),
                Event::Hinted(session, bucket) => {
                    let now = self.now;
                    self.peers[session].state.hinted(bucket, now);
                    session
                }
                Event::Ends(session, grant) => self.ends(session, grant),
                Event::Look(session) => session,
            };
            self.drive(session);
        }
        match self.waiting() {
            0 => Ok(()),
            waiting => Err(format!("{waiting} wait for ever")),
        }
    }

    fn asks(&mut self, task: Task) -> usize {
        let peer = &mut self.peers[task.session];
        let (flow, usage) = (Flow { id: task.flow, weight: 1 }, usage! { tokens: task.tokens });
        let set = peer.sets[task.set].clone();
        let ask = Ask::new(set, usage, Box::default(), Standing::default(), flow, Mode::Wait);
        let (sender, answer) = oneshot::channel();
        let entered = peer.state.enter(ask.expect("it fits"), self.now, None, sender);
        entered.unwrap_or_else(|outcome| panic!("{outcome:?}"));
        peer.waits.push((answer, task));
        task.session
    }

    fn apply(&mut self, session: usize, batch: Batch) {
        let peer = &self.peers[session];
        let buckets = batch.buckets().as_slice();
        let sent = store::Batch::new(peer.id, batch.seq(), 10 * SECOND, buckets, batch.ops());
        let mut states: Vec<_> = buckets
            .iter()
            .map(|bucket| {
                let state = self.store.remove(&bucket.key.id());
                state.unwrap_or_else(BucketState::unused)
            })
            .collect();
        let (answer, wakes) = sent.apply_to(&mut states.iter_mut().collect::<Vec<_>>(), self.now);
        let ids: Vec<u64> = buckets.iter().map(|bucket| bucket.key.id()).collect();
        self.store.extend(ids.iter().copied().zip(states));
        for wake in &wakes {
            let woken = self.peers.iter().position(|peer| peer.id == wake.session);
            let bucket = ids[usize::from(wake.bucket)];
            self.after(300, Event::Hinted(woken.expect("it is there"), bucket));
        }
        self.after(300, Event::Answered(session, batch, answer));
    }

    fn answered(&mut self, session: usize, batch: Batch, applied: Applied) -> usize {
        let AppliedOutcome::Applied { buckets, verdicts } = applied.outcome else {
            panic!("{applied:?}")
        };
        let (now, state) = (self.now, &mut self.peers[session].state);
        deliver(state.applied(batch, &buckets, verdicts, conditions(now)));
        session
    }

    fn ends(&mut self, session: usize, grant: Grant) -> usize {
        let Grant { set, costs, at, .. } = grant;
        let settle = Op::Settle(Settle {
            on: set.all(),
            at: at.times(set.buckets().len()),
            actual: costs.clone(),
            reserved: costs,
            close: true,
            claim: None,
        });
        self.peers[session].state.push(Outgoing::lasting(settle, set, 0), true);
        session
    }

    /// What a driver does: callers see what came of their demands, and the next batch is sent.
    fn drive(&mut self, session: usize) {
        for (mut answer, task) in std::mem::take(&mut self.peers[session].waits) {
            match outcome(&mut answer) {
                None => self.peers[session].waits.push((answer, task)),
                Some(Outcome::Granted(grant)) => {
                    (self.granted_at, self.batches) = (self.now, 0);
                    self.at(self.now + task.lasts, Event::Ends(session, grant));
                    if let Some(again) = task.again.checked_sub(1) {
                        self.after(task.lasts * 2, Event::Asks(Task { again, ..task }));
                    }
                }
                Some(outcome) => panic!("{outcome:?}"),
            }
        }
        let (turn, effects) = self.peers[session].state.turn(conditions(self.now));
        deliver(effects);
        match turn {
            Turn::Send(batch) => {
                self.batches += 1;
                self.after(300, Event::Arrives(session, batch));
            }
            Turn::Sleep(Some(until)) if self.waiting() > 0 => self.at(until, Event::Look(session)),
            Turn::Sleep(_) | Turn::Stop => {}
        }
    }
}

fn conditions(now: Micros) -> Conditions {
    Conditions { now, hinting: Hinting::Works, resumes_at: None }
}

fn run(shape: Shape, seeds: u64) {
    for seed in 0..seeds {
        if let Err(error) = Fleet::new(shape, seed).run() {
            panic!("{shape:?}, seed {seed}: {error}");
        }
    }
}

#[test]
fn what_fits_starts_soon_where_there_are_no_shares() {
    let shape = Shape { sessions: 3, shares: 1, has_parent: false, within: SECOND };
    run(shape, 100);
}

#[test]
fn what_fits_starts_soon_where_shares_take_turns_under_a_parent() {
    let shape = Shape { sessions: 3, shares: 3, has_parent: true, within: SECOND * 3 / 2 };
    run(shape, 100);
    run(Shape { sessions: 1, within: SECOND, ..shape }, 50);
}

/// The order of each bucket can contradict that of another.
#[test]
fn what_fits_starts_soon_where_shares_take_turns_in_several_buckets() {
    let shape = Shape { sessions: 3, shares: 3, has_parent: false, within: 2 * SECOND };
    run(shape, 100);
    run(Shape { sessions: 1, within: SECOND, ..shape }, 50);
}
