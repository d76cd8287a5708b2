//! A caller that is interrupted, a future that is polled too often, and a subscriber that panics.

use std::{future::poll_fn, time::Duration};

use super::*;
use crate::{Limiter, Limits, Quota, usage};

const HOUR: Duration = Duration::from_secs(3_600);

/// A caller has found where its demand is counted, and is interrupted there while the limits are
/// replaced.
fn interrupted(
    limits: impl Fn(u64) -> Limits,
    limit: u64,
    tokens: u64,
) -> (Limiter, Arc<BucketTarget>, Demand) {
    let limiter = Limiter::new(limits(100)).expect("they are valid");
    let demand = |tokens| Demand::new("a", usage! { tokens: tokens });
    assert!(limiter.acquire_at_once(&demand(0), Mode::Try).is_ready());
    let demand = demand(tokens);
    let target = limiter.inner.known_target(&demand).expect("it is known");
    limiter.update(limits(limit)).expect("they are valid");
    (limiter, target, demand)
}

#[tokio::test]
async fn a_late_caller_is_held_to_the_new_limits() {
    let limits = |limit| Limits::new().bucket("a", [Quota::per_hour("tokens", limit)]);
    let (_limiter, target, demand) = interrupted(limits, 10, 90);
    let answer = try_on(target, &demand, Terms::default(), Mode::Try);
    assert!(matches!(answer, Some(Err(Throttled::ExceedsCapacity(_)))));
}

#[tokio::test(start_paused = true)]
async fn a_late_caller_brings_no_older_limits_back() {
    let limits = |limit| Limits::new().bucket("a", [Quota::token_bucket("tokens", limit, HOUR)]);
    let (limiter, target, demand) = interrupted(limits, 1_000, 1);
    let call =
        limiter.try_reserve(Demand::new("a", usage! { tokens: 900 })).await.expect("it fits");
    tokio::time::advance(Duration::from_secs(1)).await;
    assert!(matches!(try_on(target, &demand, Terms::default(), Mode::Try), Some(Ok(_))));
    call.settle(usage! { tokens: 0 }).await.expect("memory answers");
    let charged = limiter.status("a").await.expect("memory answers").quotas[0].charged;
    assert!(charged < 10.0, "{charged} of a call that used nothing");
}

#[tokio::test]
async fn what_is_granted_once_is_not_granted_again() {
    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::concurrency(2)])).expect("they are valid");
    let mut reserve = pin!(limiter.reserve(Demand::new("a", usage! {})));
    let mut polled = async || poll_fn(|context| Poll::Ready(reserve.as_mut().poll(context))).await;
    let first = polled().await;
    assert!(matches!(first, Poll::Ready(Ok(_))));
    assert!(polled().await.is_pending());
    assert_eq!(limiter.status("a").await.expect("memory answers").quotas[0].in_flight, 1);
}

#[cfg(feature = "tracing")]
#[test]
fn a_subscriber_that_panics_takes_no_capacity() {
    use tracing::{Metadata, Subscriber, span};

    struct Broken;

    impl Subscriber for Broken {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }

        fn new_span(&self, _: &span::Attributes<'_>) -> span::Id {
            span::Id::from_u64(1)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, _: &tracing::Event<'_>) {
            panic!("the disk is full");
        }

        fn enter(&self, _: &span::Id) {}

        fn exit(&self, _: &span::Id) {}
    }

    let limiter =
        Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).expect("they are valid");
    let ask = || limiter.acquire_at_once(&Demand::new("a", usage! {}), Mode::Try);
    for _ in 0..2 {
        let call = tracing::subscriber::with_default(Broken, ask);
        assert!(matches!(call, Poll::Ready(Ok(_))));
    }
}

/// Events are emitted in the span of the caller that they are about, whichever task tells them.
#[cfg(feature = "tracing")]
#[tokio::test(start_paused = true)]
async fn events_of_a_waiter_are_emitted_in_its_callers_span() {
    use std::{
        fmt,
        sync::{
            Mutex,
            atomic::{AtomicU64, Ordering},
        },
    };

    use tracing::{Instrument, Metadata, Subscriber, field::Field, span};

    /// A message, and the span that it is in.
    type Told = (String, Option<&'static str>);

    /// Notes the message of each event of this crate, and the span that it is in.
    #[derive(Default)]
    struct Spans {
        next: AtomicU64,
        known: Mutex<Vec<(u64, &'static Metadata<'static>)>>,
        entered: Mutex<Vec<u64>>,
        told: Arc<Mutex<Vec<Told>>>,
    }

    impl Spans {
        fn metadata(&self, id: u64) -> Option<&'static Metadata<'static>> {
            let known = self.known.lock().expect("no test panics here");
            known.iter().find(|(known, _)| *known == id).map(|(_, metadata)| *metadata)
        }
    }

    struct Message(String);

    impl tracing::field::Visit for Message {
        fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
            if field.name() == "message" {
                self.0 = format!("{value:?}");
            }
        }
    }

    impl Subscriber for Spans {
        fn enabled(&self, metadata: &Metadata<'_>) -> bool {
            metadata.target().starts_with("tower_throttle")
        }

        fn new_span(&self, attributes: &span::Attributes<'_>) -> span::Id {
            let id = self.next.fetch_add(1, Ordering::Relaxed) + 1;
            let mut known = self.known.lock().expect("no test panics here");
            known.push((id, attributes.metadata()));
            span::Id::from_u64(id)
        }

        fn record(&self, _: &span::Id, _: &span::Record<'_>) {}

        fn record_follows_from(&self, _: &span::Id, _: &span::Id) {}

        fn event(&self, event: &tracing::Event<'_>) {
            let mut message = Message(String::new());
            event.record(&mut message);
            let entered = self.entered.lock().expect("no test panics here").last().copied();
            let span = entered.and_then(|id| self.metadata(id)).map(|metadata| metadata.name());
            self.told.lock().expect("no test panics here").push((message.0, span));
        }

        fn enter(&self, id: &span::Id) {
            self.entered.lock().expect("no test panics here").push(id.into_u64());
        }

        fn exit(&self, _: &span::Id) {
            self.entered.lock().expect("no test panics here").pop();
        }

        fn current_span(&self) -> tracing_core::span::Current {
            let entered = self.entered.lock().expect("no test panics here").last().copied();
            match entered.and_then(|id| Some((id, self.metadata(id)?))) {
                Some((id, metadata)) => {
                    tracing_core::span::Current::new(span::Id::from_u64(id), metadata)
                }
                None => tracing_core::span::Current::none(),
            }
        }
    }

    let (told, spans) = (Arc::<Mutex<Vec<Told>>>::default(), Spans::default());
    let _guard = tracing::subscriber::set_default(Spans { told: Arc::clone(&told), ..spans });
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::new(limits).expect("they are valid");
    let demand = || Demand::new("a", usage! { tokens: 60 });
    let call = limiter.reserve(demand()).await.expect("it fits");
    let reserve = limiter.reserve(demand());
    let waits = tokio::spawn(reserve.instrument(tracing::info_span!("first")));
    let reserve = limiter.reserve(demand());
    let dropped = tokio::spawn(reserve.instrument(tracing::info_span!("second")));
    tokio::time::sleep(Duration::from_secs(6)).await;
    dropped.abort();
    tokio::time::sleep(Duration::from_secs(1)).await;
    call.release().await.expect("memory answers");
    waits.await.expect("it does not panic").expect("it fits").keep().await.expect("it is kept");

    let told = told.lock().expect("no test panics here");
    let spans = |message: &str| -> Vec<_> {
        told.iter().filter(|(told, _)| told == message).map(|(_, span)| *span).collect()
    };
    let both = [Some("first"), Some("second")];
    assert_eq!(spans("waiting for quota"), both, "{told:?}");
    assert_eq!(spans("still waiting for quota"), both);
    assert_eq!(spans("cancelled"), [Some("second")]);
    assert_eq!(spans("granted"), [None, Some("first")]);
    assert_eq!(spans("settled"), [None, None]);
}
