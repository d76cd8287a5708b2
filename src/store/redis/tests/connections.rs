//! Servers that refuse, break, hang and come back.

use std::time::Duration;

use super::{RedisServer, RedisStore, apply, bucket, granted, proxy::Proxy, reserve, sliding};
use crate::store::{Bucket, StoreError};

/// Well above what any of these tests should take to see a server again.
const SOON: Duration = Duration::from_secs(20);

/// Sends batches, from sequence number `seq` on, until one is granted. Each is given up after a
/// while.
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
    // Redis 6.2 has other quotes.
    let told = error.to_string().replace('`', "'");
    assert!(told.contains("unknown command 'AUTH'"), "{error}");
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
async fn a_reply_that_is_cut_is_an_outage() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let client = redis::Client::open(proxy.url()).expect("a URL");
    let b = [bucket("b", &sliding(1_000))];
    for after in 0..7 {
        let own = RedisStore::connect(&proxy.url()).await.expect("a server");
        let session = 1 + after as u64;
        assert!(granted(&own, session, 1, &b, &[1]).await);
        proxy.cut_next_reply(after);
        assert!(
            granted(&own, session, 2, &b, &[1]).await,
            "it is sent again on another connection"
        );

        let users = client.get_multiplexed_async_connection().await.expect("a connection");
        let users = RedisStore::new(users);
        assert!(granted(&users, session, 3, &b, &[1]).await);
        proxy.cut_next_reply(after);
        let error = apply(&users, session, 4, &b, &[reserve(&[1])]).await.expect_err("no reply");
        assert!(matches!(error, StoreError::Unavailable(_)), "{after}: {error}");
    }
    for after in [0, 1, 3] {
        proxy.cut_next_reply(after);
        let error = refused(&proxy.url()).await;
        assert!(matches!(error, StoreError::Unavailable(_)), "while it connects: {after}: {error}");
    }
}

#[tokio::test]
async fn an_attempt_that_failed_while_none_waited_for_it_is_not_told_later() {
    let server = RedisServer::start();
    let store = RedisStore::lazy(&server.url()).expect("a URL");
    let b = [bucket("b", &sliding(10))];
    server.pause();
    let ops = [reserve(&[1])];
    let attempt = apply(&store, 1, 1, &b, &ops);
    assert!(tokio::time::timeout(Duration::from_millis(50), attempt).await.is_err(), "no answer");
    tokio::time::sleep(Duration::from_millis(3_200)).await;
    server.resume();
    // On a busy machine both timers ring at once: the attempt's task has its turn first.
    tokio::task::yield_now().await;
    assert!(granted(&store, 1, 2, &b, &[1]).await);
}

#[tokio::test]
async fn a_server_without_memory_says_what_to_do() {
    let server = RedisServer::start_with(&["--maxmemory", "1", "--maxmemory-policy", "noeviction"]);
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let error = apply(&store, 1, 1, &[bucket("b", &sliding(10))], &[reserve(&[1])])
        .await
        .expect_err("no memory");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
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

#[tokio::test]
async fn a_reply_that_is_pending_does_not_delay_another_connection() {
    let server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let store = RedisStore::connect(&proxy.url()).await.expect("a server");
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    proxy.silence();
    let (patient, ops) = (store.clone(), [reserve(&[1])]);
    let pending =
        tokio::spawn(
            async move { apply(&patient, 2, 1, &[bucket("b", &sliding(1_000))], &ops).await },
        );
    let ops = [reserve(&[1])];
    let attempt = apply(&store, 1, 2, &b, &ops);
    assert!(tokio::time::timeout(Duration::from_millis(50), attempt).await.is_err(), "no reply");
    let again = granted(&store, 1, 2, &b, &[1]);
    assert!(
        tokio::time::timeout(Duration::from_millis(500), again).await.expect("another connection")
    );
    assert!(!pending.is_finished(), "each waits for as long as it wants to");
    pending.abort();
}

#[tokio::test]
async fn connections_of_other_makes_are_replaced_too() {
    let mut server = RedisServer::start();
    let proxy = Proxy::start(server.port()).await;
    let client = redis::Client::open(proxy.url()).expect("a URL");
    let store = RedisStore::connect_with(move || {
        let client = client.clone();
        async move { client.get_multiplexed_async_connection().await }
    });
    recovers_from_everything(&store, &mut server, &proxy).await;
}

/// A proxy before the server goes silent, the server is demoted while another one takes its place,
/// and it is killed.
async fn recovers_from_everything(store: &RedisStore, server: &mut RedisServer, proxy: &Proxy) {
    let b = [bucket("b", &sliding(1_000))];
    assert!(granted(store, 1, 1, &b, &[1]).await);
    proxy.silence();
    let error = apply(store, 1, 2, &b, &[reserve(&[1])]).await.expect_err("no reply");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(granted(store, 1, 2, &b, &[1]).await, "it is sent on another connection");

    let successor = RedisServer::start();
    server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
    proxy.lead_to(successor.port());
    let error = apply(store, 1, 3, &b, &[reserve(&[1])]).await.expect_err("read only");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    assert!(granted(store, 1, 3, &b, &[1]).await, "the address leads to the successor");

    drop(successor);
    let error = apply(store, 1, 4, &b, &[reserve(&[1])]).await.expect_err("no server");
    assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    server.restart();
    proxy.lead_to(server.port());
    assert!(granted(store, 1, 4, &b, &[1]).await, "it is there again");
}

/// What [`RedisStore::new`] says of redis-rs's `ConnectionManager`, and what it says to do about
/// it.
#[cfg(feature = "redis-connection-manager")]
mod connection_manager {
    use redis::aio::{ConnectionManager, ConnectionManagerConfig};

    use super::*;

    /// No attempt of its own to connect again: with more, a store waits for its backoff.
    fn config() -> ConnectionManagerConfig {
        ConnectionManagerConfig::new().set_number_of_retries(0)
    }

    async fn manager(url: String) -> redis::RedisResult<ConnectionManager> {
        ConnectionManager::new_with_config(redis::Client::open(url)?, config()).await
    }

    #[tokio::test]
    async fn it_recovers_after_its_server_closed_it_or_hung() {
        let mut server = RedisServer::start();
        let store = RedisStore::new(manager(server.url()).await.expect("a connection"));
        let b = [bucket("b", &sliding(1_000))];
        assert!(granted(&store, 1, 1, &b, &[1]).await);
        server.restart();
        recovers(&store, 2, &b).await;
        server.pause();
        let error = apply(&store, 2, 1, &b, &[reserve(&[1])]).await.expect_err("no reply");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        server.resume();
        recovers(&store, 2, &b).await;
    }

    #[tokio::test]
    async fn it_stays_with_a_silent_connection_and_with_a_replica() {
        let server = RedisServer::start();
        let proxy = Proxy::start(server.port()).await;
        let store = RedisStore::new(manager(proxy.url()).await.expect("a connection"));
        let b = [bucket("b", &sliding(1_000))];
        proxy.silence();
        for seq in 1..4 {
            let error = apply(&store, 1, seq, &b, &[reserve(&[1])]).await.expect_err("no reply");
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
        assert_eq!(proxy.accepted(), 1);

        let store = RedisStore::new(manager(proxy.url()).await.expect("a connection"));
        let successor = RedisServer::start();
        server.command::<()>(&["REPLICAOF", "127.0.0.1", "1"]);
        proxy.lead_to(successor.port());
        for seq in 1..4 {
            let error = apply(&store, 1, seq, &b, &[reserve(&[1])]).await.expect_err("read only");
            assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
        }
        assert_eq!(proxy.accepted(), 2);
    }

    #[tokio::test]
    async fn it_is_replaced_where_the_store_may_make_another() {
        let mut server = RedisServer::start();
        let proxy = Proxy::start(server.port()).await;
        let url = proxy.url();
        let store = RedisStore::connect_with(move || manager(url.clone()));
        recovers_from_everything(&store, &mut server, &proxy).await;
    }
}
