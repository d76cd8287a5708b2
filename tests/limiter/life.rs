//! What becomes of a reservation: adjusted, detached, tracked, dropped.

use std::pin::pin;

use futures_util::{Stream, StreamExt, stream};
use tower_throttle::{
    Demand, Limiter, Limits, Quota, Reservation, Throttled, Usage,
    limiter::{BadDemand, ReservationId},
    quota::ChargeAt,
    usage,
};

use crate::fake::*;

async fn charged(limiter: &Limiter) -> (f64, u64) {
    let quota = limiter.status("a").await.unwrap().quotas[0].clone();
    (quota.charged, quota.in_flight)
}

#[tokio::test(start_paused = true)]
async fn an_estimate_can_be_adjusted_up_and_down() {
    let store = FakeStore::new();
    for limiter in [Limiter::new(limits()).unwrap(), on(&store)] {
        let mut call = limiter.reserve(tokens(50)).await.unwrap();
        call.adjust(usage! { tokens: 20 }).await.unwrap();
        assert_eq!(charged(&limiter).await, (20.0, 20));
        call.adjust(usage! { tokens: 150 }).await.unwrap();
        assert_eq!(charged(&limiter).await, (150.0, 150), "a debt, not a wait");
        assert_eq!(call.usage().get("tokens"), Some(150));
        call.adjust(usage! { requests: 3 }).await.unwrap();
        assert_eq!(charged(&limiter).await, (150.0, 150), "what it does not name stays");
        call.settle(usage! { tokens: 30 }).await.unwrap();
        assert_eq!(charged(&limiter).await, (30.0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_adjustment_wakes_those_that_wait() {
    let limiter = Limiter::new(limits()).unwrap();
    let mut call = limiter.reserve(tokens(100)).await.unwrap();
    let waits = waiting(&limiter, tokens(70));
    quiet().await;
    call.adjust(usage! { tokens: 30 }).await.unwrap();
    quiet().await;
    assert!(waits.is_finished());
    call.keep().await.unwrap();
    waits.await.unwrap().unwrap().keep().await.unwrap();
    assert_eq!(charged(&limiter).await, (100.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_detached_reservation_is_settled_once_from_anywhere() {
    let store = FakeStore::new();
    let (here, there) = (on(&store), on(&store));
    let call = here.reserve(tokens(60)).await.unwrap();
    let id = call.detach(secs(60)).await.unwrap();
    let text = id.to_string();
    drop((here, id));
    tokio::time::sleep(secs(30)).await;
    assert_eq!(charged(&there).await, (60.0, 60));
    let id: ReservationId = text.parse().unwrap();
    assert!(there.settle(&id, usage! { tokens: 10 }).await.unwrap());
    assert_eq!(charged(&there).await, (10.0, 0));
    for limiter in [&there, &on(&store)] {
        assert!(!limiter.settle(&id, usage! { tokens: 0 }).await.unwrap());
    }
    assert_eq!(charged(&there).await, (10.0, 0));
}

#[tokio::test(start_paused = true)]
async fn of_many_settles_one_counts() {
    let store = FakeStore::new();
    store.delay(ms(5));
    let limiter = on(&store);
    let id = limiter.reserve(tokens(60)).await.unwrap().detach(secs(60)).await.unwrap();
    let settles: Vec<_> = (0..20)
        .map(|_| {
            let (limiter, id) = (on(&store), id.clone());
            tokio::spawn(async move { limiter.settle(&id, usage! { tokens: 10 }).await.unwrap() })
        })
        .collect();
    let mut settled = 0;
    for settle in settles {
        settled += usize::from(settle.await.unwrap());
    }
    assert_eq!((settled, truth(&store).await), (1, (10.0, 0)));
}

#[tokio::test(start_paused = true)]
async fn a_claim_ends_with_its_lease_and_keeps_the_charge() {
    for (charge_at, before) in [(ChargeAt::Start, 60.0), (ChargeAt::End, 0.0)] {
        let store = FakeStore::new();
        let limits =
            Limits::new().bucket("a", [Quota::per_hour("tokens", 100).charge_at(charge_at)]);
        let limiter = Limiter::builder(limits).store(store.clone()).build().unwrap();
        let id = limiter.reserve(tokens(60)).await.unwrap().detach(secs(20)).await.unwrap();
        tokio::time::sleep(secs(19)).await;
        assert_eq!(charged(&limiter).await, (before, 60));
        tokio::time::sleep(secs(2)).await;
        assert_eq!(charged(&limiter).await, (60.0, 0));
        assert!(!limiter.settle(&id, usage! { tokens: 0 }).await.unwrap());
        assert_eq!(charged(&limiter).await, (60.0, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn an_id_of_something_else() {
    let limiter = Limiter::new(limits()).unwrap();
    for text in
        ["", "nonsense", "1 2", "1 2 3 a=b=c", "9 1 1 a", "1 -1 1 a", "1 1 99999999999999999999 a"]
    {
        assert_eq!(text.parse::<ReservationId>(), Err(BadDemand::InvalidId), "{text}");
    }
    let never: ReservationId = "1 17 1 a requests=1 tokens=18446744073709551615".parse().unwrap();
    assert!(!limiter.settle(&never, usage! { tokens: 1 }).await.unwrap());
    let elsewhere: ReservationId = "1 17 1 z requests=1".parse().unwrap();
    let error = limiter.settle(&elsewhere, usage! {}).await.unwrap_err();
    assert!(matches!(error, Throttled::BadDemand(BadDemand::UnknownBucket(_))), "{error}");
    assert_eq!(charged(&limiter).await, (0.0, 0));

    // One whose amounts and time were made up takes no more than there is.
    let id = limiter.reserve(tokens(10)).await.unwrap().detach(secs(60)).await.unwrap();
    let forged = id.to_string().replace("tokens=10", "tokens=18446744073709551615");
    assert!(limiter.settle(&forged.parse().unwrap(), usage! { tokens: 0 }).await.unwrap());
    assert_eq!(charged(&limiter).await, (0.0, 0));
}

fn items(amounts: &'static [u64]) -> impl Stream<Item = u64> {
    stream::iter(amounts.iter().copied())
}

fn seen(amount: &u64) -> Option<Usage> {
    (*amount > 0).then(|| Usage::new().with("tokens", *amount))
}

async fn open_of(limiter: &Limiter) -> Reservation {
    limiter.reserve(tokens(50)).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn s28_a_typed_stream_is_settled_once() {
    let cases: [(&[u64], usize, f64); 7] = [
        // To its end: on the last usage told.
        (&[0, 5, 9], 4, 9.0),
        (&[0, 5, 90], 4, 90.0),
        (&[0, 0], 3, 50.0),
        (&[], 1, 50.0),
        // Dropped before: the estimate, or more if more was seen.
        (&[0, 5, 9], 2, 50.0),
        (&[0, 90, 95], 2, 90.0),
        (&[0, 5, 9], 0, 50.0),
    ];
    for (amounts, polls, expected) in cases {
        let limiter = Limiter::new(limits()).unwrap();
        {
            let mut stream = pin!(open_of(&limiter).await.track(items(amounts), seen));
            for _ in 0..polls {
                stream.next().await;
            }
        }
        assert_eq!(charged(&limiter).await, (expected, 0), "{amounts:?} after {polls} polls");
    }
}

#[tokio::test(start_paused = true)]
async fn a_tracked_stream_passes_all_and_may_be_polled_past_its_end() {
    let limiter = Limiter::new(limits()).unwrap();
    let mut tracked = Box::pin(open_of(&limiter).await.track(items(&[1, 2]).fuse(), seen));
    assert_eq!(tracked.size_hint(), (2, Some(2)));
    let mut all = Vec::new();
    while let Some(item) = tracked.next().await {
        all.push(item);
    }
    assert_eq!(all, [1, 2]);
    assert_eq!(tracked.next().await, None);
    drop(tracked);
    assert_eq!(charged(&limiter).await, (2.0, 0));
}

#[test]
fn s35_a_reservation_may_be_dropped_outside_of_a_runtime() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let store = FakeStore::new();
    let limiter = on(&store);
    let calls: Vec<_> =
        (0..3).map(|_| runtime.block_on(limiter.reserve(tokens(10))).unwrap()).collect();
    let [kept, settled, released] = <[_; 3]>::try_from(calls).unwrap();
    drop(kept);
    drop(settled.settle(usage! { tokens: 3 }));
    drop(released.release());
    drop(runtime);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(limiter.status("a")).unwrap();
    assert_eq!(runtime.block_on(truth(&store)), (13.0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_reservation_tells_what_it_is() {
    let store = FakeStore::new();
    let limiter = on(&store);
    let first = limiter.reserve(tokens(100)).await.unwrap();
    let waits = [waiting(&limiter, tokens(1)), waiting(&limiter, tokens(1))];
    tokio::time::sleep(ms(300)).await;
    assert!(first.granted_at().elapsed().is_ok_and(|ago| ago < secs(60)));
    let granted_at = first.granted_at();
    assert_eq!((first.waited(), first.position(), first.degraded()), (ms(0), 0, false));
    assert_eq!(*first.usage(), usage! { requests: 1, tokens: 100 });
    first.release().await.unwrap();
    let [second, third] = waits;
    let (second, third) = (second.await.unwrap().unwrap(), third.await.unwrap().unwrap());
    assert_ne!(second.id(), third.id());
    assert_eq!((second.position(), third.position()), (0, 1));
    assert!(second.waited() >= ms(300) && second.waited() < ms(400));
    assert!(second.granted_at() >= granted_at + ms(300));
}

#[test]
fn a_demand_is_granted_at_once_without_a_future_or_a_runtime() {
    let limiter = Limiter::new(limits()).unwrap();
    let name = String::from("a");
    let demand = || Demand::new(name.as_str(), usage! { tokens: 60 });
    let call = limiter.try_reserve_now(demand()).unwrap();
    assert!(matches!(limiter.try_reserve_now(demand()), Err(Throttled::NotNow(_))));
    drop(call.release());
    drop(limiter.try_reserve_now(demand()).unwrap());
    assert!(limiter.try_reserve_now(Demand::unlimited()).is_ok());
    let shared = on(&FakeStore::new());
    assert!(matches!(shared.try_reserve_now(demand()), Err(Throttled::NotInProcess)));
}
