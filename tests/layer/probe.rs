//! A limiter to look into, and a service that panics when it is called unready.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use tokio::time::Sleep;
use tower::Service;
use tower_throttle::{BoxError, Demand, ExtractError, Limiter, Limits, Quota, usage};

pub(crate) type Extract = fn(&mut u64) -> Result<Demand, ExtractError>;

/// 100 tokens and 10 requests a minute.
pub(crate) fn limiter() -> Limiter {
    let quotas = [Quota::per_minute("tokens", 100), Quota::per_minute("requests", 10)];
    Limiter::new(Limits::new().bucket("api", quotas)).expect("the limits are valid")
}

/// A request is the number of tokens it may use.
pub(crate) fn tokens(request: &mut u64) -> Result<Demand, ExtractError> {
    Ok(Demand::new("api", usage! { tokens: *request }))
}

/// Tokens and requests charged, and tokens in flight.
pub(crate) async fn charged(limiter: &Limiter) -> (u64, u64, u64) {
    let status = limiter.status("api").await.expect("the bucket exists");
    let [tokens, requests] = &status.quotas[..] else { panic!("two quotas") };
    (tokens.charged as u64, requests.charged as u64, tokens.in_flight)
}

/// What the probe does next.
#[derive(Clone, Debug)]
pub(crate) enum Act {
    Answer(u64),
    Fail,
    FailToBeReady,
    BeReadyAfter(Duration),
    Hang,
}

/// Does what it is told, and insists on `poll_ready` before `call`.
#[derive(Debug)]
pub(crate) struct Probe {
    act: Act,
    ready: bool,
    rest: Option<Pin<Box<Sleep>>>,
    pub(crate) calls: Arc<AtomicUsize>,
}

impl Probe {
    pub(crate) fn new(act: Act) -> Self {
        Self { act, ready: false, rest: None, calls: Arc::default() }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Clone for Probe {
    /// A clone is not ready, whatever the original is.
    fn clone(&self) -> Self {
        Self { act: self.act.clone(), ready: false, rest: None, calls: self.calls.clone() }
    }
}

impl Service<u64> for Probe {
    type Response = u64;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<u64, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self.act {
            Act::FailToBeReady => return Poll::Ready(Err("not ready, never".into())),
            Act::BeReadyAfter(rest) => {
                let rest = self.rest.get_or_insert_with(|| Box::pin(tokio::time::sleep(rest)));
                std::task::ready!(rest.as_mut().poll(context));
                // Once ready it stays so, until it is called.
            }
            _ => {}
        }
        self.ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: u64) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without being ready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        let act = self.act.clone();
        Box::pin(async move {
            match act {
                Act::Answer(answer) => Ok(answer),
                Act::Fail => Err("the call failed".into()),
                Act::Hang => std::future::pending().await,
                _ => Ok(request),
            }
        })
    }
}
