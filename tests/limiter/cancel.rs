//! A `reserve` that is dropped, at whatever point, was never there.

use std::{pin::pin, sync::Arc, task::Poll, time::Duration};

use tokio::time::Instant;
use tower_throttle::{Limiter, Limits, Quota, Throttled, limiter::Shortage, usage};

use crate::fake::*;

/// Polls `reserve` this many times, each time after something has happened, and drops it. Returns
/// true if it was finished before.
async fn dropped_after(limiter: &Limiter, polls: usize, amount: u64, step: Duration) -> bool {
    let mut reserve = pin!(limiter.reserve(tokens(amount)));
    for _ in 0..polls {
        if let Poll::Ready(result) = poll(reserve.as_mut()).await {
            result.unwrap().release().await.unwrap();
            return true;
        }
        quiet().await;
        tokio::time::advance(step).await;
        quiet().await;
    }
    false
}

#[tokio::test(start_paused = true)]
async fn s22_dropped_at_every_await_point_it_leaves_nothing() {
    for step in [0, 1, 3, 10] {
        for polls in 0..100 {
            let store = FakeStore::new();
            store.delay(ms(10));
            let limiter = on(&store);
            let finished = dropped_after(&limiter, polls, 30, ms(step)).await;
            tokio::time::advance(ms(50)).await;
            quiet().await;
            let status = limiter.status("a").await.unwrap();
            assert_eq!(status.waiting, 0);
            assert_eq!(truth(&store).await, (0.0, 0), "after {polls} polls, {step} ms apart");
            if finished {
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn s22_in_memory_too() {
    for polls in 0..5 {
        let limiter = Limiter::new(limits()).unwrap();
        let all = limiter.reserve(tokens(100)).await.unwrap();
        {
            let mut reserve = pin!(limiter.reserve(tokens(30)));
            for _ in 0..polls {
                assert!(poll(reserve.as_mut()).await.is_pending());
                quiet().await;
            }
            // Granted, and dropped before its caller has seen the grant.
            all.release().await.unwrap();
            quiet().await;
        }
        quiet().await;
        let status = limiter.status("a").await.unwrap();
        assert_eq!(
            (status.waiting, status.quotas[0].charged, status.quotas[0].in_flight),
            (0, 0.0, 0)
        );
    }
}

#[tokio::test(start_paused = true)]
async fn those_behind_start_whenever_the_front_is_dropped() {
    for polls in 1..8 {
        for step in [0, 5, 10] {
            let store = FakeStore::new();
            store.delay(ms(10));
            let limiter = Arc::new(on(&store));
            let call = limiter.reserve(tokens(50)).await.unwrap();
            let behind = {
                let mut front = pin!(limiter.reserve(tokens(80)));
                assert!(poll(front.as_mut()).await.is_pending());
                let behind = waiting(&limiter, tokens(50));
                for _ in 0..polls {
                    quiet().await;
                    tokio::time::advance(ms(step)).await;
                    quiet().await;
                    assert!(poll(front.as_mut()).await.is_pending());
                }
                behind
            };
            let dropped = Instant::now();
            behind.await.unwrap().unwrap().keep().await.unwrap();
            // A batch that has the front in it may be on its way: one more, and the one to keep.
            assert!(dropped.elapsed() <= ms(40), "after {:?}", dropped.elapsed());
            call.keep().await.unwrap();
            assert_eq!(truth(&store).await, (100.0, 0));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_try_can_be_dropped_too() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    {
        let mut attempt = pin!(limiter.try_reserve(tokens(30)));
        assert!(poll(attempt.as_mut()).await.is_pending());
        quiet().await;
    }
    tokio::time::advance(ms(50)).await;
    quiet().await;
    limiter.status("a").await.unwrap();
    assert_eq!(truth(&store).await, (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_settle_is_applied_whether_or_not_it_is_awaited() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    let call = limiter.reserve(tokens(30)).await.unwrap();
    drop(call.settle(usage! { tokens: 7 }));
    limiter.status("a").await.unwrap();
    assert_eq!(truth(&store).await, (7.0, 0));
}

#[tokio::test(start_paused = true)]
async fn the_longest_wait_may_end_while_a_batch_is_on_its_way() {
    let store = FakeStore::new();
    store.delay(ms(100));
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    // The store is looking at it when its time is up: it says why, and leaves nothing.
    let error = limiter.reserve(tokens(10).max_wait(ms(650))).await.unwrap_err();
    assert!(
        matches!(&error, Throttled::Deadline(refusal) if refusal.shortages().len() == 1),
        "{error:?}"
    );
    drop(call.release());
    limiter.status("a").await.unwrap();
    tokio::time::advance(secs(1)).await;
    quiet().await;
    assert_eq!(truth(&store).await, (0.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_demand_whose_time_is_up_is_told_what_it_asked_itself() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let quotas = || [Quota::per_hour("requests", 100), Quota::per_hour("tokens", 100)];
    for is_shared in [false, true] {
        let builder = Limiter::builder(Limits::new().bucket("a", quotas()));
        let builder = if is_shared { builder.store(store.clone()) } else { builder };
        let limiter = builder.build().unwrap();
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let front = waiting(&limiter, tokens(90));
        tokio::time::sleep(ms(50)).await;
        let error = limiter.reserve(tokens(7).max_wait(secs(2))).await.unwrap_err();
        let Throttled::Deadline(refusal) = &error else { panic!("{error}") };
        let told = |shortage: &Shortage| {
            (shortage.quota.to_string(), shortage.requested, shortage.available)
        };
        let told: Vec<_> = refusal.shortages().iter().map(told).collect();
        assert_eq!(told, [("tokens per hour".to_owned(), 7, 0)]);
        assert!(refusal.retry_after().is_some_and(|wait| wait > secs(3_000)), "{error}");
        front.abort();
        call.release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn no_wait_at_all_is_enough_where_there_is_room() {
    let memory = Limiter::new(limits()).unwrap();
    let store = FakeStore::new();
    store.delay(ms(10));
    for limiter in [memory, on(&store)] {
        let call = limiter
            .reserve(tokens(100).max_wait(Duration::ZERO))
            .await
            .expect("a round trip is no wait");
        let error = limiter.reserve(tokens(1).max_wait(Duration::ZERO)).await.unwrap_err();
        assert!(
            matches!(&error, Throttled::Deadline(refusal) if refusal.shortages().len() == 1),
            "{error:?}"
        );
        call.release().await.unwrap();
    }
}

/// Its place is gone when its future is, whatever thread the driver is on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_question_after_a_cancelled_wait_finds_nothing_waiting() {
    let limiter = Limiter::new(Limits::new().bucket("a", [Quota::per_minute("tokens", 100)]));
    let limiter = limiter.unwrap();
    for round in 0..200 {
        limiter.pause("a", Duration::from_secs(60)).await.unwrap();
        let wait = limiter.reserve(tokens(1).max_wait(Duration::from_secs(600)));
        tokio::time::timeout(ms(round % 4), wait).await.unwrap_err();
        limiter.resume("a").await.unwrap();
        let status = limiter.status("a").await.unwrap();
        assert_eq!((status.waiting, status.quotas[0].in_flight), (0, 0), "in round {round}");
    }
}

/// Those that are left are counted, as soon as the future of the one that left is dropped.
#[tokio::test(start_paused = true)]
async fn a_question_counts_without_who_has_left() {
    let memory = Limiter::new(limits()).unwrap();
    for limiter in [memory, on(&FakeStore::new())] {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let mut waits: Vec<_> = (0..3).map(|_| Box::pin(limiter.reserve(tokens(50)))).collect();
        for wait in &mut waits {
            assert!(futures_util::poll!(wait.as_mut()).is_pending());
        }
        tokio::time::sleep(ms(50)).await;
        for left in [2, 1, 0] {
            drop(waits.pop());
            assert_eq!(limiter.status("a").await.unwrap().waiting, left);
        }
        call.release().await.unwrap();
    }
}
