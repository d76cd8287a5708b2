//! The thread that writes: it takes the batches that wait, applies them in one transaction and
//! answers.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError},
    },
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use tokio::sync::oneshot;

use super::{
    super::{Batch, BucketKey, OwnedBatch, StoreError, local_hints::LocalHints},
    file::{Database, DbResult, Statements, store_error},
};
use crate::engine::{Answer, BucketState, MAX_AMOUNT, Micros, Mode, Op, Outcome, Verdict, Wakes};

/// So many batches share a transaction at most.
const AT_ONCE: usize = 64;

/// While another process writes, it is tried again after a random time up to this.
const TRY_AGAIN: Duration = Duration::from_micros(500);

/// A lock that is held for longer is not one of a process at work.
const PATIENCE: Duration = Duration::from_secs(10);

/// How often expired buckets are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(1);

/// How often hints of other processes are looked for while a session waits.
const LOOK_EVERY: Duration = Duration::from_millis(2);

/// A session that was refused is taken to wait for this long, if it does not come back.
const WAITS: Duration = Duration::from_secs(60);

/// A batch that waits for its answer.
#[derive(Debug)]
pub(super) struct Queued {
    pub(super) batch: OwnedBatch,
    pub(super) reply: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What the thread knows.
#[derive(Debug)]
pub(super) struct Worker {
    queue: Receiver<Queued>,
    hints: LocalHints,
    next_sweep: Instant,
    /// The row up to which the last sweep came.
    swept: i64,
    /// A session of this process may wait until then.
    waits_until: Instant,
    /// When to look for hints meanwhile.
    next_look: Instant,
    /// The file as it was when hints were last looked for.
    version: i64,
    /// Hints that were given and are to be deleted.
    given: Vec<(u64, String)>,
}

/// A bucket in a transaction.
#[derive(Debug)]
struct Loaded {
    row: Option<i64>,
    state: BucketState,
    is_changed: bool,
}

type States = HashMap<Arc<BucketKey>, Loaded>;

/// What a batch did, apart from the states; or why its states cannot be read.
type Applied = Result<(Answer, Wakes), StoreError>;

impl Worker {
    pub(super) fn new(queue: Receiver<Queued>, hints: LocalHints) -> Self {
        let now = Instant::now();
        Self {
            queue,
            hints,
            next_sweep: now,
            swept: i64::MIN,
            waits_until: now,
            next_look: now,
            version: 0,
            given: Vec::new(),
        }
    }

    /// Works until the store is dropped.
    pub(super) fn run(mut self, database: &Database) {
        let Ok(mut file) = database.statements() else { return };
        while let Some(batches) = self.receive(&mut file) {
            self.serve(batches, &mut file);
            // Batches may come without a pause.
            if self.waits_until > Instant::now() && self.next_look <= Instant::now() {
                self.look_for_hints(&mut file);
            }
        }
    }

    /// Waits for batches. While a session waits for capacity, looks for hints meanwhile.
    fn receive(&mut self, file: &mut Statements<'_>) -> Option<Vec<Queued>> {
        let first = loop {
            if self.waits_until <= Instant::now() {
                break self.queue.recv().ok()?;
            }
            let until_look = self.next_look.saturating_duration_since(Instant::now());
            match self.queue.recv_timeout(until_look) {
                Ok(queued) => break queued,
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => self.look_for_hints(file),
            }
        };
        let mut batches = vec![first];
        batches.extend(self.queue.try_iter().take(AT_ONCE - 1));
        Some(batches)
    }

    /// Applies batches in one transaction and answers them.
    fn serve(&mut self, batches: Vec<Queued>, file: &mut Statements<'_>) {
        match begin(&batches, file) {
            Ok(true) => {}
            Ok(false) => {
                let locked = || StoreError::Unavailable("another process holds the lock".into());
                return batches
                    .into_iter()
                    .for_each(|queued| drop(queued.reply.send(Err(locked()))));
            }
            Err(error) => return fail(batches, error),
        }
        let result = self.write(&batches, file).and_then(|results| file.commit().map(|()| results));
        let results = match result {
            Ok(results) => results,
            Err(error) => {
                file.roll_back();
                return fail(batches, error);
            }
        };
        for (queued, result) in batches.into_iter().zip(results) {
            let (answer, wakes) = match result {
                Ok((answer, wakes)) => (Ok(answer), wakes),
                Err(error) => (Err(error), Wakes::default()),
            };
            let batch = queued.batch.as_batch();
            if answer.as_ref().is_ok_and(|answer| is_refused(&batch, answer)) {
                self.waits_until = Instant::now() + WAITS;
            }
            let _ = queued.reply.send(answer);
            for wake in &wakes {
                if let Some(bucket) = batch.buckets.get(usize::from(wake.bucket)) {
                    self.hints.hint(wake.session, bucket.key.name());
                }
            }
        }
    }

    /// Applies batches and saves what they leave.
    fn write(&mut self, batches: &[Queued], file: &mut Statements<'_>) -> DbResult<Vec<Applied>> {
        let mut states = States::new();
        let mut results = Vec::with_capacity(batches.len());
        for queued in batches {
            let batch = queued.batch.as_batch();
            let loaded = load(&batch, &mut states, file)?;
            results.push(loaded.map(|()| apply(&batch, &mut states)));
        }
        let wall = wall();
        for (key, loaded) in states.iter().filter(|(_, loaded)| loaded.is_changed) {
            file.save(loaded.row, key, &loaded.state, wall)?;
        }
        self.pass_on_hints(batches, &results, file, wall)?;
        if Instant::now() >= self.next_sweep {
            self.swept = file.sweep(self.swept, wall)?;
            self.next_sweep = Instant::now() + SWEEP_EVERY;
        }
        Ok(results)
    }

    /// Leaves hints for sessions of other processes, and deletes those that were given here.
    fn pass_on_hints(
        &mut self,
        batches: &[Queued],
        results: &[Applied],
        file: &mut Statements<'_>,
        wall: Micros,
    ) -> DbResult<()> {
        for (queued, result) in batches.iter().zip(results) {
            let Ok((_, wakes)) = result else { continue };
            let batch = queued.batch.as_batch();
            for wake in wakes.iter().filter(|wake| !self.hints.knows(wake.session)) {
                if let Some(bucket) = batch.buckets.get(usize::from(wake.bucket)) {
                    file.leave_hint(wake.session, bucket.key.name(), wall)?;
                }
            }
        }
        for (session, bucket) in self.given.drain(..) {
            file.take_hint(session, &bucket)?;
        }
        Ok(())
    }

    fn look_for_hints(&mut self, file: &mut Statements<'_>) {
        // Where this fails it is done again soon, and sessions look by themselves.
        let _ = self.fetch_hints(file);
        self.next_look = Instant::now() + LOOK_EVERY;
    }

    /// Gives the hints that other processes left.
    fn fetch_hints(&mut self, file: &mut Statements<'_>) -> DbResult<()> {
        let version = file.version()?;
        if version == self.version {
            return Ok(());
        }
        for hint in file.hints()? {
            if !self.given.contains(&hint) && self.hints.hint(hint.0, &hint.1) {
                self.given.push(hint);
            }
        }
        self.version = version;
        Ok(())
    }
}

/// Begins to write. Returns false if no batch is waited for any more, or another process does not
/// stop writing.
fn begin(batches: &[Queued], file: &mut Statements<'_>) -> DbResult<bool> {
    let started = Instant::now();
    while !file.begin()? {
        if started.elapsed() > PATIENCE || batches.iter().all(|queued| queued.reply.is_closed()) {
            return Ok(false);
        }
        thread::sleep(TRY_AGAIN.mul_f64(fastrand::f64()));
    }
    Ok(true)
}

/// Loads the buckets of a batch that are not loaded yet. A state that cannot be read is an error of
/// this batch alone.
fn load(
    batch: &Batch<'_>,
    states: &mut States,
    file: &mut Statements<'_>,
) -> DbResult<Result<(), StoreError>> {
    for bucket in batch.buckets {
        let Entry::Vacant(vacant) = states.entry(bucket.key.clone()) else { continue };
        let (row, state) = match file.load(&bucket.key)? {
            None => (None, BucketState::unused()),
            Some((row, bytes)) => match BucketState::from_bytes(&bytes) {
                Ok(state) => (Some(row), state),
                Err(error) => return Ok(Err(StoreError::Rejected(error.into()))),
            },
        };
        vacant.insert(Loaded { row, state, is_changed: false });
    }
    Ok(Ok(()))
}

/// Applies a batch whose buckets are loaded.
fn apply(batch: &Batch<'_>, states: &mut States) -> (Answer, Wakes) {
    // Taken out meanwhile: a batch needs all of them at once.
    let taken = batch.buckets.iter().map(|bucket| states.remove_entry(&bucket.key));
    let mut taken: Vec<_> = taken.flatten().collect();
    let mut refs: Vec<&mut BucketState> =
        taken.iter_mut().map(|(_, loaded)| &mut loaded.state).collect();
    let (answer, wakes) = batch.apply_to(&mut refs, wall());
    let is_applied = matches!(answer.outcome, Outcome::Applied { .. });
    for (key, mut loaded) in taken {
        loaded.is_changed |= is_applied;
        states.insert(key, loaded);
    }
    (answer, wakes)
}

/// Whether the session of this batch waits from now on.
fn is_refused(batch: &Batch<'_>, answer: &Answer) -> bool {
    let Outcome::Applied { verdicts, .. } = &answer.outcome else { return false };
    batch.ops.iter().zip(verdicts).any(|(op, verdict)| match op {
        Op::Reserve(reserve) => {
            reserve.mode == Mode::Wait && matches!(verdict, Verdict::Refused(_))
        }
        Op::Waiting { lines, .. } => !lines.is_empty(),
        _ => false,
    })
}

fn fail(batches: Vec<Queued>, error: rusqlite::Error) {
    // Errors cannot be copied; each batch is told the same.
    let (text, error) = (error.to_string(), store_error(error));
    let again = |error: &StoreError| match error {
        StoreError::Unavailable(_) => StoreError::Unavailable(text.clone().into()),
        StoreError::Rejected(_) => StoreError::Rejected(text.clone().into()),
    };
    batches.into_iter().for_each(|queued| drop(queued.reply.send(Err(again(&error)))));
}

/// The host's clock, which is read with the file locked: no process sees it earlier than one that
/// wrote before.
fn wall() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(MAX_AMOUNT).clamp(1, MAX_AMOUNT)
}
