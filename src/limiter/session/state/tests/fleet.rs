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

/// Sessions that send more batches than this within two seconds in which nothing starts, hint each
/// other without end.
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
    trouble: Trouble,
}

/// What goes wrong or is out of the ordinary, each in percent.
#[derive(Clone, Copy, Debug)]
struct Trouble {
    /// Of hints that do not arrive.
    hints: u32,
    /// Of callers that give up after 300 ms at most.
    callers: u32,
    /// Of batches whose answer does not arrive.
    answers: u32,
    /// Of sessions that end at once, at some time.
    sessions: u32,
    /// Of demands of a class that leaves 30 % to others.
    classes: u32,
    /// Of demands that are charged less in the end.
    refunds: u32,
}

impl Trouble {
    const NONE: Self =
        Self { hints: 0, callers: 0, answers: 0, sessions: 0, classes: 0, refunds: 0 };
}

/// Among those that arrive this close together either may go first.
const CLOSE: Micros = 25_000;

/// What a demand of a task asks.
#[derive(Clone, Copy, Debug)]
struct Task {
    session: usize,
    set: usize,
    flow: u64,
    tokens: u64,
    lasts: Micros,
    headroom: u64,
    /// How often it asks again.
    again: u32,
    number: usize,
}

enum Event {
    Asks(Task),
    Arrives(usize, Batch),
    Answered(usize, Batch, Applied),
    Hinted(usize, u64),
    Ends(usize, Grant),
    /// It is time to look.
    Look(usize),
    /// The caller of this demand does not wait any longer.
    GivesUp(usize, usize),
    /// No answer to a batch arrived.
    Failed(usize, Batch),
    /// A session ends at once.
    Dies(usize),
}

struct Peer {
    id: u64,
    is_dead: bool,
    state: State,
    sets: Vec<Arc<BucketSet>>,
    waits: Vec<Pending>,
    /// In flight.
    calls: usize,
}

struct Pending {
    rank: Rank,
    answer: Answer,
    task: Task,
    since: Micros,
}

/// What was granted.
#[derive(Clone, Copy, Debug)]
struct Granted {
    task: Task,
    since: Micros,
    at: Micros,
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
    trouble: Trouble,
    granted: Vec<Granted>,
}

/// The quotas of a bucket, which admit so many calls at least.
fn quotas(random: &mut fastrand::Rng, least: u64) -> Vec<Quota> {
    let tokens = || Quota::token_bucket("tokens", 20, Duration::from_millis(500));
    match random.u8(0..4) {
        0 => vec![Quota::concurrency(random.u64(least..4))],
        1 => vec![tokens()],
        2 => vec![Quota::sliding_window("tokens", 20, Duration::from_millis(500))],
        _ => vec![Quota::concurrency(random.u64(least..4)), tokens()],
    }
}

impl Fleet {
    fn new(shape: Shape, seed: u64) -> Self {
        let mut random = fastrand::Rng::with_seed(seed);
        let names = ["a", "b", "c", "parent"];
        // A class that leaves some of one call to others gets none.
        let least = if shape.trouble.classes > 0 { 2 } else { 1 };
        let quotas: Vec<_> = names.iter().map(|_| quotas(&mut random, least)).collect();
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
            is_dead: false,
            state: State::new(Setup { in_process: false, lease: 10 * SECOND, max_waiting: 1000 }),
            sets: sets_of(&names, |index| quotas[index].clone(), &kinds),
            waits: Vec::new(),
            calls: 0,
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
            trouble: shape.trouble,
            granted: Vec::new(),
        };
        let random = &mut fleet.random;
        let tasks: Vec<_> = (0..random.usize(4..40))
            .map(|number| Task {
                number,
                headroom: if random.u32(0..100) < shape.trouble.classes {
                    engine::HEADROOM_PARTS * 3 / 10
                } else {
                    0
                },
                session: random.usize(0..fleet.peers.len()),
                set: random.usize(0..kinds.len()),
                flow: random.u64(0..shape.shares),
                tokens: random.u64(1..10),
                lasts: random.u64(0..100_000),
                again: random.u32(0..6),
            })
            .collect();
        tasks.into_iter().for_each(|task| fleet.after(1000, Event::Asks(task)));
        for session in 1..fleet.peers.len() {
            if fleet.happens(shape.trouble.sessions) {
                fleet.after(SECOND, Event::Dies(session));
            }
        }
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

    fn happens(&mut self, percent: u32) -> bool {
        self.random.u32(0..100) < percent
    }

    /// How many were granted after a younger one that asked as much of the same in the same flow.
    fn overtaken(&self) -> usize {
        let overtakes = |younger: &Granted, older: &Granted| {
            let kind = |task: &Task| (task.set, task.flow, task.headroom);
            kind(&younger.task) == kind(&older.task)
                && younger.task.tokens >= older.task.tokens
                && younger.since > older.since + CLOSE
                && younger.at + 1000 < older.at
        };
        let is_overtaken =
            |older: &&Granted| self.granted.iter().any(|younger| overtakes(younger, older));
        self.granted.iter().filter(is_overtaken).count()
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
            let spins = SPINS * (self.within / (2 * SECOND)).max(1) as usize;
            if gap > self.within || self.batches > spins {
                return Err(format!("{gap} us, {} batches, {} wait", self.batches, self.waiting()));
            }
            let session = match event {
                Event::Asks(task) if self.peers[task.session].is_dead => continue,
                Event::Asks(task) => self.asks(task),
                Event::Arrives(session, batch) => {
                    self.apply(session, batch);
                    continue;
                }
                Event::Answered(session, ..)
                | Event::Hinted(session, _)
                | Event::Ends(session, _)
                | Event::Look(session)
                | Event::GivesUp(session, _)
                | Event::Failed(session, _)
                    if self.peers[session].is_dead =>
                {
                    continue;
                }
                Event::Answered(session, batch, applied) => self.answered(session, batch, applied),
                Event::Failed(session, batch) => self.failed(session, batch),
                Event::GivesUp(session, number) => self.gives_up(session, number),
                Event::Dies(session) => {
                    self.dies(session);
                    continue;
                }
                Event::Hinted(session, bucket) => {
                    let now = self.now;
                    self.peers[session].state.queue.hinted(bucket, now);
                    session
                }
                Event::Ends(session, grant) => self.ends(session, grant),
                Event::Look(session) => session,
            };
            self.drive(session);
        }
        match (self.waiting(), self.heads_left()) {
            (0, 0) => Ok(()),
            (waiting, heads) => Err(format!("{waiting} wait for ever, {heads} heads are left")),
        }
    }

    /// How many demands wait as far as the store knows, of sessions that live.
    fn heads_left(&mut self) -> u64 {
        let is_dead = |peer: &Peer| peer.is_dead;
        if self.peers.iter().any(is_dead) {
            return 0;
        }
        let mut left = 0;
        for set in self.peers[0].sets.clone() {
            for bucket in set.buckets() {
                let ops = [Op::Status { bucket: 0 }];
                let buckets = std::slice::from_ref(bucket);
                let asked = store::Batch::new(99, 1, 10 * SECOND, buckets, &ops);
                let Some(state) = self.store.get_mut(&bucket.key.id()) else { continue };
                let (answer, _) = asked.apply_to(&mut [state], self.now);
                let AppliedOutcome::Applied { verdicts, .. } = answer.outcome else { continue };
                let [Verdict::Status(level)] = &verdicts[..] else { continue };
                left += level.waiting;
            }
        }
        left
    }

    fn asks(&mut self, task: Task) -> usize {
        if self.happens(self.trouble.callers) {
            self.after(300_000, Event::GivesUp(task.session, task.number));
        }
        let peer = &mut self.peers[task.session];
        let (flow, usage) = (Flow { id: task.flow, weight: 1 }, usage! { tokens: task.tokens });
        let set = peer.sets[task.set].clone();
        let ask = Ask::new(
            set,
            usage,
            Box::default(),
            Standing { headroom: task.headroom, ..Standing::default() },
            flow,
            Mode::Wait,
        );
        let (sender, answer) = oneshot::channel();
        let rank = peer.state.enter(ask.expect("it fits"), self.now, None, sender, None);
        peer.waits.push(Pending { rank, answer, task, since: self.now });
        task.session
    }

    /// As a ticket that is dropped does.
    fn gives_up(&mut self, session: usize, number: usize) -> usize {
        let peer = &mut self.peers[session];
        let Some(index) = peer.waits.iter().position(|waits| waits.task.number == number) else {
            return session;
        };
        let Pending { rank, mut answer, .. } = peer.waits.swap_remove(index);
        answer.close();
        if let Some(Outcome::Granted(grant)) = outcome(&mut answer) {
            self.peers[session].calls += 1;
            self.ends(session, grant);
        }
        self.peers[session].state.queue.drop_waiter(rank);
        session
    }

    /// Ends at once, when it has no calls in flight: these would be held until its lease ends.
    fn dies(&mut self, session: usize) {
        let peer = &mut self.peers[session];
        if peer.calls > 0 || !peer.state.is_flushed() {
            return self.after(1000, Event::Dies(session));
        }
        peer.is_dead = true;
        peer.waits.clear();
    }

    fn failed(&mut self, session: usize, batch: Batch) -> usize {
        let now = self.now;
        self.peers[session].state.failed(batch, Some(&Throttled::Closed), now);
        self.deliver(session);
        session
    }

    fn deliver(&mut self, session: usize) {
        for told in self.peers[session].state.take_effects().told {
            if let Told::Outcome(to, outcome) = told
                && let Err(outcome) = to.send(Box::new(outcome))
                && let Outcome::Granted(grant) = *outcome
            {
                self.peers[session].calls += 1;
                self.ends(session, grant);
            }
        }
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
            if !self.happens(self.trouble.hints) {
                self.after(300, Event::Hinted(woken.expect("it is there"), bucket));
            }
        }
        if self.happens(self.trouble.answers) {
            self.after(5000, Event::Failed(session, batch));
        } else {
            self.after(300, Event::Answered(session, batch, answer));
        }
    }

    fn answered(&mut self, session: usize, batch: Batch, applied: Applied) -> usize {
        let AppliedOutcome::Applied { buckets, verdicts } = applied.outcome else {
            panic!("{applied:?}")
        };
        let (now, state) = (self.now, &mut self.peers[session].state);
        state.applied(batch, &buckets, verdicts, conditions(now));
        self.deliver(session);
        session
    }

    fn ends(&mut self, session: usize, grant: Grant) -> usize {
        let Grant { set, costs, at, .. } = grant;
        let mut actual = costs.clone();
        if self.happens(self.trouble.refunds) {
            actual.iter_mut().for_each(|cost| *cost = self.random.u64(0..=*cost));
        }
        let settle = Op::Settle(Settle {
            on: set.all(),
            at: at.times(set.buckets().len()),
            actual,
            reserved: costs,
            close: true,
            claim: None,
        });
        let peer = &mut self.peers[session];
        peer.calls -= 1;
        peer.state.push(Outgoing::lasting(settle, set, 0), true);
        session
    }

    /// What a driver does: callers see what came of their demands, and the next batch is sent.
    fn drive(&mut self, session: usize) {
        for mut waits in std::mem::take(&mut self.peers[session].waits) {
            let task = waits.task;
            match outcome(&mut waits.answer) {
                None => self.peers[session].waits.push(waits),
                Some(Outcome::Refused(Throttled::Closed)) => self.after(5000, Event::Asks(task)),
                Some(Outcome::Granted(grant)) => {
                    self.peers[session].calls += 1;
                    self.granted.push(Granted { task, since: waits.since, at: self.now });
                    (self.granted_at, self.batches) = (self.now, 0);
                    self.at(self.now + task.lasts, Event::Ends(session, grant));
                    if let Some(again) = task.again.checked_sub(1) {
                        self.after(task.lasts * 2, Event::Asks(Task { again, ..task }));
                    }
                }
                Some(outcome) => panic!("{outcome:?}"),
            }
        }
        let turn = self.peers[session].state.turn(conditions(self.now));
        self.deliver(session);
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

/// Lets so many fleets run. Returns how many demands were granted, and how many of them after a
/// younger one that asked as much of the same in the same flow.
fn run(shape: Shape, seeds: u64) -> (usize, usize) {
    let (mut granted, mut overtaken) = (0, 0);
    for seed in 0..seeds {
        let mut fleet = Fleet::new(shape, seed);
        if let Err(error) = fleet.run() {
            panic!("{shape:?}, seed {seed}: {error}");
        }
        granted += fleet.granted.len();
        overtaken += fleet.overtaken();
    }
    (granted, overtaken)
}

const ONE_FLOW: Shape =
    Shape { sessions: 3, shares: 1, has_parent: false, within: SECOND, trouble: Trouble::NONE };
const UNDER_A_PARENT: Shape =
    Shape { shares: 3, has_parent: true, within: SECOND * 3 / 2, ..ONE_FLOW };

#[test]
fn what_fits_starts_soon_where_there_are_no_shares() {
    let (granted, overtaken) = run(ONE_FLOW, 100);
    // What goes before a head of another session is estimated.
    assert!(overtaken <= granted / 200, "{overtaken} of {granted} are overtaken");
}

#[test]
fn what_fits_starts_soon_where_shares_take_turns_under_a_parent() {
    let (granted, overtaken) = run(UNDER_A_PARENT, 100);
    assert!(overtaken <= granted / 50, "{overtaken} of {granted} are overtaken");
    let (_, overtaken) = run(Shape { sessions: 1, within: SECOND, ..UNDER_A_PARENT }, 50);
    assert_eq!(overtaken, 0, "in one session");
}

/// The order of each bucket can contradict that of another.
#[test]
fn what_fits_starts_soon_where_shares_take_turns_in_several_buckets() {
    let shape = Shape { has_parent: false, within: 2 * SECOND, ..UNDER_A_PARENT };
    run(shape, 100);
    run(Shape { sessions: 1, within: SECOND, ..shape }, 50);
}

#[test]
fn what_fits_starts_soon_whatever_gets_lost_or_leaves() {
    let trouble =
        Trouble { hints: 30, callers: 20, answers: 3, classes: 30, refunds: 50, sessions: 0 };
    run(Shape { trouble, within: SECOND * 3 / 2, ..ONE_FLOW }, 60);
    run(Shape { trouble, within: 2 * SECOND, ..UNDER_A_PARENT }, 60);
}

/// What their heads hold up is noticed soon, though their leases last for ten seconds.
#[test]
fn what_fits_starts_soon_though_sessions_die() {
    let (trouble, within) = (Trouble { sessions: 50, ..Trouble::NONE }, 3 * SECOND);
    run(Shape { trouble, within, ..ONE_FLOW }, 60);
    run(Shape { trouble, within, ..UNDER_A_PARENT }, 60);
    run(Shape { trouble, within, has_parent: false, ..UNDER_A_PARENT }, 60);
}
