//! Whole calls through the layer: what providers send, and what is charged for it.

#[cfg(feature = "bedrock")]
mod bedrock;
mod cases;
mod choices;
mod facts;
mod feedback;
mod fixtures;
mod gemini;
mod learning;
mod money;
mod odd_bodies;
mod odd_feedback;
mod providers;
mod refusal_cases;
mod streams;

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use tower::{Layer, service_fn};

use crate::{
    BoxError, Limiter, Limits, Quota, ThrottleLayer, layer::MeteredBody, limits::Undeclared,
    llm::Rules, observe::Event,
};

pub(super) const METRICS: [&str; 4] = ["requests", "input_tokens", "output_tokens", "tokens"];
pub(super) const JSON: &str = "application/json; charset=utf-8";
pub(super) const EVENTS: &str = "text/event-stream; charset=utf-8";

/// A limiter of one bucket for all, and how many calls it has settled.
pub(super) struct Account {
    pub(super) limiter: Limiter,
    settled: Arc<AtomicUsize>,
}

impl Account {
    pub(super) fn new() -> Self {
        Self::with(METRICS.map(|metric| Quota::per_minute(metric, 1_000_000)))
    }

    /// With these limits.
    pub(super) fn with(quotas: impl IntoIterator<Item = Quota>) -> Self {
        let settled = Arc::new(AtomicUsize::new(0));
        let counter = settled.clone();
        let limits =
            Limits::new().bucket("all", quotas).undeclared(Undeclared::Bucket("all".into()));
        let observer = move |event: &Event<'_>| {
            if matches!(event, Event::Settled { .. }) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
        };
        let limiter = Limiter::builder(limits).observer(observer).build().unwrap();
        Self { limiter, settled }
    }

    /// What is charged, metric by metric, for a call that was settled once.
    pub(super) async fn charged(&self) -> [u64; 4] {
        let charged = self.now().await;
        self.assert_settled_once();
        charged
    }

    pub(super) fn assert_settled_once(&self) {
        assert_eq!(self.settled.load(Ordering::Relaxed), 1, "settled once");
    }

    /// What is charged now.
    pub(super) async fn now(&self) -> [u64; 4] {
        let status = self.limiter.status("all").await.unwrap();
        std::array::from_fn(|metric| status.quotas[metric].charged as u64)
    }

    /// Sends a request that is answered like this.
    pub(super) async fn call<B>(
        &self,
        rules: &Rules,
        request: &str,
        response: Response<B>,
    ) -> Response<MeteredBody<B>>
    where
        B: Body<Data = Bytes> + Send + 'static,
    {
        let layer = ThrottleLayer::openai_compatible(self.limiter.clone(), rules.clone());
        let response = Arc::new(std::sync::Mutex::new(Some(response)));
        let service = service_fn(move |_: Request<String>| {
            let response = response.lock().unwrap().take();
            async move { response.ok_or_else(|| BoxError::from("called twice")) }
        });
        let (path, body) = match request.split_once('\n') {
            Some((path, body)) if path.starts_with('/') => (path, body),
            _ => ("/", request),
        };
        let request = Request::post(path).body(body.to_owned()).unwrap();
        layer.layer(service).oneshot(request).await.unwrap()
    }
}

pub(super) fn response<B>(status: u16, content: &str, body: B) -> Response<B> {
    Response::builder().status(status).header("content-type", content).body(body).unwrap()
}

/// How a reader treats a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// Reads it to its end.
    Read,
    /// Drops it after the last piece, before its end.
    Dropped,
    /// Meets an error after the last piece.
    Failed,
}

/// What is charged for an answer that comes in pieces.
pub(super) async fn charged(
    rules: &Rules,
    request: &str,
    content: &str,
    pieces: impl IntoIterator<Item = &[u8]>,
    ending: Ending,
) -> [u64; 4] {
    let pieces: Vec<_> = pieces.into_iter().map(Bytes::copy_from_slice).collect();
    let sent = pieces.concat();
    let count = pieces.len();
    let frames = pieces.into_iter().map(|piece| Ok::<_, &'static str>(Frame::data(piece)));
    let end = (ending == Ending::Failed).then_some(Err("reset"));
    let body = StreamBody::new(stream::iter(frames.chain(end)));
    let account = Account::new();
    let mut body = account.call(rules, request, response(200, content, body)).await.into_body();
    let mut passed = Vec::new();
    for _ in 0..count {
        let frame = body.frame().await.unwrap().unwrap();
        passed.extend_from_slice(frame.data_ref().unwrap());
    }
    assert_eq!(passed, sent, "bytes pass unchanged");
    match ending {
        Ending::Read => assert!(body.frame().await.is_none()),
        Ending::Dropped => {}
        Ending::Failed => assert!(body.frame().await.unwrap().is_err()),
    }
    drop(body);
    account.charged().await
}

/// A body that is at hand.
pub(super) fn full(text: &str) -> Full<Bytes> {
    Full::new(Bytes::copy_from_slice(text.as_bytes()))
}
