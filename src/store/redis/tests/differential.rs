//! Engine and script must answer everything alike.

use std::sync::Arc;

use super::{
    RedisServer, RedisStore, STEPPED, apply_leased, bucket,
    random::{Sending, World},
};
use crate::engine::{self, Answer, Batch, BucketState, Outcome};

/// The same batches, applied by the engine.
struct Engine(Vec<BucketState>);

impl Engine {
    fn apply(&mut self, sending: &Sending, wall: u64) -> Answer {
        let take = |&index: &usize| std::mem::replace(&mut self.0[index], BucketState::unused());
        let mut states: Vec<_> = sending.path.iter().map(take).collect();
        let rules: Vec<&[_]> = sending.rules.iter().map(|rules| &**rules).collect();
        let Sending { lane, seq, lease, ref ops, .. } = *sending;
        let answer =
            engine::apply(&mut states, &Batch { lane, seq, lease, rules: &rules, ops }, wall);
        for (&index, state) in sending.path.iter().zip(states) {
            self.0[index] = state;
        }
        answer
    }
}

/// Random operations through both; so many at least, in batches of about so many.
async fn compare(operations: usize, batch: usize, stepped: bool, calm: bool) {
    let seed = match std::env::var("DIFFERENTIAL_SEED") {
        Ok(seed) => seed.parse().expect("DIFFERENTIAL_SEED is a number"),
        Err(_) => fastrand::u64(..),
    };
    println!("DIFFERENTIAL_SEED={seed}");
    let server = RedisServer::start();
    let mut clock = server.connection();
    let mut store = RedisStore::connect(&server.url()).await.expect("a server");
    if stepped {
        store = store.with_clock(STEPPED);
    }
    let mut world = World::new(seed, calm);
    let mut engine = Engine(vec![BucketState::unused(); world.buckets()]);
    let (mut applied, mut batches) = (0, 0);
    while applied < operations {
        let sending = world.next(batch);
        if stepped {
            let set = redis::cmd("SET").arg("test:clock").arg(world.wall).exec(&mut clock);
            set.expect("the clock is set");
        }
        let buckets: Vec<_> = sending
            .path
            .iter()
            .zip(&sending.rules)
            .map(|(index, rules)| bucket(&index.to_string(), &Arc::from(&**rules)))
            .collect();
        let Sending { lane, seq, lease, ref ops, .. } = sending;
        let answer = apply_leased(&store, lane, seq, lease, &buckets, ops).await;
        let answer = answer.unwrap_or_else(|error| panic!("seed {seed}, batch {batches}: {error}"));
        assert!(!stepped || answer.wall == world.wall);
        world.wall = answer.wall;
        let expected = engine.apply(&sending, answer.wall);
        if answer != expected {
            let place = format!("seed {seed}, batch {batches}");
            panic!(
                "script and engine differ at {place}: {}",
                difference(&sending, &answer, &expected)
            );
        }
        world.learn(&sending, &answer);
        applied += ops.len();
        batches += 1;
    }
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
                "{op:#?} is answered {left:?} by the script, {right:?} by the engine; the rules are {rules:#?}"
            )
        }
        (left, right) => {
            format!("{left:?} by the script, {right:?} by the engine; the rules are {rules:#?}")
        }
    }
}

#[tokio::test]
async fn random_operations_are_answered_as_by_the_engine() {
    compare(800_000, 32, true, false).await;
}

#[tokio::test]
async fn so_are_operations_that_take_the_shortcut() {
    compare(200_000, 16, true, true).await;
}

#[tokio::test]
async fn operations_on_the_servers_own_clock_are_answered_as_by_the_engine() {
    compare(10_000, 4, false, false).await;
    compare(10_000, 4, false, true).await;
}
