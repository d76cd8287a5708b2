//! What observers are told.

use std::sync::{Arc, Mutex};

use tower_throttle::{
    Demand, Limiter, Limits, Quota,
    limits::Class,
    observe::{Event, Observer},
    usage,
};

use crate::fake::*;

/// Keeps what it is told, as text.
#[derive(Clone, Debug, Default)]
pub(crate) struct Recorder(Arc<Mutex<Vec<String>>>);

impl Observer for Recorder {
    fn on_event(&self, event: &Event<'_>) {
        self.0.lock().unwrap().push(format!("{event:?}"));
    }
}

impl Recorder {
    /// How many events have this in them.
    pub(crate) fn count(&self, text: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|event| event.contains(text)).count()
    }

    /// The names of the events so far.
    fn names(&self) -> Vec<String> {
        let name = |event: &String| event.split([' ', '{']).next().unwrap_or_default().to_owned();
        self.0.lock().unwrap().iter().map(name).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn each_step_of_a_demand_is_told_once() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let recorder = Recorder::default();
        let builder = Limiter::builder(limits()).observer(recorder.clone());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let front = waiting(&limiter, tokens(10));
        quiet().await;
        let behind = waiting(&limiter, tokens(20));
        quiet().await;
        // Each waiter is told of once, the first as well as those behind it.
        assert_eq!(
            recorder.names(),
            ["Granted", "WaitStarted", "WaitStarted"],
            "shared: {is_shared}"
        );
        assert_eq!((recorder.count("position: 0"), recorder.count("position: 1")), (1, 1));
        limiter.try_reserve(tokens(1)).await.unwrap_err();
        call.settle(usage! { tokens: 0 }).await.unwrap();
        drop(front.await.unwrap());
        behind.await.unwrap().unwrap().release().await.unwrap();
        quiet().await;
        let told = recorder.names();
        let count = |name: &str| told.iter().filter(|told| *told == name).count();
        assert_eq!(
            (count("Granted"), count("Refused"), count("Settled"), told.len()),
            (3, 1, 3, 9),
            "{told:?}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_is_told_once_with_its_reason() {
    let recorder = Recorder::default();
    let limits = Limits::new()
        .bucket("a", [Quota::per_day("tokens", 100), Quota::token_bucket("requests", 9, secs(1))]);
    let limiter = Limiter::builder(limits).observer(recorder.clone()).build().unwrap();
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    let waits = waiting(&limiter, tokens(10));
    tokio::time::sleep(ms(4_900)).await;
    assert_eq!(recorder.count("LongWait"), 0);
    tokio::time::sleep(ms(200)).await;
    let told: Vec<_> =
        recorder.0.lock().unwrap().iter().filter(|e| e.contains("LongWait")).cloned().collect();
    assert_eq!(told.len(), 1);
    let named = r#"position: 0, bucket: "a", quota: "tokens per day", predicted: Some("#;
    assert!(told[0].contains(named), "{}", told[0]);
    let seconds: f64 =
        told[0].split("Some(").nth(1).unwrap().trim_end_matches("s) }").parse().unwrap();
    assert!((86_390.0..88_000.0).contains(&seconds), "{seconds}");
    tokio::time::sleep(secs(3_600)).await;
    assert_eq!(recorder.count("LongWait"), 1);
    waits.abort();

    // A wait that ends before tells nothing, nor does one that may not be so long.
    limiter.reserve(tokens(10).max_wait(secs(4))).await.unwrap_err();
    assert_eq!(recorder.count("LongWait"), 1);
}

#[tokio::test(start_paused = true)]
async fn how_long_a_long_wait_is_can_be_said() {
    for (long, before) in [(secs(0), secs(0)), (secs(60), secs(59))] {
        let recorder = Recorder::default();
        let builder = Limiter::builder(limits()).long_wait(long).observer(recorder.clone());
        let limiter = builder.build().unwrap();
        limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
        let waits = waiting(&limiter, tokens(10));
        tokio::time::sleep(before).await;
        assert_eq!(recorder.count("LongWait"), 0, "{long:?}");
        tokio::time::sleep(secs(2)).await;
        assert_eq!(recorder.count("LongWait"), 1, "{long:?}");
        waits.abort();
    }
    // One that is never told does nothing else.
    let limiter = Limiter::builder(limits()).long_wait(std::time::Duration::MAX).build().unwrap();
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    limiter.reserve(tokens(1).max_wait(secs(4_000))).await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_behind_others_names_what_holds_it() {
    let recorder = Recorder::default();
    let limiter = Limiter::builder(limits()).observer(recorder.clone()).build().unwrap();
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    let waits: Vec<_> = (0..50).map(|_| waiting(&limiter, tokens(1))).collect();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(recorder.count("LongWait"), 50);
    assert_eq!(recorder.count(r#"quota: "tokens per hour", predicted: Some("#), 50);
    waits.iter().for_each(|wait| wait.abort());
}

#[tokio::test(start_paused = true)]
async fn a_pause_is_named_as_one() {
    let recorder = Recorder::default();
    let limiter = Limiter::builder(limits()).observer(recorder.clone()).build().unwrap();
    limiter.pause("a", secs(8)).await.unwrap();
    let began = tokio::time::Instant::now();
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    assert_eq!(began.elapsed(), secs(8));
    assert_eq!(recorder.count(r#"quota: "paused", predicted: Some(3"#), 1);
}

#[tokio::test(start_paused = true)]
async fn an_observer_that_panics_breaks_nothing() {
    let store = FakeStore::new();
    let quietly = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let observer = |event: &Event<'_>| panic!("{event:?}");
    let limiter = builder(&store).observer(observer).build().unwrap();
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let waits = waiting(&limiter, tokens(10));
    tokio::time::sleep(secs(6)).await;
    limiter.try_reserve(tokens(1)).await.unwrap_err();
    call.settle(usage! { tokens: 50 }).await.unwrap();
    waits.await.unwrap().unwrap().keep().await.unwrap();
    store.inner.clear();
    store.always(Fate::Unavailable);
    limiter.reserve(tokens(1)).await.unwrap_err();
    store.heal();
    tokio::time::sleep(secs(10)).await;
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    std::panic::set_hook(quietly);
    assert_eq!(truth(&store).await, (1.0, 0));
}

#[tokio::test(start_paused = true)]
async fn an_observer_may_use_the_limiter() {
    let slot: Arc<Mutex<Option<Limiter>>> = Arc::default();
    let observer = {
        let slot = slot.clone();
        move |event: &Event<'_>| {
            let limiter = slot.lock().unwrap().clone();
            if let (Event::Settled { .. }, Some(limiter)) = (event, limiter) {
                limiter.update(limits()).unwrap();
            }
        }
    };
    let limiter = Limiter::builder(limits()).observer(observer).build().unwrap();
    *slot.lock().unwrap() = Some(limiter.clone());
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 1.0);
}

/// The ids of the events of one kind, in order.
fn ids(recorder: &Recorder, name: &str) -> Vec<u64> {
    let id = |event: &String| {
        let id = event.split("id: ").nth(1)?.split(',').next()?.parse().ok()?;
        event.starts_with(name).then_some(id)
    };
    recorder.0.lock().unwrap().iter().filter_map(id).collect()
}

#[tokio::test(start_paused = true)]
async fn events_of_one_call_have_one_id_all_its_buckets_its_class_and_its_share() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let recorder = Recorder::default();
        let limits = || {
            Limits::new()
                .bucket("a", [Quota::per_hour("tokens", 100)])
                .bucket("parent", [Quota::per_hour("tokens", 1_000)])
                .family("a-*", "a")
                .class("batch", Class::new())
        };
        let builder = Limiter::builder(limits()).observer(recorder.clone());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let demand = |tokens| {
            let demand = Demand::new("a-2", usage! { tokens: tokens }).and("parent");
            demand.class("batch").share("tenant-7")
        };
        let call = limiter.reserve(demand(100)).await.unwrap();
        let waits = waiting(&limiter, demand(10));
        quiet().await;
        let id = call.id();
        call.settle(usage! { tokens: 0 }).await.unwrap();
        let waited = waits.await.unwrap().unwrap();
        limiter.try_reserve(demand(95)).await.unwrap_err();
        let other = waited.id();
        drop(waited);
        quiet().await;

        assert_eq!(ids(&recorder, "Granted"), [id, other], "shared: {is_shared}");
        assert_eq!(ids(&recorder, "Settled"), [id, other]);
        assert_eq!(ids(&recorder, "WaitStarted"), [other]);
        let refused = ids(&recorder, "Refused");
        assert!(refused.len() == 1 && !refused.contains(&id) && !refused.contains(&other));
        let all = r#"buckets: ["a", "parent"], class: Some("batch"), share: Some("tenant-7")"#;
        assert_eq!(recorder.count(all), recorder.names().len(), "{recorder:?}");
        store.inner.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_is_dropped_is_told_once() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let recorder = Recorder::default();
        let builder = Limiter::builder(limits()).observer(recorder.clone());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = waiting(&limiter, tokens(10));
        tokio::time::sleep(secs(2)).await;
        waits.abort();
        quiet().await;
        assert_eq!(ids(&recorder, "Cancelled"), ids(&recorder, "WaitStarted"));
        assert_eq!((ids(&recorder, "Cancelled").len(), recorder.count("waited: 2s")), (1, 1));

        // One that ends by itself is told of as what it is.
        limiter.reserve(tokens(10).max_wait(secs(1))).await.unwrap_err();
        let waits = waiting(&limiter, tokens(10));
        quiet().await;
        call.release().await.unwrap();
        waits.await.unwrap().unwrap().release().await.unwrap();
        assert_eq!(ids(&recorder, "Cancelled").len(), 1, "shared: {is_shared}");
        store.inner.clear();
    }
}

#[tokio::test(start_paused = true)]
async fn a_long_wait_names_what_binds_of_several_buckets() {
    let recorder = Recorder::default();
    let limits = Limits::new()
        .bucket("child", [Quota::per_minute("tokens", 100)])
        .bucket("parent", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::builder(limits).observer(recorder.clone()).build().unwrap();
    let demand = || Demand::new("child", usage! { tokens: 60 }).and("parent");
    limiter.reserve(demand()).await.unwrap().keep().await.unwrap();
    let waits = [waiting(&limiter, demand()), waiting(&limiter, demand())];
    tokio::time::sleep(secs(6)).await;
    // When the wait begins, and when it is a long one.
    assert_eq!(recorder.count(r#"bucket: "parent", quota: "tokens per hour""#), 4);
    assert_eq!(recorder.count(r#"LongWait {"#), 2);
    assert_eq!(
        (recorder.count("position: 0, bucket"), recorder.count("position: 1, bucket")),
        (2, 2)
    );
    waits.iter().for_each(|wait| wait.abort());
}

#[tokio::test(start_paused = true)]
async fn a_quota_that_no_demand_charges_is_told_of_once() {
    let store = FakeStore::new();
    for is_shared in [false, true] {
        let recorder = Recorder::default();
        let quotas = || {
            [
                Quota::per_hour("tokens", 9_999),
                Quota::per_hour("cents", 9),
                Quota::per_hour("words", 9),
            ]
        };
        let limits = Limits::new().bucket("a", quotas()).bucket("b", quotas());
        let builder = Limiter::builder(limits).observer(recorder.clone());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        for call in 0..250 {
            // One is charged only by what is used, and only once.
            let actual = if call == 50 {
                usage! { words: 1 }
            } else {
                usage! {}
            };
            limiter.reserve(tokens(1)).await.unwrap().settle(actual).await.unwrap();
            assert_eq!(recorder.count("NeverCharged"), usize::from(call >= 99), "{call}");
        }
        let told = r#"NeverCharged { bucket: "a", quota: "cents per hour", demands: 100 }"#;
        assert_eq!(recorder.count(told), 1, "shared: {is_shared}");
        store.inner.clear();
    }
}
