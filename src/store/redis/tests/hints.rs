//! Hints between stores: they arrive, and their connection exists while a session listens and comes
//! back after an outage.

use std::{sync::Arc, time::Duration};

use tokio::{
    runtime::Builder,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use super::{
    RedisServer, RedisStore, apply, bucket, granted, proxy::Proxy, reserve, settle, sliding,
};
use crate::{
    engine::{Mode, Op, Outcome, Verdict},
    store::{Bucket, Hint, Listening, Store},
};

/// Well above what any of these tests should take to see a server again.
const SOON: Duration = Duration::from_secs(20);

/// What a session hears.
pub(super) struct Session {
    listening: Listening,
    hints: UnboundedReceiver<String>,
}

impl Session {
    /// A session that listens to the partition "test".
    fn listen(store: &RedisStore, session: u64) -> Self {
        let (sender, hints) = unbounded_channel();
        let hint = Hint::new(move |bucket| drop(sender.send(bucket.to_owned())));
        Self { listening: store.listen("test", session, hint).expect("the store has hints"), hints }
    }

    /// A session that is subscribed to its channel.
    pub(super) async fn subscribed(store: &RedisStore, session: u64) -> Self {
        let mut listener = Self::listen(store, session);
        assert_eq!(listener.next().await, "", "something may have been missed before");
        assert!(listener.listening.works());
        listener
    }

    pub(super) fn works(&self) -> bool {
        self.listening.works()
    }

    async fn next(&mut self) -> String {
        timeout(SOON, self.hints.recv()).await.expect("a hint").expect("the session listens")
    }

    async fn until(&self, works: bool) {
        let changed = async {
            while self.listening.works() != works {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(SOON, changed).await.unwrap_or_else(|_| panic!("works is not {works}"));
    }
}

fn channel_prefix(store: &RedisStore) -> Vec<u8> {
    store.channel_prefix(&store.partition_keys("test"))
}

fn publish(server: &RedisServer, channel: &str, message: &str) -> u64 {
    server.command(&["PUBLISH", channel, message])
}

/// How many clients of the server subscribe to something.
fn subscribers(server: &RedisServer) -> usize {
    server.command::<String>(&["CLIENT", "LIST", "TYPE", "pubsub"]).lines().count()
}

pub(super) async fn until_subscribers(server: &RedisServer, expected: usize) {
    let changed = async {
        while subscribers(server) != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, changed).await.unwrap_or_else(|_| panic!("{} subscribers", subscribers(server)));
}

#[tokio::test]
async fn a_message_is_a_hint_for_its_session() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server").prefix("my:app");
    let mut one = Session::subscribed(&store, 1).await;
    let mut two = Session::subscribed(&store.clone(), 9_007_199_254_740_991).await;
    assert_eq!(publish(&server, "my%3Aapp:{test}:wake:1", "my%3Aapp:{test}:gpt-4o"), 1);
    assert_eq!(one.next().await, "gpt-4o");
    for (message, bucket) in [
        ("my%3Aapp:{test}:a%7Db%20%C3%A9", "a}b \u{e9}"),
        ("my%3Aapp:{other}:a", ""),
        ("my%3Aapp:{test}:a!due", ""),
        ("", ""),
    ] {
        assert_eq!(publish(&server, "my%3Aapp:{test}:wake:9007199254740991", message), 1);
        assert_eq!(two.next().await, bucket, "{message}");
    }
    assert!(one.hints.is_empty(), "each session has a channel of its own");
    assert_eq!(subscribers(&server), 1, "one connection for all");
}

#[tokio::test]
async fn the_script_publishes_where_sessions_listen() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let mut session = Session::subscribed(&store, 7).await;
    let other = RedisStore::lazy(&server.url()).expect("a URL");
    make_room(&other, 7, &[bucket("a b", &sliding(10))]).await;
    assert_eq!(session.next().await, "a b");
}

/// Lets a session wait for a bucket of ten, and another one make room for it.
pub(super) async fn make_room(store: &RedisStore, session: u64, b: &[Bucket]) {
    let answer = apply(store, 1, 1, b, &[reserve(&[10])]).await.expect("an answer");
    let Outcome::Applied { buckets, verdicts } = answer.outcome else { panic!("{answer:?}") };
    assert!(matches!(verdicts[0], Verdict::Granted { .. }));

    let mut waits = reserve(&[5]);
    if let Op::Reserve(reserve) = &mut waits {
        (reserve.mode, reserve.waiter) = (Mode::Wait, 1);
    }
    let ops = [waits, Op::Waiting { bucket: 0, lines: Box::default() }];
    let answer = apply(store, session, 1, b, &ops).await.expect("an answer");
    let Outcome::Applied { verdicts, .. } = answer.outcome else { panic!("{answer:?}") };
    assert!(matches!(verdicts[0], Verdict::Refused(_)));

    apply(store, 1, 2, b, &[settle(buckets[0].now, &[10], &[0])]).await.expect("an answer");
}

#[tokio::test]
async fn a_connection_of_the_users_has_no_hints_unless_they_are_asked_for() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let store = RedisStore::new(connection);
    assert!(store.listen("test", 1, Hint::new(|_| {})).is_none());
    assert!(channel_prefix(&store).is_empty(), "it publishes nothing either");

    let store = store.hints_from(client.clone());
    Session::subscribed(&store, 1).await;
    let store = RedisStore::from_client(client);
    assert!(granted(&store, 1, 1, &[bucket("b", &sliding(10))], &[1]).await);
    Session::subscribed(&store, 1).await;
    assert_eq!(channel_prefix(&store), b"throttle:{test}:wake:");
}

#[tokio::test]
async fn a_session_that_ends_is_unsubscribed_and_the_last_one_ends_the_connection() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    assert_eq!(subscribers(&server), 0, "none before a session listens");
    let one = Session::subscribed(&store, 1).await;
    let two = Session::subscribed(&store, 2).await;
    drop(one);
    let unsubscribed = async {
        while publish(&server, "throttle:{test}:wake:1", "") != 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, unsubscribed).await.expect("it is unsubscribed");
    assert!(two.listening.works());
    assert_eq!(subscribers(&server), 1);
    drop(two);
    until_subscribers(&server, 0).await;
    let mut three = Session::subscribed(&store, 3).await;
    assert_eq!(publish(&server, "throttle:{test}:wake:3", "throttle:{test}:b"), 1);
    assert_eq!(three.next().await, "b");
}

#[tokio::test]
async fn a_session_may_listen_anew_before_it_stops() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let before = Session::subscribed(&store, 1).await;
    let mut after = Session::subscribed(&store, 1).await;
    drop(before);
    // Asked for later on the same connection, so that the server has seen all that was before.
    let _later = Session::subscribed(&store, 2).await;
    assert_eq!(publish(&server, "throttle:{test}:wake:1", "throttle:{test}:b"), 1);
    assert_eq!(after.next().await, "b");
}

#[tokio::test]
async fn after_an_outage_every_session_is_subscribed_again() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let mut sessions = [Session::subscribed(&store, 1).await, Session::subscribed(&store, 2).await];
    server.stop();
    for session in &sessions {
        session.until(false).await;
        assert!(session.hints.is_empty());
    }
    server.restart();
    for session in &mut sessions {
        assert_eq!(session.next().await, "", "something may have been missed");
        assert!(session.listening.works());
    }
    server.command::<()>(&["CLIENT", "KILL", "TYPE", "pubsub"]);
    for session in &mut sessions {
        assert_eq!(session.next().await, "");
    }
}

#[tokio::test]
async fn a_session_may_listen_before_there_is_a_server() {
    let mut server = RedisServer::start();
    server.stop();
    let proxy = Proxy::start(server.port()).await;
    let store = RedisStore::lazy(&proxy.url()).expect("a URL");
    let mut session = Session::listen(&store, 1);
    let tried = async {
        while proxy.accepted() == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, tried).await.expect("it tries to connect");
    assert!(!session.listening.works());
    server.restart();
    assert_eq!(session.next().await, "");
}

#[tokio::test]
async fn a_connection_that_went_silent_is_replaced() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let store = RedisStore::lazy(&proxy.url()).expect("a URL");
    let mut session = Session::subscribed(&store, 1).await;
    proxy.silence();
    session.until(false).await;
    assert_eq!(session.next().await, "");
    assert!(session.listening.works());
    assert!(proxy.accepted() > 1);
}

#[tokio::test]
async fn after_a_failover_hints_come_from_where_the_address_leads() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let store = RedisStore::lazy(&proxy.url()).expect("a URL");
    let mut session = Session::subscribed(&store, 1).await;
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    let successor = RedisServer::start();
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    proxy.lead_to(successor.port());
    apply(&store, 1, 2, &b, &[reserve(&[1])]).await.expect_err("read only");
    assert_eq!(session.next().await, "", "something may have been missed");
    assert_eq!(publish(&successor, "throttle:{test}:wake:1", "throttle:{test}:b"), 1);
    assert_eq!(session.next().await, "b");
    assert_eq!(subscribers(&server), 0);
}

#[tokio::test]
async fn a_server_that_hangs_is_noticed() {
    let server = RedisServer::start();
    let store = RedisStore::lazy(&server.url()).expect("a URL");
    let mut session = Session::subscribed(&store, 1).await;
    server.pause();
    session.until(false).await;
    server.resume();
    assert_eq!(session.next().await, "");
}

#[tokio::test]
async fn an_acl_that_forbids_subscriptions_means_no_hints_and_no_error() {
    let server = RedisServer::start();
    let allow = |rules: &[&str]| {
        let line: Vec<_> = ["ACL", "SETUSER", "app"].iter().chain(rules).copied().collect();
        server.command::<()>(&line);
    };
    allow(&["on", ">pass", "~throttle:*", "resetchannels", "+@all", "-@pubsub"]);
    let store =
        RedisStore::lazy(&format!("redis://app:pass@127.0.0.1:{}/", server.port())).expect("a URL");
    let mut session = Session::listen(&store, 1);
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await, "what cannot be published is not missed");
    sleep(Duration::from_millis(500)).await;
    assert!(!session.listening.works());
    let denied = server.command::<Vec<redis::Value>>(&["ACL", "LOG"]).len();
    assert!(denied <= 3, "it does not try again and again: {denied}");

    allow(&["+@pubsub", "&other:*"]);
    let tried = async {
        while !format!("{:?}", server.command::<redis::Value>(&["ACL", "LOG"])).contains("channel")
        {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, tried).await.expect("it tries to subscribe");
    assert!(!session.listening.works(), "the channel is forbidden still");
    allow(&["&throttle:*"]);
    assert_eq!(session.next().await, "", "it sees in the end");
    assert!(session.listening.works());
}

#[tokio::test]
async fn a_channel_that_is_forbidden_does_not_keep_others_from_theirs() {
    let server = RedisServer::start();
    server.command::<()>(&[
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">pass",
        "allkeys",
        "resetchannels",
        "&a:*",
        "+@all",
    ]);
    let store =
        RedisStore::lazy(&format!("redis://app:pass@127.0.0.1:{}/", server.port())).expect("a URL");
    let forbidden = Session::listen(&store.clone().prefix("b"), 1);
    Session::subscribed(&store.prefix("a"), 1).await;
    assert!(!forbidden.listening.works());
}

#[tokio::test]
async fn wrong_credentials_mean_no_hints() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let store = RedisStore::lazy(&server.url().replace("right", "wrong")).expect("a URL");
    let session = Session::listen(&store, 1);
    sleep(Duration::from_millis(300)).await;
    assert!(!session.listening.works());
    let denied = server.command::<Vec<redis::Value>>(&["ACL", "LOG"]).len();
    assert!(denied <= 1, "{denied}");
}

#[tokio::test]
async fn user_password_and_database_of_the_url_are_used() {
    let server = RedisServer::start();
    let rules =
        ["on", ">pass word", "resetchannels", "&throttle:*", "-@all", "+subscribe", "+unsubscribe"];
    let line: Vec<_> = ["ACL", "SETUSER", "app"].iter().chain(&rules).copied().collect();
    server.command::<()>(&line);
    let url = format!("redis://app:pass%20word@127.0.0.1:{}/3", server.port());
    let store = RedisStore::lazy(&url).expect("a URL");
    let mut session = Session::subscribed(&store, 1).await;
    assert_eq!(publish(&server, "throttle:{test}:wake:1", "throttle:{test}:b"), 1);
    assert_eq!(session.next().await, "b");
    sleep(Duration::from_millis(700)).await;
    assert!(session.listening.works(), "no other command is needed to keep it");
    assert!(session.hints.is_empty());
}

#[cfg(unix)]
#[tokio::test]
async fn hints_come_through_a_socket() {
    let server = RedisServer::start_with(&["--unixsocket", "throttle.sock"]);
    server.command::<()>(&[
        "ACL",
        "SETUSER",
        "app",
        "on",
        ">pass word",
        "allkeys",
        "allchannels",
        "+@all",
    ]);
    let path = server.directory().join("throttle.sock");
    let url = format!("unix://{}?user=app&pass=pass%20word&db=3", path.display());
    let mut session = Session::subscribed(&RedisStore::lazy(&url).expect("a URL"), 1).await;
    assert_eq!(publish(&server, "throttle:{test}:wake:1", "throttle:{test}:b"), 1);
    assert_eq!(session.next().await, "b");
}

#[test]
fn a_runtime_that_ends_leaves_the_hints_to_the_next_one() {
    let server = RedisServer::start();
    let runtime =
        || Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let store = RedisStore::lazy(&server.url()).expect("a URL");
    let first = runtime();
    let mut one = first.block_on(Session::subscribed(&store, 1));
    first.shutdown_timeout(Duration::from_secs(5));
    assert!(!one.listening.works());

    let second = runtime();
    let two = second.block_on(Session::subscribed(&store, 2));
    assert_eq!(second.block_on(one.next()), "", "the first session is served too");
    assert_eq!(subscribers(&server), 1);
    second.shutdown_timeout(Duration::from_secs(5));
    assert!(!one.listening.works() && !two.listening.works());

    let third = runtime();
    third.block_on(async {
        let _ = apply(&store, 1, 1, &[bucket("b", &sliding(10))], &[reserve(&[1])]).await;
        assert_eq!(one.next().await, "", "a batch is enough");
    });
}

#[test]
fn a_session_may_listen_outside_of_a_runtime() {
    let server = RedisServer::start();
    let store = RedisStore::lazy(&server.url()).expect("a URL");
    let mut session = Session::listen(&store, 1);
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        assert!(granted(&store, 1, 1, &[bucket("b", &sliding(10))], &[1]).await);
        assert_eq!(session.next().await, "");
    });
}

#[tokio::test]
async fn a_thousand_sessions_share_one_connection() {
    let server = RedisServer::start();
    let store = Arc::new(RedisStore::lazy(&server.url()).expect("a URL"));
    let mut sessions: Vec<_> =
        (1..=1_000).map(|session| Session::listen(&store, session)).collect();
    for session in &mut sessions {
        assert_eq!(session.next().await, "");
    }
    assert_eq!(subscribers(&server), 1);
    assert_eq!(publish(&server, "throttle:{test}:wake:1000", "throttle:{test}:b"), 1);
    assert_eq!(sessions[999].next().await, "b");
    drop(sessions);
    until_subscribers(&server, 0).await;
}
