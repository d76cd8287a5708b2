//! A gateway between a provider and a client, and what its limiter does.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use axum_examples::{
    Server,
    gateway::{TENANT, Upstream, limits, router},
};
use bytes::Bytes;
use examples_common::{
    meter::{Meter, Totals},
    provider::{Body, Provider},
};
use http::{Request, Response};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tower_throttle::{
    Limiter,
    store::{Batch, MemoryStore, Reply, Store},
};

/// What a chat of [`chat`] reserves.
pub(crate) const RESERVED: u64 = 300;

/// The names of the buckets that a store was ever asked for.
pub(crate) type Names = Arc<Mutex<BTreeSet<String>>>;

/// A store in memory that notes the names of buckets.
#[derive(Debug, Default)]
pub(crate) struct Noting {
    store: MemoryStore,
    pub(crate) names: Names,
}

impl Store for Noting {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let names = batch.buckets.iter().map(|bucket| bucket.key.name().to_owned());
        self.names.lock().expect("nobody panics").extend(names);
        self.store.apply(batch)
    }

    fn in_process(&self) -> bool {
        true
    }
}

pub(crate) struct Stand {
    pub(crate) provider: Provider,
    pub(crate) server: Server,
    pub(crate) limiter: Limiter,
    pub(crate) meter: Meter,
    pub(crate) names: Names,
}

/// A gateway to a provider that answers so. `acme` may use 1,000 tokens a minute, `giant` ten
/// million.
pub(crate) async fn stand<F>(answer: F) -> Stand
where
    F: Fn(Request<Bytes>) -> Response<Body> + Send + Sync + 'static,
{
    let provider = Provider::start(answer).await.expect("a port");
    let url = provider.url();
    stand_before(provider, &url).await
}

/// Such a gateway that takes its provider to be somewhere else.
pub(crate) async fn stand_before(provider: Provider, url: &str) -> Stand {
    let meter = Meter::default();
    let store = Noting::default();
    let names = store.names.clone();
    let plans = HashMap::from([("acme".to_owned(), 1_000), ("giant".to_owned(), 10_000_000)]);
    let limiter =
        Limiter::builder(limits(plans, 20_000_000)).store(store).observer(meter.observer());
    let limiter = limiter.build().expect("the limits are valid");
    let server = Server::start(router(limiter.clone(), Upstream::new(url))).await.expect("a port");
    Stand { provider, server, limiter, meter, names }
}

impl Stand {
    pub(crate) fn url(&self) -> String {
        self.server.url("/v1/chat/completions")
    }

    /// Asks for a chat that reserves 300 tokens.
    pub(crate) async fn chat(&self) -> reqwest::Response {
        let client = reqwest::Client::builder().no_gzip().build().expect("a client");
        client.post(self.url()).header(TENANT, "acme").body(chat()).send().await.expect("an answer")
    }

    /// A connection on which the request with this head and body was sent.
    pub(crate) async fn raw(&self, head: &str, body: &str) -> TcpStream {
        let mut connection = TcpStream::connect(self.server.address()).await.expect("it listens");
        let request =
            format!("{head}\r\nhost: gateway\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        connection.write_all(request.as_bytes()).await.expect("it reads");
        connection
    }

    /// What happened, once as many reservations are settled and nothing more can happen.
    pub(crate) async fn end(self, reservations: u64) -> Totals {
        let totals = self.meter.settled(reservations).await.expect("they are settled");
        let charged = self.charged("tenant acme").await;
        assert_eq!(self.charged("everyone").await.0, charged.0, "the parent is charged alike");
        assert_eq!(charged, (totals.charged, 0), "nothing is in flight");
        drop(self.server.stop().await.expect("it does not panic"));
        self.limiter.close().await;
        assert_eq!(self.meter.totals(), totals, "and that was all");
        totals
    }

    /// Tokens of a bucket that are charged, and in flight.
    pub(crate) async fn charged(&self, bucket: &str) -> (u64, u64) {
        let status = self.limiter.status(bucket).await.expect("the bucket exists");
        let tokens = &status.quotas[0];
        (tokens.charged as u64, tokens.in_flight)
    }
}

/// A request that reserves 300 tokens.
pub(crate) fn chat() -> String {
    json!({ "model": "gpt-4o", "max_tokens": RESERVED, "stream": true }).to_string()
}

/// Reads until this text has come.
pub(crate) async fn read_until(connection: &mut TcpStream, text: &str) -> String {
    let mut read = Vec::new();
    while !String::from_utf8_lossy(&read).contains(text) {
        let length = connection.read_buf(&mut read).await.expect("it answers");
        assert!(length > 0, "no `{text}` in `{}`", String::from_utf8_lossy(&read));
    }
    String::from_utf8_lossy(&read).into_owned()
}
