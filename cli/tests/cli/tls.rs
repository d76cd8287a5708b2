//! Over TLS, with an authority that the machine is told of.

use std::{env, fs, sync::Arc};

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tokio::{
    io::copy_bidirectional,
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivatePkcs8KeyDer},
};

use crate::{
    program::{Ended, charge, limiter, program},
    support::RedisServer,
};

/// What ends TLS for `localhost` and offers these protocols, and the authority that vouches for it,
/// in PEM.
pub(crate) fn acceptor(protocols: &[&[u8]]) -> (TlsAcceptor, String) {
    let mut params = CertificateParams::new([]).expect("an authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().expect("a key");
    let authority = CertifiedIssuer::self_signed(params, key).expect("an authority");
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let certificate = params.signed_by(&key, &authority).expect("a certificate");
    let key = PrivatePkcs8KeyDer::from(key.serialize_der());
    let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key.into())
        .expect("a key that fits");
    config.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    (Arc::new(config).into(), authority.pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_behind_tls_is_looked_at() {
    let server = RedisServer::start();
    charge(&limiter(&server).await, "gpt-4o", 1_500).await;
    let (acceptor, authority) = acceptor(&[]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("rediss://localhost:{}", listener.local_addr().expect("an address").port());
    let port = server.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                // A client that does not trust us hangs up.
                let Ok(mut secured) = acceptor.accept(stream).await else { return };
                let mut plain = TcpStream::connect(("127.0.0.1", port)).await.expect("the server");
                let _ = copy_bidirectional(&mut secured, &mut plain).await;
            });
        }
    });
    let file = env::temp_dir().join(format!("throttle-cli-authority-{}.pem", std::process::id()));
    fs::write(&file, authority).expect("it is written");
    let run = |trusted: bool| -> Ended {
        let mut program = program(&["status", "gpt-4o", "--redis", &url]);
        if trusted {
            program.env("SSL_CERT_FILE", &file);
        }
        program.output().expect("it starts").into()
    };
    let trusting = run(true);
    assert!(trusting.code == 0 && trusting.out.contains("1,500 charged"), "{trusting:?}");
    let doubting = run(false);
    assert!(doubting.code == 5 && doubting.err.contains("SSL_CERT_FILE"), "{doubting:?}");
    fs::remove_file(&file).expect("it is there");
}
