//! With tracing-opentelemetry a reservation is a span of its caller's trace, and its call is a
//! child of it.

use std::{convert::Infallible, time::Duration};

use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use tower::{Layer, service_fn};
use tower_throttle::{
    Demand, ExtractError, Limiter, Limits, Quota, Settlement, ThrottleLayer, limits::Class, usage,
};
use tracing::{Instrument, info_span, subscriber::DefaultGuard};
use tracing_subscriber::layer::SubscriberExt;

/// The spans that this thread's tasks ended.
struct Traces {
    exporter: InMemorySpanExporter,
    _provider: SdkTracerProvider,
    _subscriber: DefaultGuard,
}

impl Traces {
    fn begin() -> Self {
        // Where a thread without a subscriber meets a span first, and only one subscriber lives,
        // tracing takes the span to be of interest to none: so there is one more, for all threads.
        drop(tracing::subscriber::set_global_default(tracing_subscriber::registry()));
        let exporter = InMemorySpanExporter::default();
        let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        let subscriber = tracing_subscriber::registry().with(layer);
        let guard = tracing::subscriber::set_default(subscriber);
        Self { exporter, _provider: provider, _subscriber: guard }
    }

    fn all(&self) -> Vec<SpanData> {
        self.exporter.get_finished_spans().expect("the exporter lives")
    }

    fn named(&self, name: &str) -> Vec<SpanData> {
        self.all().into_iter().filter(|span| span.name == name).collect()
    }

    fn only(&self, name: &str) -> SpanData {
        let spans = self.named(name);
        assert_eq!(spans.len(), 1, "{name}: {spans:?}");
        spans.into_iter().next().expect("there is one")
    }
}

fn attribute(span: &SpanData, name: &str) -> Option<String> {
    let found = span.attributes.iter().find(|pair| pair.key.as_str() == name);
    found.map(|pair| pair.value.to_string())
}

fn limits() -> Limits {
    Limits::new()
        .bucket("a", [Quota::per_minute("tokens", 100)])
        .family("a-*", "a")
        .class("batch", Class::new())
}

fn tokens(amount: u64) -> Demand {
    Demand::new("a", usage! { tokens: amount })
}

#[tokio::test(start_paused = true)]
async fn a_call_through_the_layer_is_a_child_of_its_reservation() {
    let traces = Traces::begin();
    let limiter = Limiter::new(limits()).unwrap();
    let extract = |tokens: &mut u64| {
        let demand = Demand::new("a-2026", usage! { tokens: *tokens }).class("batch").share("t7");
        Ok::<_, ExtractError>(demand)
    };
    let layer = ThrottleLayer::from_fn(limiter, extract)
        .inspector(|used: &u64| Settlement::Exact(usage! { tokens: *used }));
    let call = |tokens: u64| {
        // As a client does that is instrumented: one part at once, one when it is polled.
        let begun = info_span!("begun");
        async move {
            let _begun = begun;
            async {}.instrument(info_span!("sent")).await;
            Ok::<_, Infallible>(tokens / 2)
        }
    };
    let service = layer.layer(service_fn(call));
    let caller = service.oneshot(60).instrument(info_span!("caller"));
    assert_eq!(caller.await.unwrap(), 30);

    let (caller, reservation) = (traces.only("caller"), traces.only("reservation"));
    assert_eq!(reservation.parent_span_id, caller.span_context.span_id());
    for call in ["begun", "sent"] {
        let call = traces.only(call);
        assert_eq!(call.parent_span_id, reservation.span_context.span_id());
        assert_eq!(call.span_context.trace_id(), caller.span_context.trace_id());
    }
    let attribute = |name| attribute(&reservation, name);
    assert_eq!(attribute("buckets").as_deref(), Some("a"), "the alias's own bucket");
    assert_eq!(attribute("class").as_deref(), Some("batch"));
    assert_eq!(attribute("share").as_deref(), Some("t7"));
    assert_eq!(attribute("waited").as_deref(), Some("0"));
    assert!(attribute("reserved").is_some_and(|usage| usage.contains("\"tokens\": 60")));
    assert!(attribute("settled").is_some_and(|usage| usage.contains("\"tokens\": 30")));
    assert_eq!(
        (attribute("quota"), attribute("refused"), attribute("degraded")),
        (None, None, None)
    );
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_waits_tells_for_what_and_for_how_long() {
    let traces = Traces::begin();
    let limiter = Limiter::new(limits()).unwrap();
    let first = limiter.reserve(tokens(100)).await.unwrap();
    first.keep().await.unwrap();
    let second = limiter.reserve(tokens(10)).instrument(info_span!("caller")).await.unwrap();
    async {}.instrument(info_span!(parent: second.span(), "call")).await;
    // It goes on while the call does.
    assert_eq!(traces.named("reservation").len(), 1);
    tokio::time::sleep(Duration::from_secs(5)).await;
    second.settle(usage! { tokens: 4 }).await.unwrap();

    let spans = traces.named("reservation");
    let [first, second] = &spans[..] else { panic!("{spans:?}") };
    assert_eq!(first.parent_span_id, SpanId::INVALID);
    assert_eq!(second.parent_span_id, traces.only("caller").span_context.span_id());
    assert_eq!(traces.only("call").parent_span_id, second.span_context.span_id());
    assert_eq!(attribute(second, "quota").as_deref(), Some("a: tokens per minute"));
    let waited: f64 = attribute(second, "waited").unwrap().parse().unwrap();
    assert!((60.0..62.0).contains(&waited), "{waited}");
    assert!(attribute(second, "settled").is_some_and(|usage| usage.contains("\"tokens\": 4")));
}

#[tokio::test(start_paused = true)]
async fn a_refused_or_cancelled_demand_has_a_span_too() {
    let traces = Traces::begin();
    let limiter = Limiter::new(limits()).unwrap();
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    limiter.try_reserve(tokens(1)).await.unwrap_err();
    limiter.reserve(tokens(1).max_wait(Duration::from_secs(1))).await.unwrap_err();
    let second = Duration::from_secs(1);
    tokio::time::timeout(second, limiter.reserve(tokens(1))).await.unwrap_err();

    let spans = traces.named("reservation");
    let refused: Vec<_> = spans.iter().map(|span| attribute(span, "refused")).collect();
    let refused: Vec<_> = refused.iter().map(|refused| refused.as_deref()).collect();
    assert_eq!(refused, [None, Some("not_now"), Some("deadline"), None]);
    assert_eq!(attribute(&spans[2], "quota").as_deref(), Some("a: tokens per minute"));
    assert_eq!(attribute(&spans[3], "waited"), None);
    assert!(spans[1..].iter().all(|span| attribute(span, "reserved").is_none()));
}

#[tokio::test(start_paused = true)]
async fn no_secret_gets_into_a_span() {
    let traces = Traces::begin();
    let limits = Limits::new().resolver(|_| Some(vec![Quota::per_minute("requests", 5)]));
    let limiter = Limiter::new(limits).unwrap();
    let demand = || Demand::secret("key", "sk-live-51Hx", usage! { requests: 1 });
    limiter.reserve(demand()).await.unwrap().release().await.unwrap();
    for _ in 0..6 {
        drop(limiter.try_reserve(demand()).await);
    }
    let all = format!("{:?}", traces.all());
    assert!(all.contains("not_now") && all.contains("key:"), "{all}");
    assert!(!all.contains("51Hx"), "{all}");
}
