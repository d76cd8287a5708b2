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

use super::config::Config;
use crate::{
    box_error::BoxError,
    call_span::CallSpan,
    demand::Demand,
    engine::Mode,
    error::Throttled,
    extract::{ExtractError, Extractor},
    inspect::{CallError, Inspector},
    limiter::{Reservation, Settlement},
};

pin_project! {
    /// The response of a [`Throttle`](crate::layer::Throttle), or why there is none.
    ///
    /// Dropped before the inner service was called, it leaves no trace; after that its reservation
    /// keeps its charge unless the inspector says otherwise.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S: Service<R>, R, E, I> {
        #[pin]
        attempt: Attempt<S, R, E, I>,
    }
}

impl<S: Service<R>, R, E, I> ResponseFuture<S, R, E, I> {
    pub(super) fn new(attempt: Attempt<S, R, E, I>) -> Self {
        Self { attempt }
    }
}

impl<S, R, E, I> Future for ResponseFuture<S, R, E, I>
where
    S: Service<R>,
    S::Error: Into<BoxError>,
    I: Inspector<S::Response>,
{
    type Output = Result<I::Inspected, BoxError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let config = this.attempt.config.clone();
        this.attempt.poll(context).map_err(|failure| match failure {
            Failure::Demand(error) => error.into_inner(),
            Failure::Throttled(error) => error.into(),
            Failure::NotReady(error) => error.into(),
            Failure::Call(error, mut dispatched) => {
                let error = error.into();
                dispatched.conclude(config.inspector.failed(CallError::new(error.as_ref())));
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
pub(super) enum Failure<Error> {
    /// The extractor erred.
    Demand(ExtractError),
    /// The limiter refused.
    Throttled(Throttled),
    /// The inner service erred before it was called.
    NotReady(Error),
    /// The call failed.
    Call(Error, Box<Dispatched>),
}

/// A reservation whose call was made.
pub(super) struct Dispatched {
    reservation: Option<Reservation>,
    on_drop: Settlement,
}

impl Dispatched {
    pub(super) fn conclude(&mut self, settlement: Settlement) {
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
    /// One request on its way, with errors by where they came from.
    pub(super) struct Attempt<S: Service<R>, R, E, I> {
        config: Arc<Config<E, I>>,
        // Until the call is made.
        waiting: Option<QuotaWait<S, R>>,
        #[pin]
        stage: Stage<S::Future>,
    }
}

/// A copy that takes the place of a service which is ready and must not stay so: it may hold a
/// permit.
///
/// It was never made ready itself: there are services whose clones take over that they are ready,
/// and are not.
pub(super) struct Spare<S> {
    pub(super) service: S,
    pub(super) copy: fn(&S) -> S,
}

/// What the call needs once it is granted.
struct QuotaWait<S, R> {
    service: S,
    /// Nothing, if the service holds nothing.
    spare: Option<Spare<S>>,
    request: R,
    demand: Demand,
    /// When the longest wait is over. Set by [`start_clock`](Self::start_clock).
    deadline: Option<Instant>,
}

impl<S, R> QuotaWait<S, R> {
    /// Begins the longest wait, unless it has begun. A request that is granted and sent at once
    /// never looks at the clock.
    fn start_clock(&mut self) {
        if self.deadline.is_none() {
            let max_wait = self.demand.max_wait;
            self.deadline = max_wait.and_then(|wait| Instant::now().checked_add(wait));
        }
    }

    /// Returns the demand with what is left of its longest wait.
    fn demand(&self) -> Demand {
        let demand = self.demand.clone();
        match self.deadline {
            Some(deadline) => demand.max_wait(deadline.saturating_duration_since(Instant::now())),
            None => demand,
        }
    }
}

pin_project! {
    #[project = StageProjection]
    enum Stage<F> {
        // Has ended, with an error that is not told yet.
        Failed { error: Option<ExtractError> },
        Beginning,
        Reserving { grant: Grant },
        // Since when the service keeps a grant waiting, if it does.
        // In shadow mode the charge may be under way.
        Readying {
            reservation: Option<Reservation>,
            kept: Option<Instant>,
            shadow: Option<ShadowGrant>,
        },
        Renewing { grant: Grant },
        // The call is made in the span of its reservation.
        Calling {
            #[pin]
            response: F,
            dispatched: Option<Dispatched>,
            shadow: Option<ShadowGrant>,
            span: CallSpan,
        },
    }
}

impl<S: Service<R>, R, E: Extractor<R>, I> Attempt<S, R, E, I> {
    /// Begins with a request, from which the demand is read at once.
    pub(super) fn new(
        config: Arc<Config<E, I>>,
        service: S,
        spare: Option<Spare<S>>,
        mut request: R,
    ) -> Self {
        let (waiting, stage) = match config.extractor.extract(&mut request) {
            Ok(mut demand) => {
                if config.waits {
                    demand.max_wait = demand.max_wait.or(config.max_wait);
                }
                let waiting = QuotaWait { service, spare, request, demand, deadline: None };
                (Some(waiting), Stage::Beginning)
            }
            Err(error) if config.is_shadow => {
                config.limiter.tell_unread(&*error);
                let demand = Demand::unlimited();
                let waiting = QuotaWait { service, spare, request, demand, deadline: None };
                (Some(waiting), Stage::Beginning)
            }
            Err(error) => (None, Stage::Failed { error: Some(error) }),
        };
        Self { config, waiting, stage }
    }
}

impl<S: Service<R>, R, E, I> Attempt<S, R, E, I> {
    /// The first bucket of the demand, until the call is made.
    pub(super) fn first_bucket(&self) -> Option<&str> {
        self.waiting.as_ref()?.demand.buckets().next()
    }
}

impl<E, I> Config<E, I> {
    fn grant_at_once(&self, demand: &Demand) -> Poll<Result<Reservation, Throttled>> {
        let mode = if self.waits { Mode::Wait } else { Mode::Try };
        self.limiter.acquire_at_once(demand, mode)
    }

    /// Charges a demand whether it fits or not. The call need not wait for it.
    fn shadow(&self, demand: &Demand) -> ShadowGrant {
        let grant = Box::pin(self.limiter.shadow_of(demand.clone(), self.waits));
        ShadowGrant { grant: Some(grant), demand: demand.clone() }
    }

    fn grant(&self, demand: Demand, waits: bool) -> Grant {
        let limiter = self.limiter.clone();
        Box::pin(async move {
            if waits { limiter.reserve(demand).await } else { limiter.try_reserve(demand).await }
        })
    }
}

/// The charge of a call in shadow mode.
struct ShadowGrant {
    /// Until it is made.
    grant: Option<Grant>,
    demand: Demand,
}

impl ShadowGrant {
    /// Returns the reservation once the charge is made. A charge that fails is none.
    fn poll(&mut self, context: &mut Context<'_>) -> Option<Reservation> {
        let Poll::Ready(result) = self.grant.as_mut()?.as_mut().poll(context) else { return None };
        self.grant = None;
        result.ok()
    }

    /// Returns what stands for the reservation of a call that could not be charged in time.
    fn uncharged(&self) -> Reservation {
        Reservation::uncounted(&self.demand)
    }
}

impl<F> Stage<F> {
    fn readying(mut reservation: Reservation) -> Self {
        reservation.release_on_drop();
        Self::Readying { reservation: Some(reservation), kept: None, shadow: None }
    }

    /// In shadow mode the charge is under way, if it is not made yet.
    fn shadowed(mut shadow: ShadowGrant, context: &mut Context<'_>) -> Self {
        match shadow.poll(context) {
            Some(reservation) => Self::readying(reservation),
            None => Self::Readying { reservation: None, kept: None, shadow: Some(shadow) },
        }
    }
}

impl<S, R, E, I> Future for Attempt<S, R, E, I>
where
    S: Service<R>,
    I: Inspector<S::Response>,
{
    type Output = Result<I::Inspected, Failure<S::Error>>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            match this.stage.as_mut().project() {
                StageProjection::Failed { error } => {
                    let error = error.take().unwrap_or_else(|| "polled after it was done".into());
                    return Poll::Ready(Err(Failure::Demand(error)));
                }
                StageProjection::Beginning => {
                    let Some(waiting) = this.waiting.as_mut() else {
                        this.stage.set(Stage::Failed { error: None });
                        continue;
                    };
                    if this.config.is_shadow {
                        let shadow = this.config.shadow(&waiting.demand);
                        this.stage.set(Stage::shadowed(shadow, context));
                        continue;
                    }
                    this.stage.set(match this.config.grant_at_once(&waiting.demand) {
                        Poll::Ready(Ok(reservation)) => Stage::readying(reservation),
                        Poll::Ready(Err(error)) => {
                            this.stage.set(Stage::Failed { error: None });
                            return Poll::Ready(Err(Failure::Throttled(error)));
                        }
                        Poll::Pending => {
                            waiting.start_clock();
                            let grant = this.config.grant(waiting.demand(), this.config.waits);
                            Stage::Reserving { grant }
                        }
                    });
                }
                StageProjection::Reserving { grant } => {
                    let grant = ready!(grant.as_mut().poll(context));
                    this.stage.set(Stage::Failed { error: None });
                    let reservation = grant.map_err(Failure::Throttled)?;
                    this.stage.set(Stage::readying(reservation));
                }
                StageProjection::Renewing { grant } => {
                    let grant = ready!(grant.as_mut().poll(context));
                    this.stage.set(Stage::Failed { error: None });
                    let Some(waiting) = this.waiting.as_mut() else { continue };
                    this.stage.set(match grant {
                        Ok(reservation) => Stage::readying(reservation),
                        Err(Throttled::NotNow(_)) if this.config.waits => {
                            // Others may need what the service holds to get on.
                            if let Some(Spare { service, copy }) = &waiting.spare {
                                waiting.service = copy(service);
                            }
                            Stage::Reserving { grant: this.config.grant(waiting.demand(), true) }
                        }
                        Err(error) => return Poll::Ready(Err(Failure::Throttled(error))),
                    });
                }
                StageProjection::Readying { reservation, kept, shadow } => {
                    let Some(waiting) = this.waiting.as_mut() else {
                        this.stage.set(Stage::Failed { error: None });
                        continue;
                    };
                    let Poll::Ready(readiness) = waiting.service.poll_ready(context) else {
                        waiting.start_clock();
                        kept.get_or_insert_with(Instant::now);
                        return Poll::Pending;
                    };
                    if let Err(error) = readiness {
                        this.stage.set(Stage::Failed { error: None });
                        return Poll::Ready(Err(Failure::NotReady(error)));
                    }
                    let is_late = |since: Instant| since.elapsed() > this.config.dispatch_within;
                    if !this.config.is_shadow && kept.is_some_and(is_late) {
                        // Dropping the reservation gives it back, before it is asked for anew.
                        drop(reservation.take());
                        let grant = this.config.grant(waiting.demand(), false);
                        this.stage.set(Stage::Renewing { grant });
                        continue;
                    }
                    let reservation = reservation.take().map(Reservation::dispatched);
                    let shadow = shadow.take();
                    let span =
                        reservation.as_ref().map_or_else(CallSpan::default, Reservation::call_span);
                    let Some(QuotaWait { mut service, request, .. }) = this.waiting.take() else {
                        continue;
                    };
                    let dispatched =
                        Some(Dispatched { reservation, on_drop: this.config.inspector.dropped() });
                    let response = {
                        let _in_span = span.enter();
                        service.call(request)
                    };
                    this.stage.set(Stage::Calling { response, dispatched, shadow, span });
                }
                StageProjection::Calling { response, dispatched, shadow, span } => {
                    if let (Some(shadow), Some(dispatched)) = (shadow.as_mut(), dispatched.as_mut())
                        && let Some(reservation) = shadow.poll(context)
                    {
                        dispatched.reservation = Some(reservation.dispatched());
                    }
                    let result = {
                        let _in_span = span.enter();
                        ready!(response.poll(context))
                    };
                    let (dispatched, shadow) = (dispatched.take(), shadow.take());
                    this.stage.set(Stage::Failed { error: None });
                    let Some(mut dispatched) = dispatched else { continue };
                    let uncharged = shadow.map(|shadow| shadow.uncharged());
                    return Poll::Ready(match result {
                        Ok(response) => match dispatched.reservation.take().or(uncharged) {
                            Some(reservation) => {
                                Ok(this.config.inspector.inspect(response, reservation))
                            }
                            None => continue,
                        },
                        Err(error) => Err(Failure::Call(error, Box::new(dispatched))),
                    });
                }
            }
        }
    }
}
