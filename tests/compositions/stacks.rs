//! The stacks: tower's layers outside of the throttle, and inside.

use std::{future::ready, time::Duration};

use bytes::Bytes;
use futures_util::future::Ready;
use http::{Response, response::Parts};
use tower::{
    Layer, ServiceBuilder,
    buffer::Buffer,
    retry::Policy,
    steer::Steer,
    util::{BoxCloneSyncService, BoxService, MapResponse},
};
use tower_throttle::{
    BoxError, Limiter, Settlement, ThrottleLayer, Throttled,
    inspect::{self, BodyEnd, BodyInspector, BodyObserver},
    layer::MeteredBody,
    usage,
};

use crate::{
    frames::Frames,
    probe::{Extract, Probe, tokens},
};

pub(crate) type Inner = MapResponse<Probe, fn(u64) -> Response<Frames>>;
pub(crate) type Throttle = ThrottleLayer<Extract, BodyInspector<fn(&Parts) -> Told>>;
pub(crate) type Stacked = BoxCloneSyncService<u64, Response<MeteredBody<Frames>>, BoxError>;

/// Reads the usage that a body tells in its last frame.
#[derive(Debug, Default)]
pub(crate) struct Told {
    text: Vec<u8>,
}

impl BodyObserver for Told {
    fn data(&mut self, piece: &[u8]) {
        self.text.extend_from_slice(piece);
    }

    fn end(&mut self, end: BodyEnd) -> Settlement {
        let text = Bytes::from(std::mem::take(&mut self.text));
        let tokens: Option<u64> = std::str::from_utf8(&text)
            .ok()
            .and_then(|text| text.rsplit_once("used: ")?.1.parse().ok());
        match (end, tokens) {
            (BodyEnd::Complete, Some(tokens)) => Settlement::Exact(usage! { tokens: tokens }),
            _ => Settlement::Keep,
        }
    }
}

pub(crate) fn throttle(limiter: &Limiter) -> Throttle {
    let told: fn(&Parts) -> Told = |_| Told::default();
    ThrottleLayer::new(limiter.clone(), tokens as Extract).inspector(inspect::body(told))
}

/// A stack, and how it differs from the throttle alone.
#[derive(Clone, Copy)]
pub(crate) struct Stack {
    pub(crate) name: &'static str,
    pub(crate) build: fn(Throttle, Inner) -> Stacked,
    /// How often a call that fails is reserved for, and made.
    pub(crate) attempts: (u64, usize),
    /// Whether an inner service that fails to become ready is noticed before the call.
    pub(crate) asks_inner: bool,
}

const fn stack(name: &'static str, build: fn(Throttle, Inner) -> Stacked) -> Stack {
    Stack { name, build, attempts: (1, 1), asks_inner: true }
}

/// Tries a failed call three times in all, though not what the throttle refused.
#[derive(Clone, Debug)]
pub(crate) struct Thrice(u8);

impl Thrice {
    pub(crate) fn new() -> Self {
        Self(2)
    }
}

impl<Answer> Policy<u64, Answer, BoxError> for Thrice {
    type Future = Ready<()>;

    fn retry(&mut self, _: &mut u64, result: &mut Result<Answer, BoxError>) -> Option<Ready<()>> {
        let error = result.as_ref().err()?;
        if Throttled::find(error.as_ref()).is_some() {
            return None;
        }
        self.0 = self.0.checked_sub(1)?;
        Some(futures_util::future::ready(()))
    }

    fn clone_request(&mut self, request: &u64) -> Option<u64> {
        Some(*request)
    }
}

fn boxed<S>(service: S) -> Stacked
where
    S: tower::Service<u64, Response = Response<MeteredBody<Frames>>, Error = BoxError>
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    BoxCloneSyncService::new(service)
}

fn pass(request: u64) -> Result<u64, BoxError> {
    Ok(request)
}

fn pass_later(request: u64) -> std::future::Ready<Result<u64, BoxError>> {
    ready(Ok(request))
}

fn same(error: BoxError) -> BoxError {
    error
}

const MINUTES: Duration = Duration::from_secs(600);

pub(crate) const STACKS: [Stack; 24] = [
    stack("alone", |throttle, inner| boxed(throttle.layer(inner))),
    stack("timeout outside", |throttle, inner| {
        boxed(ServiceBuilder::new().timeout(MINUTES).layer(throttle).service(inner))
    }),
    stack("timeout inside", |throttle, inner| {
        boxed(ServiceBuilder::new().layer(throttle).timeout(MINUTES).service(inner))
    }),
    Stack {
        attempts: (3, 3),
        ..stack("retry outside", |throttle, inner| {
            boxed(ServiceBuilder::new().retry(Thrice::new()).layer(throttle).service(inner))
        })
    },
    Stack {
        attempts: (1, 3),
        ..stack("retry inside", |throttle, inner| {
            boxed(ServiceBuilder::new().layer(throttle).retry(Thrice::new()).service(inner))
        })
    },
    stack("load-shed outside", |throttle, inner| {
        boxed(ServiceBuilder::new().load_shed().layer(throttle).service(inner))
    }),
    stack("load-shed inside", |throttle, inner| {
        boxed(ServiceBuilder::new().layer(throttle).load_shed().service(inner))
    }),
    stack("buffer outside", |throttle, inner| {
        boxed(ServiceBuilder::new().buffer(8).layer(throttle).service(inner))
    }),
    Stack {
        asks_inner: false,
        ..stack("buffer inside", |throttle, inner| {
            boxed(ServiceBuilder::new().layer(throttle).buffer(8).service(inner))
        })
    },
    stack("concurrency-limit outside", |throttle, inner| {
        boxed(ServiceBuilder::new().concurrency_limit(1).layer(throttle).service(inner))
    }),
    stack("concurrency-limit inside", |throttle, inner| {
        boxed(ServiceBuilder::new().layer(throttle).concurrency_limit(1).service(inner))
    }),
    // A rate-limited service has no clones: a buffer shares it.
    stack("rate-limit outside", |throttle, inner| {
        boxed(
            ServiceBuilder::new()
                .buffer(8)
                .rate_limit(100, Duration::from_secs(1))
                .layer(throttle)
                .service(inner),
        )
    }),
    Stack {
        asks_inner: false,
        ..stack("rate-limit inside", |throttle, inner| {
            let rate = ServiceBuilder::new()
                .buffer(8)
                .rate_limit(100, Duration::from_secs(1))
                .service(inner);
            boxed(throttle.layer(rate))
        })
    },
    stack("filter outside", |throttle, inner| {
        boxed(ServiceBuilder::new().filter(pass as fn(_) -> _).layer(throttle).service(inner))
    }),
    stack("filter inside", |throttle, inner| {
        boxed(ServiceBuilder::new().layer(throttle).filter(pass as fn(_) -> _).service(inner))
    }),
    stack("asynchronous filter inside", |throttle, inner| {
        boxed(
            ServiceBuilder::new()
                .layer(throttle)
                .filter_async(pass_later as fn(_) -> _)
                .service(inner),
        )
    }),
    stack("steer outside", |throttle, inner| {
        let services = [throttle.layer(inner.clone()), throttle.layer(inner)];
        boxed(Steer::new(services, |request: &u64, _: &[_]| (*request % 2) as usize))
    }),
    stack("steer inside", |throttle, inner| {
        let steer =
            Steer::new([inner.clone(), inner], |request: &u64, _: &[_]| (*request % 2) as usize);
        boxed(throttle.layer(steer))
    }),
    stack("boxed outside", |throttle, inner| boxed(boxed(throttle.layer(inner)))),
    stack("boxed inside", |throttle, inner| boxed(throttle.layer(BoxCloneSyncService::new(inner)))),
    // Boxed without clones, again a buffer shares it.
    stack("boxed for one outside", |throttle, inner| {
        boxed(Buffer::new(BoxService::new(throttle.layer(inner)), 8))
    }),
    stack("map-err outside", |throttle, inner| {
        boxed(ServiceBuilder::new().map_err(same).layer(throttle).service(inner))
    }),
    stack("map-err inside", |throttle, inner| {
        boxed(ServiceBuilder::new().layer(throttle).map_err(same).service(inner))
    }),
    stack("the whole order", |throttle, inner| {
        let stack = ServiceBuilder::new()
            .load_shed()
            .timeout(MINUTES)
            .concurrency_limit(64)
            .layer(throttle);
        boxed(stack.timeout(MINUTES).concurrency_limit(8).service(inner))
    }),
];
