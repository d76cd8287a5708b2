//! What the server's user needs, and no more.

use std::{collections::BTreeSet, fs, path::Path, time::Duration};

use tokio::time::sleep;

use super::{
    RedisServer, RedisStore, apply, bucket, granted,
    hints::{Session, until_subscribers},
    reserve, sliding,
};
use crate::store::StoreError;

/// A server with a user "app" that has the permissions of the documentation, and its URL.
fn server_with(rules: &[&str]) -> (RedisServer, String) {
    let server = RedisServer::start();
    let commands: Vec<_> = commands!().split(", ").map(|command| format!("+{command}")).collect();
    let mut line = vec!["ACL", "SETUSER", "app", "on", ">pass word", "~throttle:*", "-@all"];
    line.extend(["resetchannels", "&throttle:*"]);
    line.extend(commands.iter().map(String::as_str));
    line.extend(rules);
    server.command::<()>(&line);
    let url = format!("redis://app:pass%20word@127.0.0.1:{}/", server.port());
    (server, url)
}

#[tokio::test]
async fn commands_and_keys_and_channels_of_the_documentation_are_enough() {
    let (server, url) = server_with(&[]);
    let store = RedisStore::connect(&url).await.expect("a user without other permissions");
    let b = [bucket("b", &sliding(10))];
    let session = Session::subscribed(&store, 7).await;
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    assert!(granted(&store, 1, 2, &b, &[1]).await);
    // Longer than a heartbeat.
    sleep(Duration::from_millis(500)).await;
    assert!(session.works());
    drop(session);
    until_subscribers(&server, 0).await;
    let denied: Vec<Vec<redis::Value>> = server.command(&["ACL", "LOG"]);
    let pings = denied.iter().all(|entry| format!("{entry:?}").contains("ping"));
    assert!(pings, "only that may be denied, when it connects: {denied:?}");
}

#[tokio::test]
async fn a_database_needs_one_command_more() {
    let (server, url) = server_with(&["+select"]);
    let store =
        RedisStore::connect(&format!("{url}3")).await.expect("a user without other permissions");
    assert!(granted(&store, 1, 1, &[bucket("b", &sliding(10))], &[1]).await);
    assert_eq!(
        server.command::<u64>(&["EXISTS", "throttle:{test}:b"]),
        0,
        "it is in another database"
    );
}

#[tokio::test]
async fn what_is_missing_is_no_outage_and_is_listed() {
    let b = [bucket("b", &sliding(10))];
    for rules in [&["-evalsha"][..], &["-hset"], &["resetkeys", "~other:*"]] {
        let (_server, url) = server_with(rules);
        let store = RedisStore::connect(&url).await.expect("credentials are right");
        let error = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("no permission");
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
        assert!(error.to_string().ends_with(" and the keys below the prefix"), "{error}");
    }
}

/// The commands in the Lua files, with those of the connections.
#[test]
fn no_command_is_missing_and_none_is_in_vain() {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/store/redis");
    let mut used: BTreeSet<_> =
        ["EVALSHA", "EVAL", "SUBSCRIBE", "UNSUBSCRIBE"].map(str::to_owned).into();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("a file").path();
        if path.extension().is_some_and(|extension| extension == "lua") {
            let code = fs::read_to_string(path).expect("a file");
            for line in code.lines() {
                let line = line.split("--").next().unwrap_or_default();
                let words = line.split('\'').skip(1).step_by(2);
                used.extend(words.filter(|word| is_command(word)).map(str::to_owned));
            }
        }
    }
    // SPUBLISH takes the place of PUBLISH on a cluster; the others are parts of commands.
    for word in ["SPUBLISH", "LIMIT", "WITHSCORES"] {
        used.remove(word);
    }
    let listed: BTreeSet<_> = commands!().split(", ").map(str::to_owned).collect();
    assert_eq!(used, listed);
}

fn is_command(word: &str) -> bool {
    word.len() > 2 && word.bytes().all(|byte| byte.is_ascii_uppercase())
}
