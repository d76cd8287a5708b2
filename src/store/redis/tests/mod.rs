//! The store against real servers, each test with one of its own.

#[cfg(feature = "redis-cluster")]
mod cluster;
mod connections;
mod differential;
mod hints;
mod permissions;
mod proxy;
mod random;
mod rules;
mod stored;
#[path = "../../../../tests/support/mod.rs"]
mod support;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(unix)]
mod unix;
mod view;

use std::sync::Arc;

use self::support::RedisServer;
use super::RedisStore;
use crate::{
    engine::{
        Answer, Flow, MAX_AMOUNT, Micros, Mode, Op, Outcome, Reserve, Rule, Settle, Verdict, Window,
    },
    store::{Batch, Bucket, BucketKey, Reply, Store, StoreError},
};

fn bucket(name: &str, rules: &[Rule]) -> Bucket {
    Bucket::new(Arc::new(BucketKey::new("test", name)), rules.into())
}

/// The script's clock, when a test steps it.
const STEPPED: &str = "local function clock() return tonumber(redis.call('GET', 'test:clock')) end";

/// One quota: a minute's window.
fn sliding(limit: u64) -> [Rule; 1] {
    [Rule { id: 1, limit, held: false, window: Window::Sliding { slot: 1_008_334, slots: 60 } }]
}

/// A reserve on the first bucket of a batch.
fn reserve(costs: &[u64]) -> Op {
    reserve_on(&[0], costs)
}

fn reserve_on(on: &[u16], costs: &[u64]) -> Op {
    let (on, costs, flow) = (on.into(), costs.into(), Flow::default());
    let (mode, patience) = (Mode::Try, MAX_AMOUNT);
    Op::Reserve(Reserve { on, costs, headroom: 0, mode, waiter: 0, age: 0, patience, flow })
}

/// A settle on the first bucket of a batch.
fn settle(at: Micros, reserved: &[u64], actual: &[u64]) -> Op {
    let (on, at) = ([0].into_iter().collect(), [at].into_iter().collect());
    let (reserved, actual) = (reserved.into(), actual.into());
    Op::Settle(Settle { on, at, reserved, actual, close: true, claim: None })
}

/// Whether a reserve on all buckets, alone in its batch, is granted.
async fn granted(
    store: &RedisStore,
    session: u64,
    seq: u64,
    buckets: &[Bucket],
    costs: &[u64],
) -> bool {
    let on: Vec<u16> = (0..buckets.len() as u16).collect();
    let answer =
        apply(store, session, seq, buckets, &[reserve_on(&on, costs)]).await.expect("an answer");
    match answer.outcome {
        Outcome::Applied { verdicts, .. } => matches!(verdicts[0], Verdict::Granted { .. }),
        outcome => panic!("{outcome:?}"),
    }
}

async fn apply(
    store: &RedisStore,
    session: u64,
    seq: u64,
    buckets: &[Bucket],
    ops: &[Op],
) -> Result<Answer, StoreError> {
    apply_leased(store, session, seq, 10_000_000, buckets, ops).await
}

/// No hints reach some sessions.
fn is_unhinted(session: u64) -> bool {
    session.is_multiple_of(2)
}

async fn apply_leased(
    store: &RedisStore,
    session: u64,
    seq: u64,
    lease: u64,
    buckets: &[Bucket],
    ops: &[Op],
) -> Result<Answer, StoreError> {
    let batch = Batch::new(session, seq, lease, buckets, ops).unhinted(is_unhinted(session));
    match store.apply(&batch) {
        Reply::Now(answer) => Ok(answer),
        Reply::Later(answer) => answer.await,
    }
}

#[test]
fn a_store_shows_no_password() {
    let store = RedisStore::lazy("redis://:secret@localhost/").expect("a URL");
    assert!(!format!("{store:?}").contains("secret"));
}
