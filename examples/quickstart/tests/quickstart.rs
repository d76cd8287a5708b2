//! The whole example, as it is run by hand.

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::time::{Duration, Instant};

use quickstart_example::{Load, Report, run};
use serde_json::Value;
use support::RedisServer;

/// What must hold wherever the limits are kept.
fn check(report: &Report, load: &Load) {
    let text = report.json();
    let json: Value = serde_json::from_str(&text).expect("the report is JSON");
    let number = |phase: &str, key: &str| json[phase][key].as_f64().expect("a number");
    let calls = load.calls().len() as f64;
    for phase in ["unthrottled", "throttled"] {
        assert_eq!(number(phase, "calls"), calls, "{text}");
        assert!(
            number(phase, "seconds") >= 4.0 * quickstart_example::LIMITS.window.as_secs_f64(),
            "{text}"
        );
    }
    assert!(number("unthrottled", "rejected") > 0.0, "the calls exceed the limits: {text}");
    assert_eq!(report.throttled.error, None);
    assert_eq!(number("throttled", "ok"), calls, "{text}");
    assert_eq!(number("throttled", "rejected"), 0.0, "{text}");
    assert!(number("throttled", "utilisation") >= 0.85, "{text}");
    let (reserved, refunded) = (number("throttled", "reserved"), number("throttled", "refunded"));
    assert_eq!(reserved - refunded, number("throttled", "used"), "{text}");
    assert!(refunded > 0.5 * reserved, "real usage is far below what is reserved: {text}");
    let seconds = number("unthrottled", "seconds") + number("throttled", "seconds");
    assert!(seconds < 30.0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_throttle_meets_no_429_and_wastes_little() {
    let load = Load::new(None).expect("generated");
    let report = run(&load, None, false).await.expect("a run");
    println!("{}", report.table());
    check(&report, &load);
}

#[tokio::test(flavor = "multi_thread")]
async fn so_it_does_on_redis() {
    let server = RedisServer::start();
    let load = Load::new(None).expect("generated");
    let report = run(&load, Some(&server.url()), false).await.expect("a run");
    println!("{}", report.table());
    check(&report, &load);
    let keys: Vec<String> = server.command(&["KEYS", "*"]);
    assert!(keys.iter().any(|key| key.contains("gpt-4o")), "the limits are kept there: {keys:?}");
}

#[tokio::test]
async fn a_redis_that_is_not_there_is_told_at_once() {
    let mut server = RedisServer::start();
    server.stop();
    let load = Load::new(None).expect("generated");
    for url in [server.url(), "redis:/nonsense".into()] {
        let started = Instant::now();
        assert!(run(&load, Some(&url), false).await.is_err(), "{url}");
        assert!(started.elapsed() < Duration::from_secs(10), "{url}");
    }
}
