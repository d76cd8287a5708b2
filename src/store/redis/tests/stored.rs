//! What is stored, and what happens to it.

use std::time::Duration;

use tokio::time::timeout;

use super::{
    RedisServer, RedisStore, STEPPED, apply, apply_leased, bucket, granted, reserve, settle,
    sliding,
};
use crate::{
    engine::{Mode, Op, Outcome, Reserve, Rule, Settle, TokenBucket, Verdict, Window},
    store::StoreError,
};

const KEY: &str = "throttle:{test}:b";
const DUE: &str = "throttle:{test}:b!due";

/// Asks how the first bucket of a batch stands.
const STATUS: Op = Op::Status { bucket: 0 };

#[tokio::test]
async fn a_flushed_script_is_loaded_again() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    assert!(granted(&store, 1, 2, &b, &[1]).await);
}

#[tokio::test]
async fn a_batch_is_applied_once_and_a_stale_one_never() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    let first = apply(&store, 1, 1, &b, &[reserve(&[4])]).await.expect("an answer");
    let again = apply(&store, 1, 1, &b, &[reserve(&[4])]).await.expect("an answer");
    assert_eq!(first.outcome, again.outcome);

    assert!(granted(&store, 1, 2, &b, &[4]).await);
    let stale = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect("an answer");
    assert_eq!(stale.outcome, Outcome::Stale);

    let status = apply(&store, 1, 3, &b, &[STATUS]).await.expect("an answer");
    let Outcome::Applied { verdicts, .. } = status.outcome else { panic!("{status:?}") };
    let Verdict::Status(status) = &verdicts[0] else { panic!("{verdicts:?}") };
    assert_eq!((status.quotas[0].charged, status.quotas[0].in_flight), (8, 8));
}

#[tokio::test]
async fn a_session_that_has_the_id_of_a_claim_is_to_take_another() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    let grant = apply(&store, 1, 1, &b, &[reserve(&[4])]).await.expect("an answer");
    let Outcome::Applied { buckets: seen, .. } = grant.outcome else { panic!("{grant:?}") };
    let (on, reserved) = ([0].into_iter().collect(), [4].into_iter().collect());
    let detach = Op::Detach { on, claim: 7, reserved, lease: 60_000_000 };
    apply(&store, 1, 2, &b, std::slice::from_ref(&detach)).await.expect("an answer");

    let own = match settle(seen[0].now, &[4], &[0]) {
        Op::Settle(settle) => Op::Settle(Settle { claim: Some(7), ..settle }),
        op => op,
    };
    for op in [reserve(&[1]), own.clone(), settle(seen[0].now, &[4], &[0])] {
        let answer = apply(&store, 7, 1, &b, &[op]).await.expect("an answer");
        assert_eq!(answer.outcome, Outcome::Stale);
    }
    // The claim stands until it is settled; then the id is free, and no claim's any more.
    let verdicts = async |session, seq, op| {
        let answer = apply(&store, session, seq, &b, &[op]).await.expect("an answer");
        match answer.outcome {
            Outcome::Applied { verdicts, .. } => verdicts[0].clone(),
            outcome => panic!("{outcome:?}"),
        }
    };
    assert_eq!(verdicts(2, 1, own).await, Verdict::Done);
    assert!(granted(&store, 7, 1, &b, &[1]).await);
    assert_eq!(verdicts(1, 3, detach).await, Verdict::NoClaim);
}

#[tokio::test]
async fn a_flushed_state_is_born_anew_and_refunds_no_older_grant() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    let before = apply(&store, 1, 1, &b, &[reserve(&[10])]).await.expect("an answer");
    let Outcome::Applied { buckets: old, .. } = before.outcome else { panic!("{before:?}") };
    server.command::<()>(&["FLUSHALL"]);

    let after = apply(&store, 2, 1, &b, &[reserve(&[8])]).await.expect("an answer");
    let Outcome::Applied { buckets: new, .. } = after.outcome else { panic!("{after:?}") };
    assert!(new[0].born > old[0].born);
    // Given back, the 10 would make room for what the 8 of the new state forbid.
    apply(&store, 1, 2, &b, &[settle(old[0].now, &[10], &[0])]).await.expect("an answer");
    assert!(!granted(&store, 2, 2, &b, &[3]).await);
    assert!(granted(&store, 2, 3, &b, &[2]).await);
}

#[tokio::test]
async fn a_foreign_value_is_an_error_and_stays() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    server.command::<()>(&["SET", KEY, "mine"]);
    let error = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("a wrong type");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("WRONGTYPE"), "{error}");
    assert_eq!(server.command::<String>(&["GET", KEY]), "mine");

    server.command::<()>(&["DEL", KEY]);
    for state in [
        "",
        "mine",
        "a string that is as long as some packed numbers would be, or longer yet, to be sure",
    ] {
        server.command::<()>(&["HSET", KEY, "s", state]);
        let error = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("a foreign state");
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
        assert!(error.to_string().contains("the state of this bucket"), "{error}");
        assert_eq!(server.command::<String>(&["HGET", KEY, "s"]), state);
    }
}

/// Each number of a state, changed to what no batch leaves behind.
#[tokio::test]
async fn a_damaged_number_does_not_hang_the_server() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let shape = TokenBucket::new(1, 60_000_000, 10, 40, 240_000_000, 96);
    let draining = Rule { id: 2, limit: 10, held: false, window: Window::TokenBucket(shape) };
    let rules: Vec<Rule> = sliding(10).into_iter().chain([draining]).collect();
    for other in [false, true] {
        // With other quotas its state is read by its shapes.
        let mut rules = rules.clone();
        let before = bucket("b", &rules);
        server.command::<()>(&["FLUSHALL"]);
        assert!(granted(&store, 1, 1, &[before], &[1, 1]).await);
        if other {
            rules.pop();
        }
        let b = [bucket("b", &rules)];
        let state: Vec<u8> = server.command(&["HGET", KEY, "s"]);
        for at in (0..state.len()).step_by(8) {
            for number in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1.0, 0.5, 1e300, -1e300] {
                let mut damaged = state.clone();
                damaged[at..at + 8].copy_from_slice(&number.to_le_bytes());
                let set = redis::cmd("HSET")
                    .arg(KEY)
                    .arg("s")
                    .arg(damaged)
                    .exec(&mut server.connection());
                set.expect("the state is changed");
                let limit = Duration::from_secs(5);
                let answer = timeout(limit, apply(&store, 2, 0, &b, &[STATUS])).await;
                assert!(answer.is_ok(), "number {} of the state is {number:e}", at / 8);
            }
        }
    }
}

#[tokio::test]
async fn a_state_that_was_cut_is_an_error() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    let state: Vec<u8> = server.command(&["HGET", KEY, "s"]);
    let cut = redis::cmd("HSET")
        .arg(KEY)
        .arg("s")
        .arg(&state[..state.len() - 8])
        .exec(&mut server.connection());
    cut.expect("the state is cut");
    let error = apply(&store, 1, 2, &b, &[STATUS]).await.expect_err("a state that is cut");
    assert!(error.to_string().contains("cut short"), "{error}");
}

#[tokio::test]
async fn names_cannot_break_out_of_their_key() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").prefix("my app:1");
    for name in ["a}b{c", "line\nbreak", "%41", "A", "é:*"] {
        assert!(granted(&store, 1, 1, &[bucket(name, &sliding(1))], &[1]).await, "{name}");
    }
    let keys: Vec<String> = server.command(&["KEYS", "*"]);
    // Two for each.
    assert_eq!(keys.len(), 10, "{keys:?}");
    assert!(keys.iter().all(|key| key.starts_with("my%20app%3A1:{test}:")), "{keys:?}");
}

#[tokio::test]
async fn a_bucket_is_small_and_outlives_what_it_means() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let hour = 3_600_000_000;
    let window = |window: u64| Window::Sliding { slot: (window + 500_000).div_ceil(60), slots: 60 };
    let rule = |id, window| Rule { id, limit: 1_000, held: false, window };
    let sliding = [1, 2, 3].map(|n| rule(n, window(n * hour)));
    let draining = [1, 2, 3].map(|n| {
        rule(n, Window::TokenBucket(TokenBucket::new(1, n * hour, 1_000, 4_000, 4 * n * hour, 96)))
    });
    for (name, rules) in [("sliding", sliding), ("draining", draining)] {
        let b = [bucket(name, &rules)];
        for seq in 1..20 {
            assert!(granted(&store, 1, seq, &b, &[1, 2, 3]).await);
        }
        let key = format!("throttle:{{test}}:{name}");
        let bytes: u64 = server.command(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]);
        assert!(bytes < 4096, "{name}: {bytes} bytes");

        let answer = apply(&store, 1, 20, &b, &[STATUS]).await.expect("an answer");
        let Outcome::Applied { buckets, .. } = answer.outcome else { panic!("{answer:?}") };
        let left: u64 = server.command(&["PTTL", &key]);
        assert!(1_000 * (left + 50) >= buckets[0].expires - buckets[0].now, "{name}: {left} ms");
    }
}

#[tokio::test]
async fn two_buckets_are_charged_both_or_neither() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let both = [bucket("a", &sliding(10)), bucket("b", &sliding(5))];
    assert!(granted(&store, 1, 1, &both, &[4, 4]).await);
    assert!(!granted(&store, 1, 2, &both, &[4, 4]).await);
    assert!(granted(&store, 2, 1, &both[..1], &[6]).await);
    assert!(!granted(&store, 3, 1, &both[1..], &[2]).await);
    assert!(granted(&store, 3, 2, &both[1..], &[1]).await);
}

#[tokio::test]
async fn a_batch_of_any_size_is_applied_whole() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(100_000))];
    let ops = vec![reserve(&[1]); 10_000];
    for seq in 1..=2 {
        let answer = apply(&store, 1, seq, &b, &ops).await.expect("an answer");
        let Outcome::Applied { verdicts, .. } = answer.outcome else { panic!("not applied") };
        assert_eq!(verdicts.len(), 10_000);
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Granted { .. })));
    }
    let many: Vec<Rule> = (1..2_000).flat_map(|id| sliding_with_id(id, 10)).collect();
    let error = apply(&store, 1, 1, &[bucket("c", &many)], &[]).await.expect_err("too many quotas");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    let error =
        apply(&store, 1, 3, &b, &[reserve(&[1, 2])]).await.expect_err("two costs for one quota");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn a_lease_ends_though_its_session_was_indexed_for_later() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").with_clock(STEPPED);
    let b = [bucket("b", &sliding(100))];
    let start = 1_700_000_000_000_000_u64;
    let at = |time: u64| server.command::<()>(&["SET", "test:clock", &time.to_string()]);
    at(start);
    // A session that has nothing in flight is due when it is forgotten; from the second batch on,
    // when its lease ends.
    assert!(granted(&store, 1, 1, &b, &[0]).await);
    for seq in 2..5 {
        assert!(granted(&store, 1, seq, &b, &[1]).await);
    }
    for (later, left) in [(9_999_999, 3), (10_000_000, 0)] {
        at(start + later);
        let status = apply(&store, 2, later, &b, &[STATUS]).await.expect("an answer");
        let Outcome::Applied { verdicts, .. } = status.outcome else { panic!("{status:?}") };
        let Verdict::Status(status) = &verdicts[0] else { panic!("{verdicts:?}") };
        assert_eq!((status.quotas[0].charged, status.quotas[0].in_flight), (3, left));
    }
}

#[tokio::test]
async fn what_is_in_flight_is_kept_for_as_long_as_its_lease() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").with_clock(STEPPED);
    let start = 1_700_000_000_000_000_u64;
    let at = |time: u64| server.command::<()>(&["SET", "test:clock", &time.to_string()]);
    let calls = [Rule { id: 1, limit: 1, held: false, window: Window::InFlight }];
    // The longest that a limiter asks for, which is also how long a session without calls is
    // remembered, and longer.
    for (name, seconds) in [("b", 600), ("c", 2_000)] {
        let (b, lease) = ([bucket(name, &calls)], seconds * 1_000_000);
        at(start);
        let first =
            apply_leased(&store, 1, 1, lease, &b, &[reserve(&[1])]).await.expect("an answer");
        let Outcome::Applied { verdicts, .. } = first.outcome else { panic!("{first:?}") };
        assert_eq!(verdicts[0], Verdict::Granted { probe: false });
        let left: u64 = server.command(&["PTTL", &format!("throttle:{{test}}:{name}")]);
        assert!(left >= seconds * 1_000, "{left} ms of {seconds} s");

        at(start + lease - 1);
        assert!(!granted(&store, 2, 1, &b, &[1]).await, "it is in flight still");
        at(start + lease);
        assert!(granted(&store, 2, 2, &b, &[1]).await, "its lease has ended");
    }
}

#[tokio::test]
async fn an_index_of_due_times_that_was_evicted_is_made_anew() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").with_clock(STEPPED);
    let start = 1_700_000_000_000_000_u64;
    let at = |time: u64| server.command::<()>(&["SET", "test:clock", &time.to_string()]);
    let b = [bucket("b", &[Rule { id: 1, limit: 40, held: false, window: Window::InFlight }])];
    at(start);
    for session in 1..=40 {
        assert!(granted(&store, session, 1, &b, &[1]).await);
    }
    assert_eq!(server.command::<u64>(&["ZCARD", DUE]), 40);
    server.command::<()>(&["DEL", DUE]);
    at(start + 9_000_000);
    assert!(!granted(&store, 41, 1, &b, &[1]).await, "all are in flight");
    // So many at a time are looked at.
    for (seq, ended) in (2..).zip([16, 32, 40]) {
        at(start + 10_000_000);
        let status = apply(&store, 41, seq, &b, &[STATUS]).await.expect("an answer");
        let Outcome::Applied { verdicts, .. } = status.outcome else { panic!("{status:?}") };
        let Verdict::Status(status) = &verdicts[0] else { panic!("{verdicts:?}") };
        assert!(status.quotas[0].in_flight <= 41 - ended, "{status:?} after {ended}");
    }
    assert_eq!(server.command::<u64>(&["ZCARD", DUE]), 41);
}

#[tokio::test]
async fn a_batch_that_changes_no_due_time_writes_no_index() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(100))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    let state: u64 = server.command(&["PTTL", KEY]);
    let index: u64 = server.command(&["PTTL", DUE]);
    assert!(state.abs_diff(index) < 2_000, "{state} and {index} ms");
    server.command::<()>(&["DEL", DUE]);
    for seq in 2..20 {
        assert!(granted(&store, 1, seq, &b, &[1]).await);
    }
    assert_eq!(server.command::<u64>(&["EXISTS", DUE]), 0);
}

#[tokio::test]
async fn a_state_of_another_version_is_an_error_and_stays() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    assert!(granted(&store, 1, 1, &[bucket("b", &sliding(10))], &[1]).await);
    let older = 1_f64.to_le_bytes();
    redis::cmd("HSET")
        .arg(KEY)
        .arg("d")
        .arg(&older[..])
        .exec(&mut server.connection())
        .expect("it is set");
    let state: Vec<u8> = server.command(&["HGET", KEY, "s"]);
    let b = [bucket("b", &sliding(11))];
    let error = apply(&store, 1, 2, &b, &[reserve(&[1])]).await.expect_err("another version");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("not written by this version"), "{error}");
    assert_eq!(server.command::<Vec<u8>>(&["HGET", KEY, "s"]), state);
}

#[tokio::test]
async fn a_wake_up_that_may_not_be_sent_is_no_error() {
    let server = RedisServer::start();
    server.command::<()>(&[
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">pass",
        "~throttle:*",
        "+@all",
        "-publish",
    ]);
    let url = server.url().replace("redis://", "redis://app:pass@");
    let store = RedisStore::connect(&url).await.expect("a server");
    let b = [bucket("b", &[Rule { id: 1, limit: 1, held: false, window: Window::InFlight }])];
    let first = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect("an answer");
    let Outcome::Applied { buckets, .. } = first.outcome else { panic!("{first:?}") };
    let Op::Reserve(waits) = reserve(&[1]) else { panic!("a reserve") };
    let waits = Op::Reserve(Reserve { mode: Mode::Wait, waiter: 1, ..waits });
    let lines = Op::Waiting { bucket: 0, lines: Box::default() };
    apply(&store, 2, 1, &b, &[waits.clone(), lines.clone()]).await.expect("an answer");
    // It frees what the other one waits for.
    apply(&store, 1, 2, &b, &[settle(buckets[0].now, &[1], &[0])]).await.expect("an answer");
    let answer = apply(&store, 2, 2, &b, &[waits, lines]).await.expect("an answer");
    let Outcome::Applied { verdicts, .. } = answer.outcome else { panic!("{answer:?}") };
    assert_eq!(verdicts[0], Verdict::Granted { probe: false });
}

fn sliding_with_id(id: u64, limit: u64) -> [Rule; 1] {
    sliding(limit).map(|rule| Rule { id, ..rule })
}
