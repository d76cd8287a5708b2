//! Servers that are reached through a file.

use super::{RedisServer, RedisStore, bucket, granted, sliding};
use crate::store::StoreError;

const SOCKET: &str = "throttle.sock";

#[tokio::test]
async fn user_password_and_database_of_a_socket_are_used() {
    let server = RedisServer::start_with(&["--unixsocket", SOCKET]);
    let path = server.directory().join(SOCKET);
    server.command::<()>(&["ACL", "SETUSER", "app", "on", ">pass word", "~throttle:*", "+@all"]);
    let b = [bucket("b", &sliding(10))];
    for (seq, scheme) in (1..).zip(["unix", "redis+unix"]) {
        let url = format!("{scheme}://{}?user=app&pass=pass%20word&db=3", path.display());
        let store = RedisStore::connect(&url).await.expect("a socket");
        assert!(granted(&store, 1, seq, &b, &[5]).await);
        assert!(!format!("{store:?}").contains("pass word"), "{store:?}");
    }
    assert_eq!(
        server.command::<u64>(&["EXISTS", "throttle:{test}:b"]),
        0,
        "it is in another database"
    );
    let plain =
        RedisStore::connect(&format!("unix://{}?db=3", path.display())).await.expect("a socket");
    assert!(!granted(&plain, 1, 3, &b, &[1]).await, "all of them are one bucket");

    let wrong = format!("unix://{}?user=app&pass=wr0ng", path.display());
    let error = RedisStore::connect(&wrong).await.expect_err("no credentials");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(!format!("{error} {error:?}").contains("wr0ng"), "{error:?}");
}

#[tokio::test]
async fn a_socket_comes_and_goes_with_its_server() {
    let mut server = RedisServer::start_with(&["--unixsocket", SOCKET]);
    let url = format!("redis+unix://{}", server.directory().join(SOCKET).display());
    let store = RedisStore::connect(&url).await.expect("a socket");
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    server.stop();
    for url in [&url, &format!("{url}.none")] {
        let error = RedisStore::connect(url).await.expect_err("no server listens");
        assert!(matches!(error, StoreError::Unavailable(_)), "{error}");
    }
    server.restart();
    assert!(granted(&store, 1, 2, &b, &[1]).await);
}
