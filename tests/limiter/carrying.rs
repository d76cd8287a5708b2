//! A demand that comes alone is carried by its own caller, whom nobody may have to rely on.

use std::{
    pin::{Pin, pin},
    sync::{Arc, Mutex, mpsc},
    task::Poll,
    thread,
};

use tokio::{
    runtime::{Builder, Handle},
    time::{Instant, timeout},
};
use tower_throttle::{
    Feedback, Limiter, Limits, MemoryStore, Named, Quota, Reservation, Retries, Store, Throttled,
    engine::Op,
    store::{Batch, Reply},
    usage,
};

use crate::fake::{Fate::*, *};

type Reserve<'a> = Pin<Box<dyn Future<Output = Result<Reservation, Throttled>> + Send + 'a>>;

fn tasks() -> usize {
    Handle::current().metrics().num_alive_tasks()
}

/// A demand on its way, whose answer the store keeps back: polled once.
async fn sent_alone<'a>(limiter: &'a Limiter, store: &FakeStore, amount: u64) -> Reserve<'a> {
    store.hold();
    let mut reserve: Reserve<'a> = Box::pin(limiter.reserve(tokens(amount)));
    assert!(poll(reserve.as_mut()).await.is_pending());
    reserve
}

/// No task can run where nothing yields.
#[tokio::test(start_paused = true)]
async fn a_lone_demand_needs_no_task() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let mut open = Vec::new();
    for _ in 0..20 {
        let mut reserve = sent_alone(&limiter, &store, 1).await;
        assert_eq!(store.sent().len(), 1, "it is sent by who asks");
        store.let_go();
        let Poll::Ready(call) = poll(reserve.as_mut()).await else {
            panic!("it has to be fetched")
        };
        open.push(call.unwrap());
        assert_eq!(tasks(), 1, "one keeps all of them alive");
    }
    for call in open {
        call.release().await.unwrap();
    }
    assert_eq!(truth(&store).await, (0.0, 0));
}

/// A settle that nobody awaits is not far before the next demand.
#[tokio::test(start_paused = true)]
async fn who_carries_takes_settles_along() {
    let store = FakeStore::new();
    let limiter = on(&store);
    for _ in 0..3 {
        let call = limiter.reserve(tokens(10)).await.unwrap();
        quiet().await;
        store.sent();
        let settled = call.settle(usage! { tokens: 1 });
        let mut reserve = sent_alone(&limiter, &store, 90).await;
        let sent = store.sent();
        assert!(matches!(sent[0].ops[..], [Op::Settle { .. }, Op::Reserve { .. }]), "{sent:?}");
        // The task that the settle has woken finds nothing to do.
        quiet().await;
        store.let_go();
        let Poll::Ready(call) = poll(reserve.as_mut()).await else {
            panic!("it has to be fetched")
        };
        settled.await.unwrap();
        call.unwrap().release().await.unwrap();
        assert_eq!((store.sent().len(), store.most_open()), (1, 1));
    }
    assert_eq!(truth(&store).await, (3.0, 0));
}

#[tokio::test(start_paused = true)]
async fn who_goes_leaves_his_batch_to_a_task() {
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
                }
            }
            tokio::time::sleep(secs(2)).await;
            assert_eq!(truth(&store).await, (0.0, 0), "{fate:?} after {polls} polls");
            let sent = store.sent();
            let settles =
                sent.iter().filter(|batch| matches!(batch.ops[..], [Op::Settle { .. }])).count();
            let expected = if polls == 0 { (0, 0) } else { (batches + 1, 1) };
            assert_eq!((sent.len(), settles), expected, "it is neither given up nor sent twice");
            assert!(store.most_open() <= 1);
        }
    }
}

/// What comes next to the lane does not wait for a caller who is not being polled, whatever it is.
#[tokio::test(start_paused = true)]
async fn nobody_stalls_behind_who_is_not_polled() {
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
        // His answer has been there for long.
        let Poll::Ready(granted) = poll(reserve.as_mut()).await else {
            panic!("it is kept from him")
        };
        drop(granted.unwrap());
        call.release().await.unwrap();
        assert_eq!(store.most_open(), 1);
    }
}

/// Who has not noticed yet that a task took over what he carried finds his answer, and not what another carries.
#[tokio::test(start_paused = true)]
async fn nobody_touches_what_another_carries() {
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
    let mut second = sent_alone(&limiter, &store, 20).await;
    let Poll::Ready(first) = poll(first.as_mut()).await else { panic!("it is kept from him") };
    store.let_go();
    let Poll::Ready(second) = poll(second.as_mut()).await else { panic!("it has to be fetched") };
    first.unwrap().release().await.unwrap();
    second.unwrap().release().await.unwrap();
}

/// Whichever task polls it, and whoever polls last, is woken.
#[tokio::test(start_paused = true)]
async fn who_carries_and_who_takes_over_are_woken() {
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

/// Memory across a network: the first poll for a reply is held up, the second finds it.
#[derive(Debug)]
struct HoldsUpPolls {
    inner: MemoryStore,
    arrived: mpsc::Sender<()>,
    go_on: Arc<Mutex<mpsc::Receiver<()>>>,
}

impl Store for HoldsUpPolls {
    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let Reply::Now(answer) = self.inner.apply(batch) else { panic!("memory answers at once") };
        if !matches!(batch.ops, [Op::Reserve { .. }]) {
            return Reply::Now(answer);
        }
        let (arrived, go_on) = (self.arrived.clone(), self.go_on.clone());
        Reply::Later(Box::pin(async move {
            arrived.send(()).unwrap();
            go_on.lock().unwrap().recv().unwrap();
            tokio::task::yield_now().await;
            Ok(answer)
        }))
    }
}

#[tokio::test(start_paused = true)]
async fn what_comes_while_the_caller_is_being_polled_does_not_stall_either() {
    let (arrived, has_arrived) = mpsc::channel();
    let (go_on, told_to) = mpsc::channel();
    let store =
        HoldsUpPolls { inner: MemoryStore::new(), arrived, go_on: Arc::new(Mutex::new(told_to)) };
    let limiter = Limiter::with_store(limits(), store).unwrap();
    let polling = thread::spawn({
        let (limiter, runtime) = (limiter.clone(), Handle::current());
        move || {
            let _entered = runtime.enter();
            let mut reserve = Box::pin(async move { limiter.reserve(tokens(10)).await });
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            assert!(reserve.as_mut().poll(&mut context).is_pending());
            reserve
        }
    });
    has_arrived.recv().unwrap();
    let mut status = pin!(limiter.status("a"));
    assert!(poll(status.as_mut()).await.is_pending());
    go_on.send(()).unwrap();
    let reserve = polling.join().unwrap();
    let began = Instant::now();
    let status = timeout(secs(60), status).await.expect("it stalls").unwrap();
    assert!(began.elapsed() < ms(100), "{:?}", began.elapsed());
    assert_eq!(status.quotas[0].in_flight, 10);
    reserve.await.unwrap().release().await.unwrap();
}

/// Whether a slot that somebody holds is still his, as others see it, at any time during so long.
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

fn slots(store: &FakeStore, slots: u64) -> tower_throttle::LimiterBuilder {
    Limiter::builder(Limits::new().bucket("a", [Quota::concurrency(slots)])).store(store.clone())
}

/// The answer is there; only nobody asks for it. That must not cost him, or others, what they hold.
#[tokio::test(start_paused = true)]
async fn who_is_not_polled_loses_nothing() {
    for others in 0..2 {
        let store = FakeStore::new();
        let limiter = slots(&store, 1 + others).lease(secs(3)).build().unwrap();
        let mut open = Vec::new();
        for _ in 0..others {
            open.push(limiter.reserve(tokens(1)).await.unwrap());
        }
        let mut reserve = sent_alone(&limiter, &store, 1).await;
        store.let_go();
        assert!(is_kept(&store, 1 + others, 20_000).await, "besides {others} others");
        let Poll::Ready(call) = poll(reserve.as_mut()).await else { panic!("it is kept from him") };
        drop((call.unwrap(), open));
        limiter.status("a").await.unwrap();
        assert!(!is_kept(&store, 1 + others, 50).await);
    }
}

/// A store that takes its time is asked once, however many heartbeats are due meanwhile.
#[tokio::test(start_paused = true)]
async fn the_pump_sends_nothing_while_a_caller_carries() {
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
        assert_eq!(store.sent().len(), 1);
    }
    assert_eq!(store.most_open(), 1);
    call.release().await.unwrap();
}

/// A task that waits for more to come must not sleep through the first heartbeat.
#[tokio::test(start_paused = true)]
async fn a_lease_shorter_than_a_task_lingers_is_kept_all_the_same() {
    let store = FakeStore::new();
    let limiter = slots(&store, 1).lease(ms(300)).build().unwrap();
    limiter.reserve(tokens(1)).await.unwrap().release().await.unwrap();
    let call = limiter.reserve(tokens(1)).await.unwrap();
    assert!(is_kept(&store, 1, 2_000).await);
    call.release().await.unwrap();
}

/// The task sleeps until the next heartbeat, which is far off, when a caller's batch brings back something to do.
#[tokio::test(start_paused = true)]
async fn what_a_caller_brings_back_for_the_pump_is_not_slept_through() {
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
    let waited = timeout(ms(600), waits).await.expect("nobody looks again").unwrap();

    // A grant that nobody has heard of.
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
fn a_caller_may_outlive_his_runtime() {
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
            // Somebody finds out, and from then on all is as after any batch without an answer.
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
