//! Shares take turns: one that asks little starts soon beside one that floods.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tower_throttle::{Demand, Limiter, Limits, Quota, store::MemoryStore, usage};

use crate::fake::*;

fn of(share: &str) -> Demand {
    Demand::new("a", usage! { tokens: 1 }).share(share)
}

/// Where one share floods a bucket, another one need not be patient.
#[tokio::test(start_paused = true)]
async fn a_longest_wait_is_measured_by_turns() {
    for of_flood in [0, 1] {
        let quota = Quota::token_bucket("tokens", 10, Duration::from_secs(10));
        let limits = Limits::new().bucket("a", [quota]);
        let store = Arc::new(MemoryStore::new());
        let limiters = [(); 2].map(|()| {
            Limiter::builder(limits.clone()).shared_store(store.clone()).build().unwrap()
        });
        let _flood: Vec<_> = (0..100).map(|_| waiting(&limiters[of_flood], of("loud"))).collect();
        quiet().await;
        tokio::time::sleep(ms(50)).await;
        let begun = Instant::now();
        let call = limiters[0].reserve(of("quiet").max_wait(secs(5))).await;
        call.unwrap().keep().await.unwrap();
        assert!(begun.elapsed() < secs(3), "{:?}", begun.elapsed());
    }
}

/// What a share is granted on other tenants of a parent does not put it off where it contends.
#[tokio::test(start_paused = true)]
async fn a_share_has_its_turns_on_a_tenant_whatever_it_is_granted_on_others() {
    let limits = Limits::new()
        .bucket("busy", [Quota::token_bucket("requests", 10, secs(10))])
        .bucket("free", [Quota::per_second("requests", 1_000)])
        .bucket("all", [Quota::per_second("requests", 10_000)]);
    let on = |tenant: &str, share: &str| {
        Demand::new(tenant, usage! { requests: 1 }).and("all").share(share)
    };
    for (weight, wanted, of_backlog) in [(1, 20, 0), (1, 20, 1), (3, 10, 0), (3, 10, 1)] {
        let store = Arc::new(MemoryStore::new());
        let limiters = [(); 2].map(|()| {
            let limits = limits.clone().weight("steady", weight);
            Limiter::builder(limits).shared_store(store.clone()).build().unwrap()
        });
        let _backlog: Vec<_> =
            (0..100).map(|_| waiting(&limiters[of_backlog], on("busy", "steady"))).collect();
        let elsewhere = limiters[0].clone();
        let free = tokio::spawn(async move {
            loop {
                let call = elsewhere.reserve(on("free", "everywhere")).await.unwrap();
                call.keep().await.unwrap();
                tokio::time::sleep(ms(20)).await;
            }
        });
        tokio::time::sleep(secs(5)).await;
        let (begun, mut granted) = (Instant::now(), 0_u32);
        while begun.elapsed() < secs(40) {
            let demand = on("busy", "everywhere").max_wait(secs(10));
            limiters[0].reserve(demand).await.unwrap().keep().await.unwrap();
            granted += 1;
        }
        free.abort();
        assert!(granted.abs_diff(wanted) <= 1, "{granted} of 40, weight {weight}, {of_backlog}");
    }
}

/// A share that asks now and then passes no waiter of another one, time and again.
#[tokio::test(start_paused = true)]
async fn newcomers_of_a_share_starve_no_other_share_of_their_process() {
    let quota = || Quota::token_bucket("tokens", 10, Duration::from_secs(10));
    let on = |share: &str, tokens: u64| Demand::new("a", usage! { tokens: tokens }).share(share);
    for is_other in [false, true] {
        let store = FakeStore::new();
        store.delay(ms(2));
        let limiters = [(); 2].map(|()| {
            let limits = Limits::new().bucket("a", [quota()]);
            Limiter::with_store(limits, store.clone()).unwrap()
        });
        let [one, other] = &limiters;
        one.reserve(on("f", 10)).await.unwrap().keep().await.unwrap();
        let large = waiting(one, on("g", 5));
        tokio::time::sleep(ms(20)).await;
        let begun = Instant::now();
        let small = if is_other { other.clone() } else { one.clone() };
        while !large.is_finished() && begun.elapsed() < secs(60) {
            tokio::time::sleep(ms(1_050)).await;
            small.reserve(on("f", 1)).await.unwrap().keep().await.unwrap();
        }
        assert!(begun.elapsed() < secs(20), "other {is_other}: {:?}", begun.elapsed());
    }
}

/// Those that a newcomer might pass do not take its room in the batch, again and again.
#[tokio::test(start_paused = true)]
async fn newcomers_find_room_beside_those_that_they_might_pass() {
    let store = FakeStore::new();
    store.delay(ms(2));
    let mut limits = Limits::new()
        .bucket("all", [Quota::token_bucket("tokens", 10, secs(36_000))])
        .bucket("x", [Quota::per_second("tokens", 100)])
        .bucket("y", [Quota::per_second("tokens", 100)]);
    for number in 0..63 {
        limits = limits.bucket(format!("t{number}"), [Quota::per_second("tokens", 100)]);
    }
    let one = Limiter::with_store(limits, store.clone()).unwrap();
    one.reserve(Demand::new("all", usage! { tokens: 10 })).await.unwrap().keep().await.unwrap();
    let _older: Vec<_> = [(0, 16), (16, 32), (32, 48), (48, 63)]
        .map(|(from, to)| {
            let demand = Demand::new(format!("t{from}"), usage! { tokens: 5 }).share("g");
            let demand = (from + 1..to).fold(demand, |demand, t| demand.and(format!("t{t}")));
            waiting(&one, demand.and("all"))
        })
        .into();
    tokio::time::sleep(ms(100)).await;
    store.sent();
    let newcomer = Demand::new("x", usage! { tokens: 1 }).and("all").share("f");
    let _newcomer = waiting(&one, newcomer);
    tokio::time::sleep(ms(1)).await;
    let begun = Instant::now();
    let other = one.reserve(Demand::new("y", usage! { tokens: 1 }).max_wait(secs(30)));
    let other = tokio::time::timeout(secs(10), other).await;
    tokio::time::sleep(secs(1)).await;
    let sent = store.sent().len();
    assert!(other.is_ok() && sent < 30, "{} {sent} {:?}", other.is_ok(), begun.elapsed());
}
