//! The store against real servers, each test with one of its own.

mod bench_tmp;
mod differential;
mod random;
#[path = "../../../../tests/support/mod.rs"]
mod support;

use std::sync::Arc;

use self::support::RedisServer;
use super::RedisStore;
use crate::{
    engine::{Answer, Op, Rule},
    store::{Batch, Bucket, BucketKey, Reply, Store, StoreError},
};

fn bucket(name: &str, rules: &[Rule]) -> Bucket {
    Bucket::new(Arc::new(BucketKey::new("test", name)), rules.into())
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
