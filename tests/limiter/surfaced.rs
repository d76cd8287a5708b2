//! A wait that a provider asked for and that is longer than the longest pause is surfaced, not
//! slept.

use std::time::Duration;

use tokio::time::{Instant, advance, timeout};
use tower_throttle::{
    Demand, Feedback, Limiter, Limits, Named, OnUnavailable, Quota, Reservation, Throttled, Usage,
    limiter::{Refusal, Retries},
    limits::Class,
    store::Operation,
    usage,
};

use crate::{
    fake::{FakeStore, Fate, builder, limits, ms, on, poll, quiet, secs, tokens, waiting},
    observer::Recorder,
};

const HOUR: Duration = Duration::from_secs(3_600);
/// What is not said otherwise.
const LONGEST: Duration = Duration::from_secs(300);

fn retry_after(time: Duration) -> Feedback {
    Feedback::new().with_retry_after(time)
}

/// Longer than anything needs that does not wait, and shorter than any pause.
fn soon() -> Duration {
    ms(600)
}

async fn outcome(waiting: tokio::task::JoinHandle<Result<Reservation, Throttled>>) -> Throttled {
    timeout(soon(), waiting).await.expect("it does not wait").unwrap().expect_err("granted")
}

fn paused(error: Throttled) -> Box<Refusal> {
    match error {
        Throttled::Paused(refusal) => refusal,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_demand_meanwhile_is_refused_at_once_with_what_is_left() {
    let recorder = Recorder::default();
    let limiter = Limiter::builder(limits()).observer(recorder.clone()).build().unwrap();
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    assert_eq!(recorder.count("quota: None, asked: 3600s, applied: 300s"), 1);
    let began = Instant::now();
    for left in [3_600, 3_540, 3_480] {
        let demands =
            [tokens(1), tokens(0), tokens(1).max_wait(secs(10)), tokens(1).max_wait(2 * HOUR)];
        for demand in demands {
            let error = limiter.reserve(demand.clone()).await.unwrap_err();
            assert_eq!((error.retry_after(), error.is_permanent()), (Some(secs(left)), false));
            paused(error);
            let refusal = paused(limiter.try_reserve(demand.clone()).await.unwrap_err());
            assert_eq!(
                (refusal.retry_after(), &*refusal.shortages()[0].quota),
                (Some(secs(left)), "paused")
            );
            assert_eq!(limiter.time_until_available(demand).await.unwrap(), Some(secs(left)));
        }
        let status = limiter.status("a").await.unwrap();
        let (until, asked) = (status.paused_until.unwrap(), status.asked_until.unwrap());
        assert_eq!(asked.duration_since(until).unwrap(), HOUR - LONGEST);
        assert_eq!(began.elapsed(), secs(3_600 - left), "nothing waits");
        advance(secs(60)).await;
    }
    assert_eq!(recorder.count("Refused"), 24);

    advance(secs(120)).await;
    drop(limiter.try_reserve(tokens(100)).await.expect("the provider will say again"));
    let status = limiter.status("a").await.unwrap();
    assert_eq!((status.paused_until, status.asked_until), (None, None));
}

#[tokio::test(start_paused = true)]
async fn the_error_says_what_to_do() {
    let limiter = Limiter::new(limits()).unwrap();
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    let error = limiter.reserve(tokens(1)).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "the provider asked for a wait longer than `longest_pause`, come back after it: bucket `a` is paused; \
         retry after 3600s"
    );
    assert!(error.refusal().is_some());
}

#[tokio::test(start_paused = true)]
async fn what_was_asked_is_known_whatever_else_is_not() {
    let limits = Limits::new().bucket("a", [Quota::concurrency(1), Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::new(limits).unwrap();
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let error = limiter.try_reserve(tokens(1)).await.unwrap_err();
    assert_eq!(error.retry_after(), None, "it depends on the call");
    call.feedback(&retry_after(2 * HOUR)).await.unwrap();
    let refusal = paused(limiter.try_reserve(tokens(1)).await.unwrap_err());
    assert_eq!((refusal.shortages().len(), refusal.retry_after()), (3, Some(2 * HOUR)));
    // What is short for longer is not there when the provider's time is over.
    call.feedback(&retry_after(secs(600))).await.unwrap();
    limiter.resume("a").await.unwrap();
    call.feedback(&retry_after(secs(600))).await.unwrap();
    let refusal = paused(limiter.try_reserve(tokens(1)).await.unwrap_err());
    assert!(refusal.retry_after() > Some(HOUR), "{refusal}");
}

/// 1,000 demands that wait for something else on the store, and what the provider says then.
async fn many_wait(limiter: &Limiter) {
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let mut all = Vec::new();
    for amount in 0..1_000 {
        let demand = tokens(1 + amount % 3);
        all.push(waiting(
            limiter,
            if amount % 7 == 0 { demand.max_wait(secs(100_000)) } else { demand },
        ));
    }
    quiet().await;
    tokio::time::sleep(secs(20)).await;
    assert_eq!(limiter.status("a").await.unwrap().waiting, 1_000);
    drop(call.feedback(&retry_after(HOUR)));
    let began = Instant::now();
    for waits in all {
        let refusal = paused(outcome(waits).await);
        let left = refusal.retry_after().unwrap();
        // The first of them know what else they wait for, which is longer.
        assert!((HOUR - secs(1)..HOUR + secs(60)).contains(&left), "{left:?}");
    }
    assert!(began.elapsed() <= soon(), "{:?}", began.elapsed());
    let status = limiter.status("a").await.unwrap();
    assert_eq!((status.waiting, status.quotas[0].in_flight), (0, 100));
    tokio::time::sleep(LONGEST).await;
    call.release().await.unwrap();
    drop(limiter.try_reserve(tokens(100)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_is_refused_with_all_behind_it() {
    many_wait(&Limiter::new(limits()).unwrap()).await;
    let store = FakeStore::new();
    let limiter = on(&store);
    store.delay(ms(10));
    many_wait(&limiter).await;
    let sent = store.sent();
    let said = sent.iter().position(|sent| sent.ops.contains(&Operation::Refused)).unwrap();
    let reserves = |sent: &crate::fake::Sent| {
        let waits = |op: &&Operation| matches!(op, Operation::Reserve | Operation::TryReserve);
        sent.ops.iter().filter(waits).count()
    };
    assert_eq!(sent[said + 1..].iter().map(reserves).sum::<usize>(), 1, "one look was enough");
}

#[tokio::test(start_paused = true)]
async fn what_another_process_was_told_is_found_at_the_next_look() {
    let store = FakeStore::new();
    let (one, other) = (on(&store), on(&store));
    let call = one.reserve(tokens(100)).await.unwrap();
    let all: Vec<_> = (0..600).map(|_| waiting(&other, tokens(1))).collect();
    quiet().await;
    call.feedback(&retry_after(HOUR)).await.unwrap();
    for waits in all {
        paused(outcome(waits).await);
    }
}

#[tokio::test(start_paused = true)]
async fn demands_that_share_the_bucket_learn_at_once() {
    let limits = Limits::new()
        .bucket("a", [Quota::per_hour("tokens", 100)])
        .bucket("parent", [Quota::per_hour("tokens", 100)]);
    let store = FakeStore::new();
    for limiter in
        [Limiter::new(limits.clone()).unwrap(), Limiter::with_store(limits, store).unwrap()]
    {
        let call = limiter.reserve(tokens(100)).await.unwrap();
        let both = waiting(&limiter, tokens(1).and("parent"));
        quiet().await;
        call.feedback(&retry_after(HOUR)).await.unwrap();
        let began = Instant::now();
        paused(outcome(both).await);
        assert!(began.elapsed() < ms(20), "{:?}", began.elapsed());
        // The other bucket has nothing to do with it.
        drop(limiter.try_reserve(Demand::new("parent", usage! { tokens: 1 })).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_of_one_quota_refuses_those_that_need_it_and_lets_others_pass() {
    let limits = || {
        Limits::new()
            .bucket("a", [Quota::per_minute("requests", 5), Quota::per_hour("tokens", 100)])
            .class("batch", Class::new().headroom(0.5))
    };
    let needs =
        |requests, tokens: u64| Demand::new("a", usage! { requests: requests, tokens: tokens });
    let of_tokens = |time| Feedback::new().with_retry_after_of(Named::metric("tokens"), time);
    for limiter in
        [Limiter::new(limits()).unwrap(), Limiter::with_store(limits(), FakeStore::new()).unwrap()]
    {
        let call = limiter.reserve(needs(4, 10)).await.unwrap();
        let refused = [
            waiting(&limiter, needs(2, 1)),
            waiting(&limiter, needs(2, 1).class("batch")),
            waiting(&limiter, needs(3, 1).max_wait(2 * HOUR)),
        ];
        let waits = [waiting(&limiter, needs(2, 0)), waiting(&limiter, needs(2, 0).class("batch"))];
        quiet().await;
        drop(call.feedback(&of_tokens(HOUR)));
        for demand in refused {
            let refusal = paused(outcome(demand).await);
            let quotas: Vec<_> =
                refusal.shortages().iter().map(|shortage| &*shortage.quota).collect();
            assert!(quotas.contains(&"tokens per hour"), "{quotas:?}");
            assert_eq!(refusal.retry_after().unwrap().as_secs().div_ceil(10), 360);
        }
        quiet().await;
        assert!(waits.iter().all(|waits| !waits.is_finished()), "they need none");
        let error = limiter.reserve(needs(0, 1)).await.unwrap_err();
        assert_eq!(&*paused(error).binding().unwrap().quota, "tokens per hour");
        let status = limiter.status("a").await.unwrap();
        assert_eq!((status.paused_until, status.asked_until), (None, None));
        assert_eq!((status.quotas[0].asked, status.quotas[1].asked.is_some()), (None, true));

        for waits in waits {
            drop(
                timeout(secs(200), waits)
                    .await
                    .expect("a window later there are requests")
                    .unwrap()
                    .unwrap(),
            );
        }
        tokio::time::sleep(LONGEST).await;
        drop(limiter.try_reserve(needs(1, 50)).await.expect("it is over"));
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_within_the_longest_and_one_of_the_user_s_are_waited_out() {
    let limiter = Limiter::new(limits()).unwrap();
    let waits = async |limiter: &Limiter, demand| {
        let began = Instant::now();
        drop(limiter.reserve(demand).await.unwrap());
        began.elapsed()
    };
    limiter.feedback("a", &retry_after(LONGEST)).await.unwrap();
    assert_eq!(waits(&limiter, tokens(1)).await, LONGEST);
    limiter.pause("a", 2 * HOUR).await.unwrap();
    assert_eq!(limiter.status("a").await.unwrap().asked_until, None);
    assert_eq!(waits(&limiter, tokens(1)).await, 2 * HOUR);

    // As long as was asked, there is nothing left to refuse for.
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    paused(limiter.reserve(tokens(1)).await.unwrap_err());
    limiter.pause("a", secs(600)).await.unwrap();
    paused(limiter.reserve(tokens(1)).await.unwrap_err());
    limiter.pause("a", HOUR).await.unwrap();
    assert!(matches!(limiter.try_reserve(tokens(1)).await, Err(Throttled::NotNow(_))));
    assert_eq!(waits(&limiter, tokens(1)).await, HOUR);

    // A shorter one is waited out where the other has ended.
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    limiter.pause("a", secs(600)).await.unwrap();
    advance(LONGEST).await;
    assert_eq!(waits(&limiter, tokens(1)).await, secs(300));
}

#[tokio::test(start_paused = true)]
async fn the_user_ends_it() {
    let limiter = Limiter::new(limits()).unwrap();
    let of_tokens = Feedback::new().with_retry_after_of(Named::metric("tokens"), HOUR);
    for said in [retry_after(HOUR), of_tokens] {
        limiter.feedback("a", &said).await.unwrap();
        limiter.pause("a", secs(600)).await.unwrap();
        paused(limiter.try_reserve(tokens(1)).await.unwrap_err());
        limiter.resume("a").await.unwrap();
        drop(limiter.try_reserve(tokens(1)).await.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_still_surfaces_the_pause() {
    let store = FakeStore::new();
    for limiter in [Limiter::builder(limits()).max_waiting(0), builder(&store).max_waiting(0)] {
        let limiter = limiter.build().unwrap();
        limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
        paused(limiter.reserve(tokens(1)).await.unwrap_err());
    }
}

#[tokio::test(start_paused = true)]
async fn no_wait_is_too_long() {
    for asked in [Duration::MAX, secs(u64::MAX), secs(1 << 40), LONGEST + ms(1)] {
        let limiter = Limiter::new(limits()).unwrap();
        limiter.feedback("a", &retry_after(asked)).await.unwrap();
        let left = limiter.reserve(tokens(1)).await.unwrap_err().retry_after().unwrap();
        // Two hundred years do.
        assert!(left == asked || left > 200 * 365 * 24 * HOUR, "{left:?}");
        limiter.feedback("a", &retry_after(asked)).await.unwrap();
        advance(LONGEST).await;
        drop(limiter.try_reserve(tokens(100)).await.unwrap());
    }
    // Nothing is held back at all where nothing is to be.
    let limiter = Limiter::builder(limits()).longest_pause(Duration::ZERO).build().unwrap();
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    drop(limiter.try_reserve(tokens(100)).await.unwrap());
}

#[tokio::test(start_paused = true)]
async fn it_surfaces_in_what_stands_in_for_the_store_too() {
    let store = FakeStore::new();
    let limiter =
        builder(&store).on_unavailable(OnUnavailable::local(0.5)).retries(Retries::none());
    let limiter = limiter.build().unwrap();
    limiter.feedback("a", &retry_after(HOUR)).await.unwrap();
    paused(limiter.reserve(tokens(1)).await.unwrap_err());

    store.always(Fate::Unavailable);
    let call = limiter.reserve(tokens(1)).await.unwrap();
    assert!(call.degraded(), "the local share was not told");
    let waits = waiting(&limiter, tokens(50));
    quiet().await;
    call.feedback(&retry_after(2 * HOUR)).await.unwrap();
    assert_eq!(outcome(waits).await.retry_after().map(|left| left.as_secs()), Some(7_200));
    let error = limiter.reserve(tokens(1)).await.unwrap_err();
    assert!(matches!(error, Throttled::Paused(_)), "{error}");
}

#[tokio::test(start_paused = true)]
async fn what_changes_the_limits_meanwhile_is_looked_at_anew() {
    let store = FakeStore::new();
    let with_images = || {
        Limits::new().bucket("a", [Quota::per_hour("images", 9), Quota::per_hour("tokens", 100)])
    };
    let limiter = Limiter::with_store(with_images(), store.clone()).unwrap();
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let images =
        |images: u64| Demand::new("a", Usage::new().with("tokens", 1).with("images", images));
    let all: Vec<_> = (0..20).map(|_| waiting(&limiter, images(0))).collect();
    quiet().await;
    store.hold();
    let of_images = Feedback::new().with_retry_after_of(Named::metric("images"), HOUR);
    let travels = waiting(&limiter, images(1));
    drop(call.feedback(&of_images));
    quiet().await;
    // The answer is about two quotas, of which the first is gone when it comes.
    limiter.update(limits()).unwrap();
    store.let_go();
    quiet().await;
    assert!(all.iter().chain([&travels]).all(|waits| !waits.is_finished()));
    drop(call.release());
    for waits in all.into_iter().chain([travels]) {
        drop(timeout(soon(), waits).await.unwrap().unwrap().unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_caller_that_left_leaves_no_trace() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let call = limiter.reserve(tokens(100)).await.unwrap();
    let mut gone = Box::pin(limiter.reserve(tokens(1)));
    assert!(poll(gone.as_mut()).await.is_pending());
    let stays = waiting(&limiter, tokens(1));
    quiet().await;
    store.hold();
    drop(call.feedback(&retry_after(HOUR)));
    quiet().await;
    drop(gone);
    store.let_go();
    paused(outcome(stays).await);
    assert_eq!(limiter.status("a").await.unwrap().waiting, 0);
    drop(call);
}
