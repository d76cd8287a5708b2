//! A store across a network that a test controls.

use std::{
    fmt,
    future::pending,
    sync::Arc,
    time::{Duration, SystemTime},
};

use tokio::time::sleep;

use crate::{
    engine::{Answer, Mode, Op, Outcome, Refused, RefusedBy, Verdict, Violation},
    quota::micros,
    store::{Batch, MemoryStore, Reply, Store, StoreError},
    sync::{Mutex, MutexGuard, lock},
};

/// When its clock begins: at the start of 2030, so that slots and fixed windows do not depend on
/// when a test runs.
const BEGINS: Duration = Duration::from_secs(1_893_456_000);

/// A store that keeps state in memory and behaves as one elsewhere: it answers later, and refuses,
/// fails, hangs and loses state when it is told to. A clone is another handle to the same store.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{
///     Demand, Limits, Quota, Throttled,
///     test_util::{TestLimiter, on_fake_clock},
///     usage,
/// };
///
/// on_fake_clock(async {
///     let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 5)]);
///     let test = TestLimiter::new(limits);
///     let demand = || Demand::new("api", usage! { requests: 1 });
///
///     test.store().refuse_next(1, Duration::from_secs(9));
///     let error = test.limiter().try_reserve(demand()).await.unwrap_err();
///     assert_eq!(error.retry_after(), Some(Duration::from_secs(9)));
///
///     test.store().fail();
///     let error = test.limiter().reserve(demand()).await.unwrap_err();
///     assert_eq!(error.kind(), "store_unavailable");
///     test.ledger().assert_refused(2);
/// });
/// ```
#[derive(Clone)]
pub struct ScriptedStore {
    inner: Arc<Scripted>,
}

struct Scripted {
    memory: MemoryStore,
    script: Mutex<Script>,
}

/// What is to happen.
#[derive(Debug, Default)]
struct Script {
    delay: Duration,
    /// So many batches fail.
    failing: usize,
    fails: bool,
    hangs: bool,
    /// How many reserves are to be refused by what, the next ones last.
    refusals: Vec<(usize, ScriptedRefusal)>,
}

impl Script {
    /// What the next reserve is refused by.
    fn next_refusal(&mut self) -> Option<ScriptedRefusal> {
        let (left, refusal) = self.refusals.last_mut()?;
        let refusal = *refusal;
        *left -= 1;
        if *left == 0 {
            self.refusals.pop();
        }
        Some(refusal)
    }
}

/// Why a reserve is refused.
#[derive(Clone, Copy, Debug)]
struct ScriptedRefusal {
    by: RefusedBy,
    wait: Duration,
    is_surfaced: bool,
}

impl Default for ScriptedStore {
    fn default() -> Self {
        Self::new()
    }
}

impl ScriptedStore {
    /// An empty store with an empty script: it answers at once, as things are.
    pub fn new() -> Self {
        let memory = MemoryStore::starting_at(SystemTime::UNIX_EPOCH + BEGINS);
        Self { inner: Arc::new(Scripted { memory, script: Mutex::default() }) }
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        lock(&self.inner.script)
    }

    /// Lets each batch take this long from now on.
    pub fn delay(&self, delay: Duration) {
        self.script().delay = delay;
    }

    /// Refuses the next reserves, whatever fits: as if their first quota were short for this long.
    /// One that may wait waits, and is looked at again after half a second at most.
    pub fn refuse_next(&self, reserves: usize, wait: Duration) {
        self.refuse(reserves, ScriptedRefusal { by: RefusedBy::Rule(0), wait, is_surfaced: false });
    }

    /// Refuses the next reserves as if the provider had asked for a wait that is longer than
    /// [`longest_pause`](crate::limiter::LimiterBuilder::longest_pause): with
    /// [`Throttled::Paused`](crate::Throttled::Paused). For a pause that is waited out use
    /// [`Limiter::pause`](crate::Limiter::pause).
    pub fn pause_next(&self, reserves: usize, wait: Duration) {
        self.refuse(reserves, ScriptedRefusal { by: RefusedBy::Pause(0), wait, is_surfaced: true });
    }

    fn refuse(&self, reserves: usize, refusal: ScriptedRefusal) {
        if reserves > 0 {
            self.script().refusals.insert(0, (reserves, refusal));
        }
    }

    /// Lets the next batches fail: the store cannot be reached. A batch that fails is sent again,
    /// as often as [`Retries`](crate::limiter::Retries) say.
    pub fn fail_next(&self, batches: usize) {
        let mut script = self.script();
        script.failing = script.failing.saturating_add(batches);
    }

    /// Lets every batch fail until [`heal`](Self::heal).
    pub fn fail(&self) {
        self.script().fails = true;
    }

    /// Leaves every batch without an answer until [`heal`](Self::heal). What is sent is lost.
    pub fn hang(&self) {
        self.script().hangs = true;
    }

    /// Forgets the script, but for the [`delay`](Self::delay): from now on everything goes well.
    /// What was lost stays lost.
    pub fn heal(&self) {
        let delay = self.script().delay;
        *self.script() = Script { delay, ..Script::default() };
    }

    /// Loses the state of all buckets, as a server that is flushed.
    pub fn lose_state(&self) {
        self.inner.memory.clear();
    }

    /// Applies a batch, whose reserves the script may refuse.
    fn apply_now(&self, batch: &Batch<'_>) -> Result<Answer, StoreError> {
        let mut ops = batch.ops.to_vec();
        let refused = self.take_refusals(&mut ops);
        let batch = Batch::new(batch.session, batch.seq, batch.lease, batch.buckets, &ops);
        let Reply::Now(mut answer) = self.inner.memory.apply(&batch) else {
            return Err(StoreError::Unavailable("the memory store did not answer".into()));
        };
        if let Outcome::Applied { verdicts, .. } = &mut answer.outcome {
            for (index, refusal) in refused {
                if let Some(verdict) = verdicts.get_mut(index) {
                    *verdict = refusal.verdict();
                }
            }
        }
        Ok(answer)
    }

    /// The reserves that are refused, which then charge nothing.
    fn take_refusals(&self, ops: &mut [Op]) -> Vec<(usize, ScriptedRefusal)> {
        let mut script = self.script();
        let mut refused = Vec::new();
        for (index, op) in ops.iter_mut().enumerate() {
            let Op::Reserve(reserve) = op else { continue };
            let Some(refusal) = script.next_refusal() else { break };
            reserve.mode = Mode::Dry;
            refused.push((index, refusal));
        }
        refused
    }
}

impl ScriptedRefusal {
    fn verdict(self) -> Verdict {
        let wait = micros(self.wait);
        let violation = Violation {
            by: self.by,
            available: 0,
            wait: Some(wait),
            alone: Some(wait),
            at_best: 0,
            asked: self.is_surfaced.then_some(wait),
            holds: false,
            rank: 0,
            before: 0,
        };
        let violations = [violation].into_iter().collect();
        Verdict::Refused(Box::new(Refused { violations, ..Refused::default() }))
    }
}

impl Store for ScriptedStore {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let mut script = self.script();
        let (delay, hangs) = (script.delay, script.hangs);
        let fails = script.fails || script.failing > 0;
        script.failing = script.failing.saturating_sub(1);
        drop(script);
        let answer = match fails || hangs {
            true => Err(StoreError::Unavailable("the script says so".into())),
            false => self.apply_now(batch),
        };
        Reply::Later(Box::pin(async move {
            if hangs {
                return pending().await;
            }
            if !delay.is_zero() {
                sleep(delay).await;
            }
            answer
        }))
    }
}

impl fmt::Debug for ScriptedStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ScriptedStore").field(&*self.script()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Demand, Limits, OnUnavailable, Quota,
        test_util::{TestLimiter, on_fake_clock},
        usage,
    };

    #[test]
    fn counts_may_be_as_large_as_there_are_and_scripts_follow_each_other() {
        on_fake_clock(async {
            let limits = Limits::new().bucket("api", [Quota::per_minute("requests", 50)]);
            let test =
                TestLimiter::with(limits, |limiter| limiter.on_unavailable(OnUnavailable::Allow));
            let (limiter, store) = (test.limiter(), test.store());
            let kind = || async {
                let demand = Demand::new("api", usage! { requests: 1 });
                limiter.try_reserve(demand).await.map_err(|error| error.kind()).err()
            };
            store.pause_next(1, Duration::from_secs(9_000));
            store.refuse_next(0, Duration::from_secs(9));
            store.refuse_next(usize::MAX, Duration::from_secs(9));
            assert_eq!(kind().await, Some("paused"));
            for _ in 0..3 {
                assert_eq!(kind().await, Some("not_now"));
            }
            store.heal();
            assert_eq!(kind().await, None);
            store.fail_next(usize::MAX);
            store.fail_next(usize::MAX);
            let demand = Demand::new("api", usage! { requests: 1 });
            assert!(limiter.reserve(demand).await.expect("it passes").degraded());
        });
    }
}
