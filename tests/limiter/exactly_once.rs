//! A batch is applied once, whatever becomes of requests and replies.

use tower_throttle::{
    Limiter, Limits, Quota, Throttled, limiter::Retries, store::Operation, usage,
};

use crate::fake::{Fate::*, *};

#[tokio::test(start_paused = true)]
async fn s31_a_reserve_whose_reply_is_lost_is_granted_once() {
    for fate in [ReplyLost, RequestLost, Unavailable, AppliedUnavailable, Twice] {
        let store = FakeStore::new();
        let limiter = on(&store);
        store.next([fate]);
        let call = limiter.reserve(tokens(30)).await.unwrap();
        assert_eq!(truth(&store).await, (30.0, 30), "{fate:?}");
        let sent = store.sent();
        assert!(
            sent.iter().all(|again| (again.session, again.seq) == (sent[0].session, sent[0].seq))
        );
        call.release().await.unwrap();
        assert_eq!(truth(&store).await, (0.0, 0), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn s31_a_settle_whose_reply_is_lost_is_applied_once() {
    for fate in [ReplyLost, RequestLost, Unavailable, AppliedUnavailable, Twice] {
        for (actual, charged) in [(10, 20.0), (50, 60.0)] {
            let store = FakeStore::new();
            let limiter = on(&store);
            let first = limiter.reserve(tokens(10)).await.unwrap();
            let call = limiter.reserve(tokens(30)).await.unwrap();
            store.next([fate, fate]);
            call.settle(usage! { tokens: actual }).await.unwrap();
            assert_eq!(truth(&store).await, (charged, 10), "{fate:?}");
            first.keep().await.unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_reached_no_caller_is_given_back() {
    for fate in [ReplyLost, AppliedUnavailable] {
        let store = FakeStore::new();
        let limiter = builder(&store).retries(Retries::none()).build().unwrap();
        store.next([fate]);
        let error = limiter.reserve(tokens(30)).await.unwrap_err();
        assert!(matches!(error, Throttled::Store(_)), "{error}");
        assert_eq!(truth(&store).await, (30.0, 30));
        // The next batch tells; without being asked for.
        tokio::time::sleep(secs(2)).await;
        assert_eq!(truth(&store).await, (0.0, 0), "{fate:?}");
        limiter.reserve(tokens(100)).await.unwrap().release().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_that_was_given_up_is_not_granted_afterwards() {
    for fate in [RequestLost, Unavailable] {
        let store = FakeStore::new();
        let limiter = builder(&store).retries(Retries::none()).build().unwrap();
        store.next([fate]);
        limiter.reserve(tokens(30)).await.unwrap_err();
        tokio::time::sleep(secs(2)).await;
        assert_eq!(truth(&store).await, (0.0, 0), "{fate:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_settle_that_was_given_up_is_applied_once_the_store_is_back() {
    for fate in [RequestLost, ReplyLost, Unavailable, AppliedUnavailable] {
        // More than one attempt fails; in the end the lease is long over.
        for outage in [secs(20), secs(290)] {
            let store = FakeStore::new();
            let limiter = on(&store);
            let call = limiter.reserve(tokens(30)).await.unwrap();
            store.always(fate);
            let error = call.settle(usage! { tokens: 50 }).await.unwrap_err();
            assert!(matches!(error, Throttled::Store(_)), "{error}");
            tokio::time::sleep(outage).await;
            store.heal();
            tokio::time::sleep(secs(6)).await;
            assert_eq!(truth(&store).await, (50.0, 0), "{fate:?} for {outage:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_the_store_has_forgotten_is_sent_no_more() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(30)).await.unwrap();
    store.always(RequestLost);
    call.settle(usage! { tokens: 50 }).await.unwrap_err();
    tokio::time::sleep(secs(310)).await;
    store.heal();
    store.sent();
    limiter.reserve(tokens(1)).await.unwrap().keep().await.unwrap();
    assert_eq!(truth(&store).await, (31.0, 0));
    let sent = store.sent();
    let settles = sent.iter().flat_map(|sent| &sent.ops).filter(|op| **op == Operation::Settle);
    assert_eq!(settles.count(), 1, "that of the second call: {sent:?}");
}

#[tokio::test(start_paused = true)]
async fn settles_made_during_an_outage_are_applied_after_it() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let mut calls = Vec::new();
    for _ in 0..10 {
        calls.push(limiter.reserve(tokens(10)).await.unwrap());
    }
    store.always(Unavailable);
    for call in calls {
        drop(call.settle(usage! { tokens: 1 }));
        tokio::time::sleep(ms(700)).await;
    }
    store.heal();
    tokio::time::sleep(secs(6)).await;
    assert_eq!(truth(&store).await, (10.0, 0));
}

#[tokio::test(start_paused = true)]
async fn every_mix_of_faults_ends_with_what_was_really_used() {
    let fates = [Answered, ReplyLost, RequestLost, Unavailable, AppliedUnavailable, Twice];
    for seed in 1..40_u64 {
        let store = FakeStore::new();
        store.delay(ms(4));
        let limiter = builder(&store).attempt_timeout(ms(50)).build().unwrap();
        let mut random = seed;
        let mut next = |below: u64| {
            random = random
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            (random >> 33) % below
        };
        let mut used = 0;
        for _ in 0..30 {
            store.next((0..next(4)).map(|_| fates[next(6) as usize]));
            if let Ok(call) = limiter.try_reserve(tokens(next(5))).await {
                let actual = next(5);
                used += actual;
                drop(call.settle(usage! { tokens: actual }));
            }
            tokio::time::sleep(ms(next(30))).await;
        }
        store.heal();
        tokio::time::sleep(secs(10)).await;
        limiter.status("a").await.unwrap();
        assert_eq!(truth(&store).await, (used as f64, 0), "seed {seed}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_an_endless_outage_leaves_in_doubt_is_not_in_flight_for_ever() {
    let store = FakeStore::new();
    let limits = Limits::new().bucket("a", [Quota::concurrency(2)]);
    let limiter = Limiter::builder(limits).store(store.clone()).lease(secs(500)).build().unwrap();
    let call = limiter.reserve(tokens(1)).await.unwrap();
    let other = limiter.reserve(tokens(1)).await.unwrap();
    store.always(RequestLost);
    drop(call);
    tokio::time::sleep(secs(100)).await;
    store.heal();
    for _ in 0..100 {
        tokio::time::sleep(secs(10)).await;
        drop(limiter.try_reserve(tokens(1)).await);
    }
    drop(other);
    let quota = limiter.status("a").await.unwrap().quotas[0].clone();
    assert_eq!(quota.in_flight, 0);
}

#[tokio::test(start_paused = true)]
async fn settles_travel_before_demands() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let front = waiting(&limiter, tokens(60));
    tokio::time::sleep(ms(100)).await;
    store.sent();
    let behind = waiting(&limiter, tokens(10));
    quiet().await;
    drop(call.settle(usage! { tokens: 30 }));
    front.await.unwrap().unwrap().keep().await.unwrap();
    behind.await.unwrap().unwrap().keep().await.unwrap();
    for batch in store.sent() {
        let settles = batch.ops.iter().map(|op| *op == Operation::Settle);
        assert!(settles.is_sorted_by(|before, after| before >= after), "{:?}", batch.ops);
    }
    assert_eq!(truth(&store).await, (100.0, 0));
}

#[tokio::test(start_paused = true)]
async fn s31_what_arrives_again_much_later_changes_nothing() {
    let store = FakeStore::new();
    let limiter = on(&store);
    for n in 1..10 {
        let call = limiter.reserve(tokens(n)).await.unwrap();
        drop(call.settle(usage! { tokens: n / 2 }));
    }
    let open = limiter.reserve(tokens(20)).await.unwrap();
    let before = truth(&store).await;
    let sent = store.sent();
    for batch in sent.iter().chain(sent.iter().rev()) {
        store.apply_now(batch);
        assert_eq!(truth(&store).await, before);
    }
    open.keep().await.unwrap();
    assert_eq!(truth(&store).await, (40.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_remembers_what_never_was_is_told_and_got_over() {
    let store = FakeStore::new();
    let limiter = on(&store);
    limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
    // As if it had been restored from a copy of a later time.
    let mut later = store.sent().remove(0);
    later.seq += 1_000;
    store.apply_now(&later);
    let error = limiter.reserve(tokens(10)).await.unwrap_err();
    assert!(matches!(error, Throttled::Store(_)) && error.to_string().contains("copy"), "{error}");
    limiter.reserve(tokens(10)).await.unwrap().keep().await.unwrap();
}

/// The reply to the first attempt is lost; meanwhile the credentials are changed, for a while.
#[tokio::test(start_paused = true)]
async fn a_settle_that_is_refused_after_a_lost_reply_is_applied_once() {
    for retries in [Retries::default(), Retries::none()] {
        let store = FakeStore::new();
        let limiter = builder(&store).retries(retries).build().unwrap();
        let first = limiter.reserve(tokens(40)).await.unwrap();
        let call = limiter.reserve(tokens(30)).await.unwrap();
        store.next([AppliedUnavailable, Rejected]);
        drop(call.settle(usage! { tokens: 10 }));
        tokio::time::sleep(secs(30)).await;
        assert_eq!(truth(&store).await, (50.0, 40), "{retries:?}");
        first.keep().await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_grant_that_is_refused_after_a_lost_reply_is_given_back() {
    for retries in [Retries::default(), Retries::none()] {
        let store = FakeStore::new();
        let limits = Limits::new().bucket("a", [Quota::concurrency(1)]);
        let limiter = Limiter::builder(limits).store(store.clone()).retries(retries);
        let limiter = limiter.build().unwrap();
        store.next([AppliedUnavailable, Rejected]);
        limiter.reserve(tokens(1)).await.unwrap_err();
        let mut last = None;
        for _ in 0..100 {
            tokio::time::sleep(secs(3)).await;
            last = Some(limiter.try_reserve(tokens(1)).await);
            if last.as_ref().unwrap().is_ok() {
                break;
            }
        }
        let last = last.unwrap();
        assert!(last.is_ok(), "five minutes later: {last:?}, {retries:?}");
    }
}

/// A program may seed the random numbers that its crates share: each of its processes draws the
/// same ones then.
#[tokio::test(start_paused = true)]
async fn processes_that_draw_the_same_numbers_are_not_taken_for_one() {
    let store = FakeStore::new();
    let mut calls = Vec::new();
    for _ in 0..2 {
        fastrand::seed(7);
        calls.push(on(&store).reserve(tokens(10)).await.unwrap());
    }
    assert_eq!(truth(&store).await.0, 20.0);
    drop(calls);
}
