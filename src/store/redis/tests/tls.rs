//! Servers behind TLS, with certificates of an authority that is made for each test.

use std::{env, process::Command};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use redis::{Client, TlsCertificates};

use super::{RedisServer, RedisStore, bucket, granted, sliding, support::free_port};
use crate::store::StoreError;

/// The test below, and the variable that tells it that it is the process it has started.
const TRUSTED: &str = "store::redis::tests::tls::an_authority_that_the_machine_trusts_is_enough";
const TRUSTED_URL: &str = "TOWER_THROTTLE_TEST_URL";

struct Secured {
    server: RedisServer,
    authority: String,
    url: String,
}

impl Secured {
    /// A server with a user, behind a certificate for `localhost`.
    fn start() -> Self {
        let mut params = CertificateParams::new([]).expect("an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority =
            CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("an authority");
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &authority).expect("a certificate");

        let (authority, port) = (authority.pem(), free_port());
        let files =
            [("ca.pem", &*authority), ("cert.pem", &certificate.pem()), ("key.pem", &key.serialize_pem())];
        let port_text = port.to_string();
        let server = RedisServer::start_with_files(
            &files,
            &[
                "--tls-port",
                &port_text,
                "--tls-cert-file",
                "cert.pem",
                "--tls-key-file",
                "key.pem",
                "--tls-ca-cert-file",
                "ca.pem",
                "--tls-auth-clients",
                "no",
            ],
        );
        server.command::<()>(&["ACL", "SETUSER", "app", "on", ">pass", "~throttle:*", "+@all"]);
        Self { server, authority, url: format!("rediss://app:pass@localhost:{port}/3") }
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_no_outage() {
    let secured = Secured::start();
    let error = RedisStore::connect(&secured.url).await.expect_err("an unknown authority");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("certificate"), "{error}");
    let plain = secured.url.replace("rediss", "redis");
    assert!(RedisStore::connect(&plain).await.is_err(), "it is no port for that");
}

#[tokio::test]
async fn an_authority_of_the_users_own_is_trusted_by_its_connection() {
    let Secured { server, authority, url } = Secured::start();
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(authority.into_bytes()) };
    let client = Client::build_with_tls(url, certificates).expect("a client");
    let connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let store = RedisStore::new(connection);
    let b = [bucket("b", &sliding(10))];
    assert!(granted(&store, 1, 1, &b, &[1]).await);
    assert_eq!(server.command::<u64>(&["EXISTS", "throttle:{test}:b"]), 0, "it is in another database");
}

#[tokio::test]
async fn an_authority_that_the_machine_trusts_is_enough() {
    if let Ok(url) = env::var(TRUSTED_URL) {
        let store = RedisStore::connect(&url).await.expect("a connection");
        let b = [bucket("b", &sliding(10))];
        assert!(granted(&store, 1, 1, &b, &[10]).await);
        assert!(!granted(&store, 1, 2, &b, &[1]).await);
        let error = RedisStore::connect(&url.replace(":pass@", ":wr0ng@")).await.expect_err("no credentials");
        assert!(matches!(error, StoreError::Rejected(_)), "{error}");
        return;
    }
    let Secured { server, url, .. } = Secured::start();
    // Whom a process trusts it is told when it starts.
    let output = Command::new(env::current_exe().expect("this test"))
        .args([TRUSTED, "--exact", "--nocapture"])
        .env("SSL_CERT_FILE", server.directory().join("ca.pem"))
        .env(TRUSTED_URL, url)
        .output()
        .expect("this test once more");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(
        output.status.success() && told.contains("1 passed"),
        "{told}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}
