//! Limits that change, and names that are looked up.

use std::{
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
};

use futures_util::FutureExt;

use tower_throttle::{
    Demand, Limiter, Limits, Quota, Throttled, Usage, limiter::BadDemand, limits::Undeclared, usage,
};

use crate::fake::*;

fn request(bucket: &'static str) -> Demand {
    Demand::new(bucket, usage! { requests: 1 })
}

async fn bucket_of(limiter: &Limiter, name: &str) -> String {
    limiter.status(name).await.unwrap().bucket.to_string()
}

#[tokio::test(start_paused = true)]
async fn a_name_goes_to_itself_then_to_the_longest_pattern_then_to_the_first() {
    let quota = || [Quota::per_hour("requests", 10)];
    let limits = Limits::new()
        .bucket("gpt", quota())
        .bucket("gpt-mini", quota())
        .bucket("first", quota())
        .bucket("second", quota())
        .bucket("gpt-4x", quota())
        .family("*", "second")
        .family("gpt-4?", "first")
        .family("gpt-4*", "second")
        .family("gpt-*-mini", "gpt-mini");
    let limiter = Limiter::new(limits).unwrap();
    for (name, bucket) in [
        ("gpt-4x", "gpt-4x"),
        ("gpt-4o", "first"),
        ("gpt-4oo", "second"),
        ("gpt-4o-mini", "gpt-mini"),
        ("anything", "second"),
        ("gpt", "gpt"),
    ] {
        assert_eq!(bucket_of(&limiter, name).await, bucket, "{name}");
    }
    // Aliases share the bucket, and one line.
    for name in ["gpt-4oo", "second", "anything"] {
        limiter.try_reserve(request(name)).await.unwrap().keep().await.unwrap();
    }
    assert_eq!(limiter.status("second").await.unwrap().quotas[0].charged, 3.0);
}

#[tokio::test(start_paused = true)]
async fn names_that_are_not_declared() {
    let limits = || Limits::new().bucket("a", [Quota::per_hour("requests", 1)]);
    let refuses = Limiter::new(limits()).unwrap();
    assert!(matches!(
        refuses.try_reserve(request("b")).await,
        Err(Throttled::BadDemand(BadDemand::UnknownBucket(_)))
    ));

    let unlimited = Limiter::new(limits().undeclared(Undeclared::Unlimited)).unwrap();
    for _ in 0..10 {
        let call = unlimited.reserve(request("b")).await.unwrap();
        assert!(!call.degraded());
        call.settle(usage! { requests: 5 }).await.unwrap();
    }
    // It passes with one that is limited, which still counts.
    unlimited.try_reserve(request("a").and("b")).await.unwrap().keep().await.unwrap();
    assert!(unlimited.try_reserve(request("b").and("a")).await.is_err());
    assert!(unlimited.status("b").await.is_err());
    assert!(unlimited.reserve(request("b")).await.unwrap().detach(secs(1)).await.is_err());
    // A typo is one there too.
    let typo = unlimited.try_reserve(Demand::new("b", usage! { reqests: 1 })).await;
    assert!(matches!(typo, Err(Throttled::BadDemand(BadDemand::UnknownMetric(_)))));

    let shared = Limiter::new(limits().undeclared(Undeclared::Bucket("a".into()))).unwrap();
    shared.try_reserve(request("b")).await.unwrap().keep().await.unwrap();
    assert!(shared.try_reserve(request("c")).await.is_err());
}

#[tokio::test(start_paused = true)]
async fn a_resolver_may_change_its_mind() {
    let (limit, asked) = (Arc::new(Mutex::new(Some(10))), Arc::new(AtomicUsize::new(0)));
    let resolver = {
        let (limit, asked) = (limit.clone(), asked.clone());
        move |_: &str| {
            asked.fetch_add(1, Ordering::Relaxed);
            Some(vec![Quota::per_hour("requests", (*limit.lock().unwrap())?)])
        }
    };
    let limits =
        Limits::new().bucket("declared", [Quota::per_hour("requests", 1)]).resolver(resolver);
    let limiter = Limiter::new(limits).unwrap();
    for _ in 0..10 {
        limiter.try_reserve(request("tenant")).await.unwrap().keep().await.unwrap();
    }
    assert!(limiter.try_reserve(request("tenant")).await.is_err());
    assert_eq!(asked.load(Ordering::Relaxed), 1, "its answer is good for a while");
    limiter.try_reserve(request("declared")).await.unwrap().keep().await.unwrap();
    assert_eq!(asked.load(Ordering::Relaxed), 1, "declared names are not asked for");

    let waits = waiting(&limiter, request("tenant"));
    quiet().await;
    *limit.lock().unwrap() = Some(11);
    tokio::time::sleep(secs(6)).await;
    let status = limiter.status("tenant").await.unwrap();
    assert_eq!(
        (status.quotas[0].limit, status.quotas[0].charged),
        (11, 10.0),
        "what was used is kept"
    );
    quiet().await;
    assert!(waits.is_finished(), "a waiter is told too");

    // Nonsense is an error, and so is a name it does not know any more; then it works again.
    *limit.lock().unwrap() = Some(0);
    tokio::time::sleep(secs(6)).await;
    let error = limiter.try_reserve(request("tenant")).await.unwrap_err();
    assert!(matches!(&error, Throttled::BadDemand(BadDemand::InvalidLimits(_))), "{error}");
    *limit.lock().unwrap() = None;
    let error = limiter.try_reserve(request("tenant")).await.unwrap_err();
    assert!(matches!(&error, Throttled::BadDemand(BadDemand::UnknownBucket(_))), "{error}");
    *limit.lock().unwrap() = Some(20);
    drop(waits.await.unwrap().unwrap());
    assert_eq!(limiter.status("tenant").await.unwrap().quotas[0].available, 9.0);
}

#[tokio::test(start_paused = true)]
async fn a_resolver_that_panics_breaks_only_its_call() {
    let limits = Limits::new().resolver(|name| match name {
        "bad" => panic!("no such tenant"),
        _ => Some(vec![Quota::per_hour("requests", 10)]),
    });
    let limiter = Limiter::new(limits).unwrap();
    let broken = waiting(&limiter, request("bad"));
    assert!(broken.await.unwrap_err().is_panic());
    limiter.try_reserve(request("good")).await.unwrap().keep().await.unwrap();
    assert_eq!(limiter.status("good").await.unwrap().quotas[0].charged, 1.0);
}

/// Runs in a thread of its own what may block one for ever.
fn without_hanging<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = mpsc::channel();
    thread::spawn(move || done.send(run()));
    outcome.recv_timeout(secs(30)).expect("it hangs, or panics")
}

/// Without a runtime: memory answers at once.
fn try_now(limiter: &Limiter, demand: Demand) -> Result<(), Throttled> {
    limiter.try_reserve(demand).now_or_never().expect("memory answers at once").map(drop)
}

#[test]
fn a_resolver_may_use_the_limiter_and_replace_its_limits() {
    without_hanging(|| {
        let (limiter, asked) =
            (Arc::new(OnceLock::<Limiter>::new()), Arc::new(AtomicUsize::new(0)));
        let limits = |resolver| {
            Limits::new().bucket("a", [Quota::per_hour("requests", 9)]).resolver(resolver)
        };
        let resolver = {
            let (limiter, asked) = (limiter.clone(), asked.clone());
            move |_: &str| {
                let limiter = limiter.get()?;
                asked.fetch_add(1, Ordering::Relaxed);
                try_now(limiter, request("a")).ok()?;
                limiter.status("a").now_or_never();
                let others = |_: &str| {
                    Some(vec![Quota::per_day("requests", 5), Quota::per_hour("requests", 2)])
                };
                limiter
                    .update(
                        Limits::new()
                            .bucket("a", [Quota::per_hour("requests", 9)])
                            .resolver(others),
                    )
                    .ok()?;
                Some(vec![Quota::per_hour("requests", 1)])
            }
        };
        let limiter = limiter.get_or_init(|| Limiter::new(limits(resolver)).unwrap());
        // Resolved before the limits were replaced, granted after.
        try_now(limiter, request("tenant")).unwrap();
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        try_now(limiter, request("tenant")).unwrap();
        try_now(limiter, request("tenant")).unwrap_err();
    });
}

#[test]
fn a_resolver_that_blocks_holds_up_only_its_names() {
    without_hanging(|| {
        let (asks, is_asked) = mpsc::channel();
        let (answers, answer) = mpsc::channel::<()>();
        let answer = Mutex::new(answer);
        let resolver = move |name: &str| {
            if name == "slow" {
                asks.send(()).unwrap();
                answer.lock().unwrap().recv().unwrap();
            }
            Some(vec![Quota::per_hour("requests", 10)])
        };
        let limits = || Limits::new().bucket("a", [Quota::per_hour("requests", 10)]);
        let limiter = Limiter::new(limits().resolver(resolver)).unwrap();
        let slow = {
            let limiter = limiter.clone();
            thread::spawn(move || try_now(&limiter, request("slow")))
        };
        is_asked.recv().unwrap();
        try_now(&limiter, request("a")).unwrap();
        try_now(&limiter, request("quick")).unwrap();
        // Nor does it hold up an update, after which its answer counts no more.
        limiter.update(limits()).unwrap();
        try_now(&limiter, request("quick")).unwrap_err();
        answers.send(()).unwrap();
        let late = slow.join().unwrap().unwrap_err();
        assert!(matches!(late, Throttled::BadDemand(BadDemand::UnknownBucket(_))), "{late}");
    });
}

#[tokio::test(start_paused = true)]
async fn s23_an_update_reaches_a_demand_on_its_way() {
    let limits = |limit| Limits::new().bucket("a", [Quota::per_hour("tokens", limit)]);
    for (limit, fits) in [(3, false), (10, true)] {
        let store = FakeStore::new();
        store.delay(ms(10));
        let limiter = Limiter::builder(limits(5)).store(store.clone()).build().unwrap();
        limiter.reserve(tokens(5)).await.unwrap().keep().await.unwrap();
        let waits = waiting(&limiter, tokens(4));
        tokio::time::sleep(ms(3)).await;
        limiter.update(limits(limit)).unwrap();
        tokio::time::sleep(ms(50)).await;
        assert!(waits.is_finished());
        match waits.await.unwrap() {
            Ok(call) => assert!(fits && call.waited() < ms(50)),
            Err(Throttled::ExceedsCapacity(_)) => assert!(!fits),
            Err(error) => panic!("{error}"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_bucket_that_is_declared_no_more_refuses_those_that_wait() {
    let limiter = Limiter::new(limits()).unwrap();
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let waits = waiting(&limiter, tokens(1));
    quiet().await;
    let update = limiter.update(Limits::new().bucket("b", [Quota::per_hour("tokens", 100)]));
    assert!(matches!(update.unwrap().dropped(), [name] if &**name == "a"));
    let error = waits.await.unwrap().unwrap_err();
    assert!(matches!(error, Throttled::BadDemand(BadDemand::UnknownBucket(_))), "{error}");
    call.settle(usage! { tokens: 30 }).await.unwrap();
    limiter.update(limits()).unwrap();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 30.0);
}

#[tokio::test(start_paused = true)]
async fn quotas_that_come_and_go_keep_what_the_others_count() {
    let hour = || Quota::per_hour("tokens", 100);
    let day = || Quota::per_day("tokens", 1_000);
    let minute = || Quota::per_minute("requests", 10);
    let with = |quotas: Vec<Quota>| Limits::new().bucket("a", quotas);
    let limiter = Limiter::new(with(vec![hour(), day()])).unwrap();
    let call = limiter.reserve(tokens(50)).await.unwrap();
    limiter.update(with(vec![minute(), hour()])).unwrap();
    // It was reserved under other quotas, in another order.
    call.settle(usage! { tokens: 20 }).await.unwrap();
    let charged = |status: tower_throttle::limiter::Status| {
        status.quotas.iter().map(|q| q.charged).collect::<Vec<_>>()
    };
    assert_eq!(charged(limiter.status("a").await.unwrap()), [0.0, 20.0]);
    limiter.reserve(tokens(5)).await.unwrap().keep().await.unwrap();
    limiter.update(with(vec![day(), hour(), minute()])).unwrap();
    let status = limiter.status("a").await.unwrap();
    assert!(status.quotas[1..].iter().all(|quota| quota.in_flight == 0), "{status:?}");
    let charged = charged(status);
    assert_eq!(charged[1..], [25.0, 1.0]);
    assert!((20.0..=55.0).contains(&charged[0]), "{charged:?}");
}

#[tokio::test(start_paused = true)]
async fn calls_that_began_under_older_limits_are_settled_under_those_now() {
    let limits =
        |limit| Limits::new().bucket("a", [Quota::token_bucket("tokens", limit, secs(60))]);
    let limiter = Limiter::new(limits(100)).unwrap();
    let mut calls = Vec::new();
    for _ in 0..2 {
        calls.push(limiter.reserve(Demand::new("a", usage! { tokens: 50 })).await.unwrap());
    }
    limiter.update(limits(200)).unwrap();
    let young = limiter.reserve(Demand::new("a", usage! { tokens: 100 })).await.unwrap();
    tokio::time::sleep(secs(3)).await;
    for call in calls {
        call.keep().await.unwrap();
    }
    // Had the older limits been in force for that, what was charged before would not be given back.
    young.release().await.unwrap();
    let available = limiter.status("a").await.unwrap().quotas[0].available;
    // What drains in a slot of the ring, 8 tokens, may be lost to a refund.
    assert!((101.0..=110.0).contains(&available), "{available}");
}

#[tokio::test(start_paused = true)]
async fn two_processes_with_different_limits_keep_one_state() {
    let store = FakeStore::new();
    let with = |limit, extra: Option<Quota>| {
        let quotas = [Quota::per_hour("tokens", limit)].into_iter().chain(extra);
        Limiter::builder(Limits::new().bucket("a", quotas)).store(store.clone()).build().unwrap()
    };
    let (old, new) = (with(100, None), with(150, Some(Quota::concurrency(10))));
    let mut charged = 0.0;
    for _ in 0..10 {
        for limiter in [&old, &new] {
            let call = limiter.try_reserve(tokens(9)).await.unwrap();
            call.settle(usage! { tokens: 4 }).await.unwrap();
            charged += 4.0;
        }
    }
    for limiter in [&old, &new] {
        let quotas = limiter.status("a").await.unwrap().quotas;
        assert_eq!(quotas[0].charged, charged);
        assert!(quotas.iter().all(|quota| quota.in_flight == 0));
    }
    assert!(old.try_reserve(tokens(21)).await.is_err());
    new.try_reserve(tokens(70)).await.unwrap().keep().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_family_that_moves_takes_its_demands_along() {
    let limits = |to: &str| {
        Limits::new()
            .bucket("a", [Quota::per_hour("requests", 1)])
            .bucket("b", [Quota::per_hour("requests", 1)])
            .family("x*", to)
    };
    let limiter = Limiter::new(limits("a")).unwrap();
    limiter.try_reserve(request("x1")).await.unwrap().keep().await.unwrap();
    assert!(limiter.try_reserve(request("x1")).await.is_err());
    limiter.update(limits("b")).unwrap();
    limiter.try_reserve(request("x1")).await.unwrap().keep().await.unwrap();
    assert_eq!(bucket_of(&limiter, "x1").await, "b");
    let typo = Demand::new("x1", Usage::new().with("images", 1));
    assert!(matches!(limiter.try_reserve(typo).await, Err(Throttled::BadDemand(_))));
}
