//! What metrics tell of the life of demands.

use std::{collections::BTreeMap, time::Duration};

use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::sleep;
use tower_throttle::{
    Demand, Feedback, Limiter, Limits, OnUnavailable, Quota,
    limiter::{LimiterBuilder, Retries},
    limits::{Class, Undeclared},
    metrics::Metrics,
    store::{Batch, MemoryStore, Reply, Store, StoreError},
    usage,
};

/// What this thread's limiters record, by name and labels.
struct Recorded {
    snapshotter: Snapshotter,
    _recorder: metrics::LocalRecorderGuard<'static>,
}

impl Recorded {
    fn begin() -> Self {
        // The guard borrows it, and a test ends soon.
        let recorder: &'static DebuggingRecorder = Box::leak(Box::new(DebuggingRecorder::new()));
        let guard = metrics::set_default_local_recorder(recorder);
        Self { snapshotter: recorder.snapshotter(), _recorder: guard }
    }

    /// Every value as `name{label,label}`, without the prefix; of a histogram its sum. Looking sets
    /// all of them back to 0.
    fn all(&self) -> BTreeMap<String, f64> {
        let value = |value: &DebugValue| match value {
            DebugValue::Counter(count) => *count as f64,
            DebugValue::Gauge(level) => level.into_inner(),
            DebugValue::Histogram(values) => values.iter().map(|value| value.into_inner()).sum(),
        };
        let all = self.snapshotter.snapshot().into_vec().into_iter();
        all.map(|(key, _, _, recorded)| {
            let labels: Vec<_> = key.key().labels().map(|label| label.value()).collect();
            let name = key.key().name().trim_start_matches("tower_throttle_");
            (format!("{name}{{{}}}", labels.join(",")), value(&recorded))
        })
        .collect()
    }
}

/// A store elsewhere, which may be down.
#[derive(Debug, Default)]
struct Elsewhere {
    inner: MemoryStore,
    is_down: std::sync::atomic::AtomicBool,
}

impl Store for Elsewhere {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let is_down = self.is_down.load(std::sync::atomic::Ordering::Relaxed);
        let answer = match self.inner.apply(batch) {
            _ if is_down => Err(StoreError::Unavailable("the line is dead".into())),
            Reply::Now(answer) => Ok(answer),
            Reply::Later(_) => Err(StoreError::Unavailable("memory answers at once".into())),
        };
        Reply::Later(Box::pin(async move {
            sleep(Duration::from_millis(10)).await;
            answer
        }))
    }
}

fn limits() -> Limits {
    Limits::new()
        .bucket("a", [Quota::per_minute("tokens", 100)])
        .bucket("b", [Quota::per_minute("cents", 100)])
        .family("a-*", "a")
        .class("batch", Class::new())
}

fn builder() -> (LimiterBuilder, Metrics) {
    let metrics = Metrics::new();
    (Limiter::builder(limits()).observer(metrics.clone()), metrics)
}

fn tokens(amount: u64) -> Demand {
    Demand::new("a", usage! { tokens: amount })
}

#[tokio::test(start_paused = true)]
async fn the_life_of_demands_is_counted() {
    let recorded = Recorded::begin();
    let (builder, metrics) = builder();
    let limiter = builder.build().unwrap();

    let batch = Demand::new("a-2026", usage! { tokens: 60 }).class("batch");
    let first = limiter.reserve(batch.and_with("b", usage! { cents: 5 })).await.unwrap();
    let mut second = limiter.reserve(tokens(30)).await.unwrap();
    second.adjust(usage! { tokens: 40 }).await.unwrap();
    limiter.try_reserve(tokens(20)).await.unwrap_err();
    drop(limiter.reserve(Demand::new("no such bucket", usage! {})).await);
    drop(limiter.reserve(tokens(1).class("no such class")).await);
    let waits = tokio::spawn(limiter.reserve(tokens(10)));
    let gives_up = tokio::spawn(limiter.reserve(tokens(10)));
    sleep(Duration::from_secs(5)).await;
    gives_up.abort();
    sleep(Duration::from_secs(1)).await;
    first.settle(usage! { tokens: 30 }).await.unwrap();
    let third = waits.await.unwrap().unwrap();
    third.release().await.unwrap();
    metrics.refresh(&limiter).await.unwrap();

    let all = recorded.all();
    let value = |name: &str| all.get(name).copied();
    let is = |name: &str, wanted: f64| assert_eq!(value(name), Some(wanted), "{name} of {all:#?}");
    is("granted_total{a,batch}", 1.0);
    is("granted_total{b,batch}", 1.0);
    is("granted_total{a,none}", 2.0);
    is("refused_total{a,tokens per minute,none,not_now}", 1.0);
    // What the caller's caller wrote is no label.
    is("refused_total{other,all,none,bad_demand}", 1.0);
    is("refused_total{a,all,other,bad_demand}", 1.0);
    is("cancelled_total{a,none}", 1.0);
    is("waiting{a,none}", 0.0);
    is("in_flight{a,none}", 1.0);
    is("in_flight{a,batch}", 0.0);
    is("waited_seconds{a,none}", 6.0);
    is("reserved_total{a,batch,tokens}", 60.0);
    is("reserved_total{b,batch,cents}", 5.0);
    is("settled_total{a,batch,tokens}", 30.0);
    is("refunded_total{a,batch,tokens}", 30.0);
    is("settled_total{b,batch,cents}", 5.0);
    is("debited_total{a,none,tokens}", 10.0);
    is("refunded_total{a,none,tokens}", 10.0);
    is("estimate_ratio{a,batch,tokens}", 0.5);
    assert_eq!(value("reserved_total{b,batch,tokens}"), None);
    assert_eq!(value("estimate_ratio{a,none,tokens}"), None, "it was released");
    is("quota_limit{a,tokens per minute}", 100.0);
    is("quota_charged{a,tokens per minute}", 70.0);
    is("quota_available{a,tokens per minute}", 30.0);
    is("quota_in_flight{a,tokens per minute}", 40.0);
    is("quota_held{a,tokens per minute}", 0.0);
    is("fleet_waiting{a}", 0.0);
    is("predicted_wait_seconds{a}", 0.0);
    is("paused_until_seconds{a,all}", 0.0);
    second.keep().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_recorder_is_asked_again_after_a_second() {
    let first = Recorded::begin();
    let (builder, _) = builder();
    let limiter = builder.build().unwrap();
    limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
    assert_eq!(first.all()["granted_total{a,none}"], 1.0);
    drop(first);
    let second = Recorded::begin();
    sleep(Duration::from_secs(1)).await;
    limiter.reserve(tokens(20)).await.unwrap().settle(usage! { tokens: 5 }).await.unwrap();
    let all = second.all();
    for (name, wanted) in [
        ("granted_total{a,none}", 1.0),
        ("in_flight{a,none}", 0.0),
        ("reserved_total{a,none,tokens}", 20.0),
        ("refunded_total{a,none,tokens}", 15.0),
        ("settled_total{a,none,tokens}", 5.0),
    ] {
        assert_eq!(all.get(name), Some(&wanted), "{name} of {all:#?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_a_provider_says_is_told() {
    let recorded = Recorded::begin();
    let (builder, metrics) = builder();
    let limiter = builder.build().unwrap();
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
    let call = limiter.reserve(tokens(10)).await.unwrap();
    let wait = Feedback::new().with_retry_after(Duration::from_secs(20));
    call.feedback(&wait).await.unwrap();
    metrics.refresh(&limiter).await.unwrap();
    let all = recorded.all();
    assert_eq!(all["pauses_total{a,all}"], 1.0);
    let paused = all["paused_until_seconds{a,all}"] - now.as_secs_f64();
    assert!((19.0..25.0).contains(&paused), "{paused}");
}

#[tokio::test(start_paused = true)]
async fn so_many_buckets_get_a_label_and_no_more() {
    let recorded = Recorded::begin();
    let metrics = Metrics::with_max_buckets(2);
    let limits = Limits::new().resolver(|_| Some(vec![Quota::per_minute("tokens", 100)]));
    let limiter = Limiter::builder(limits).observer(metrics.clone()).build().unwrap();
    for tenant in 0..10 {
        let demand = Demand::new(format!("tenant-{tenant}"), usage! { tokens: 1 });
        limiter.reserve(demand).await.unwrap().keep().await.unwrap();
    }
    metrics.refresh(&limiter).await.unwrap();
    let all = recorded.all();
    assert_eq!(all["granted_total{tenant-0,none}"], 1.0);
    assert_eq!(all["granted_total{other,none}"], 8.0);
    assert_eq!(all["in_flight{other,none}"], 0.0);
    let of = |name: &str| all.keys().filter(|key| key.starts_with(name)).count();
    assert_eq!((of("granted_total"), of("quota_limit")), (3, 2), "{all:#?}");
}

#[tokio::test(start_paused = true)]
async fn batches_and_outages_of_the_store_are_counted() {
    let recorded = Recorded::begin();
    let (builder, _) = builder();
    let store = std::sync::Arc::new(Elsewhere::default());
    let builder = builder.shared_store(store.clone()).retries(Retries::none());
    let limiter = builder.on_unavailable(OnUnavailable::Allow).build().unwrap();
    limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
    store.is_down.store(true, std::sync::atomic::Ordering::Relaxed);
    let call = limiter.reserve(tokens(10)).await.unwrap();
    assert!(call.degraded());
    call.settle(usage! { tokens: 4 }).await.unwrap();

    let all = recorded.all();
    assert_eq!(all["degraded{}"], 1.0);
    assert_eq!(all["store_errors_total{}"], 1.0);
    assert_eq!(all["store_batch_operations{}"], 3.0, "a reserve, a settle, a reserve");
    assert!((0.030..0.035).contains(&all["store_seconds{}"]), "{all:#?}");
    assert_eq!(all["granted_degraded_total{a,none}"], 1.0);
    // One that is counted nowhere ends, too.
    assert_eq!(all["in_flight{a,none}"], 0.0);
    assert_eq!(all["settled_total{a,none,tokens}"], 14.0);
}

#[tokio::test(start_paused = true)]
async fn a_limiter_that_is_dropped_in_an_outage_is_degraded_no_more() {
    let recorded = Recorded::begin();
    let (builder, _) = builder();
    let store = std::sync::Arc::new(Elsewhere::default());
    store.is_down.store(true, std::sync::atomic::Ordering::Relaxed);
    let builder = builder.shared_store(store).retries(Retries::none());
    let limiter = builder.build().unwrap();
    limiter.reserve(tokens(10)).await.unwrap_err();
    drop(limiter);
    // What became of the last batch is asked for five minutes.
    sleep(Duration::from_secs(400)).await;
    let all = recorded.all();
    assert!(all["store_errors_total{}"] > 1.0 && all["degraded{}"] == 0.0, "{all:#?}");
}

#[tokio::test(start_paused = true)]
async fn gauges_of_what_a_limiter_has_no_more_are_no_number() {
    let recorded = Recorded::begin();
    let (builder, metrics) = builder();
    let limiter = builder.build().unwrap();
    let other = Limiter::builder(limits()).observer(metrics.clone()).build().unwrap();
    let cents = || Demand::new("b", usage! { cents: 1 });
    limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
    limiter.reserve(cents()).await.unwrap().keep().await.unwrap();
    other.reserve(cents()).await.unwrap().keep().await.unwrap();
    metrics.refresh(&limiter).await.unwrap();
    metrics.refresh(&other).await.unwrap();
    assert_eq!(recorded.all()["quota_charged{a,tokens per minute}"], 10.0);

    // Another quota, and a bucket that only the other limiter has.
    let calls = Limits::new().bucket("a", [Quota::concurrency(1)]);
    limiter.update(calls).unwrap();
    let open = limiter.reserve(tokens(10)).await.unwrap();
    metrics.refresh(&limiter).await.unwrap();
    let all = recorded.all();
    assert!(all["quota_charged{a,tokens per minute}"].is_nan(), "{all:#?}");
    assert_eq!(all["quota_limit{a,calls in flight}"], 1.0);
    assert!(!all["quota_charged{b,cents per minute}"].is_nan(), "the other limiter has it");
    assert!(all["predicted_wait_seconds{a}"].is_nan(), "a call has to end first");

    drop((open, limiter));
    drop(other.reserve(cents()).await);
    metrics.refresh(&other).await.unwrap();
    let all = recorded.all();
    assert!(all["fleet_waiting{a}"].is_nan(), "{all:#?}");
    assert_eq!(all["fleet_waiting{b}"], 0.0);
}

#[tokio::test(start_paused = true)]
async fn what_nothing_limits_ends_once() {
    let recorded = Recorded::begin();
    let limits = limits().undeclared(Undeclared::Unlimited);
    let limiter = Limiter::builder(limits).observer(Metrics::new()).build().unwrap();
    let free = || limiter.reserve(Demand::new("free", usage! { tokens: 5 }));
    free().await.unwrap().settle(usage! { tokens: 4 }).await.unwrap();
    drop(free().await.unwrap());
    let detached = limiter.reserve(tokens(10)).await.unwrap();
    let _id = detached.detach(Duration::from_secs(60)).await.unwrap();
    let all = recorded.all();
    assert_eq!(all["in_flight{free,none}"], 0.0);
    assert_eq!(all["settled_total{free,none,tokens}"], 9.0);
    assert_eq!(all["in_flight{a,none}"], 0.0, "it was detached");
    assert_eq!(all.get("settled_total{a,none,tokens}"), None);
}
