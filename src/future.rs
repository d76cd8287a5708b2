//! One request on its way: reserve, make the inner service ready, call, settle.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use pin_project_lite::pin_project;
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    demand::Demand,
    error::{BoxError, Carried, Throttled},
    inspect::Inspector,
    layer::Config,
    limiter::{Reservation, Settlement},
};

pin_project! {
    /// The response of a [`Throttle`](crate::Throttle), or why there is none.
    ///
    /// Dropped before the inner service was called, it leaves no trace; after that its reservation keeps its charge
    /// unless the inspector says otherwise.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<R>, R, E, I> {
        #[pin]
        attempt: Attempt<S, R, E, I>,
    }
}

impl<S: Service<R>, R, E, I> ResponseFuture<S, R, E, I> {
    pub(crate) fn new(attempt: Attempt<S, R, E, I>) -> Self {
        Self { attempt }
    }
}

impl<S, R, E, I> Future for ResponseFuture<S, R, E, I>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    I: Inspector<S::Response>,
{
    type Output = Result<I::Response, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let config = this.attempt.config.clone();
        this.attempt.poll(context).map_err(|failure| match failure {
            Failure::Demand(error) => error,
            Failure::Throttled(error) => Carried(error).into(),
            Failure::NotReady(error) => error.into(),
            Failure::Call(error, mut dispatched) => {
                let error = error.into();
                dispatched.conclude(config.inspector.failed(error.as_ref()));
                error
            }
        })
    }
}

impl<S: Service<R>, R, E, I> fmt::Debug for ResponseFuture<S, R, E, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

/// Why there is no response.
pub(crate) enum Failure<Error> {
    /// The extractor erred.
    Demand(BoxError),
    /// The limiter refused.
    Throttled(Throttled),
    /// The inner service erred before it was called.
    NotReady(Error),
    /// The call failed.
    Call(Error, Box<Dispatched>),
}

/// A reservation whose call was made.
pub(crate) struct Dispatched {
    reservation: Option<Reservation>,
    on_drop: Settlement,
}

impl Dispatched {
    pub(crate) fn conclude(&mut self, settlement: Settlement) {
        if let Some(reservation) = self.reservation.take() {
            drop(reservation.conclude(settlement));
        }
    }
}

impl Drop for Dispatched {
    fn drop(&mut self) {
        let settlement = std::mem::take(&mut self.on_drop);
        self.conclude(settlement);
    }
}

type Grant = Pin<Box<dyn Future<Output = Result<Reservation, Throttled>> + Send>>;

pin_project! {
    /// One request, with errors by where they came from.
    pub(crate) struct Attempt<S: Service<R>, R, E, I> {
        config: Arc<Config<E, I>>,
        // Until the call is made.
        waiting: Option<Waiting<S, R>>,
        #[pin]
        stage: Stage<S::Future>,
    }
}

/// What the call is made of.
struct Waiting<S, R> {
    service: S,
    request: R,
    demand: Demand,
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F> {
        Failed { error: Option<BoxError> },
        Reserving { grant: Grant },
        Readying { reservation: Option<Reservation>, granted: Instant },
        Calling { #[pin] response: F, dispatched: Option<Dispatched> },
    }
}

impl<S: Service<R>, R, E, I> Attempt<S, R, E, I> {
    pub(crate) fn new(config: Arc<Config<E, I>>, demand: Demand, service: S, request: R) -> Self {
        let grant = config.grant(demand.clone());
        Self {
            config,
            waiting: Some(Waiting { service, request, demand }),
            stage: Stage::Reserving { grant },
        }
    }

    pub(crate) fn failed(config: Arc<Config<E, I>>, error: BoxError) -> Self {
        Self { config, waiting: None, stage: Stage::Failed { error: Some(error) } }
    }
}

impl<E, I> Config<E, I> {
    fn grant(&self, demand: Demand) -> Grant {
        let (limiter, waits) = (self.limiter.clone(), self.waits);
        Box::pin(async move {
            if waits { limiter.reserve(demand).await } else { limiter.try_reserve(demand).await }
        })
    }
}

impl<S, R, E, I> Future for Attempt<S, R, E, I>
where
    S: Service<R>,
    I: Inspector<S::Response>,
{
    type Output = Result<I::Response, Failure<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Failed { error } => {
                    let error = error.take().unwrap_or_else(|| "polled after it was done".into());
                    return Poll::Ready(Err(Failure::Demand(error)));
                }
                StageProjection::Reserving { grant } => match ready!(grant.as_mut().poll(context)) {
                    Ok(mut reservation) => {
                        reservation.release_on_drop(true);
                        let (reservation, granted) = (Some(reservation), Instant::now());
                        this.stage.set(Stage::Readying { reservation, granted });
                    }
                    Err(error) => {
                        this.stage.set(Stage::Failed { error: None });
                        return Poll::Ready(Err(Failure::Throttled(error)));
                    }
                },
                StageProjection::Readying { reservation, granted } => {
                    let Some(waiting) = this.waiting.as_mut() else {
                        this.stage.set(Stage::Failed { error: None });
                        continue;
                    };
                    if let Err(error) = ready!(waiting.service.poll_ready(context)) {
                        this.stage.set(Stage::Failed { error: None });
                        return Poll::Ready(Err(Failure::NotReady(error)));
                    }
                    if granted.elapsed() > this.config.dispatch_within {
                        // Dropping the reservation gives it back.
                        let grant = this.config.grant(waiting.demand.clone());
                        this.stage.set(Stage::Reserving { grant });
                        continue;
                    }
                    let reservation = reservation.take().map(Reservation::dispatched);
                    let Some(Waiting { mut service, request, .. }) = this.waiting.take() else { continue };
                    let dispatched =
                        Some(Dispatched { reservation, on_drop: this.config.inspector.dropped() });
                    let response = service.call(request);
                    this.stage.set(Stage::Calling { response, dispatched });
                }
                StageProjection::Calling { response, dispatched } => {
                    let result = ready!(response.poll(context));
                    let dispatched = dispatched.take();
                    this.stage.set(Stage::Failed { error: None });
                    let Some(mut dispatched) = dispatched else { continue };
                    return Poll::Ready(match result {
                        Ok(response) => match dispatched.reservation.take() {
                            Some(reservation) => Ok(this.config.inspector.inspect(response, reservation)),
                            None => continue,
                        },
                        Err(error) => Err(Failure::Call(error, Box::new(dispatched))),
                    });
                }
            }
        }
    }
}
