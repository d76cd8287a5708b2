//! Servers behind TLS, with certificates of an authority that is made for each test. What ends TLS
//! stands before the server, since not every build of one can.

use std::{env, fs, path::Path, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::{Client, TlsCertificates};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
    process::Command,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use super::{RedisServer, RedisStore, apply, bucket, granted, hints::Session, reserve, sliding};
use crate::store::StoreError;

/// Two tests below, and the variable that tells them that they are the process they have started:
/// which authorities a process trusts it learns when it starts.
const TRUSTED: &str = "store::redis::tests::tls::an_authority_that_the_machine_trusts_is_enough";
const UNREADABLE: &str =
    "store::redis::tests::tls::a_file_of_authorities_that_cannot_be_read_is_named";
const TRUSTED_URL: &str = "TOWER_THROTTLE_TEST_URL";

struct Secured {
    server: RedisServer,
    /// In PEM.
    authority: String,
    url: String,
}

impl Secured {
    /// A server with a user, behind a certificate for `localhost`.
    async fn start() -> Self {
        let server = RedisServer::start();
        server.command::<()>(&[
            "ACL",
            "SETUSER",
            "app",
            "on",
            ">pass",
            "~throttle:*",
            "allchannels",
            "+@all",
        ]);
        let (acceptor, authority) = acceptor();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!(
            "rediss://app:pass@localhost:{}/3",
            listener.local_addr().expect("it is bound").port()
        );
        tokio::spawn(forward(listener, acceptor, server.port()));
        Self { server, authority, url }
    }
}

/// What ends TLS for `localhost`, and the authority that vouches for it.
fn acceptor() -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new([]).expect("an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");

    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )
        .expect("a key that fits");
    (Arc::new(config).into(), authority.pem())
}

async fn forward(listener: TcpListener, acceptor: TlsAcceptor, port: u16) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // A client that does not trust us hangs up, and so may any other.
            let Ok(mut secured) = acceptor.accept(stream).await else { return };
            let mut plain = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
            let _ = copy_bidirectional(&mut secured, &mut plain).await;
        });
    }
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_no_outage() {
    let secured = Secured::start().await;
    let error = RedisStore::connect(&secured.url).await.expect_err("an unknown authority");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let plain = secured.url.replace("rediss", "redis");
    assert!(RedisStore::connect(&plain).await.is_err(), "it is no port for that");
}

#[tokio::test]
async fn an_authority_of_the_users_own_is_trusted_by_its_connection() {
    let Secured { server, authority, url } = Secured::start().await;
    let certificates =
        TlsCertificates { client_tls: None, root_cert: Some(authority.into_bytes()) };
    let client = Client::build_with_tls(url, certificates).expect("a client");
    let connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&RedisStore::new(connection), 1, 1, &b, &[1]).await);
    let store = RedisStore::from_client(client);
    assert!(granted(&store, 1, 2, &b, &[1]).await);
    Session::subscribed(&store, 1).await;
    assert_eq!(
        server.command::<u64>(&["EXISTS", "throttle:{test}:b"]),
        0,
        "it is in another database"
    );
}

#[tokio::test]
async fn an_authority_that_the_machine_trusts_is_enough() {
    if let Ok(url) = env::var(TRUSTED_URL) {
        let store = RedisStore::connect(&url).await.expect("a connection");
        let b = [bucket("b", &sliding(10))];
        assert!(granted(&store, 1, 1, &b, &[10]).await);
        assert!(!granted(&store, 1, 2, &b, &[1]).await);
        Session::subscribed(&store, 1).await;
        let error = RedisStore::connect(&url.replace(":pass@", ":wr0ng@"))
            .await
            .expect_err("no credentials");
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
        return;
    }
    let Secured { server, authority, url } = Secured::start().await;
    let file = server.directory().join("ca.pem");
    fs::write(&file, authority).expect("a file");
    run_again(TRUSTED, &file, &url).await;
}

#[tokio::test]
async fn a_file_of_authorities_that_cannot_be_read_is_named() {
    if let Ok(url) = env::var(TRUSTED_URL) {
        let file = env::var("SSL_CERT_FILE").expect("it is set");
        let store = RedisStore::lazy(&url).expect("a URL");
        let b = [bucket("b", &sliding(10))];
        let used = apply(&store, 1, 1, &b, &[reserve(&[1])]).await.expect_err("no authorities");
        for error in [used, RedisStore::connect(&url).await.expect_err("no authorities")] {
            assert!(matches!(error, StoreError::Rejected(_)), "{error}");
            for part in [&*file, "SSL_CERT_FILE"] {
                assert!(error.to_string().contains(part), "{error}");
            }
        }
        return;
    }
    let Secured { server, url, .. } = Secured::start().await;
    let empty = server.directory().join("empty.pem");
    fs::write(&empty, "no certificate").expect("a file");
    for file in [server.directory().join("none.pem"), server.directory().to_owned(), empty] {
        run_again(UNREADABLE, &file, &url).await;
    }
}

/// Runs a test in another process, which trusts the authorities in `file`.
async fn run_again(test: &str, file: &Path, url: &str) {
    let output = Command::new(env::current_exe().expect("this test"))
        .args([test, "--exact", "--nocapture"])
        .env("SSL_CERT_FILE", file)
        .env(TRUSTED_URL, url)
        .output()
        .await
        .expect("the test once more");
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && printed.contains("1 passed"),
        "{printed}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
