//! The store against real servers, each test with one of its own.

mod connections;
mod differential;
mod random;
mod rules;
mod stored;
#[path = "../../../../tests/support/mod.rs"]
mod support;
#[cfg(feature = "redis-tls")]
mod tls;
#[cfg(unix)]
mod unix;

use std::sync::Arc;

use self::support::RedisServer;
use super::RedisStore;
use crate::{
    engine::{Answer, Micros, Mode, Op, Outcome, Rule, Verdict, Window},
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

fn reserve(costs: &[u64]) -> Op {
    Op::Reserve { costs: costs.into(), headroom: 0, explain: false, mode: Mode::Try }
}

fn settle(at: Micros, reserved: &[u64], actual: &[u64]) -> Op {
    Op::Settle { at, reserved: reserved.into(), actual: actual.into(), close: true, claim: None }
}

/// Whether a reserve, alone in its batch, is granted.
async fn granted(
    store: &RedisStore,
    lane: u64,
    seq: u64,
    buckets: &[Bucket],
    costs: &[u64],
) -> bool {
    let answer = apply(store, lane, seq, buckets, &[reserve(costs)]).await.expect("an answer");
    match answer.outcome {
        Outcome::Applied { verdicts, .. } => verdicts[0] == Verdict::Granted,
        outcome => panic!("{outcome:?}"),
    }
}

async fn apply(
    store: &RedisStore,
    lane: u64,
    seq: u64,
    buckets: &[Bucket],
    ops: &[Op],
) -> Result<Answer, StoreError> {
    apply_leased(store, lane, seq, 10_000_000, buckets, ops).await
}

async fn apply_leased(
    store: &RedisStore,
    lane: u64,
    seq: u64,
    lease: u64,
    buckets: &[Bucket],
    ops: &[Op],
) -> Result<Answer, StoreError> {
    match store.apply(&Batch::new(lane, seq, lease, buckets, ops)) {
        Reply::Now(answer) => Ok(answer),
        Reply::Later(answer) => answer.await,
    }
}

#[test]
fn keys_of_a_partition_share_a_hash_tag_that_no_name_can_break() {
    let store = RedisStore::lazy("redis://:secret@localhost/").expect("a URL").prefix("my:app");
    let key = store.key(&BucketKey::new("a}b", "c{d}\n:%é"));
    assert_eq!(String::from_utf8_lossy(&key), "my%3Aapp:{a%7Db}:c%7Bd%7D%0A%3A%25%C3%A9");
    assert!(!format!("{store:?}").contains("secret"));
}
