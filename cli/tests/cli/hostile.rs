//! What others have written below the prefix is shown, and a terminal obeys none of it.

use tower_throttle::{Demand, Limiter, Limits, Quota, store::RedisStore, usage};

use crate::{
    program::{Ended, charge, run_on},
    support::RedisServer,
    top::Screen,
    watch::Watch,
};

/// Clears a screen, twice, and turns the direction of a text.
const NAME: &str = "evil\u{1b}[2J\u{9b}2J\u{202e}";
const SHOWN: &str = "evil\u{fffd}[2J\u{fffd}2J\u{fffd}";

fn is_plain(text: &str) -> bool {
    !text.chars().any(|c| c.is_control() && c != '\n' || c == '\u{202e}')
}

/// Buckets of this name in two partitions, of which one is no better.
async fn limiters(server: &RedisServer) -> [Limiter; 2] {
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    ["eu\u{1b}c", "us"].map(|partition| {
        let quotas = [Quota::per_minute("requests", 1).named(NAME)];
        let limits = Limits::new().bucket_in(partition, NAME, quotas);
        Limiter::with_store(limits, store.clone()).expect("limits")
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn names_are_shown_as_text() {
    let server = RedisServer::start();
    let [eu, us] = limiters(&server).await;
    charge(&us, NAME, 0).await;
    let mut watch = Watch::start(&server, &[]);
    charge(&eu, NAME, 0).await;
    let line = watch.says("is in use");
    assert!(is_plain(&line) && line.contains(SHOWN), "{line:?}");

    let Ended { code, err, .. } = run_on(&server, &["status", NAME]);
    assert!(code == 2 && is_plain(&err) && err.contains("partitions eu"), "{err:?}");
    for command in [&["status"][..], &["status", "--json"], &["pause"], &["resume"]] {
        let mut command = command.to_vec();
        command.extend([NAME, "--partition", "eu\u{1b}c"]);
        if command[0] == "pause" {
            command.push("1m");
        }
        let Ended { code, out, err } = run_on(&server, &command);
        assert!(code == 0 && is_plain(&out), "{command:?}: {out:?} {err}");
        assert!(out.contains("evil"), "{command:?}: {out}");
    }
    let Some(screen) = Screen::start(&server.url(), &["top"]) else { return };
    screen.shows(SHOWN).await;
    screen.keys(&["Enter"]);
    screen.shows("SESSIONS  1").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_state_is_passed_over() {
    let server = RedisServer::start();
    let [_, us] = limiters(&server).await;
    charge(&us, NAME, 0).await;
    server.command::<()>(&["HSET", "throttle:{us}:foreign", "s", "mine", "d", "\u{1b}[2J"]);
    server.command::<()>(&["SET", "throttle:{us}:text", "mine"]);
    server.command::<()>(&["HSET", "throttle:{us}:%FF%1B", "s", "mine"]);
    let ended = run_on(&server, &["status", "foreign"]);
    assert!(ended.code == 5 && ended.err.contains("another version"), "{ended:?}");
    assert_eq!(run_on(&server, &["status", "text"]).code, 6);
    let demand = Demand::new(NAME, usage! { requests: 1 });
    let waiting = tokio::spawn(us.reserve(demand));
    let mut watch = Watch::start(&server, &[]);
    let Some(screen) = Screen::start(&server.url(), &["top"]) else { return };
    screen.shows("1 bucket ").await;
    screen.shows(SHOWN).await;
    us.pause(NAME, std::time::Duration::from_secs(60)).await.expect("it is paused");
    assert!(is_plain(&watch.says("paused for")));
    waiting.abort();
}
