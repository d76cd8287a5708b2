//! Servers that refuse, break, hang and come back.

use std::time::Duration;

use super::{RedisServer, RedisStore, apply, bucket, granted, reserve, sliding};
use crate::store::{Bucket, StoreError};

/// Well above what any of these tests should take to see a server again.
const SOON: Duration = Duration::from_secs(20);

/// Sends batches, from sequence number `seq` on, until one is granted. Each is given up after a while.
async fn recovers(store: &RedisStore, seq: u64, b: &[Bucket]) {
    let attempts = async {
        for seq in seq.. {
            let ops = [reserve(&[1])];
            let attempt = apply(store, 1, seq, b, &ops);
            if let Ok(Ok(_)) = tokio::time::timeout(Duration::from_millis(500), attempt).await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, attempts).await.expect("the store works again");
}

async fn refused(url: &str) -> StoreError {
    RedisStore::connect(url).await.expect_err("no connection")
}

#[tokio::test]
async fn what_is_wrong_with_a_url_or_its_server_is_told_apart() {
    for url in [
        "",
        "nonsense",
        "http://localhost",
        "redis://",
        "redis://localhost:notaport",
        "redis://h/notanumber",
    ] {
        assert!(matches!(refused(url).await, StoreError::Rejected(_)), "{url}");
        assert!(RedisStore::lazy(url).is_err(), "{url}");
    }
    let mut server = RedisServer::start();
    server.stop();
    let error = refused(&server.url()).await;
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(error.to_string().contains(&server.port().to_string()), "{error}");
}

#[tokio::test]
async fn an_address_that_is_none_is_told_how_to_be_one() {
    for url in ["", "127.0.0.1:6379", "http://localhost", "redis://:s3cret@localhost:port"] {
        for error in [refused(url).await, RedisStore::lazy(url).expect_err("no URL")] {
            assert!(matches!(error, StoreError::Rejected(_)), "{error}");
            assert!(error.to_string().contains("write redis://["), "{error}");
            assert!(!format!("{error} {error:?}").contains("s3cret"), "{error:?}");
        }
    }
    #[cfg(not(feature = "redis-tls"))]
    {
        let error = refused("rediss://localhost").await;
        assert!(error.to_string().contains("feature `redis-tls`"), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_another_kind_is_asked_for_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("redis://{}", listener.local_addr().expect("its address"));
    let web = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.expect("a client");
        let answer = b"HTTP/1.1 400 Bad Request\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut socket, answer).await.expect("it listens");
        socket
    });
    let error = refused(&url).await;
    assert!(error.to_string().ends_with("; is this the port of a Redis server?"), "{error}");
    assert_eq!(error.to_string().lines().count(), 1, "{error}");
    drop(web.await);
}

#[tokio::test]
async fn a_server_that_echoes_a_password_is_not_repeated() {
    let server = RedisServer::start_with(&["--rename-command", "AUTH", ""]);
    let url = format!("redis://bob:s3cret@127.0.0.1:{}", server.port());
    let error = refused(&url).await;
    let source = std::error::Error::source(&error).and_then(std::error::Error::source);
    assert!(!format!("{error} {error:?} {source:?}").contains("s3cret"), "{error:?}");
    assert!(error.to_string().contains("unknown command 'AUTH'"), "{error}");
}

#[tokio::test]
async fn a_wrong_password_is_no_outage_and_is_not_repeated() {
    let server = RedisServer::start_with(&["--requirepass", "right"]);
    let b = [bucket("b", &sliding(10))];
    let store = RedisStore::connect(&server.url()).await.expect("the right password");
    assert!(granted(&store, 1, 1, &b, &[1]).await);

    let wrong = server.url().replace("right", "wr0ng-s3cret");
    let missing = server.url().replace(":right@", "");
    for url in [&wrong, &missing] {
        let error = refused(url).await;
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
        assert!(!format!("{error} {error:?}").contains("wr0ng-s3cret"), "{error:?}");
        let store = RedisStore::lazy(url).expect("a URL");
        let error = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("no credentials");
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    }
}

#[tokio::test]
async fn user_password_and_database_of_the_url_are_used() {
    let server = RedisServer::start();
    let rules = "+evalsha +eval +hmget +hget +hgetall +hset +hdel +pexpire +time +select";
    let mut line = vec!["ACL", "SETUSER", "app", "on", ">pass word", "~throttle:*"];
    line.extend(rules.split(' '));
    server.command::<()>(&line);
    let url = format!("redis://app:pass%20word@127.0.0.1:{}/3", server.port());
    let store = RedisStore::connect(&url).await.expect("a user without other permissions");
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    assert_eq!(server.command::<u64>(&["EXISTS", "throttle:{test}:b"]), 0);

    let elsewhere = store.clone().prefix("other");
    let error = apply(&elsewhere, 1, 1, &b, &[reserve(&[1])]).await.expect_err("no permission");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
}

#[tokio::test]
async fn a_server_that_is_down_is_an_outage_and_the_store_recovers() {
    let mut server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.stop();
    for seq in 2..5 {
        let error = apply(&store, 1, seq, &b, &[reserve(&[1])]).await.expect_err("no server");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    server.restart();
    assert!(granted(&store, 1, 5, &b, &[1]).await);
}

#[tokio::test]
async fn a_connection_that_was_closed_while_idle_is_no_error() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(10))];
    for seq in 1..4 {
        assert!(granted(&store, 1, seq, &b, &[1]).await);
        server.command::<()>(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    }
}

#[tokio::test]
async fn a_store_may_be_made_before_its_server() {
    let mut server = RedisServer::start();
    server.stop();
    let store = RedisStore::lazy(&server.url()).expect("a URL");
    let b = [bucket("b", &sliding(10))];
    let error = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("no server");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    server.restart();
    assert!(granted(&store, 1, 2, &b, &[1]).await);
}

#[tokio::test]
async fn after_a_hang_the_store_works_on_another_connection() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.pause();
    for seq in 2..5 {
        let ops = [reserve(&[1])];
        let attempt = apply(&store, 1, seq, &b, &ops);
        assert!(
            tokio::time::timeout(Duration::from_millis(50), attempt).await.is_err(),
            "no answer"
        );
    }
    server.resume();
    recovers(&store, 5, &b).await;
    let clients: String = server.command(&["CLIENT", "LIST"]);
    assert!(clients.lines().count() <= 3, "connections are left behind: {clients}");
}

#[tokio::test]
async fn a_master_that_was_demoted_is_an_outage_until_it_is_one_again() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    let error = apply(&store, 1, 2, &b, &[reserve(&[1])]).await.expect_err("read only");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    server.command::<()>(&["REPLICAOF", "NO", "ONE"]);
    assert!(granted(&store, 1, 3, &b, &[1]).await);
}

#[tokio::test]
async fn a_server_without_memory_says_what_to_do() {
    let server = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let error = apply(&store, 1, 1, &[bucket("b", &sliding(10))], &[reserve(&[1])])
        .await
        .expect_err("no memory");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("maxmemory"), "{error}");
}

#[tokio::test]
async fn a_multiplexed_connection_of_the_users_works() {
    let server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let store = RedisStore::new(connection);
    assert!(granted(&store, 1, 1, &[bucket("b", &sliding(10))], &[1]).await);
}

#[cfg(feature = "redis-connection-manager")]
#[tokio::test]
async fn a_connection_manager_works_and_recovers() {
    let mut server = RedisServer::start();
    let client = redis::Client::open(server.url()).expect("a URL");
    let manager = redis::aio::ConnectionManager::new(client).await.expect("a connection");
    let store = RedisStore::new(manager);
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.restart();
    recovers(&store, 2, &b).await;
}

#[cfg(feature = "redis-cluster")]
#[tokio::test]
async fn a_cluster_works_with_several_buckets_of_a_partition() {
    let server = RedisServer::start_with(&["--cluster-enabled", "yes"]);
    let slots: Vec<String> = (0..16_384).map(|slot| slot.to_string()).collect();
    let mut line = vec!["CLUSTER", "ADDSLOTS"];
    line.extend(slots.iter().map(String::as_str));
    server.command::<()>(&line);
    let formed = async {
        while !server.command::<String>(&["CLUSTER", "INFO"]).contains("cluster_state:ok") {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(SOON, formed).await.expect("a cluster");

    let client = redis::cluster::ClusterClient::new(vec![server.url()]).expect("a URL");
    let store = RedisStore::new(client.get_async_connection().await.expect("a connection"));
    let both = [bucket("a", &sliding(10)), bucket("b}{c", &sliding(5))];
    assert!(granted(&store, 1, 1, &both, &[4, 4]).await);
    assert!(!granted(&store, 1, 2, &both, &[4, 4]).await);
    server.command::<()>(&["SCRIPT", "FLUSH"]);
    assert!(granted(&store, 1, 3, &both, &[1, 1]).await);
}
