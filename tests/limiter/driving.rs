//! One task drives all batches of a session. No caller has to be polled for another one to get on.

use std::{
    pin::{Pin, pin},
    task::Poll,
};

use tokio::{
    runtime::{Builder, Handle},
    time::{Instant, timeout},
};
use tower_throttle::{
    Feedback, Limiter, Limits, Named, Quota, Reservation, Throttled, limiter::Retries,
    store::Operation, usage,
};

use crate::fake::{Fate::*, *};

type Reserve<'a> = Pin<Box<dyn Future<Output = Result<Reservation, Throttled>> + Send + 'a>>;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A demand on its way, whose answer the store keeps back. Its caller was polled once.
async fn sent_alone<'a>(limiter: &'a Limiter, store: &FakeStore, amount: u64) -> Reserve<'a> {
    store.hold();
    let mut reserve: Reserve<'a> = Box::pin(limiter.reserve(tokens(amount)));
    assert!(poll(reserve.as_mut()).await.is_pending());
    quiet().await;
    reserve
}

#[tokio::test(start_paused = true)]
async fn a_lone_demand_is_one_request_and_one_task_drives_them_all() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut reserve = sent_alone(&limiter, &store, 1).await;
        assert_eq!(store.sent().len(), 1, "it is sent at once");
        store.let_go();
        quiet().await;
        let Poll::Ready(call) = poll(reserve.as_mut()).await else {
            panic!("it is kept from its caller")
        };
        open.push(call.unwrap());
        assert_eq!((tasks(), store.sent().len()), (1, 0), "one task keeps all of them alive");
    }
    for call in open {
        call.release().await.unwrap();
    }
    assert_eq!(truth(&store).await, (0.0, 0));
}

/// A settle that is not awaited is not far before the next demand.
#[tokio::test(start_paused = true)]
async fn a_settle_travels_with_the_next_demand() {
    let store = FakeStore::new();
    let limiter = on(&store);
    for _ in 0..3 {
        let call = limiter.reserve(tokens(10)).await.unwrap();
        quiet().await;
        store.sent();
        let settled = call.settle(usage! { tokens: 1 });
        let mut reserve = sent_alone(&limiter, &store, 90).await;
        let sent = store.sent();
        assert!(matches!(sent[0].ops[..], [Operation::Settle, Operation::Reserve]), "{sent:?}");
        store.let_go();
        quiet().await;
        let Poll::Ready(call) = poll(reserve.as_mut()).await else {
            panic!("it is kept from its caller")
        };
        settled.await.unwrap();
        call.unwrap().release().await.unwrap();
        assert_eq!((store.sent().len(), store.most_open()), (1, 1));
    }
    assert_eq!(truth(&store).await, (3.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_goes_leaves_nothing() {
    for (fate, batches) in [(Answered, 1), (RequestLost, 2), (ReplyLost, 2), (Unavailable, 2)] {
        for polls in 0..3 {
            let store = FakeStore::new();
            store.delay(ms(10));
            store.next([fate]);
            let limiter = on(&store);
            {
                let mut reserve = pin!(limiter.reserve(tokens(30)));
                for _ in 0..polls {
                    assert!(poll(reserve.as_mut()).await.is_pending());
                    quiet().await;
                }
            }
            tokio::time::sleep(secs(2)).await;
            assert_eq!(truth(&store).await, (0.0, 0), "{fate:?} after {polls} polls");
            let sent = store.sent();
            let settles = sent.iter().filter(|batch| batch.ops == [Operation::Settle]).count();
            let expected = if polls == 0 { (0, 0) } else { (batches + 1, 1) };
            assert_eq!((sent.len(), settles), expected, "it is neither given up nor sent twice");
            assert!(store.most_open() <= 1);
        }
    }
}

/// What comes next does not wait for a caller that is not polled, whatever it is.
#[tokio::test(start_paused = true)]
async fn nothing_stalls_behind_a_caller_that_is_not_polled() {
    for what in 0..6 {
        let store = FakeStore::new();
        let limiter = on(&store);
        let mut call = limiter.reserve(tokens(10)).await.unwrap();
        let mut reserve = sent_alone(&limiter, &store, 30).await;
        let next = async {
            match what {
                0 => drop(limiter.reserve(tokens(1)).await.unwrap()),
                1 => drop(limiter.status("a").await.unwrap()),
                2 => limiter.pause("a", secs(1)).await.unwrap(),
                3 => call.adjust(usage! { tokens: 1 }).await.unwrap(),
                4 => {
                    let told =
                        Feedback::new().with_left(Named::metric("tokens"), 50, Some(secs(1)));
                    call.feedback(&told).await.unwrap();
                }
                _ => limiter.close().await,
            }
        };
        let mut next = Box::pin(next);
        assert!(poll(next.as_mut()).await.is_pending());
        quiet().await;
        store.let_go();
        let began = Instant::now();
        timeout(ms(500), next).await.unwrap_or_else(|_| panic!("{what} stalls"));
        assert!(began.elapsed() < ms(10));
        // Its outcome has been there for long.
        let Poll::Ready(granted) = poll(reserve.as_mut()).await else {
            panic!("it is kept from its caller")
        };
        drop(granted.unwrap());
        call.release().await.unwrap();
        assert_eq!(store.most_open(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn each_caller_gets_its_own_outcome() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let mut first = sent_alone(&limiter, &store, 10).await;
    let status = tokio::spawn({
        let limiter = limiter.clone();
        async move { limiter.status("a").await }
    });
    quiet().await;
    store.let_go();
    status.await.unwrap().unwrap();
    let second = sent_alone(&limiter, &store, 20).await;
    let Poll::Ready(first) = poll(first.as_mut()).await else {
        panic!("it is kept from its caller")
    };
    store.let_go();
    let (first, second) = (first.unwrap(), second.await.unwrap());
    assert_eq!((first.usage().get("tokens"), second.usage().get("tokens")), (Some(10), Some(20)));
    first.release().await.unwrap();
    second.release().await.unwrap();
}

/// The task that polled last is woken.
#[tokio::test(start_paused = true)]
async fn the_task_that_polled_last_is_woken() {
    let store = FakeStore::new();
    let limiter = on(&store);
    for others in 0..3 {
        store.hold();
        let mut calls = Vec::new();
        for _ in 0..=others {
            // Polled here first, and by another task from then on.
            let limiter = limiter.clone();
            let mut reserve: Reserve<'static> =
                Box::pin(async move { limiter.reserve(tokens(10)).await });
            assert!(poll(reserve.as_mut()).await.is_pending());
            calls.push(tokio::spawn(reserve));
            quiet().await;
        }
        store.let_go();
        let began = Instant::now();
        for call in calls {
            call.await.unwrap().unwrap().release().await.unwrap();
        }
        assert!(began.elapsed() < ms(10), "{others} others: {:?}", began.elapsed());
    }
    assert_eq!(store.most_open(), 1);
}

/// Whether all slots stay taken as other processes see it, at any time during so many milliseconds.
async fn is_kept(store: &FakeStore, slots: u64, time: u64) -> bool {
    let limits = Limits::new().bucket("a", [Quota::concurrency(slots)]);
    let other = Limiter::builder(limits).shared_store(store.inner.clone()).build().unwrap();
    for _ in 0..time / 50 {
        tokio::time::sleep(ms(50)).await;
        if other.try_reserve(tokens(1)).await.is_ok() {
            return false;
        }
    }
    true
}

fn slots(store: &FakeStore, slots: u64) -> tower_throttle::limiter::LimiterBuilder {
    Limiter::builder(Limits::new().bucket("a", [Quota::concurrency(slots)])).store(store.clone())
}

/// The outcome is there, and its caller does not ask for it. That must not cost this or another
/// caller what it holds.
#[tokio::test(start_paused = true)]
async fn a_caller_that_is_not_polled_loses_nothing() {
    for others in 0..2 {
        let store = FakeStore::new();
        let limiter = slots(&store, 1 + others).lease(secs(3)).build().unwrap();
        let mut open = Vec::new();
        for _ in 0..others {
            open.push(limiter.reserve(tokens(1)).await.unwrap());
        }
        let mut reserve = sent_alone(&limiter, &store, 1).await;
        store.let_go();
        quiet().await;
        assert!(is_kept(&store, 1 + others, 20_000).await, "besides {others} others");
        let Poll::Ready(call) = poll(reserve.as_mut()).await else {
            panic!("it is kept from its caller")
        };
        drop((call.unwrap(), open));
        limiter.status("a").await.unwrap();
        assert!(!is_kept(&store, 1 + others, 50).await);
    }
}

/// A store that takes its time is asked once, however many heartbeats are due meanwhile.
#[tokio::test(start_paused = true)]
async fn nothing_is_sent_while_a_batch_is_in_flight() {
    let store = FakeStore::new();
    let limiter = builder(&store).attempt_timeout(secs(60)).lease(secs(3)).build().unwrap();
    let call = limiter.reserve(tokens(10)).await.unwrap();
    store.sent();
    for is_polled in [true, false] {
        let mut reserve = sent_alone(&limiter, &store, 10).await;
        for _ in 0..20 {
            tokio::time::sleep(ms(500)).await;
            assert!(!is_polled || poll(reserve.as_mut()).await.is_pending());
        }
        assert_eq!(store.sent().len(), 1);
        store.let_go();
        reserve.await.unwrap().release().await.unwrap();
        // The release, and a heartbeat that was due for long.
        let sent = store.sent();
        assert!(sent.len() <= 2 && sent.iter().all(|batch| batch.ops.len() <= 1), "{sent:?}");
    }
    assert_eq!(store.most_open(), 1);
    call.release().await.unwrap();
}

/// A driver that waits for more to come must not sleep through the first heartbeat.
#[tokio::test(start_paused = true)]
async fn a_lease_shorter_than_the_driver_lingers_is_kept_all_the_same() {
    let store = FakeStore::new();
    let limiter = slots(&store, 1).lease(ms(300)).build().unwrap();
    limiter.reserve(tokens(1)).await.unwrap().release().await.unwrap();
    let call = limiter.reserve(tokens(1)).await.unwrap();
    assert!(is_kept(&store, 1, 2_000).await);
    call.release().await.unwrap();
}

/// The driver sleeps until the next heartbeat, which is far off, when a batch brings back something
/// to do.
#[tokio::test(start_paused = true)]
async fn what_a_batch_brings_back_is_not_slept_through() {
    let store = FakeStore::new();
    store.delay(ms(10));
    let build = || builder(&store).lease(secs(600)).retries(Retries::none()).build().unwrap();
    let (limiter, other) = (build(), build());
    let call = limiter.reserve(tokens(10)).await.unwrap();
    let theirs = other.reserve(tokens(90)).await.unwrap();
    tokio::time::sleep(secs(5)).await;

    // A demand that has to wait, for what another process gives back.
    let mut waits = pin!(limiter.reserve(tokens(50)));
    assert!(timeout(ms(50), waits.as_mut()).await.is_err());
    theirs.release().await.unwrap();
    let waited = timeout(ms(600), waits).await.expect("it is not looked at again").unwrap();

    // A grant whose answer was lost.
    tokio::time::sleep(secs(5)).await;
    store.next([AppliedUnavailable]);
    limiter.reserve(tokens(20)).await.unwrap_err();
    assert_eq!(truth(&store).await, (80.0, 80));
    tokio::time::sleep(ms(700)).await;
    assert_eq!(truth(&store).await, (60.0, 60));

    drop((call, waited));
}

/// The runtime in which it was sent is gone, its caller is not.
#[test]
fn a_caller_may_outlive_its_runtime() {
    let runtime = || Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let (first, second) = (runtime(), runtime());
    for is_dropped in [true, false] {
        let (store, limiter) = second.block_on(async {
            let store = FakeStore::new();
            (store.clone(), on(&store))
        });
        let reserve = runtime().block_on(sent_alone(&limiter, &store, 30));
        store.let_go();
        let mut reserve = Some(reserve).filter(|_| !is_dropped);
        second.block_on(async {
            // The batch is in doubt, as after any without an answer.
            let _ = timeout(secs(60), limiter.reserve(tokens(1))).await.expect("it hangs");
            tokio::time::sleep(secs(2)).await;
            limiter.reserve(tokens(100)).await.unwrap().release().await.unwrap();
            if let Some(reserve) = reserve.take() {
                let call = timeout(secs(60), reserve).await.expect("it hangs").unwrap();
                assert_eq!(truth(&store).await, (30.0, 30));
                call.release().await.unwrap();
            }
            assert_eq!(truth(&store).await, (0.0, 0));
        });
    }
    drop(first);
}

#[test]
fn a_caller_may_go_where_no_runtime_is() {
    let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
    let store = FakeStore::new();
    let limiter = runtime.block_on(async { on(&store) });
    let reserve = runtime.block_on(sent_alone(&limiter, &store, 30));
    drop(reserve);
    store.let_go();
    runtime.block_on(async {
        quiet().await;
        assert_eq!(truth(&store).await, (0.0, 0));
    });
}
