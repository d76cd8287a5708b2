//! Engine and script must answer everything alike, and wake the same heads.

use std::sync::Arc;

use super::{
    RedisServer, RedisStore, STEPPED, apply_leased, bucket, is_unhinted,
    random::{BUCKETS, Sending, World},
};
use crate::{
    engine::{self, Answer, Batch, BucketState, Outcome, Wakes},
    store::Bucket,
};

/// Wake-ups are listed instead of published.
const LISTED: &str = "redis.call('RPUSH', 'test:wakes', to, bucket.key)";

/// These batches, applied by the engine.
pub(super) struct Engine(pub(super) Vec<BucketState>);

impl Engine {
    pub(super) fn apply(
        &mut self,
        sending: &Sending,
        buckets: &[Bucket],
        wall: u64,
    ) -> (Answer, Wakes) {
        let take = |&index: &usize| std::mem::replace(&mut self.0[index], BucketState::unused());
        let mut states: Vec<_> = sending.buckets.iter().map(take).collect();
        let Sending { session, seq, lease, ref ops, .. } = *sending;
        let batch = Batch::new(session, seq, lease, buckets, ops).unhinted(is_unhinted(session));
        let result = engine::apply(&mut states.iter_mut().collect::<Vec<_>>(), &batch, wall);
        for (&index, state) in sending.buckets.iter().zip(states) {
            self.0[index] = state;
        }
        result
    }
}

pub(super) fn name(index: usize) -> String {
    format!("b{index}")
}

/// Random operations through both; so many at least, in batches of about so many. Time is stepped,
/// or is the server's.
async fn compare(operations: usize, batch: usize, stepped: bool, calm: bool) {
    let seed = match std::env::var("DIFFERENTIAL_SEED") {
        Ok(seed) => seed.parse::<u64>().expect("DIFFERENTIAL_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("DIFFERENTIAL_SEED={seed}");
    let server = RedisServer::start();
    let mut side = server.connection();
    let mut store = RedisStore::connect(&server.url()).await.expect("a server").with_wakes(LISTED);
    if stepped {
        store = store.with_clock(STEPPED);
    }
    let ids: Vec<u64> = (0..BUCKETS).map(|index| bucket(&name(index), &[]).key.id()).collect();
    let mut world = World::new(seed, ids.try_into().expect("as many"), calm);
    let mut engine = Engine(vec![BucketState::unused(); BUCKETS]);
    let (mut applied, mut batches, mut woken) = (0, 0, 0);
    while applied < operations {
        let sending = world.next(batch);
        let mut prepare = redis::pipe();
        prepare.del("test:wakes").set("test:clock", world.wall);
        prepare.exec(&mut side).expect("the clock is set");
        let buckets: Vec<_> = sending
            .buckets
            .iter()
            .zip(&sending.rules)
            .map(|(&index, rules)| bucket(&name(index), &Arc::from(&**rules)))
            .collect();
        let Sending { session, seq, lease, ref ops, .. } = sending;
        let place = format!("seed {seed}, batch {batches}");
        let answer = apply_leased(&store, session, seq, lease, &buckets, ops).await;
        let answer = answer.unwrap_or_else(|error| panic!("{place}: {error}"));
        assert!(!stepped || answer.wall == world.wall);
        world.wall = answer.wall;
        let (expected, wakes) = engine.apply(&sending, &buckets, answer.wall);
        if answer != expected {
            panic!(
                "script and engine differ at {place}: {}",
                difference(&sending, &answer, &expected)
            );
        }
        let listed: Vec<String> =
            redis::cmd("LRANGE").arg("test:wakes").arg(0).arg(-1).query(&mut side).expect("wakes");
        let channel = |wake: &engine::Wake| {
            let bucket = buckets[usize::from(wake.bucket)].key.name();
            [
                format!("throttle:{{test}}:wake:{}", wake.session),
                format!("throttle:{{test}}:{bucket}"),
            ]
        };
        let wakes: Vec<String> = wakes.iter().flat_map(channel).collect();
        assert_eq!(listed, wakes, "wakes at {place}");
        woken += wakes.len() / 2;
        world.learn(&sending, &answer);
        applied += ops.len();
        batches += 1;
    }
    println!("{applied} operations in {batches} batches, {woken} wakes");
}

/// What a person needs to find the cause.
fn difference(sending: &Sending, script: &Answer, engine: &Answer) -> String {
    let rules = &sending.rules;
    match (&script.outcome, &engine.outcome) {
        (Outcome::Applied { verdicts: left, .. }, Outcome::Applied { verdicts: right, .. })
            if left != right =>
        {
            let at = left.iter().zip(right).position(|(left, right)| left != right).unwrap_or(0);
            let (op, left, right) = (&sending.ops[at], &left[at], &right[at]);
            format!(
                "{op:#?} is answered {left:#?} by the script, {right:#?} by the engine; the rules are {rules:#?}"
            )
        }
        (left, right) => {
            format!("{left:?} by the script, {right:?} by the engine; the rules are {rules:#?}")
        }
    }
}

#[tokio::test]
async fn random_operations_are_answered_as_by_the_engine() {
    compare(600_000, 32, true, false).await;
}

#[tokio::test]
async fn so_are_those_of_small_batches() {
    compare(200_000, 3, true, false).await;
}

#[tokio::test]
async fn so_are_those_that_mostly_fit() {
    compare(200_000, 8, true, true).await;
}

#[tokio::test]
async fn operations_on_the_servers_own_clock_are_answered_as_by_the_engine() {
    compare(10_000, 4, false, false).await;
    compare(10_000, 4, false, true).await;
}
