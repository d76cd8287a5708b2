use std::{
    io::{Read, Write},
    process::Stdio,
};

use crate::{
    program::{charge, limiter, program, run_on},
    support::RedisServer,
};

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_all_processes_until_it_is_resumed() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "gpt-4o", 100).await;
    let ended = run_on(&server, &["pause", "gpt-4o", "5m"]);
    assert!(ended.code == 0 && ended.out.starts_with("gpt-4o is paused until 20"), "{ended:?}");
    let status = limiter.status("gpt-4o").await.expect("a status");
    assert!(status.paused_until.is_some());
    assert_eq!(status.quotas[1].charged, 100.0);

    let ended = run_on(&server, &["resume", "gpt-4o"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "gpt-4o goes on\n"));
    assert_eq!(limiter.status("gpt-4o").await.expect("a status").paused_until, None);
}

#[test]
fn a_bucket_that_is_not_in_use_is_no_bucket() {
    let server = RedisServer::start();
    for command in [
        &["status", "gpt-4"][..],
        &["pause", "gpt-4", "1s"],
        &["resume", "gpt-4"],
        &["reset", "gpt-4", "--yes"],
    ] {
        let ended = run_on(&server, command);
        assert_eq!((ended.code, ended.out.as_str()), (6, ""), "{command:?}");
        let expected = "tower-throttle: no bucket `gpt-4` below the prefix `throttle`";
        assert!(ended.err.starts_with(expected), "{}", ended.err);
    }
}

#[test]
fn a_duration_that_is_none_is_told() {
    let ended = crate::program::run(&["pause", "gpt-4o", "soon"]);
    assert_eq!(ended.code, 2);
    assert!(ended.err.contains("write a number and a unit"), "{}", ended.err);
    let ended = crate::program::run(&["pause", "gpt-4o", "8d"]);
    assert!(ended.code == 2 && ended.err.contains("a week at most"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_asks_before_it_destroys() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "gpt-4o", 100).await;
    // There is no terminal to ask at.
    let ended = run_on(&server, &["reset", "gpt-4o"]);
    assert!(ended.code == 7 && ended.err.contains("confirm with --yes"), "{ended:?}");
    assert_eq!(limiter.status("gpt-4o").await.expect("a status").quotas[1].charged, 100.0);

    let ended = run_on(&server, &["reset", "gpt-4o", "--yes"]);
    assert_eq!((ended.code, ended.out.as_str()), (0, "gpt-4o is as if it was never used\n"));
    assert_eq!(limiter.status("gpt-4o").await.expect("a status").quotas[1].charged, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn at_a_terminal_a_reset_takes_no_for_an_answer() {
    let server = RedisServer::start();
    let limiter = limiter(&server).await;
    charge(&limiter, "gpt-4o", 100).await;
    let Some(screen) = crate::top::Screen::start(&server.url(), &["reset", "gpt-4o"]) else {
        return;
    };
    screen.shows("0 demands wait there").await;
    screen.keys(&["n", "Enter"]);
    screen.shows("not confirmed").await;
    assert_eq!(limiter.status("gpt-4o").await.expect("a status").quotas[1].charged, 100.0);
    drop(screen);
    let Some(screen) = crate::top::Screen::start(&server.url(), &["reset", "gpt-4o"]) else {
        return;
    };
    screen.shows("[y/N]").await;
    screen.keys(&["y", "Enter"]);
    screen.shows("as if it was never used").await;
    assert_eq!(limiter.status("gpt-4o").await.expect("a status").quotas[1].charged, 0.0);
}

/// What is written to it is no answer where no terminal is.
#[tokio::test(flavor = "multi_thread")]
async fn a_pipe_confirms_nothing() {
    let server = RedisServer::start();
    charge(&limiter(&server).await, "gpt-4o", 100).await;
    let mut child = program(&["reset", "gpt-4o"])
        .env("REDIS_URL", server.url())
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    // It may have ended by then.
    let _ = child.stdin.take().expect("a pipe").write_all(b"y\n");
    let mut told = String::new();
    child.stderr.take().expect("a pipe").read_to_string(&mut told).expect("a text");
    assert_eq!(child.wait().expect("it ends").code(), Some(7), "{told}");
}
