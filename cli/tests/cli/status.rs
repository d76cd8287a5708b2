use tower_throttle::{Demand, Limiter, Limits, Quota, store::RedisStore, usage};

use crate::{
    program::{charge, limiter, run, run_on},
    support::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_told_in_words() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "gpt-4o", 1_500).await;
    let ended = run_on(&server, &["status", "gpt-4o"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    for part in [
        "gpt-4o  (partition default, 20",
        "requests per minute: 1 charged of 500; 499 left, all back in ",
        "tokens per minute: 1,500 charged of 30,000; 28,500 left, all back in ",
        "waiting: 0 demands; a new one would start at once",
        "granted 1 since 20",
    ] {
        assert!(ended.out.contains(part), "{part} in {}", ended.out);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_is_told_as_json() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    let open = [0, 1].map(|_| Demand::new("claude", usage! { requests: 1 }));
    let mut reservations = Vec::new();
    for demand in open {
        reservations.push(limiter.reserve(demand).await.expect("it fits"));
    }
    let ended = run_on(&server, &["status", "claude", "--json"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    let status: serde_json::Value = serde_json::from_str(&ended.out).expect("JSON");
    assert_eq!((&status["bucket"], &status["partition"]), (&"claude".into(), &"default".into()));
    let [requests, calls] = [&status["quotas"][0], &status["quotas"][1]];
    assert_eq!((&requests["kind"], &requests["window"]), (&"sliding_window".into(), &60.0.into()));
    assert_eq!((&requests["charged"], &requests["limit"]), (&2.0.into(), &10.into()));
    assert_eq!(requests["metrics"][0]["metric"], "requests");
    assert_eq!((&calls["kind"], &calls["held"]), (&"concurrency".into(), &2.into()));
    assert_eq!((&status["predicted"], &status["granted"]), (&serde_json::Value::Null, &2.into()));
    assert_eq!(status["sessions"][0]["in_flight"][1]["amount"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn buckets_of_one_name_are_told_apart_by_their_partition() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").prefix("acme:prod");
    for partition in ["eu", "us"] {
        let limits = Limits::new().bucket_in(partition, "a b", [Quota::per_minute("requests", 5)]);
        let limiter = Limiter::with_store(limits, store.clone()).expect("limits");
        charge(&limiter, "a b", 0).await;
    }
    let prefix = ["--prefix", "acme:prod"];
    let ended = run_on(&server, &[&["status", "a b"], &prefix[..]].concat());
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("partitions eu, us have this name"), "{}", ended.err);
    let ended = run_on(&server, &[&["status", "a b", "--partition", "us"], &prefix[..]].concat());
    assert!(ended.code == 0 && ended.out.contains("partition us"), "{ended:?}");
    let ended = run_on(&server, &["status", "a b"]);
    assert_eq!(ended.code, 6, "another prefix");
}

#[test]
fn help_tells_the_commands_and_the_exit_codes() {
    let ended = run(&["--help"]);
    assert_eq!(ended.code, 0);
    for part in
        ["status", "top", "watch", "pause", "resume", "reset", "check", "explain", "Exit codes:"]
    {
        assert!(ended.out.contains(part), "{part}");
    }
    let url = "redis://:secret@localhost";
    let ended = crate::program::run_at(url, &["status", "--help"]);
    assert!(ended.code == 0 && !ended.out.contains("secret"), "{}", ended.out);
}
