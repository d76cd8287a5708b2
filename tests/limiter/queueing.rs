//! What travels when, and what is left when nothing does.

use std::time::Duration;

use tokio::{
    runtime::Handle,
    time::{Instant, timeout},
};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Throttled, Usage, limits::Undeclared, store::Operation, usage,
};

use crate::fake::*;

fn is_reserve(op: &&Operation) -> bool {
    matches!(op, Operation::Reserve | Operation::TryReserve | Operation::Ask)
}

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_a_batch_is_on_its_way_travels_in_the_next() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    let calls: Vec<_> = (0..50).map(|_| waiting(&limiter, tokens(1))).collect();
    let mut open = Vec::new();
    for call in calls {
        open.push(call.await.unwrap().unwrap());
    }
    drop(open);
    limiter.status("a").await.unwrap();
    let sizes: Vec<_> = store.sent().iter().map(|batch| batch.ops.len()).collect();
    // The first to come goes at once, alone or with what came with it; the rest share a batch.
    assert!(sizes.len() <= 5 && sizes.iter().sum::<usize>() >= 100, "{sizes:?}");
    assert_eq!(store.most_open(), 1);
}

/// Callers that were granted go on before the next batch is made up.
#[tokio::test(start_paused = true)]
async fn what_is_given_back_at_once_travels_with_those_that_wait_for_it() {
    let store = FakeStore::new();
    store.delay(ms(2));
    let limits = Limits::new().bucket("a", [Quota::concurrency(4)]);
    let limiter = Limiter::builder(limits).store(store.clone()).build().unwrap();
    let call = |limiter: Limiter| async move {
        let call = limiter.reserve(Demand::new("a", usage! {})).await.unwrap();
        drop(call.release());
    };
    let calls: Vec<_> = (0..24).map(|_| tokio::spawn(call(limiter.clone()))).collect();
    for call in calls {
        call.await.unwrap();
    }
    quiet().await;
    let sizes: Vec<_> = store.sent().iter().map(|batch| batch.ops.len()).collect();
    // Six times four calls, and the last of them end.
    assert!(sizes.len() <= 8, "{sizes:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lone_reserve_is_one_request() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(1)).await.unwrap();
    assert_eq!(store.sent().len(), 1);
    call.release().await.unwrap();
    assert_eq!(store.sent().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_and_no_waiter_is_forgotten() {
    let store = FakeStore::new();
    store.delay(ms(2));
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 10_000)]);
    let limiter = Limiter::builder(limits).store(store.clone()).build().unwrap();
    let calls: Vec<_> = (0..2_000).map(|_| waiting(&limiter, tokens(1))).collect();
    let mut open = Vec::new();
    for call in calls {
        open.push(call.await.unwrap().unwrap());
    }
    open.into_iter().for_each(|call| drop(call.settle(usage! { tokens: 0 })));
    let status = limiter.status("a").await.unwrap();
    assert_eq!((status.quotas[0].charged, status.quotas[0].in_flight), (0.0, 0));
    let sent = store.sent();
    assert!(sent.iter().all(|batch| batch.ops.len() <= 512));
    assert!(sent.len() < 40, "{}", sent.len());
}

#[tokio::test(start_paused = true)]
async fn a_long_queue_is_not_sent_over_and_over() {
    let store = FakeStore::new();
    let limiter = on(&store);
    limiter.reserve(tokens(100)).await.unwrap().keep().await.unwrap();
    let calls: Vec<_> = (0..1_000).map(|_| waiting(&limiter, tokens(1))).collect();
    tokio::time::sleep(secs(1)).await;
    store.sent();
    tokio::time::sleep(secs(60)).await;
    let sent = store.sent();
    let reserves = |batch: &Sent| batch.ops.iter().filter(is_reserve).count();
    assert!(
        sent.len() <= 130 && sent.iter().all(|batch| reserves(batch) <= 4 && batch.ops.len() <= 5)
    );
    calls.iter().for_each(|call| call.abort());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_costs_no_task() {
    let store = FakeStore::new();
    let memory = Limiter::new(limits()).unwrap();
    for (limiter, patience) in [(memory, ms(0)), (on(&store), secs(2))] {
        let before = tasks();
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let behind = waiting(&limiter, tokens(10));
        tokio::time::sleep(ms(700)).await;
        assert_eq!(tasks() - before, 2);
        call.settle(usage! { tokens: 0 }).await.unwrap();
        behind.await.unwrap().unwrap().keep().await.unwrap();
        tokio::time::sleep(patience).await;
        quiet().await;
        assert_eq!(tasks(), before);
    }
}

#[tokio::test(start_paused = true)]
async fn calls_in_flight_outlive_the_lease_of_their_process_while_it_lives() {
    let store = FakeStore::new();
    let limits = || Limits::new().bucket("a", [Quota::concurrency(1)]);
    let build = || Limiter::builder(limits()).store(store.clone()).lease(secs(3)).build().unwrap();
    let (limiter, other) = (build(), build());
    let call = limiter.reserve(tokens(1)).await.unwrap();
    store.sent();
    for _ in 0..20 {
        tokio::time::sleep(secs(1)).await;
        assert!(matches!(other.try_reserve(tokens(1)).await, Err(Throttled::NotNow(_))));
    }
    let beats = store.sent().iter().filter(|batch| batch.ops.is_empty()).count();
    assert!((15..=25).contains(&beats), "{beats} heartbeats in 20 s");

    // It can be reached no more, as if it had been killed: the lease ends.
    let other = Limiter::builder(limits()).shared_store(store.inner.clone()).build().unwrap();
    // After the heartbeat that is due now.
    quiet().await;
    store.always(Fate::RequestLost);
    tokio::time::sleep(secs(2)).await;
    assert!(other.try_reserve(tokens(1)).await.is_err());
    tokio::time::sleep(secs(2)).await;
    let second = other.try_reserve(tokens(1)).await.unwrap();
    // Its settle comes late, and frees nothing of what another holds.
    store.heal();
    drop(call);
    tokio::time::sleep(secs(10)).await;
    assert!(other.try_reserve(tokens(1)).await.is_err());
    drop(second);
}

#[tokio::test(start_paused = true)]
async fn names_used_once_are_forgotten() {
    let limits = Limits::new()
        .bucket("a", [Quota::per_second("requests", 10)])
        .bucket("rest", [Quota::per_second("requests", 1_000_000)])
        .family("alias-*", "a")
        .resolver(|name| {
            name.starts_with("tenant-").then(|| vec![Quota::per_second("requests", 5)])
        })
        .undeclared(Undeclared::Bucket("rest".into()));
    let limiter = Limiter::new(limits).unwrap();
    for n in 0..5_000 {
        for name in [format!("tenant-{n}"), format!("other-{n}")] {
            limiter
                .try_reserve(Demand::new(name, Usage::new()))
                .await
                .unwrap()
                .keep()
                .await
                .unwrap();
        }
        drop(limiter.try_reserve(Demand::new(format!("alias-{n}"), Usage::new())).await);
    }
    // The debug form tells how many buckets are remembered.
    let known = format!("{limiter:?}");
    let known = known.split("buckets: ").nth(1).and_then(|rest| rest.split(',').next()).unwrap();
    assert!(known.parse::<usize>().unwrap() <= 3_000, "{known} buckets");
}

#[tokio::test(start_paused = true)]
async fn what_is_open_is_not_forgotten() {
    let limits = Limits::new().resolver(|_| Some(vec![Quota::concurrency(1)]));
    let limiter = Limiter::new(limits).unwrap();
    let call = limiter.try_reserve(Demand::new("mine", Usage::new())).await.unwrap();
    for n in 0..5_000 {
        drop(limiter.try_reserve(Demand::new(n.to_string(), Usage::new())).await.unwrap());
    }
    let again = Demand::new("mine", Usage::new());
    assert!(limiter.try_reserve(again.clone()).await.is_err());
    drop(call);
    drop(limiter.try_reserve(again).await.unwrap());
}

/// In memory, and across a network; with a queue of at most so many.
fn with_queues_of(max_waiting: usize) -> [Limiter; 2] {
    let store = FakeStore::new();
    store.delay(ms(10));
    let builder = || Limiter::builder(limits()).max_waiting(max_waiting);
    [builder().build().unwrap(), builder().store(store).build().unwrap()]
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_refuses() {
    for limiter in with_queues_of(3) {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let waits = [(); 3].map(|()| waiting(&limiter, tokens(1)));
        tokio::time::sleep(ms(50)).await;
        let began = Instant::now();
        let error = limiter.reserve(tokens(1)).await.unwrap_err();
        assert!(
            matches!(&error, Throttled::QueueFull { bucket, max_waiting: 3, .. } if &**bucket == "a"),
            "{error}"
        );
        assert_eq!(began.elapsed(), ms(0), "it is known that it would have to wait");
        // One that is not behind them would have to wait too.
        let hurried = tokens(1).max_wait(secs(3_000));
        assert!(matches!(limiter.reserve(hurried).await, Err(Throttled::QueueFull { .. })));
        assert_eq!(limiter.status("a").await.unwrap().waiting, 3);
        call.release().await.unwrap();
        for (position, wait) in waits.into_iter().enumerate() {
            let call = wait.await.unwrap().unwrap();
            assert_eq!(call.position(), position);
            call.release().await.unwrap();
        }
        limiter.reserve(tokens(1)).await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_leaves_a_full_queue_makes_room() {
    for limiter in with_queues_of(2) {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let full = || async {
            let error = limiter.reserve(tokens(1).max_wait(secs(3_000))).await.unwrap_err();
            assert!(matches!(error, Throttled::QueueFull { .. }), "{error}");
        };
        for _ in 0..3 {
            let first = waiting(&limiter, tokens(1));
            let second = waiting(&limiter, tokens(1).max_wait(secs(20)));
            tokio::time::sleep(ms(50)).await;
            full().await;
            first.abort();
            quiet().await;
            let third = waiting(&limiter, tokens(1));
            tokio::time::sleep(ms(50)).await;
            full().await;
            // A look of the store makes no difference.
            tokio::time::sleep(secs(3)).await;
            full().await;
            third.abort();
            let error = second.await.unwrap().unwrap_err();
            assert!(matches!(error, Throttled::Deadline(_)), "{error}");
        }
        let granted = waiting(&limiter, tokens(1));
        tokio::time::sleep(ms(50)).await;
        call.release().await.unwrap();
        drop(granted.await.unwrap().unwrap());
        let all = limiter.reserve(tokens(99)).await.unwrap();
        let waits = [(); 2].map(|()| waiting(&limiter, tokens(1)));
        tokio::time::sleep(ms(50)).await;
        full().await;
        limiter.update(limits()).unwrap();
        full().await;
        limiter.close().await;
        for wait in waits {
            assert!(matches!(wait.await.unwrap(), Err(Throttled::Closed)));
        }
        drop(all);
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_wait_finds_no_queue_full() {
    for max_waiting in [0, 1] {
        for limiter in with_queues_of(max_waiting) {
            // Many at once, all of which fit.
            let fit: Vec<_> = (0..100).map(|_| waiting(&limiter, tokens(1))).collect();
            let mut calls = Vec::new();
            for call in fit {
                calls.push(call.await.unwrap().unwrap());
            }
            let queued: Vec<_> = (0..max_waiting).map(|_| waiting(&limiter, tokens(1))).collect();
            tokio::time::sleep(ms(50)).await;
            for _ in 0..2 {
                let error = limiter.try_reserve(tokens(1)).await.unwrap_err();
                assert!(matches!(error, Throttled::NotNow(_)), "{error}");
                assert!(limiter.time_until_available(tokens(1)).await.unwrap().is_some());
                limiter.try_reserve(tokens(0)).await.unwrap().release().await.unwrap();
                limiter.reserve(tokens(0)).await.unwrap().release().await.unwrap();
            }
            let error = limiter.reserve(tokens(1)).await.unwrap_err();
            assert!(matches!(error, Throttled::QueueFull { .. }), "{error}");
            queued.iter().for_each(|queued| queued.abort());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn how_long_the_wait_would_be_is_told_however_many_wait() {
    for limiter in with_queues_of(10_000) {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        call.keep().await.unwrap();
        let mut waits: Vec<_> = (0..1_000).map(|_| waiting(&limiter, tokens(1))).collect();
        tokio::time::sleep(ms(500)).await;
        // And with many on their way that were not looked at.
        waits.extend((0..1_000).map(|_| waiting(&limiter, tokens(1).max_wait(secs(86_400)))));
        let asked = timeout(secs(2), limiter.time_until_available(tokens(1)));
        let wait = asked.await.expect("it is told").unwrap().expect("it is known");
        assert!(wait > secs(3_600), "a hundred of those before it fill an hour: {wait:?}");
        waits.iter().for_each(|wait| wait.abort());
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_needs_other_quotas_passes_those_that_wait() {
    let quotas = || [Quota::per_hour("tokens", 100), Quota::per_hour("requests", 100)];
    let store = FakeStore::new();
    store.delay(ms(10));
    for is_shared in [false, true] {
        let builder = Limiter::builder(Limits::new().bucket("a", quotas()));
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let all =
            limiter.reserve(Demand::new("a", usage! { requests: 99, tokens: 100 })).await.unwrap();
        let blocked: Vec<_> = (0..20).map(|_| waiting(&limiter, tokens(1))).collect();
        tokio::time::sleep(ms(50)).await;
        let request = Demand::new("a", usage! { requests: 1, tokens: 0 });
        // Those that wait hold back demands on the quota that holds them back, and on no other.
        let first =
            limiter.try_reserve(request.clone()).await.expect("they do not wait for requests");
        first.release().await.unwrap();
        let only_tokens = Demand::new("a", usage! { requests: 0, tokens: 0 });
        limiter.try_reserve(only_tokens).await.unwrap().keep().await.unwrap();
        all.settle(usage! { requests: 0, tokens: 100 }).await.unwrap();
        limiter.reserve(request).await.unwrap().keep().await.unwrap();
        assert!(blocked.iter().all(|blocked| !blocked.is_finished()));
        blocked.iter().for_each(|blocked| blocked.abort());
    }
}

#[tokio::test(start_paused = true)]
async fn demands_on_other_buckets_are_woken_by_a_shared_one() {
    let store = FakeStore::new();
    store.delay(ms(2));
    let limits = || {
        Limits::new()
            .bucket("child", [Quota::per_hour("tokens", 1_000)])
            .bucket("parent", [Quota::per_hour("tokens", 100)])
    };
    for is_shared in [false, true] {
        let builder = Limiter::builder(limits());
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let path = || Demand::new("child", usage! { tokens: 60 }).and("parent");
        let alone = || Demand::new("parent", usage! { tokens: 60 });
        for (first, second) in [(path(), alone()), (alone(), path())] {
            let call = limiter.reserve(first).await.unwrap();
            let waits = waiting(&limiter, second);
            tokio::time::sleep(ms(20)).await;
            let began = Instant::now();
            call.release().await.unwrap();
            waits.await.unwrap().unwrap().release().await.unwrap();
            assert!(began.elapsed() < ms(20), "{:?}", began.elapsed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn heartbeats_and_empty_batches_ask_for_nothing() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(10)).await.unwrap();
    tokio::time::sleep(secs(30)).await;
    let sent = store.sent();
    let reserves = sent.iter().flat_map(|batch| &batch.ops);
    assert_eq!(reserves.filter(is_reserve).count(), 1);
    call.keep().await.unwrap();
    assert_eq!(truth(&store).await, (10.0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_a_bucket_and_its_parent_waits_for_both() {
    let limits = ["child", "parent"]
        .into_iter()
        .fold(Limits::new(), |limits, name| limits.bucket(name, [Quota::per_minute("tokens", 10)]));
    let limiter = Limiter::new(limits).unwrap();
    let demand = || Demand::new("child", usage! { tokens: 10 }).and("parent");
    let first = limiter.reserve(demand()).await.unwrap();
    let second = waiting(&limiter, demand());
    let third = waiting(&limiter, Demand::new("parent", usage! { tokens: 10 }));
    quiet().await;
    assert_eq!(limiter.status("child").await.unwrap().waiting, 1);
    assert_eq!(limiter.status("parent").await.unwrap().waiting, 2);
    for call in [second, third] {
        call.abort();
    }
    drop(first);
}

/// Refunds come earlier than the store could know when it refused those behind.
#[tokio::test(start_paused = true)]
async fn refunds_start_all_that_fit_and_nothing_spins() {
    let limits = Limits::new().bucket("a", [Quota::sliding_window("tokens", 1_000, secs(6))]);
    let limiter = Limiter::new(limits).unwrap();
    let held = limiter.reserve(tokens(1_000)).await.unwrap();
    let demand = || tokens(50).max_wait(secs(60));
    let calls: Vec<_> = (0..10).map(|_| waiting(&limiter, demand())).collect();
    tokio::time::sleep(ms(1)).await;
    let start = Instant::now();
    held.settle(usage! { tokens: 0 }).await.unwrap();
    let late = waiting(&limiter, demand());
    let mut open = Vec::new();
    for call in calls.into_iter().chain([late]) {
        open.push(call.await.unwrap().unwrap());
    }
    assert!(start.elapsed() < ms(10), "{:?}", start.elapsed());
}

/// What is known of the turns of two flows may differ from quota to quota: then the first of each
/// quota stands behind the other's flow on the other one, and with a long queue behind more than a
/// batch takes. In real time, since it takes callers that come when batches are answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn flows_that_are_before_each_other_on_two_quotas_do_not_wait_for_ever() {
    let run = async |seed: u64| {
        let window = Quota::sliding_window("rows", 1_000, ms(400));
        let limits = Limits::new()
            .bucket("rows", [window, Quota::concurrency(16)])
            .bucket("company", [Quota::per_minute("rows", 1_000_000)]);
        let limiter = Limiter::new(limits).unwrap();
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..200_u64 {
            let limiter = limiter.clone();
            calls.spawn(async move {
                let rows = 20 + number % 30;
                let demand = Demand::new("rows", usage! { rows: rows }).and("company");
                let demand = demand.share(format!("tenant-{}", number % 2));
                let call = limiter.reserve(demand).await.unwrap();
                let mut random = fastrand::Rng::with_seed(seed << 10 | number);
                tokio::time::sleep(Duration::from_micros(random.u64(0..3_000))).await;
                if number % 20 == 7 {
                    limiter.pause("company", ms(200)).await.unwrap();
                    return drop(call.release());
                }
                tokio::time::sleep(ms(10)).await;
                drop(call.settle(usage! { rows: rows * 3 / 5 }));
            });
        }
        timeout(secs(60), calls.join_all()).await.is_ok()
    };
    let mut runs = tokio::task::JoinSet::new();
    (0..16).for_each(|seed| drop(runs.spawn(run(seed))));
    let ended = runs.join_all().await;
    assert!(ended.iter().all(|is_over| *is_over), "{ended:?}");
}

/// A batch has room for 64 buckets and as many waiters.
#[tokio::test(start_paused = true)]
async fn more_tenants_than_a_batch_has_room_for_start_when_their_window_ends() {
    let tenant = |tenant: u32| format!("tenant-{tenant}");
    let limits = (0..150).fold(Limits::new(), |limits, number| {
        limits.bucket(tenant(number), [Quota::per_minute("requests", 1)])
    });
    let limiter = Limiter::new(limits).unwrap();
    let call = |number| waiting(&limiter, Demand::new(tenant(number), usage! { requests: 1 }));
    let started = Instant::now();
    let calls: Vec<_> = (0..300).map(|number| call(number % 150)).collect();
    for call in calls {
        drop(call.await.unwrap().unwrap().settle(usage! { requests: 1 }));
    }
    assert!(started.elapsed() < secs(70), "{:?}", started.elapsed());
}

/// One demand cannot be granted in time and goes away; those that came at the same time stood
/// behind it in their batch.
#[tokio::test(start_paused = true)]
async fn a_demand_that_is_refused_in_time_takes_none_along_that_came_with_it() {
    let store = FakeStore::new();
    store.delay(ms(10));
    for limiter in [on(&store), Limiter::new(limits()).unwrap()] {
        limiter.reserve(tokens(60)).await.unwrap().keep().await.unwrap();
        let hopeless = waiting(&limiter, tokens(90).max_wait(secs(1)));
        let others: Vec<_> =
            [30, 80, 10].map(|amount| waiting(&limiter, tokens(amount).max_wait(secs(1)))).into();
        let error = hopeless.await.unwrap().unwrap_err();
        assert!(matches!(error, Throttled::Deadline(_)), "{error}");
        let mut granted = Vec::new();
        for other in others {
            granted.push(other.await.unwrap().is_ok());
        }
        assert_eq!(granted, [true, false, true]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_is_dropped_on_its_way_takes_none_along_that_came_with_it() {
    let store = FakeStore::new();
    let limiter = on(&store);
    limiter.reserve(tokens(60)).await.unwrap().keep().await.unwrap();
    store.delay(ms(10));
    let dropped = waiting(&limiter, tokens(90));
    let other = waiting(&limiter, tokens(30).max_wait(secs(1)));
    quiet().await;
    dropped.abort();
    drop(other.await.unwrap().unwrap().release());
}
