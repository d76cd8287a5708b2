//! Input that makes no sense is a typed error: never a panic, a hang, or capacity lost.

use std::time::Duration;

use tower_throttle::{
    Demand, Limiter, Limits, OnUnavailable, Quota, Throttled, Usage,
    limiter::{BadDemand, Retries},
    limits::{Class, Undeclared},
    quota::ChargeAt,
    usage,
};

use crate::fake::*;

#[tokio::test(start_paused = true)]
async fn a_demand_that_names_what_is_not_there() {
    let limits = Limits::new()
        .bucket("a", [Quota::per_hour("tokens", 100)])
        .bucket("b", [Quota::per_hour("tokens", 100)])
        .family("a-*", "a")
        .bucket_in("elsewhere", "c", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::new(limits).unwrap();
    let cases: [(Demand, BadDemand); 7] = [
        (Demand::new("z", Usage::new()), BadDemand::UnknownBucket("z".into())),
        (Demand::new("", Usage::new()), BadDemand::UnknownBucket("".into())),
        (tokens(1).class("z"), BadDemand::UnknownClass("z".into())),
        (Demand::new("a", usage! { tokns: 1 }), BadDemand::UnknownMetric("tokns".into())),
        (tokens(1).and("a"), BadDemand::SameBucketTwice("a".into())),
        (tokens(1).and("b").and("a-1"), BadDemand::SameBucketTwice("a".into())),
        (tokens(1).and("c"), BadDemand::TwoPartitions("default".into(), "elsewhere".into())),
    ];
    for (demand, expected) in cases {
        for result in [
            limiter.reserve(demand.clone()).await.map(drop),
            limiter.try_reserve(demand.clone()).await.map(drop),
            limiter.time_until_available(demand.clone()).await.map(drop),
        ] {
            let error = result.unwrap_err();
            assert!(error.is_permanent() && error.retry_after().is_none());
            let Throttled::BadDemand(found) = error else { panic!("{error}") };
            assert_eq!(found, expected);
        }
    }
    assert!(matches!(limiter.status("z").await, Err(Throttled::BadDemand(_))));
    assert!(matches!(limiter.pause("z", secs(1)).await, Err(Throttled::BadDemand(_))));
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].charged, 0.0);
}

#[tokio::test(start_paused = true)]
async fn limits_that_make_no_sense() {
    let quota = |quota: Quota| Limits::new().bucket("a", [quota]);
    let tokens = || Quota::per_minute("tokens", 10);
    for limits in [
        quota(Quota::per_minute("tokens", 0)),
        quota(Quota::concurrency(0)),
        quota(Quota::per_minute("tokens", u64::MAX)),
        quota(Quota::token_bucket("tokens", u64::MAX, secs(60))),
        quota(Quota::token_bucket("tokens", 10, secs(60)).burst(0)),
        quota(Quota::token_bucket("tokens", 10, secs(60)).burst(u64::MAX)),
        quota(Quota::token_bucket("tokens", 10, secs(60)).burst_times(f64::NAN)),
        quota(Quota::token_bucket("tokens", 10, secs(60)).burst_times(f64::INFINITY)),
        quota(Quota::token_bucket("tokens", 10, secs(60)).burst_times(-1.0)),
        quota(Quota::token_bucket("tokens", 10, secs(60)).max_debt(u64::MAX)),
        // This one is 2^64 and a bit, which must not be the bit.
        quota(Quota::per_second("tokens", 2_048_000_001).paced_over(Duration::MAX)),
        quota(Quota::sliding_window("tokens", 10, Duration::ZERO)),
        quota(Quota::sliding_window("tokens", 10, Duration::MAX)),
        quota(Quota::fixed_window("tokens", 10, Duration::MAX)),
        quota(tokens().guard(Duration::MAX)),
        quota(tokens().slots(0)),
        quota(tokens().slots(u32::MAX)),
        quota(tokens().weight("images", f64::NAN)),
        quota(tokens().weight("images", -1.0)),
        quota(tokens().weight("images", f64::INFINITY)),
        quota(tokens().weight("", 1.0)),
        quota(Quota::per_minute("", 10)),
        Limits::new().bucket("a", [tokens(), tokens()]),
        Limits::new().bucket("a", []),
        quota(tokens()).bucket("a", [tokens()]),
        quota(tokens()).family("*", "b"),
        Limits::new().partition("").bucket("a", [tokens()]),
        Limits::new().partition("{p}").bucket("a", [tokens()]),
        quota(tokens()).partition("p}"),
        quota(tokens()).bucket_in("{", "b", [tokens()]),
        quota(tokens()).partition("p").partition("q"),
        quota(tokens()).weight("tenant", 0),
        quota(tokens()).weight("tenant", 1_000_001),
        quota(tokens()).weight("tenant", 2).weight("tenant", 3),
        quota(tokens()).undeclared(Undeclared::Bucket("b".into())),
        quota(tokens()).class("c", Class::new().headroom(f64::NAN)),
        quota(tokens()).class("c", Class::new().headroom(1.0)),
        quota(tokens()).class("c", Class::new().headroom(-0.1)),
        quota(tokens())
            .class("c", Class::new().headroom(0.1))
            .class("d", Class::new().headroom(0.2))
            .class("c", Class::new().head_start(secs(1)).headroom(0.2)),
    ] {
        let told = format!("{limits:?}");
        let error = Limiter::new(limits).map(drop).expect_err(&told).to_string();
        // It says what it is about.
        let named = ["bucket `a`", "bucket `b`", "class `c`", "partition `", "share `tenant`"];
        assert!(named.iter().any(|name| error.contains(name)), "{error} of {told}");
    }
}

#[tokio::test(start_paused = true)]
async fn options_that_make_no_sense() {
    let jitter = |jitter| {
        let mut retries = Retries::default();
        retries.jitter = jitter;
        retries
    };
    let new = || Limiter::builder(limits());
    for builder in [
        new().attempt_timeout(Duration::ZERO),
        new().retries(jitter(f64::NAN)),
        new().retries(jitter(-0.1)),
        new().lease(Duration::ZERO),
        new().lease(Duration::MAX),
        new().lease(secs(600) + Duration::from_nanos(1)),
        new().on_unavailable(OnUnavailable::local(0.0)),
        new().on_unavailable(OnUnavailable::local(f64::NAN)),
        new().on_unavailable(OnUnavailable::local(1.1)),
    ] {
        assert!(builder.build().unwrap_err().to_string().starts_with("option `"));
    }
    for lease in [ms(100), secs(600)] {
        new().lease(lease).build().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn an_update_that_makes_no_sense_changes_nothing() {
    let limiter = Limiter::new(limits()).unwrap();
    limiter.update(Limits::new().bucket("a", [Quota::per_minute("tokens", 0)])).unwrap_err();
    assert_eq!(limiter.status("a").await.unwrap().quotas[0].limit, 100);
}

#[tokio::test(start_paused = true)]
async fn the_largest_amounts() {
    let quotas = [
        Quota::per_hour("tokens", 900_000_000_000).weight("images", 1e6),
        Quota::token_bucket("tokens", 1_000_000, secs(60)),
        Quota::fixed_window("tokens", 900_000_000_000, secs(3_600)),
        Quota::per_hour("output_tokens", 1_000).charge_at(ChargeAt::End),
        Quota::per_hour("images", 1_000).max_debt(7_000_000_000_000),
    ];
    let limiter = Limiter::new(Limits::new().bucket("a", quotas)).unwrap();
    for demand in [
        usage! { tokens: u64::MAX },
        usage! { images: u64::MAX },
        usage! { input_tokens: u64::MAX, output_tokens: u64::MAX },
    ] {
        let error = limiter.reserve(Demand::new("a", demand)).await.unwrap_err();
        assert!(matches!(error, Throttled::ExceedsCapacity(_)), "{error}");
    }
    let requests = Demand::new("a", usage! { requests: u64::MAX });
    limiter.reserve(requests).await.expect("no quota counts them").keep().await.unwrap();

    let mut call =
        limiter.reserve(Demand::new("a", usage! { tokens: 1, images: 1 })).await.unwrap();
    let bogus = || usage! { tokens: u64::MAX, images: u64::MAX, requests: u64::MAX };
    for _ in 0..100 {
        call.adjust(bogus()).await.unwrap();
    }
    call.settle(bogus()).await.unwrap();
    // It is believed up to a few times the capacity, and paid off in time.
    let status = limiter.status("a").await.unwrap();
    for quota in &status.quotas {
        assert!(quota.available < 0.0 && quota.in_flight == 0, "{quota:?}");
    }
    tokio::time::advance(secs(7_300)).await;
    let status = limiter.status("a").await.unwrap();
    for quota in &status.quotas {
        assert_eq!(quota.available, quota.limit as f64, "{quota:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_longest_durations() {
    let limits = limits()
        .class("always first", Class::new().head_start(Duration::MAX))
        .class("early", Class::new().head_start(secs(30)));
    let limiter = Limiter::builder(limits).attempt_timeout(Duration::MAX).build().unwrap();
    let call = limiter.reserve(tokens(100).max_wait(Duration::MAX)).await.unwrap();
    let early = waiting(&limiter, tokens(10).class("early"));
    quiet().await;
    let first = waiting(&limiter, tokens(95).class("always first").max_wait(secs(u32::MAX.into())));
    quiet().await;
    assert_eq!(limiter.status("a").await.unwrap().waiting, 2);
    call.release().await.unwrap();
    let first = first.await.unwrap().unwrap();
    assert!(!early.is_finished());
    let id = first.detach(Duration::MAX).await.unwrap();
    assert!(limiter.settle(&id, usage! { tokens: 0 }).await.unwrap());
    early.await.unwrap().unwrap().release().await.unwrap();

    limiter.pause("a", Duration::MAX).await.unwrap();
    let Err(Throttled::NotNow(refusal)) = limiter.try_reserve(tokens(1)).await else {
        panic!("it is paused")
    };
    assert_eq!(&*refusal.binding().unwrap().quota, "paused");
    assert!(refusal.retry_after().unwrap() > secs(6 * 86_400));
    limiter.resume("a").await.unwrap();
    limiter.try_reserve(tokens(1)).await.unwrap().release().await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_no_time_and_one_that_ends() {
    let limiter = Limiter::new(limits()).unwrap();
    limiter.pause("a", secs(10)).await.unwrap();
    // A shorter one does not shorten it.
    limiter.pause("a", Duration::ZERO).await.unwrap();
    limiter.pause("a", secs(1)).await.unwrap();
    let status = limiter.status("a").await.unwrap();
    assert!(status.paused_until.is_some());
    let waits = waiting(&limiter, tokens(1));
    tokio::time::sleep(ms(9_990)).await;
    assert!(!waits.is_finished());
    tokio::time::sleep(ms(10)).await;
    quiet().await;
    waits.await.unwrap().unwrap().keep().await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().paused_until, None);

    limiter.pause("a", secs(1_000)).await.unwrap();
    let waits = waiting(&limiter, tokens(1));
    quiet().await;
    limiter.resume("a").await.unwrap();
    quiet().await;
    assert!(waits.is_finished());
}

#[tokio::test(start_paused = true)]
async fn names_of_any_characters() {
    let names = ["{a}", "a\nb", "a b=c%", "", "\0", "🦀", ":", "a}{b", "*", "?"];
    let limits = names.iter().fold(Limits::new().partition("p ü%\n"), |limits, name| {
        limits.bucket(*name, [Quota::per_hour(format!("{name}m"), 100).named(*name)])
    });
    let limiter = Limiter::new(limits).unwrap();
    for name in names {
        let demand = Demand::new(name, Usage::new().with(format!("{name}m"), 60));
        let id = limiter.try_reserve(demand.clone()).await.unwrap().detach(secs(60)).await.unwrap();
        let error = limiter.try_reserve(demand.and("*")).await;
        assert!(error.is_err());
        let id = id.to_string().parse().unwrap();
        assert!(limiter.settle(&id, Usage::new().with(format!("{name}m"), 10)).await.unwrap());
        let status = limiter.status(name).await.unwrap();
        assert_eq!((&*status.bucket, status.quotas[0].charged), (name, 10.0));
    }
}
