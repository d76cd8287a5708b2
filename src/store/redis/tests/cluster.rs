//! Clusters of servers on this machine, each server a shard.

use std::{sync::Arc, time::Duration};

use redis::cluster::ClusterClient;
use tokio::{
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
    time::{sleep, timeout},
};

use super::{RedisServer, RedisStore, apply, bucket, granted, hints::make_room, reserve, sliding};
use crate::{
    engine::Rule,
    store::{Bucket, BucketKey, Hint, Listening, Store, StoreError},
};

/// Well above what any of these tests should take.
const SOON: Duration = Duration::from_secs(20);

/// Of a cluster of two shards, the partition "a" is on the second one and the partition "b" on the
/// first one.
const ON_SECOND: &str = "a";
const ON_FIRST: &str = "b";

/// True if the servers have sharded pub/sub, as Redis has since 7.0.
fn have_hints(servers: &[RedisServer]) -> bool {
    let known: Vec<redis::Value> = servers[0].command(&["COMMAND", "INFO", "SPUBLISH"]);
    known != [redis::Value::Nil]
}

fn urls(servers: &[RedisServer]) -> Vec<String> {
    servers.iter().map(RedisServer::url).collect()
}

async fn store(servers: &[RedisServer]) -> RedisStore {
    let client = ClusterClient::new(urls(servers)).expect("URLs");
    RedisStore::new(client.get_async_connection().await.expect("a connection"))
}

async fn hinted_store(servers: &[RedisServer]) -> RedisStore {
    RedisStore::connect_cluster(urls(servers)).await.expect("a cluster")
}

/// The session 7, as it listens to a partition.
struct Session {
    listening: Listening,
    hints: UnboundedReceiver<String>,
}

impl Session {
    fn listen(store: &RedisStore, partition: &str) -> Self {
        let (sender, hints) = unbounded_channel();
        let hint = Hint::new(move |bucket| drop(sender.send(bucket.to_owned())));
        Self { listening: store.listen(partition, 7, hint).expect("the store has hints"), hints }
    }

    async fn next(&mut self) -> String {
        timeout(SOON, self.hints.recv()).await.expect("a hint").expect("the session listens")
    }
}

fn in_partition(partition: &str, name: &str, rules: &[Rule]) -> [Bucket; 1] {
    [Bucket::new(Arc::new(BucketKey::new(partition, name)), rules.into())]
}

/// Publishes on a shard's channel of the session, and returns how many listen there.
fn publish(server: &RedisServer, partition: &str, name: &str) -> u64 {
    let channel = format!("throttle:{{{partition}}}:wake:7");
    server.command(&["SPUBLISH", &channel, &format!("throttle:{{{partition}}}:{name}")])
}

#[tokio::test]
async fn a_cluster_works_with_several_buckets_of_a_partition() {
    let servers = RedisServer::start_cluster(1);
    let store = store(&servers).await;
    let both = [bucket("a", &sliding(10)), bucket("b}{c", &sliding(5))];
    assert!(granted(&store, 1, 1, &both, &[4, 4]).await);
    assert!(!granted(&store, 1, 2, &both, &[4, 4]).await);
    servers[0].command::<()>(&["SCRIPT", "FLUSH"]);
    assert!(granted(&store, 1, 3, &both, &[1, 1]).await);
}

#[tokio::test]
async fn what_is_no_cluster_or_no_server_is_told() {
    let alone = RedisServer::start();
    let error = RedisStore::connect_cluster([alone.url()]).await.unwrap_err().to_string();
    assert!(error.contains("cluster support disabled"), "{error}");
    let error = RedisStore::connect_cluster(["redis://127.0.0.1:1"]).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    let error = RedisStore::connect_cluster(["127.0.0.1"]).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn permissions_of_the_documentation_are_enough_on_a_cluster() {
    let servers = RedisServer::start_cluster(1);
    if !have_hints(&servers) {
        return;
    }
    let sharded = |command: &str| match command {
        "PUBLISH" | "SUBSCRIBE" | "UNSUBSCRIBE" => format!("+S{command}"),
        _ => format!("+{command}"),
    };
    let mut line = vec!["ACL", "SETUSER", "app", "on", ">word", "~throttle:*", "-@all"];
    line.extend(["resetchannels", "&throttle:*", "+cluster|slots"]);
    let commands: Vec<_> = commands!().split(", ").map(sharded).collect();
    line.extend(commands.iter().map(String::as_str));
    servers[0].command::<()>(&line);
    let url = servers[0].url().replace("redis://", "redis://app:word@");
    let store = RedisStore::connect_cluster([url]).await.expect("a user without other permissions");
    let mut session = Session::listen(&store, ON_FIRST);
    assert_eq!(session.next().await, "");
    make_room(&store, 7, &in_partition(ON_FIRST, "y", &sliding(10))).await;
    assert_eq!(session.next().await, "y");
}

#[tokio::test]
async fn a_wrong_password_is_no_outage_of_a_cluster() {
    let arguments = ["--cluster-enabled", "yes", "--requirepass", "word"];
    let server = RedisServer::start_with(&arguments);
    let wrong = server.url().replace("word", "wrong");
    let error = RedisStore::connect_cluster([wrong]).await.unwrap_err();
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    let error = error.to_string();
    assert!(error.contains("check user and password") && !error.contains("wrong@"), "{error}");
}

#[tokio::test]
async fn hints_come_from_the_shard_of_their_partition() {
    let servers = RedisServer::start_cluster(2);
    if !have_hints(&servers) {
        return;
    }
    let store = hinted_store(&servers).await;
    let mut first = Session::listen(&store, ON_FIRST);
    let mut second = Session::listen(&store, ON_SECOND);
    assert_eq!((first.next().await, second.next().await), (String::new(), String::new()));
    assert!(first.listening.works() && second.listening.works());
    assert_eq!(publish(&servers[0], ON_FIRST, "x"), 1);
    assert_eq!(first.next().await, "x");
    assert_eq!(publish(&servers[1], ON_SECOND, "y"), 1);
    assert_eq!(second.next().await, "y");
    // Longer than a heartbeat.
    sleep(Duration::from_millis(500)).await;
    assert!(first.hints.is_empty() && second.hints.is_empty(), "a heartbeat is no hint");
    drop(first);
    let unsubscribed = async {
        while publish(&servers[0], ON_FIRST, "x") != 0 {
            sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(SOON, unsubscribed).await.expect("it is unsubscribed");
    assert!(second.listening.works());
}

#[tokio::test]
async fn a_shard_that_hangs_keeps_no_other_from_being_followed() {
    let servers = RedisServer::start_cluster(3);
    let store = RedisStore::connect_cluster(urls(&servers)).await.expect("a cluster");
    let slot_of = |partition: &str| -> u64 {
        servers[0].command(&["CLUSTER", "KEYSLOT", &format!("{{{partition}}}")])
    };
    let names = (0..).map(|number| format!("p{number}"));
    let of_first: Vec<String> = names.filter(|name| slot_of(name) < 5_461).take(2).collect();
    // Again and again, as a limiter does in an outage.
    let answered = async |partition: &String, seq| {
        let buckets = in_partition(partition, "x", &sliding(10));
        while apply(&store, 1, seq, &buckets, &[reserve(&[1])]).await.is_err() {}
    };
    answered(&of_first[0], 1).await;

    servers[2].pause();
    let slot = slot_of(&of_first[1]).to_string();
    let new: String = servers[1].command(&["CLUSTER", "MYID"]);
    for server in [&servers[1], &servers[0]] {
        server.command::<()>(&["CLUSTER", "SETSLOT", &slot, "NODE", &new]);
    }
    for (partition, seq) in [(&of_first[1], 1), (&of_first[0], 2)] {
        timeout(SOON, answered(partition, seq)).await.expect("an answer");
    }
}

#[tokio::test]
async fn a_shard_that_hangs_or_fails_ends_no_hints_of_others() {
    let mut servers = RedisServer::start_cluster(2);
    if !have_hints(&servers) {
        return;
    }
    let store = hinted_store(&servers).await;
    let mut first = Session::listen(&store, ON_FIRST);
    let mut second = Session::listen(&store, ON_SECOND);
    assert_eq!((first.next().await, second.next().await), (String::new(), String::new()));

    servers[0].pause();
    let noticed = async {
        while first.listening.works() {
            assert!(second.listening.works());
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, noticed).await.expect("the shard that hangs is noticed");
    assert_eq!(publish(&servers[1], ON_SECOND, "y"), 1);
    assert_eq!(second.next().await, "y");
    servers[0].resume();
    assert_eq!(first.next().await, "", "something may have been missed");

    servers[0].stop();
    let noticed = async {
        while first.listening.works() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, noticed).await.expect("the shard that is gone is noticed");
    let heard = async {
        while publish(&servers[1], ON_SECOND, "z") == 0 || second.next().await != "z" {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(SOON, heard).await.expect("the other one has hints again");
}

#[tokio::test]
async fn the_script_publishes_on_the_shard() {
    let servers = RedisServer::start_cluster(2);
    if !have_hints(&servers) {
        return;
    }
    let store = hinted_store(&servers).await;
    let mut second = Session::listen(&store, ON_SECOND);
    assert_eq!(second.next().await, "");
    make_room(&store, 7, &in_partition(ON_SECOND, "y", &sliding(10))).await;
    assert_eq!(second.next().await, "y");
}

#[tokio::test]
async fn a_replica_takes_over_from_a_shard_that_hangs() {
    let servers = RedisServer::start_cluster(3);
    let replica =
        RedisServer::start_with(&["--cluster-enabled", "yes", "--cluster-node-timeout", "1000"]);
    replica.command::<()>(&["CLUSTER", "MEET", "127.0.0.1", &servers[0].port().to_string()]);
    let master: String = servers[0].command(&["CLUSTER", "MYID"]);
    let says = async |server: &RedisServer, line: &[&str], what: &str| {
        let mut told = redis::cmd(line[0]);
        told.arg(&line[1..]);
        while !told.query(&mut server.connection()).is_ok_and(|told: String| told.contains(what)) {
            sleep(Duration::from_millis(20)).await;
        }
    };
    let replicates = async {
        // Once it has met the master.
        says(&replica, &["CLUSTER", "REPLICATE", &master], "OK").await;
        says(&replica, &["INFO", "replication"], "master_link_status:up").await;
        says(&servers[1], &["CLUSTER", "NODES"], "slave").await;
        says(&servers[2], &["CLUSTER", "NODES"], "slave").await;
    };
    timeout(SOON, replicates).await.expect("a replica");
    let store = RedisStore::connect_cluster(urls(&servers)).await.expect("a cluster");
    // Of three shards "b" is on the first one, as of two.
    let buckets = in_partition(ON_FIRST, "x", &sliding(10));
    assert!(granted(&store, 1, 1, &buckets, &[1]).await);

    servers[0].pause();
    let answered =
        async { while apply(&store, 1, 2, &buckets, &[reserve(&[1])]).await.is_err() {} };
    timeout(SOON, answered).await.expect("an answer of the replica");
}

#[tokio::test]
async fn hints_go_along_with_a_slot_that_moves() {
    let servers = RedisServer::start_cluster(2);
    if !have_hints(&servers) {
        return;
    }
    let store = hinted_store(&servers).await;
    let mut session = Session::listen(&store, ON_FIRST);
    assert_eq!(session.next().await, "");

    let slot: u64 = servers[0].command(&["CLUSTER", "KEYSLOT", &format!("{{{ON_FIRST}}}")]);
    let new: String = servers[1].command(&["CLUSTER", "MYID"]);
    for server in [&servers[1], &servers[0]] {
        server.command::<()>(&["CLUSTER", "SETSLOT", &slot.to_string(), "NODE", &new]);
    }
    // Something may have been missed.
    assert_eq!(session.next().await, "");
    assert!(session.listening.works());
    assert_eq!(publish(&servers[1], ON_FIRST, "x"), 1);
    assert_eq!(session.next().await, "x");
}
