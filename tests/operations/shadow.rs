//! Shadow mode: what would have become of calls is told, and they are made at once.

use std::{
    convert::Infallible,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower::{Layer, service_fn};
use tower_throttle::{
    Demand, ExtractError, Limiter, Limits, Quota, Settlement, ThrottleLayer,
    limiter::Retries,
    observe::Event,
    store::{Batch, MemoryStore, Reply, Store, StoreError},
    usage,
};

/// What was told of calls in shadow mode.
#[derive(Clone, Debug, Default)]
struct Told(Arc<Mutex<Vec<String>>>);

impl Told {
    fn observer(&self) -> impl Fn(&Event<'_>) + Send + Sync + 'static {
        let told = self.0.clone();
        move |event: &Event<'_>| {
            let text = match event {
                Event::Shadowed { shadow, .. } => {
                    let quota = shadow.refusal().and_then(|refusal| refusal.binding());
                    let quota = quota.map_or("", |shortage| &shortage.quota);
                    format!("{} {quota}", shadow.kind())
                }
                Event::Granted { waited, .. } => format!("granted after {waited:?}"),
                Event::Settled { .. } => "settled".into(),
                _ => return,
            };
            told.lock().unwrap().push(text.trim_end().into());
        }
    }

    fn take(&self) -> Vec<String> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

fn limits() -> Limits {
    Limits::new().bucket("a", [Quota::per_minute("tokens", 100).max_debt(900)])
}

fn limiter(told: &Told) -> Limiter {
    Limiter::builder(limits()).observer(told.observer()).build().unwrap()
}

fn layer(
    limiter: Limiter,
) -> ThrottleLayer<
    impl Fn(&mut i64) -> Result<Demand, ExtractError> + Clone,
    impl Fn(&i64) -> Settlement + Clone,
> {
    ThrottleLayer::from_fn(limiter, |tokens: &mut i64| {
        let amount = u64::try_from(*tokens)?;
        Ok(Demand::new("a", usage! { tokens: amount }))
    })
    .inspector(|used: &i64| Settlement::Exact(usage! { tokens: used.unsigned_abs() }))
    .shadow()
}

async fn charged(limiter: &Limiter) -> (f64, u64) {
    let status = limiter.status("a").await.unwrap();
    (status.quotas[0].charged, status.quotas[0].in_flight)
}

/// A call that takes a second and uses half of what it asks.
async fn half(tokens: i64) -> Result<i64, Infallible> {
    sleep(Duration::from_secs(1)).await;
    Ok(tokens / 2)
}

#[tokio::test(start_paused = true)]
async fn nothing_waits_and_everything_is_charged() {
    let told = Told::default();
    let limiter = limiter(&told);
    let service = layer(limiter.clone()).layer(service_fn(half));
    let began = Instant::now();
    let calls = [80, 80, 80].map(|tokens| tokio::spawn(service.clone().oneshot(tokens)));
    tokio::task::yield_now().await;
    assert_eq!(charged(&limiter).await, (240.0, 240));
    for call in calls {
        assert_eq!(call.await.unwrap().unwrap(), 40);
    }
    assert_eq!(began.elapsed(), Duration::from_secs(1));
    assert_eq!(charged(&limiter).await, (120.0, 0));
    let granted = "granted after 0ns";
    let wait = "wait tokens per minute";
    let all = [granted, wait, granted, wait, granted, "settled", "settled", "settled"];
    assert_eq!(told.take(), all);
    // Of a debt, as of everything else, nothing is left after the window.
    sleep(Duration::from_secs(61)).await;
    assert_eq!(charged(&limiter).await, (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn what_would_have_become_of_a_demand_is_told() {
    let told = Told::default();
    let limiter = limiter(&told);
    let demand = |tokens: u64| Demand::new("a", usage! { tokens: tokens });
    limiter.shadow(demand(100)).await.unwrap().keep().await.unwrap();
    told.take();

    // It would have had to wait for a minute.
    let short = demand(10).max_wait(Duration::from_secs(10));
    drop(limiter.shadow(short).await.unwrap());
    assert_eq!(told.take()[0], "deadline tokens per minute");
    let long = demand(10).max_wait(Duration::from_secs(100));
    drop(limiter.shadow(long).await.unwrap());
    assert_eq!(told.take()[0], "wait tokens per minute");
    // More than the limit could never pass; more than is believed of a call is not charged.
    let before = charged(&limiter).await.0;
    drop(limiter.shadow(demand(50_000)).await.unwrap());
    assert_eq!(told.take()[0], "exceeds_capacity tokens per minute");
    assert_eq!(charged(&limiter).await.0, before + 1_000.0);

    let reject = layer(limiter.clone()).reject().layer(service_fn(half));
    reject.oneshot(10).await.unwrap();
    assert_eq!(told.take()[0], "not_now tokens per minute");

    limiter.pause("a", Duration::from_secs(500)).await.unwrap();
    drop(limiter.shadow(demand(1)).await.unwrap());
    assert_eq!(told.take()[0], "wait paused");

    // What is no lack of quota is an error, and nothing is charged.
    assert!(limiter.shadow(Demand::new("no such bucket", usage! {})).await.is_err());
    assert_eq!(told.take(), ["bad_demand"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_that_cannot_be_read_is_sent() {
    let told = Told::default();
    let limiter = limiter(&told);
    let service = layer(limiter.clone()).layer(service_fn(half));
    assert_eq!(service.oneshot(-8).await.unwrap(), -4);
    assert_eq!(told.take(), ["unread", "granted after 0ns", "settled"]);
    assert_eq!(charged(&limiter).await, (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_given_up_before_it_is_made_leaves_nothing() {
    let limiter = limiter(&Told::default());
    let service = layer(limiter.clone()).layer(service_fn(half));
    let call = service.clone().oneshot(80);
    drop(call);
    let call = tokio::spawn(service.oneshot(80));
    tokio::task::yield_now().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    assert_eq!(charged(&limiter).await, (80.0, 0), "it was made");
}

/// A store that takes a while, or hangs.
#[derive(Debug, Default)]
struct Slow {
    inner: MemoryStore,
    hangs: AtomicBool,
}

impl Store for Slow {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let hangs = self.hangs.load(Ordering::Relaxed);
        let answer = match self.inner.apply(batch) {
            Reply::Now(answer) => Ok(answer),
            Reply::Later(_) => Err(StoreError::Unavailable("memory answers at once".into())),
        };
        Reply::Later(Box::pin(async move {
            if hangs {
                std::future::pending::<()>().await;
            }
            sleep(Duration::from_millis(100)).await;
            answer
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn no_call_waits_for_the_store() {
    let told = Told::default();
    let store = Arc::new(Slow::default());
    let builder = Limiter::builder(limits()).shared_store(store.clone());
    let builder = builder.observer(told.observer()).retries(Retries::none());
    let limiter = builder.build().unwrap();
    let service = layer(limiter.clone()).layer(service_fn(half));
    for _ in 0..2 {
        let began = Instant::now();
        service.clone().oneshot(80).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(charged(&limiter).await, (80.0, 0));
    let granted = told.take();
    assert_eq!(granted.iter().filter(|told| told.starts_with("granted")).count(), 2);

    // One that is done before the store answers is not charged.
    let fast =
        layer(limiter.clone()).layer(service_fn(async |tokens| Ok::<i64, Infallible>(tokens)));
    let began = Instant::now();
    fast.clone().oneshot(5).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    sleep(Duration::from_secs(1)).await;
    assert_eq!(charged(&limiter).await, (80.0, 0));

    store.hangs.store(true, Ordering::Relaxed);
    for _ in 0..3 {
        let began = Instant::now();
        service.clone().oneshot(80).await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_secs(1));
    }
    assert!(told.take().iter().any(|told| told == "store_unavailable"));
}
