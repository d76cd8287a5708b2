//! Stores that do not answer, or do not want to.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tower_throttle::{
    Demand, Limiter, Limits, OnUnavailable, Quota, Throttled, limiter::Retries, store::StoreError,
    usage,
};

use crate::{
    fake::{Fate::*, *},
    observer::Recorder,
};

fn is_store(error: &Throttled) -> bool {
    matches!(error, Throttled::Store(error) if matches!(**error, StoreError::Unavailable(_)))
}

#[tokio::test(start_paused = true)]
async fn s36_fail_errs_within_the_time_out() {
    let store = FakeStore::new();
    let limiter = on(&store);
    store.always(RequestLost);
    let began = Instant::now();
    let error = limiter.reserve(tokens(1)).await.unwrap_err();
    assert!(is_store(&error), "{error}");
    // Four attempts of a second with three pauses.
    assert!(began.elapsed() < ms(5_000), "{:?}", began.elapsed());
    // From then on no demand waits for the store after another one.
    for _ in 0..3 {
        let began = Instant::now();
        assert!(is_store(&limiter.reserve(tokens(1)).await.unwrap_err()));
        assert!(is_store(&limiter.try_reserve(tokens(1)).await.unwrap_err()));
        assert!(began.elapsed() < ms(10));
    }

    store.heal();
    tokio::time::sleep(secs(6)).await;
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    assert_eq!(truth(&store).await, (1.0, 0));
}

#[tokio::test(start_paused = true)]
async fn s36_allow_lets_through_and_says_so() {
    let (store, recorder) = (FakeStore::new(), Recorder::default());
    let builder = builder(&store).on_unavailable(OnUnavailable::Allow).retries(Retries::none());
    let limiter = builder.observer(recorder.clone()).build().unwrap();
    store.always(Unavailable);
    for _ in 0..3 {
        let call = limiter.reserve(tokens(90)).await.unwrap();
        assert!(call.degraded());
        call.settle(usage! { tokens: 90 }).await.unwrap();
    }
    assert_eq!(recorder.count("Degraded"), 1);
    assert_eq!(recorder.count("degraded: true"), 3);
    store.heal();
    tokio::time::sleep(secs(6)).await;
    let call = limiter.reserve(tokens(90)).await.unwrap();
    assert!(!call.degraded());
    call.keep().await.unwrap();
    assert_eq!(recorder.count("Recovered"), 1);
    assert_eq!(truth(&store).await, (90.0, 0));
}

#[tokio::test(start_paused = true)]
async fn s36_local_holds_its_share_of_each_limit() {
    let (store, recorder) = (FakeStore::new(), Recorder::default());
    let builder =
        builder(&store).on_unavailable(OnUnavailable::local(0.25)).retries(Retries::none());
    let limiter = builder.observer(recorder.clone()).build().unwrap();
    limiter.reserve(tokens(90)).await.unwrap().keep().await.unwrap();
    store.always(Unavailable);
    let call = limiter.reserve(tokens(20)).await.unwrap();
    assert!(call.degraded());
    assert!(matches!(limiter.try_reserve(tokens(6)).await, Err(Throttled::NotNow(_))));
    limiter.try_reserve(tokens(5)).await.unwrap().keep().await.unwrap();
    // Too much for the share, but not for ever.
    let error = limiter.try_reserve(tokens(26)).await.unwrap_err();
    assert!(is_store(&error) && !error.is_permanent(), "{error}");
    // A demand that waits there starts on a refund there.
    let behind = waiting(&limiter, tokens(10));
    tokio::time::sleep(secs(2)).await;
    call.settle(usage! { tokens: 1 }).await.unwrap();
    let behind = behind.await.unwrap().unwrap();
    assert!(behind.degraded() && behind.waited() >= secs(2), "{behind:?}");
    behind.keep().await.unwrap();
    // Each demand is told of once.
    assert_eq!(recorder.count("Granted"), 4);
    assert_eq!(recorder.count("Refused"), 2);
    // What stands in tells how it stands.
    let status = limiter.status("a").await.unwrap();
    assert!(status.degraded);
    assert_eq!(status.quotas[0].limit, 25);

    store.heal();
    tokio::time::sleep(secs(6)).await;
    assert!(!limiter.reserve(tokens(10)).await.unwrap().degraded());
    assert!(matches!(limiter.try_reserve(tokens(1)).await, Err(Throttled::NotNow(_))));
    assert!(!limiter.status("a").await.unwrap().degraded);
}

/// Speed fails open, one part of it by a share, and money fails closed.
fn mixed() -> Limits {
    Limits::new().bucket(
        "a",
        [
            Quota::per_hour("tokens", 100).on_unavailable(OnUnavailable::Allow),
            Quota::per_hour("images", 100).on_unavailable(OnUnavailable::local(0.25)),
            Quota::per_hour("cents", 100),
        ],
    )
}

#[tokio::test(start_paused = true)]
async fn each_quota_says_what_becomes_of_its_demands_without_the_store() {
    for fate in [Unavailable, RequestLost] {
        let (store, recorder) = (FakeStore::new(), Recorder::default());
        let builder = Limiter::builder(mixed()).store(store.clone()).retries(Retries::none());
        let limiter = builder.observer(recorder.clone()).build().unwrap();
        let ask = |usage| limiter.try_reserve(Demand::new("a", usage));
        ask(usage! { cents: 1 }).await.unwrap().keep().await.unwrap();
        store.always(fate);
        // What no share of its own bounds passes, however much it is.
        for _ in 0..3 {
            let call = ask(usage! { tokens: 90 }).await.unwrap();
            assert!(call.degraded());
            call.keep().await.unwrap();
        }
        // A quarter of the images.
        let call = ask(usage! { tokens: 90, images: 20 }).await.unwrap();
        assert!(call.degraded());
        let error = ask(usage! { images: 6 }).await.unwrap_err();
        assert!(matches!(error, Throttled::NotNow(_)), "{error}");
        call.settle(usage! { images: 10 }).await.unwrap();
        ask(usage! { images: 15 }).await.unwrap().keep().await.unwrap();
        // One quota that fails closed is enough.
        for usage in [usage! { cents: 1 }, usage! { tokens: 1, images: 1, cents: 1 }] {
            assert!(is_store(&ask(usage).await.unwrap_err()));
        }
        // What asks for nothing goes by the limiter's choice.
        assert!(is_store(&ask(usage! {}).await.unwrap_err()));
        let status = limiter.status("a").await.unwrap();
        let told: Vec<_> = status.quotas.iter().map(|quota| (&*quota.quota, quota.limit)).collect();
        assert!(status.degraded);
        assert_eq!(told, [("images per hour", 25)]);
        assert_eq!(recorder.count("degraded: true"), 5);

        store.heal();
        tokio::time::sleep(secs(30)).await;
        let call = limiter.try_reserve(Demand::new("a", usage! { tokens: 100, cents: 99 })).await;
        assert!(!call.unwrap().degraded(), "nothing of this was charged in the store");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quota_may_fail_closed_where_the_limiter_allows() {
    let store = FakeStore::new();
    let limits = Limits::new()
        .bucket("speed", [Quota::per_hour("tokens", 100)])
        .bucket("budget", [Quota::per_hour("cents", 100).on_unavailable(OnUnavailable::Fail)]);
    let builder = Limiter::builder(limits).store(store.clone()).retries(Retries::none());
    let limiter = builder.on_unavailable(OnUnavailable::Allow).build().unwrap();
    store.always(Unavailable);
    let tokens = || Demand::new("speed", usage! { tokens: 90 });
    for _ in 0..2 {
        assert!(limiter.reserve(tokens()).await.unwrap().degraded());
    }
    let both = tokens().and_with("budget", usage! { cents: 1 });
    assert!(is_store(&limiter.reserve(both).await.unwrap_err()));
    let nothing = tokens().and_with("budget", usage! { cents: 0 });
    assert!(limiter.reserve(nothing).await.unwrap().degraded());
    assert!(is_store(&limiter.status("budget").await.unwrap_err()));
}

#[tokio::test(start_paused = true)]
async fn limits_may_change_what_becomes_of_demands_without_the_store() {
    let store = FakeStore::new();
    let limiter = builder(&store).retries(Retries::none()).build().unwrap();
    store.always(Unavailable);
    assert!(is_store(&limiter.try_reserve(tokens(10)).await.unwrap_err()));
    let local = Quota::per_hour("tokens", 100).on_unavailable(OnUnavailable::local(0.5));
    limiter.update(Limits::new().bucket("a", [local])).unwrap();
    assert!(limiter.try_reserve(tokens(50)).await.unwrap().degraded());
    assert!(matches!(limiter.try_reserve(tokens(1)).await, Err(Throttled::NotNow(_))));
    limiter.update(limits()).unwrap();
    assert!(is_store(&limiter.try_reserve(tokens(10)).await.unwrap_err()));
}

#[test]
fn a_share_that_makes_no_sense_is_an_error() {
    for share in [0.0, -1.0, 1.5, f64::NAN] {
        let quota = Quota::per_hour("tokens", 100).on_unavailable(OnUnavailable::local(share));
        let error = Limiter::new(Limits::new().bucket("a", [quota])).unwrap_err().to_string();
        assert!(error.contains("tokens per hour") && error.contains("local share"), "{error}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_its_share_goes_back_to_the_store_with_the_others() {
    let store = FakeStore::new();
    let builder =
        builder(&store).on_unavailable(OnUnavailable::local(0.25)).retries(Retries::none());
    let limiter = builder.build().unwrap();
    store.always(Unavailable);
    limiter.reserve(tokens(20)).await.unwrap().keep().await.unwrap();
    let waits: Vec<_> = (0..3).map(|_| waiting(&limiter, tokens(20))).collect();
    let too_long = waiting(&limiter, tokens(20).max_wait(secs(36_000)));
    tokio::time::sleep(secs(10)).await;
    assert!(waits.iter().all(|wait| !wait.is_finished()));
    store.heal();
    for wait in waits.into_iter().chain([too_long]) {
        let call = timeout(secs(6), wait).await.expect("the store has room").unwrap().unwrap();
        assert!(!call.degraded());
        call.keep().await.unwrap();
    }
    assert_eq!(truth(&store).await, (80.0, 0));
}

#[tokio::test(start_paused = true)]
async fn those_that_wait_are_told_of_an_outage() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let others: Vec<_> = (0..20).map(|_| waiting(&limiter, tokens(10))).collect();
    tokio::time::sleep(secs(1)).await;
    store.always(Unavailable);
    for other in others {
        assert!(is_store(&timeout(secs(3), other).await.unwrap().unwrap().unwrap_err()));
    }
    store.heal();
    drop(call.release());
    tokio::time::sleep(secs(10)).await;
    assert_eq!(truth(&store).await, (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn everything_else_fails_in_time_too() {
    let store = FakeStore::new();
    let limiter = builder(&store).retries(Retries::none()).build().unwrap();
    let call = limiter.reserve(tokens(10)).await.unwrap();
    let detached = limiter.reserve(tokens(10)).await.unwrap();
    let id = limiter.reserve(tokens(10)).await.unwrap().detach(secs(100)).await.unwrap();
    store.always(RequestLost);
    limiter.reserve(tokens(1)).await.unwrap_err();
    for _ in 0..3 {
        let in_time = secs(8);
        assert!(is_store(
            &timeout(in_time, limiter.status("a")).await.expect("in time").unwrap_err()
        ));
        let pause = timeout(in_time, limiter.pause("a", secs(1))).await.expect("in time");
        assert!(is_store(&pause.unwrap_err()));
        let available =
            timeout(in_time, limiter.time_until_available(tokens(1))).await.expect("in time");
        assert!(is_store(&available.unwrap_err()));
    }
    let settled =
        timeout(secs(8), limiter.settle(&id, usage! { tokens: 1 })).await.expect("in time");
    assert!(is_store(&settled.unwrap_err()));
    assert!(is_store(&timeout(secs(8), call.release()).await.expect("in time").unwrap_err()));
    assert!(is_store(
        &timeout(secs(8), detached.detach(secs(1))).await.expect("in time").unwrap_err()
    ));
    timeout(secs(8), limiter.close()).await.expect("in time");

    // What was told to fail is still made good.
    store.heal();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(truth(&store).await.0, 11.0);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_of_the_store_is_no_outage() {
    let recorder = Recorder::default();
    for on_unavailable in [OnUnavailable::Fail, OnUnavailable::Allow, OnUnavailable::local(0.5)] {
        let store = FakeStore::new();
        let builder = builder(&store).on_unavailable(on_unavailable).observer(recorder.clone());
        let limiter = builder.build().unwrap();
        store.always(Rejected);
        for _ in 0..2 {
            let began = Instant::now();
            let error = limiter.reserve(tokens(1)).await.unwrap_err();
            assert!(
                matches!(&error, Throttled::Store(e) if matches!(**e, StoreError::Rejected(_))),
                "{error}"
            );
            assert!(error.to_string().contains("WRONGPASS"), "{error}");
            assert!(began.elapsed() < ms(10), "no use to try again");
        }
    }
    assert_eq!(recorder.count("Degraded"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_is_not_stormed() {
    let store = FakeStore::new();
    store.delay(ms(1));
    let limiter = on(&store);
    let call = limiter.reserve(tokens(10)).await.unwrap();
    let other = limiter.reserve(tokens(10)).await.unwrap();
    store.always(Rejected);
    call.settle(usage! { tokens: 3 }).await.unwrap_err();
    drop(other.settle(usage! { tokens: 4 }));
    limiter.reserve(tokens(10)).await.unwrap_err();
    store.sent();
    tokio::time::sleep(secs(10)).await;
    let sent = store.sent().len();
    assert!(sent < 50, "{sent} requests in ten seconds");
    // The credentials were mended: nothing was lost.
    store.heal();
    tokio::time::sleep(secs(10)).await;
    assert_eq!(truth(&store).await, (7.0, 0));
}

/// Two buckets, `bad` of which the store can soon not read, and `good`.
fn one_bad(store: &FakeStore) -> Limiter {
    let limits = Limits::new()
        .bucket("bad", [Quota::per_hour("tokens", 100)])
        .bucket("good", [Quota::concurrency(1), Quota::per_hour("tokens", 100)]);
    Limiter::with_store(limits, store.clone()).unwrap()
}

fn of(bucket: &'static str, tokens: u64) -> Demand {
    Demand::new(bucket, usage! { tokens: tokens })
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_the_store_refuses_holds_up_no_other() {
    let store = FakeStore::new();
    store.delay(ms(1));
    let limiter = one_bad(&store);
    let call = limiter.reserve(of("good", 10)).await.unwrap();
    let waits = tokio::spawn(limiter.reserve(of("good", 20)));
    let lost = limiter.reserve(of("bad", 10)).await.unwrap();
    store.spoil("bad");
    // In one batch with what is refused.
    let (refused, settled, other) = tokio::join!(
        limiter.reserve(of("bad", 1)),
        call.settle(usage! { tokens: 3 }),
        lost.settle(usage! { tokens: 4 }),
    );
    assert!(refused.unwrap_err().to_string().contains("WRONGPASS"));
    settled.unwrap();
    other.unwrap_err();
    let next = waits.await.unwrap().unwrap();
    for _ in 0..3 {
        limiter.try_reserve(of("bad", 1)).await.unwrap_err();
        limiter.status("good").await.unwrap();
    }
    // Leases are kept alive though one of the buckets cannot be named.
    tokio::time::sleep(secs(60)).await;
    let another = Limiter::with_store(
        Limits::new().bucket("good", [Quota::concurrency(1), Quota::per_hour("tokens", 100)]),
        store.clone(),
    );
    another.unwrap().try_reserve(of("good", 1)).await.unwrap_err();
    next.settle(usage! { tokens: 5 }).await.unwrap();
    assert_eq!(limiter.status("good").await.unwrap().quotas[1].charged, 8.0);
    store.heal();
    tokio::time::sleep(secs(6)).await;
    assert_eq!(limiter.status("bad").await.unwrap().quotas[0].charged, 4.0, "nothing was lost");
}

#[tokio::test(start_paused = true)]
async fn many_demands_of_which_one_is_refused_cost_a_few_batches() {
    let store = FakeStore::new();
    let names: Vec<String> = (0..64).map(|index| format!("b{index}")).collect();
    let declare =
        |limits: Limits, name: &String| limits.bucket(name, [Quota::per_hour("tokens", 100)]);
    let limits = names.iter().fold(Limits::new(), declare);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    store.spoil("b17");
    let demands = names
        .iter()
        .map(|name| limiter.try_reserve(Demand::new(name.as_str(), usage! { tokens: 1 })));
    let results = futures_util::future::join_all(demands).await;
    let refused: Vec<_> = (0..64).filter(|index| results[*index].is_err()).collect();
    assert_eq!(refused, [17]);
    let sent = store.sent().len();
    assert!(sent < 40, "{sent} batches");
}

#[tokio::test(start_paused = true)]
async fn retries_wait_longer_each_time() {
    let store = FakeStore::new();
    let mut retries = Retries::default();
    (retries.max, retries.jitter) = (4, 0.0);
    retries.longest_pause = ms(300);
    let limiter = builder(&store).retries(retries).build().unwrap();
    store.next([Unavailable; 4]);
    let began = Instant::now();
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    assert_eq!(began.elapsed(), ms(100 + 200 + 300 + 300));
    assert_eq!(truth(&store).await, (1.0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_longest_of_pauses_is_no_panic() {
    let mut retries = Retries::default();
    (retries.first_pause, retries.longest_pause, retries.jitter) =
        (Duration::MAX, Duration::MAX, 1.0);
    for _ in 0..20 {
        let store = FakeStore::new();
        let limiter = builder(&store).retries(retries).build().unwrap();
        store.next([Unavailable]);
        let waits =
            timeout(secs(1_000_000), limiter.reserve(tokens(1).max_wait(secs(2)))).await.unwrap();
        assert!(matches!(waits, Err(Throttled::Deadline(_))), "{waits:?}");
    }
}

#[test]
fn a_runtime_that_ends_ends_no_waiter_of_another() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let limiter = Limiter::new(limits()).unwrap();
    let call = first.block_on(limiter.reserve(tokens(100))).unwrap();
    // A demand of the first runtime started the driver of the session.
    let gone = first.block_on(async {
        let gone = [waiting(&limiter, tokens(10))];
        quiet().await;
        gone
    });
    second.block_on(async {
        let stays = waiting(&limiter, tokens(10));
        quiet().await;
        std::thread::spawn(|| drop((first, gone))).join().unwrap();
        quiet().await;
        call.release().await.unwrap();
        let stays = timeout(secs(10_000), stays).await.expect("it hangs").unwrap();
        stays.unwrap().release().await.unwrap();
        limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    });
}

#[test]
fn a_runtime_may_end_with_a_batch_on_its_way() {
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap()
    };
    let (first, second) = (runtime(), runtime());
    let (store, limiter) = second.block_on(async {
        let store = FakeStore::new();
        (store.clone(), on(&store))
    });
    store.hold();
    first.block_on(async {
        waiting(&limiter, tokens(30));
        quiet().await;
    });
    drop(first);
    store.let_go();
    second.block_on(async {
        // The grant reached no caller: it is found out and given back.
        tokio::time::sleep(secs(1)).await;
        limiter.reserve(tokens(100)).await.unwrap().release().await.unwrap();
        tokio::time::sleep(secs(1)).await;
        assert_eq!(truth(&store).await, (0.0, 0));
    });
}

/// Many calls were in flight on the bucket that the store cannot read any more.
#[tokio::test(start_paused = true)]
async fn what_is_kept_of_a_bucket_that_the_store_refuses_holds_up_no_other() {
    let store = FakeStore::new();
    store.delay(ms(20));
    let limits = Limits::new()
        .bucket("bad", [Quota::per_hour("tokens", 100_000)])
        .bucket("good", [Quota::per_hour("tokens", 100_000)]);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    let mut calls = Vec::new();
    for _ in 0..1_500 {
        calls.push(limiter.reserve(of("bad", 10)).await.unwrap());
    }
    store.spoil("bad");
    for call in calls {
        drop(tokio::spawn(call.settle(usage! { tokens: 3 })));
        tokio::time::sleep(ms(30)).await;
    }
    let mut worst = ms(0);
    for _ in 0..50 {
        let began = Instant::now();
        limiter.reserve(of("good", 1)).await.unwrap().keep().await.unwrap();
        worst = worst.max(began.elapsed());
        tokio::time::sleep(ms(200)).await;
    }
    store.sent();
    tokio::time::sleep(secs(10)).await;
    let sent = store.sent().len();
    assert!(worst < ms(500), "{worst:?} at worst; {sent} batches in ten seconds");
}

/// What is worth nothing later: its caller was told that it failed.
#[tokio::test(start_paused = true)]
async fn a_pause_that_was_refused_does_not_begin_minutes_later() {
    let store = FakeStore::new();
    store.delay(ms(1));
    let limiter = one_bad(&store);
    limiter.reserve(of("bad", 1)).await.unwrap().keep().await.unwrap();
    store.spoil("bad");
    limiter.pause("bad", secs(30)).await.unwrap_err();
    tokio::time::sleep(secs(200)).await;
    store.heal();
    tokio::time::sleep(secs(10)).await;
    drop(limiter.try_reserve(of("bad", 1)).await.expect("it is not paused"));
}

/// An adjustment is refused by the store, and kept; then the call ends, once the store is mended.
#[tokio::test(start_paused = true)]
async fn what_is_kept_comes_before_what_followed_it() {
    let store = FakeStore::new();
    store.delay(ms(1));
    let limits = Limits::new().bucket("bad", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    let mut call = limiter.reserve(of("bad", 10)).await.unwrap();
    store.spoil("bad");
    for _ in 0..3 {
        // Kept, and sent again after five seconds by now.
        call.adjust(usage! { tokens: 50 }).await.unwrap_err();
        tokio::time::sleep(secs(4)).await;
    }
    store.heal();
    call.settle(usage! { tokens: 20 }).await.unwrap();
    tokio::time::sleep(secs(20)).await;
    let quota = limiter.status("bad").await.unwrap().quotas[0].clone();
    assert_eq!((quota.charged, quota.in_flight), (20.0, 0));
}

/// The credentials are wrong, which has nothing to do with any bucket.
#[tokio::test(start_paused = true)]
async fn a_store_that_refuses_all_is_not_asked_about_each_bucket() {
    let store = FakeStore::new();
    store.delay(ms(20));
    let names: Vec<String> = (0..64).map(|index| format!("b{index}")).collect();
    let declare =
        |limits: Limits, name: &String| limits.bucket(name, [Quota::per_hour("tokens", 100)]);
    let limits = names.iter().fold(Limits::new(), declare);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    store.always(Rejected);
    let began = Instant::now();
    let demands = names
        .iter()
        .map(|name| limiter.try_reserve(Demand::new(name.as_str(), usage! { tokens: 1 })));
    let results = futures_util::future::join_all(demands).await;
    assert!(results.iter().all(Result::is_err));
    let (sent, took) = (store.sent().len(), began.elapsed());
    assert!(sent < 40, "{sent} batches in {took:?}");
}

/// The store is mended between the last attempt of what is kept and that of what followed it.
#[tokio::test(start_paused = true)]
async fn what_is_kept_comes_before_what_followed_it_whenever_the_store_is_mended() {
    let store = FakeStore::new();
    store.delay(ms(20));
    let limits = Limits::new().bucket("bad", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    let mut call = limiter.reserve(of("bad", 10)).await.unwrap();
    store.spoil("bad");
    call.adjust(usage! { tokens: 50 }).await.unwrap_err();
    tokio::time::sleep(secs(4)).await;
    let settled = tokio::spawn(call.settle(usage! { tokens: 20 }));
    tokio::time::sleep(ms(5)).await;
    store.heal();
    let _ = settled.await.unwrap();
    tokio::time::sleep(secs(20)).await;
    let quota = limiter.status("bad").await.unwrap().quotas[0].clone();
    assert_eq!((quota.charged, quota.in_flight), (20.0, 0));
}

/// So is it where the store refused all, so that what is kept of many buckets is kept together.
#[tokio::test(start_paused = true)]
async fn what_is_kept_of_many_buckets_comes_before_what_followed_it() {
    let store = FakeStore::new();
    store.delay(ms(20));
    let names: Vec<String> = (0..40).map(|index| format!("b{index}")).collect();
    let declare =
        |limits: Limits, name: &String| limits.bucket(name, [Quota::per_hour("tokens", 100)]);
    let limits = names.iter().fold(Limits::new(), declare);
    let limiter = Limiter::with_store(limits, store.clone()).unwrap();
    let demands =
        names.iter().map(|name| limiter.reserve(Demand::new(name.as_str(), usage! { tokens: 10 })));
    let calls = futures_util::future::join_all(demands).await;
    let mut calls: Vec<_> = calls.into_iter().map(Result::unwrap).collect();
    store.always(Rejected);
    let adjusts = calls.iter_mut().map(|call| call.adjust(usage! { tokens: 50 }));
    let adjusted = futures_util::future::join_all(adjusts).await;
    assert!(adjusted.iter().all(Result::is_err));
    tokio::time::sleep(ms(100)).await;
    let settles = calls.into_iter().map(|call| call.settle(usage! { tokens: 20 }));
    let settled = tokio::spawn(futures_util::future::join_all(settles));
    tokio::time::sleep(ms(5)).await;
    store.heal();
    let _ = settled.await.unwrap();
    tokio::time::sleep(secs(60)).await;
    for name in &names {
        let quota = limiter.status(name).await.unwrap().quotas[0].clone();
        assert_eq!((quota.charged, quota.in_flight), (20.0, 0), "{name}");
    }
}
