//! The caller's side: what a strategy puts before the provider.

use std::{
    future::Future,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bytes::Bytes;
use http::{Response, StatusCode, header::RETRY_AFTER};
use http_body_util::{BodyExt, Full};
use tower_layer::Layer;
use tower_service::Service;

use super::{
    counters::{CounterKind, Counters},
    provider_side::ProviderSide,
    strategy::Strategy,
    trace_call::TraceCall,
};
use crate::{
    box_error::BoxError,
    demand::Demand,
    error::Throttled,
    extract::{ExtractError, Extractor},
    inspect::Inspector,
    layer::{Throttle, throttle_layer::ThrottleLayer},
    limiter::Limiter,
    limits::LimitsError,
    llm::{Inspect, Output, Rules, compatible},
    store::MemoryStore,
    usage,
};

/// What makes the calls of a run.
pub(super) struct Client {
    provider: Rc<ProviderSide>,
    strategy: Strategy,
    way: Way,
}

/// What a call passes on its way to the provider.
enum Way {
    Bare,
    Counted(Counters),
    Settled(Throttle<ProviderService, Demands, Inspect>),
    Kept(Throttle<ProviderService, Demands>),
}

/// What became of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AttemptEnd {
    Answered,
    /// By the provider, which may have said when to come again.
    Refused(Option<Duration>),
    /// It can never be made.
    Impossible,
}

/// A call on its way.
#[derive(Clone, Debug)]
pub(super) struct SimulatedRequest {
    index: usize,
    attempt: u32,
    class: Option<Arc<str>>,
    share: Option<Arc<str>>,
    body: String,
}

impl Client {
    pub(super) fn new(
        strategy: Strategy,
        provider: &Rc<ProviderSide>,
    ) -> Result<Self, LimitsError> {
        let way = Way::new(strategy, provider)?;
        Ok(Self { provider: provider.clone(), strategy, way })
    }

    /// Makes one attempt of a call.
    pub(super) async fn call(&self, index: usize, attempt: u32) -> AttemptEnd {
        match &self.way {
            Way::Bare => bare(&self.provider, index, attempt).await,
            Way::Counted(counters) => self.counted(counters, index, attempt).await,
            Way::Settled(service) => throttled(service, self.request(index, attempt)).await,
            Way::Kept(service) => throttled(service, self.request(index, attempt)).await,
        }
    }

    async fn counted(&self, counters: &Counters, index: usize, attempt: u32) -> AttemptEnd {
        let call = &self.provider.calls()[index];
        let max_tokens = self.max_tokens_of(call);
        let asked = usage! { requests: 1, input_tokens: call.input, output_tokens: max_tokens };
        let Some(taken) = counters.take(asked).await else { return AttemptEnd::Impossible };
        let outcome = bare(&self.provider, index, attempt).await;
        let nothing = usage! { requests: 1, input_tokens: 0, output_tokens: 0 };
        let is_answered = outcome == AttemptEnd::Answered;
        counters.correct(&taken, &if is_answered { call.used() } else { nothing });
        outcome
    }

    fn request(&self, index: usize, attempt: u32) -> SimulatedRequest {
        let call = &self.provider.calls()[index];
        let (max_tokens, input) = (self.max_tokens_of(call), call.input);
        SimulatedRequest {
            index,
            attempt,
            class: call.class.clone(),
            share: call.share.clone(),
            body: format!(r#"{{"model":"m","max_tokens":{max_tokens},"prompt":"{input}"}}"#),
        }
    }

    fn max_tokens_of(&self, call: &TraceCall) -> u64 {
        match self.strategy {
            Strategy::Exact => call.output,
            _ => self.provider.simulation().max_tokens_of(call),
        }
    }
}

impl Way {
    fn new(strategy: Strategy, provider: &Rc<ProviderSide>) -> Result<Self, LimitsError> {
        let simulation = provider.simulation();
        let counters = |kind| {
            let meters = simulation.meters()?;
            Ok(Self::Counted(Counters::new(kind, &meters, provider.start())))
        };
        let service = ProviderService { provider: provider.clone() };
        let layer = |output| -> Result<_, LimitsError> {
            // It begins where a minute does, as the provider's time.
            let store = MemoryStore::starting_at(epoch());
            let limiter = Limiter::with_store(simulation.limits().clone(), store)?;
            let bucket = simulation.bucket_name().to_owned();
            // A prompt is written as how many tokens it has.
            let rules = compatible::rules().estimator(|text: &str| text.parse().unwrap_or(0.0));
            let rules = rules.output(output).bucket(move |_| bucket.clone());
            let demands = Demands { rules: rules.clone() };
            Ok((ThrottleLayer::new(limiter, demands).wait_forever(), rules))
        };
        let settled = |output| -> Result<_, LimitsError> {
            let (layer, rules) = layer(output)?;
            Ok(Self::Settled(layer.inspector(rules.inspector()).layer(service.clone())))
        };
        match strategy {
            Strategy::RetriesOnly => Ok(Self::Bare),
            Strategy::FixedWindowCount => counters(CounterKind::FixedWindow),
            Strategy::NaiveRefund => counters(CounterKind::NaiveBucket),
            Strategy::WithoutSettle => Ok(Self::Kept(layer(Output::Bound)?.0.layer(service))),
            Strategy::Bound | Strategy::Exact => settled(Output::Bound),
            Strategy::Learned => settled(Output::Learned),
        }
    }
}

async fn bare(provider: &ProviderSide, index: usize, attempt: u32) -> AttemptEnd {
    match provider.serve(index, attempt).await {
        Ok(()) => AttemptEnd::Answered,
        Err(retry_after) => AttemptEnd::Refused(retry_after),
    }
}

/// Sends a request through the layer, and reads the whole response.
async fn throttled<I>(
    service: &Throttle<ProviderService, Demands, I>,
    request: SimulatedRequest,
) -> AttemptEnd
where
    I: Inspector<Response<Full<Bytes>>>,
    I::Inspected: WholeBody,
{
    match service.clone().oneshot(request).await {
        Ok(response) => response.read().await,
        Err(error) => match Throttled::find(error.as_ref()) {
            Some(throttled) if !throttled.is_permanent() => {
                AttemptEnd::Refused(throttled.retry_after())
            }
            _ => AttemptEnd::Impossible,
        },
    }
}

/// A response whose body is read to its end.
trait WholeBody {
    fn read(self) -> impl Future<Output = AttemptEnd>;
}

impl<B: http_body::Body> WholeBody for Response<B> {
    async fn read(self) -> AttemptEnd {
        let (head, body) = self.into_parts();
        if body.collect().await.is_err() {
            return AttemptEnd::Impossible;
        }
        if head.status == StatusCode::TOO_MANY_REQUESTS {
            let seconds = head.headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let seconds = seconds.and_then(|seconds| seconds.parse().ok());
            return AttemptEnd::Refused(seconds.map(Duration::from_secs));
        }
        AttemptEnd::Answered
    }
}

/// Reads the demand of a call: by a provider's rules, with the class and the share of the trace.
#[derive(Clone, Debug)]
pub(super) struct Demands {
    rules: Rules,
}

impl Extractor<SimulatedRequest> for Demands {
    fn extract(&self, request: &mut SimulatedRequest) -> Result<Demand, ExtractError> {
        let mut demand = self.rules.demand(request.body.as_bytes())?;
        if let Some(class) = &request.class {
            demand = demand.class(class);
        }
        if let Some(share) = &request.share {
            demand = demand.share(share);
        }
        Ok(demand)
    }
}

/// The provider, as a service inside the layer.
#[derive(Clone)]
pub(super) struct ProviderService {
    provider: Rc<ProviderSide>,
}

impl Service<SimulatedRequest> for ProviderService {
    type Response = Response<Full<Bytes>>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: SimulatedRequest) -> Self::Future {
        let provider = self.provider.clone();
        Box::pin(async move {
            let outcome = provider.serve(request.index, request.attempt).await;
            let mut response = Response::builder();
            if provider.provider().tells_left() {
                for (name, value) in provider.headers() {
                    response = response.header(name, value);
                }
            }
            let call = &provider.calls()[request.index];
            let body = match outcome {
                Ok(()) => answer(call.input, call.output),
                Err(retry_after) => {
                    response = response.status(StatusCode::TOO_MANY_REQUESTS);
                    if let Some(wait) = retry_after {
                        response = response.header(RETRY_AFTER, wait.as_secs());
                    }
                    String::new()
                }
            };
            Ok(response.body(Full::from(body))?)
        })
    }
}

/// When the clock of the store starts: at the full minute, as that of the provider.
fn epoch() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(1_767_225_600)
}

fn answer(input: u64, output: u64) -> String {
    let choices = [serde_json::json!({ "finish_reason": "stop" })];
    let usage = serde_json::json!({ "prompt_tokens": input, "completion_tokens": output });
    serde_json::json!({ "choices": choices, "usage": usage }).to_string()
}
