//! Scenarios 32 and 35: lost state, and dropped reservations.

use std::sync::{Arc, Mutex};

use tower_throttle::{Limiter, Limits, Quota, Settlement, observe::Event, quota::ChargeAt, usage};

use crate::world::*;

on_every_store!(
    s32_lost_state_starts_anew_and_is_told,
    s32_a_forgotten_script_is_not_noticed,
    s35_a_dropped_reservation_keeps_its_charge,
    s35_each_settlement_is_applied_once,
    a_quota_that_goes_and_comes_back_counts_what_is_still_in_flight,
);

async fn s32_lost_state_starts_anew_and_is_told(world: World) {
    let lost = Arc::new(Mutex::new(Vec::new()));
    let observer = {
        let lost = lost.clone();
        move |event: &Event<'_>| {
            if let Event::StateLost { bucket, .. } = event {
                lost.lock().unwrap().push((*bucket).to_owned());
            }
        }
    };
    let limits = Limits::new().bucket("a", [Quota::per_hour("tokens", 100)]);
    let limiter = Limiter::builder(limits)
        .shared_store(world.store.clone())
        .observer(observer)
        .build()
        .unwrap();
    let call = take(&limiter, tokens(90)).await;
    world.advance(ms(10)).await;
    world.flush().await;
    world.advance(ms(10)).await;
    spend(&limiter, tokens(60)).await;
    assert_eq!(*lost.lock().unwrap(), ["a"]);
    // Granted before the loss: nothing of it is known, so nothing comes back.
    call.settle(usage! { tokens: 0 }).await.unwrap();
    let quota = limiter.status("a").await.unwrap().quotas[0].clone();
    assert_eq!((quota.available, quota.in_flight), (40.0, 0));
    assert_eq!(lost.lock().unwrap().len(), 1, "told once");
}

async fn s32_a_forgotten_script_is_not_noticed(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 100)]);
    for _ in 0..5 {
        world.forget_script();
        let call = take(&limiter, tokens(20)).await;
        world.forget_script();
        call.settle(usage! { tokens: 10 }).await.unwrap();
    }
    assert_eq!(left(&limiter, "a").await, [50.0]);
}

async fn s35_a_dropped_reservation_keeps_its_charge(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 100), Quota::concurrency(1)]);
    let call = take(&limiter, tokens(30)).await;
    assert_eq!(left(&limiter, "a").await, [70.0, 0.0]);
    assert_eq!(refusal(&limiter, tokens(1)).await, (vec!["a: calls in flight".to_owned()], None));
    let waiting = Waiting::for_(&limiter, tokens(1)).await;
    drop(call);
    // The call is presumed to have been made; it is no longer in flight.
    drop(waiting.granted().await);
    assert_eq!(left(&limiter, "a").await, [69.0, 1.0]);
    let quotas = limiter.status("a").await.unwrap().quotas;
    assert!(quotas.iter().all(|quota| quota.in_flight == 0));
}

async fn s35_each_settlement_is_applied_once(world: World) {
    let limiter = world.bucket([Quota::per_hour("tokens", 1_000)]);
    for (settlement, charged) in [
        (Settlement::Exact(usage! { tokens: 10 }), 10.0),
        (Settlement::Exact(usage! { tokens: 150 }), 150.0),
        (Settlement::Exact(usage! {}), 100.0),
        (Settlement::AtLeast(usage! { tokens: 10 }), 100.0),
        (Settlement::AtLeast(usage! { tokens: 150 }), 150.0),
        (Settlement::Keep, 100.0),
        (Settlement::Release, 0.0),
    ] {
        let before = left(&limiter, "a").await[0];
        let call = take(&limiter, tokens(100)).await;
        call.conclude(settlement.clone()).await.unwrap();
        let quota = limiter.status("a").await.unwrap().quotas[0].clone();
        assert_eq!((before - quota.available, quota.in_flight), (charged, 0), "{settlement:?}");
        world.advance(secs(3_700)).await;
    }
}

async fn a_quota_that_goes_and_comes_back_counts_what_is_still_in_flight(world: World) {
    let few = || vec![Quota::per_hour("tokens", 1_000)];
    let all = || {
        let held = Quota::per_day("tokens", 1_000).charge_at(ChargeAt::End);
        vec![Quota::concurrency(9), Quota::per_hour("tokens", 1_000), held]
    };
    let limiter = world.bucket(all());
    let set = |quotas: Vec<Quota>| limiter.update(Limits::new().bucket("a", quotas)).unwrap();
    let (settled, dropped) = (take(&limiter, tokens(100)).await, take(&limiter, tokens(100)).await);
    let (mut adjusted, detached) =
        (take(&limiter, tokens(100)).await, take(&limiter, tokens(100)).await);
    let open = take(&limiter, tokens(100)).await;
    set(few());
    settled.settle(usage! { tokens: 10 }).await.unwrap();
    adjusted.adjust(usage! { tokens: 200 }).await.unwrap();
    let id = detached.detach(MINUTE).await.unwrap();
    let since = take(&limiter, tokens(1)).await;
    drop(dropped);
    // Told before this is answered.
    limiter.status("a").await.unwrap();
    set(all());
    let counts = |status: tower_throttle::limiter::Status| {
        status.quotas.iter().map(|quota| (quota.charged, quota.in_flight)).collect::<Vec<_>>()
    };
    let before = counts(limiter.status("a").await.unwrap());
    assert_eq!(before, [(0.0, 3), (511.0, 401), (110.0, 400)]);

    adjusted.settle(usage! { tokens: 50 }).await.unwrap();
    assert!(limiter.settle(&id, usage! { tokens: 20 }).await.unwrap());
    since.settle(usage! { tokens: 2 }).await.unwrap();
    open.release().await.unwrap();
    let after = counts(limiter.status("a").await.unwrap());
    assert_eq!(after, [(0.0, 0), (182.0, 0), (180.0, 0)]);
}
