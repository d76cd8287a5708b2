//! A user who may only read can look, and no more.

use crate::{
    program::{charge, limiter, run_at},
    support::RedisServer,
    top::Screen,
};

/// The URL of a user with these rules.
fn user(server: &RedisServer, rules: &[&str]) -> String {
    let begin = ["ACL", "SETUSER", "look", "reset", "on", ">word", "~throttle:*"];
    server.command::<()>(&[&begin[..], rules].concat());
    server.url().replace("redis://", "redis://look:word@")
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_only_read_sees_all_and_changes_nothing() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "gpt-4o", 1_500).await;
    for rules in [&["+@read"][..], &["+hmget", "+hgetall", "+scan", "+time"]] {
        let url = user(&server, rules);
        let ended = run_at(&url, &["status", "gpt-4o"]);
        assert!(ended.code == 0 && ended.out.contains("1,500 charged"), "{rules:?}: {ended:?}");
        for command in
            [&["pause", "gpt-4o", "1m"][..], &["resume", "gpt-4o"], &["reset", "gpt-4o", "--yes"]]
        {
            let ended = run_at(&url, command);
            assert_eq!((ended.code, ended.out.as_str()), (5, ""), "{rules:?} {command:?}");
            assert!(ended.err.contains("NOPERM") && !ended.err.contains("word"), "{}", ended.err);
        }
        let Some(screen) = Screen::start(&url, &["top"]) else { return };
        screen.shows("1.5k/30k").await;
        screen.keys(&["Enter"]);
        screen.shows("SESSIONS  1").await;
    }
    let status = limiter.status("gpt-4o").await.expect("a status");
    assert!(status.paused_until.is_none() && status.quotas[1].charged == 1_500.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_even_read_is_told_what_is_needed() {
    let server = RedisServer::start();
    charge(&limiter(&server).await, "gpt-4o", 1_500).await;
    for rules in [&["+ping"][..], &["+scan"], &["resetkeys", "~other:*", "+@read"]] {
        let url = user(&server, rules);
        let ended = run_at(&url, &["status", "gpt-4o"]);
        assert_eq!((ended.code, ended.out.as_str()), (5, ""), "{rules:?}");
        let needs = "the user needs HMGET, HGETALL, SCAN, and TIME or PTTL";
        assert!(ended.err.contains(needs), "{rules:?}: {}", ended.err);
    }
}
