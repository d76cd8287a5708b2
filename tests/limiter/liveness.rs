//! No waiter is forgotten: each is granted once there is room, without a new demand to its rescue.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{
    task::JoinHandle,
    time::{Instant, timeout, timeout_at},
};
use tower_throttle::{
    Demand, Feedback, Limiter, Limits, Quota, Reservation, Throttled,
    limits::Class,
    quota::ChargeAt,
    store::{Batch, Hint, Listening, MemoryStore, Reply, Store},
    usage,
};

use crate::fake::*;

type Waiting = JoinHandle<Result<Reservation, Throttled>>;

fn request(bucket: impl AsRef<str>) -> Demand {
    Demand::new(bucket, usage! { requests: 1 })
}

/// Limiters that share a store in memory.
fn several<const N: usize>(limits: &Limits) -> [Limiter; N] {
    let store = Arc::new(MemoryStore::new());
    [(); N].map(|()| Limiter::builder(limits.clone()).shared_store(store.clone()).build().unwrap())
}

/// Tenants with a request a second, and a budget that is used up for the day.
fn tenants_with_a_budget(count: u32, requests: u64) -> Limits {
    let budget = Limits::new()
        .bucket("budget", [Quota::per_day("requests", 1)])
        .class("batch", Class::new().headroom(0.5));
    (0..count).fold(budget, |limits, number| {
        limits.bucket(tenant(number), [Quota::per_second("requests", requests)])
    })
}

fn tenant(number: u32) -> String {
    format!("tenant-{number}")
}

/// Uses up a budget that so many wait for then.
async fn use_up(limiter: &Limiter, budget: &str, waiters: u32) -> Vec<Waiting> {
    limiter.reserve(request(budget)).await.unwrap().keep().await.unwrap();
    let waiting = (0..waiters).map(|_| waiting(limiter, request(budget))).collect();
    quiet().await;
    waiting
}

async fn all_start_within(limit: Duration, calls: Vec<Waiting>) {
    let ended = Instant::now() + limit;
    // What is settled would have the queue looked at.
    let (mut open, mut late) = (Vec::new(), 0);
    for call in calls {
        match timeout_at(ended, call).await {
            Ok(call) => open.push(call.unwrap().unwrap()),
            Err(_) => late += 1,
        }
    }
    assert_eq!(late, 0, "so many wait after {limit:?}");
}

/// Of two waiters of one session that take turns, the one whose turn it is stands behind others
/// that stand behind the older one.
#[tokio::test(start_paused = true)]
async fn a_pause_ends_though_each_waiter_is_behind_another() {
    let limits = ["a", "other"].into_iter().fold(Limits::new(), |limits, name| {
        limits.bucket(name, [Quota::per_minute("requests", 1_000)])
    });
    let [one, two, three] = &several(&limits);
    let of = |share: &str| request("a").share(share);
    // The next turn of the first share is after that of the others.
    one.pause("a", ms(100)).await.unwrap();
    for _ in 0..2 {
        one.reserve(of("first")).await.unwrap().keep().await.unwrap();
    }
    let refused = Feedback::new().with_retry_after(secs(2));
    one.feedback("a", &refused).await.unwrap();
    let mut calls = Vec::new();
    let elsewhere = request("a").and("other");
    for (limiter, demand) in
        [(one, of("first")), (three, elsewhere), (two, of("second")), (one, of("second"))]
    {
        calls.push(waiting(limiter, demand));
        tokio::time::sleep(ms(100)).await;
    }
    for call in calls {
        let call = timeout(secs(10), call).await.expect("it waits").unwrap().unwrap();
        call.settle(usage! {}).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn one_that_finds_no_room_in_a_batch_is_in_the_next_whatever_another_class_waits_for() {
    let limiter = Limiter::new(tenants_with_a_budget(150, 2)).unwrap();
    let _budget = use_up(&limiter, "budget", 70).await;
    let mut calls = Vec::new();
    let mut held = Vec::new();
    for number in 0..150 {
        let both = || Demand::new(tenant(number), usage! { requests: 2 });
        limiter.reserve(both()).await.unwrap().keep().await.unwrap();
        calls.push(waiting(&limiter, both()));
        quiet().await;
        held.push(waiting(&limiter, request(tenant(number)).and("budget").class("batch")));
        quiet().await;
        calls.push(waiting(&limiter, request(tenant(number))));
    }
    all_start_within(secs(4), calls).await;
}

#[tokio::test(start_paused = true)]
async fn one_that_is_far_back_elsewhere_holds_back_no_others_where_it_is_first() {
    let limiter = Limiter::new(tenants_with_a_budget(150, 1)).unwrap();
    let _budget = use_up(&limiter, "budget", 70).await;
    let (mut calls, mut held) = (Vec::new(), Vec::new());
    for number in 0..150 {
        limiter.reserve(request(tenant(number))).await.unwrap().keep().await.unwrap();
        calls.push(waiting(&limiter, request(tenant(number))));
        quiet().await;
        held.push(waiting(&limiter, request(tenant(number)).and("budget")));
        quiet().await;
        calls.push(waiting(&limiter, request(tenant(number))));
    }
    all_start_within(secs(4), calls).await;
}

/// What waits for its tenant's bucket keeps its place on the bucket of all, where it would fit long
/// before: the others there need not wait as long.
#[tokio::test(start_paused = true)]
async fn those_behind_one_that_only_keeps_its_place_start_when_there_is_room_for_both() {
    let limits = Limits::new()
        .bucket("tenant", [Quota::sliding_window("tokens", 100, secs(40))])
        .bucket("all", [Quota::token_bucket("tokens", 600, secs(60))]);
    let of = |bucket: &str, tokens: u64| Demand::new(bucket, usage! { tokens: tokens });
    for is_other_session in [false, true] {
        let [one, other] = several(&limits);
        one.reserve(of("tenant", 100)).await.unwrap().keep().await.unwrap();
        other.reserve(of("all", 600)).await.unwrap().keep().await.unwrap();
        // 10 tokens a second: it would fit there after ten.
        let from = Instant::now();
        let keeps = waiting(&one, of("tenant", 100).and("all"));
        tokio::time::sleep(secs(1)).await;
        let behind = if is_other_session { &other } else { &one };
        let behind: Vec<_> = (0..5).map(|_| waiting(behind, of("all", 50))).collect();
        for (call, at) in behind.into_iter().zip([15, 20, 25, 30, 35]) {
            call.await.unwrap().unwrap().keep().await.unwrap();
            let late = from.elapsed().saturating_sub(secs(at));
            assert!(from.elapsed() >= secs(at) && late < ms(10), "{:?}", from.elapsed());
        }
        keeps.await.unwrap().unwrap().keep().await.unwrap();
        assert!(from.elapsed() < secs(42), "{:?}", from.elapsed());
    }
}

/// A tenant with long calls and many that wait, which came while their parent was full as well.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_full_keeps_no_place_of_its_parent() {
    let limits = Limits::new()
        .bucket("slow", [Quota::concurrency(1)])
        .bucket("fast", [Quota::concurrency(100)])
        .bucket("all", [Quota::concurrency(2)]);
    let of = |tenant: &str| Demand::new(tenant, usage! {}).and("all");
    for (is_other_session, shares) in [(false, false), (false, true), (true, false), (true, true)] {
        let of = |tenant: &str| if shares { of(tenant).share(tenant) } else { of(tenant) };
        let [one, other] = several(&limits);
        let slow = one.reserve(of("slow")).await.unwrap();
        let fast = one.reserve(of("fast")).await.unwrap();
        let mut waits: Vec<_> = (0..10).map(|_| waiting(&one, of("slow"))).collect();
        quiet().await;
        drop(fast);
        let fast = if is_other_session { &other } else { &one };
        for _ in 0..50 {
            let call = timeout(ms(10), fast.reserve(of("fast"))).await.expect("there is room");
            tokio::time::sleep(ms(20)).await;
            drop(call.unwrap());
        }
        // Nor does it starve.
        let loops = tokio::spawn({
            let (limiter, demand) = (fast.clone(), of("fast"));
            async move {
                loop {
                    let call = limiter.reserve(demand.clone()).await.unwrap();
                    tokio::time::sleep(ms(20)).await;
                    drop(call);
                }
            }
        });
        drop(slow);
        let first = timeout(ms(50), waits.swap_remove(0)).await.expect("its turn");
        drop(first.unwrap().unwrap());
        loops.abort();
        waits.iter().for_each(JoinHandle::abort);
    }
}

#[tokio::test(start_paused = true)]
async fn the_end_of_the_lease_of_a_detached_call_is_noticed() {
    let limiter = Limiter::new(Limits::new().bucket("a", [Quota::concurrency(1)])).unwrap();
    let call = limiter.reserve(request("a")).await.unwrap();
    call.detach(secs(20)).await.unwrap();
    let waits = waiting(&limiter, request("a"));
    all_start_within(secs(25), vec![waits]).await;
}

/// It ends with a charge, and what is charged comes back with time.
#[tokio::test(start_paused = true)]
async fn what_a_call_of_another_limiter_is_charged_at_its_end_is_waited_for() {
    let quota = Quota::per_minute("requests", 1).charge_at(ChargeAt::End);
    let [one, other] = several(&Limits::new().bucket("a", [quota]));
    let call = other.reserve(request("a")).await.unwrap();
    let waits = waiting(&one, request("a"));
    tokio::time::sleep(secs(1)).await;
    call.keep().await.unwrap();
    all_start_within(secs(70), vec![waits]).await;
}

/// Counts what a store in memory is asked.
#[derive(Debug, Default)]
struct Counting {
    store: MemoryStore,
    batches: AtomicU64,
}

impl Store for Counting {
    fn in_process(&self) -> bool {
        true
    }

    fn apply(&self, batch: &Batch<'_>) -> Reply {
        let count = self.batches.fetch_add(1, Ordering::Relaxed);
        // Once, so that the queue can be taken down.
        assert_ne!(count, 3_000, "it is asked over and over");
        self.store.apply(batch)
    }

    fn listen(&self, partition: &str, session: u64, hint: Hint) -> Option<Listening> {
        self.store.listen(partition, session, hint)
    }
}

/// Demands of three shares and four classes on a hundred tenants and two parents, in any order of
/// the buckets: what is known of the turns of flows makes circles of more than a batch takes.
#[tokio::test(start_paused = true)]
async fn a_crowd_of_many_classes_and_shares_ends_and_nothing_spins() {
    for seed in 0..6 {
        let mut random = fastrand::Rng::with_seed(seed);
        let classes = Limits::new()
            .class("batch", Class::new().headroom(0.3))
            .class("low", Class::new().headroom(0.5))
            .class("urgent", Class::new().head_start(secs(2)));
        let limits = (0..100).fold(classes, |limits, number| {
            limits.bucket(tenant(number), [Quota::per_second("requests", 2)])
        });
        let limits = limits
            .bucket("model", [Quota::per_second("requests", 10)])
            .bucket("company", [Quota::fixed_window("requests", 20, secs(4))]);
        let limiter = Limiter::with_store(limits, Counting::default()).unwrap();
        let mut calls = Vec::new();
        for _ in 0..350 {
            let mut buckets = vec![tenant(random.u32(0..100))];
            buckets.extend(
                ["model", "company"]
                    .iter()
                    .filter(|_| random.u8(0..3) > 0)
                    .map(ToString::to_string),
            );
            if random.u8(0..8) == 0 {
                random.shuffle(&mut buckets);
            }
            let first = request(buckets.remove(0));
            let mut demand = buckets.iter().fold(first, |demand, bucket| demand.and(bucket));
            if random.u8(0..5) > 0 {
                demand = demand.share(random.u8(0..3).to_string());
            }
            if random.bool() {
                demand = demand.class(["batch", "low", "urgent"][random.usize(0..3)]);
            }
            calls.push(waiting(&limiter, demand));
            if random.u8(0..4) == 0 {
                tokio::time::sleep(ms(random.u64(0..30))).await;
            }
        }
        all_start_within(secs(120), calls).await;
    }
}

/// What needs a tenant and its parent, while streams need only the one or only the other.
#[tokio::test(start_paused = true)]
async fn streams_on_a_full_tenant_and_on_its_parent_do_not_starve_what_needs_both() {
    let limits = Limits::new()
        .bucket("tenant", [Quota::concurrency(1)])
        .bucket("all", [Quota::token_bucket("tokens", 600, secs(60))]);
    for is_other_session in [false, true] {
        let [one, other] = several(&limits);
        let second = if is_other_session { other } else { one.clone() };
        second
            .reserve(Demand::new("all", usage! { tokens: 600 }))
            .await
            .unwrap()
            .keep()
            .await
            .unwrap();
        let small = |limiter: &Limiter| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                loop {
                    let call = limiter.reserve(Demand::new("all", usage! { tokens: 10 })).await;
                    call.unwrap().keep().await.unwrap();
                }
            })
        };
        let calls = |limiter: &Limiter| {
            let limiter = limiter.clone();
            tokio::spawn(async move {
                loop {
                    let call = limiter.reserve(Demand::new("tenant", usage! {})).await.unwrap();
                    tokio::time::sleep(ms(700)).await;
                    drop(call);
                }
            })
        };
        let mut streams: Vec<_> = (0..3).map(|_| small(&second)).collect();
        streams.extend((0..2).map(|_| calls(&second)));
        tokio::time::sleep(secs(3)).await;
        // It needs what comes back in ten seconds.
        let both = Demand::new("tenant", usage! { tokens: 100 }).and("all");
        let granted = timeout(secs(60), one.reserve(both)).await;
        streams.iter().for_each(JoinHandle::abort);
        let granted = granted.unwrap_or_else(|_| panic!("it starves, {is_other_session}"));
        granted.unwrap().keep().await.unwrap();
    }
}

/// Grants of tasks that ask again at once, on tenants under a parent that admits ten a second, in
/// twenty seconds. One tenant is narrow, and many wait for it.
async fn granted_under_a_parent(limiters: [&Limiter; 2]) -> u64 {
    let granted = Arc::new(AtomicU64::new(0));
    let task = |limiter: &Limiter, tenant: &'static str| {
        let (limiter, granted) = (limiter.clone(), granted.clone());
        tokio::spawn(async move {
            loop {
                let call = limiter.reserve(request(tenant).and("all")).await.unwrap();
                call.keep().await.unwrap();
                granted.fetch_add(1, Ordering::Relaxed);
            }
        })
    };
    let mut tasks: Vec<_> = (0..100).map(|_| task(limiters[0], "narrow")).collect();
    tasks.extend((0..50).map(|_| task(limiters[1], "wide")));
    tokio::time::sleep(secs(10)).await;
    let before = granted.load(Ordering::Relaxed);
    tokio::time::sleep(secs(20)).await;
    tasks.iter().for_each(JoinHandle::abort);
    granted.load(Ordering::Relaxed) - before
}

/// What waits for its tenant for long keeps no place of the parent that it cannot use.
#[tokio::test(start_paused = true)]
async fn a_narrow_tenant_with_a_backlog_wastes_nothing_of_its_parent() {
    let per_second = |limit| [Quota::token_bucket("requests", limit, secs(1))];
    let limits = Limits::new()
        .bucket("narrow", per_second(3))
        .bucket("wide", per_second(100))
        .bucket("all", per_second(10));
    let [one, other] = &several(&limits);
    for limiters in [[one, one], [one, other]] {
        let granted = granted_under_a_parent(limiters).await;
        assert!((190..=210).contains(&granted), "{granted} of 200");
        tokio::time::sleep(secs(60)).await;
    }
}

/// What comes to use its tenant passes no older one that waits for the parent, in one session.
#[tokio::test(start_paused = true)]
async fn what_waited_for_its_tenant_passes_no_older_one_of_its_session_on_the_parent() {
    let limits = Limits::new()
        .bucket("tenant", [Quota::concurrency(1)])
        .bucket("all", [Quota::token_bucket("requests", 20, secs(20))]);
    let [one] = &several(&limits);
    one.reserve(Demand::new("all", usage! { requests: 20 })).await.unwrap().keep().await.unwrap();
    let held = one.reserve(request("tenant")).await.unwrap();
    let calls = [1, 2].map(|names| {
        let limiter = one.clone();
        tokio::spawn(async move {
            let demand = Demand::new("tenant", usage! { requests: 2 });
            let demand = if names == 2 { demand.and("all") } else { demand };
            loop {
                let call = limiter.reserve(demand.clone()).await.unwrap();
                tokio::time::sleep(ms(1_050)).await;
                call.keep().await.unwrap();
            }
        })
    });
    quiet().await;
    let large = waiting(one, Demand::new("all", usage! { requests: 10 }));
    tokio::time::sleep(ms(2_200)).await;
    drop(held);
    let began = Instant::now();
    let granted = timeout(secs(120), large).await;
    calls.iter().for_each(JoinHandle::abort);
    assert!(granted.is_ok(), "it starves");
    assert!(began.elapsed() < secs(20), "{:?}", began.elapsed());
}

/// What was looked at while its parent was paused keeps no place there either.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_full_keeps_no_place_of_its_parent_after_a_pause() {
    let limits = Limits::new()
        .bucket("slow", [Quota::concurrency(1)])
        .bucket("fast", [Quota::concurrency(100)])
        .bucket("all", [Quota::concurrency(2)]);
    let of = |tenant: &str| Demand::new(tenant, usage! {}).and("all");
    for is_other_session in [false, true] {
        let [one, other] = several(&limits);
        let slow = one.reserve(of("slow")).await.unwrap();
        let waits: Vec<_> = (0..10).map(|_| waiting(&one, of("slow"))).collect();
        quiet().await;
        one.pause("all", secs(10)).await.unwrap();
        tokio::time::sleep(secs(11)).await;
        let fast = if is_other_session { &other } else { &one };
        for _ in 0..20 {
            let call = timeout(secs(2), fast.reserve(of("fast"))).await;
            let call = call.unwrap_or_else(|_| panic!("there is room: {is_other_session}"));
            tokio::time::sleep(ms(20)).await;
            drop(call.unwrap());
        }
        drop(slow);
        waits.iter().for_each(JoinHandle::abort);
    }
}

/// Nor does what comes to wait for the tenant only when its parent is paused already.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_full_keeps_no_place_of_its_parent_where_it_comes_during_a_pause() {
    let limits = Limits::new()
        .bucket("slow", [Quota::concurrency(1)])
        .bucket("fast", [Quota::concurrency(100)])
        .bucket("all", [Quota::concurrency(2)]);
    let of = |tenant: &str| Demand::new(tenant, usage! {}).and("all");
    let mut failed = Vec::new();
    for (is_other_session, has_older, waits_first) in [
        (false, false, false),
        (true, false, false),
        (false, true, false),
        (true, true, false),
        (false, true, true),
        (true, true, true),
    ] {
        let [one, other] = several(&limits);
        let slow = one.reserve(of("slow")).await.unwrap();
        let mut waits = Vec::new();
        if waits_first {
            waits.extend((0..10).map(|_| waiting(&one, of("slow"))));
            quiet().await;
        }
        one.pause("all", secs(10)).await.unwrap();
        tokio::time::sleep(ms(10)).await;
        let older = has_older.then(|| waiting(&one, Demand::new("all", usage! {})));
        quiet().await;
        waits.extend((0..10).map(|_| waiting(&one, of("slow"))));
        tokio::time::sleep(secs(11)).await;
        if let Some(older) = older {
            drop(older.await.unwrap().unwrap());
        }
        tokio::time::sleep(secs(1)).await;
        let fast = if is_other_session { &other } else { &one };
        for call in 0..20 {
            let Ok(call) = timeout(secs(2), fast.reserve(of("fast"))).await else {
                failed.push((is_other_session, has_older, waits_first, call));
                break;
            };
            tokio::time::sleep(ms(20)).await;
            drop(call.unwrap());
        }
        drop(slow);
        waits.iter().for_each(JoinHandle::abort);
    }
    assert!(failed.is_empty(), "other session, older, waits first: {failed:?}");
}

/// Nor where an older one waits for the parent when it comes.
#[tokio::test(start_paused = true)]
async fn a_tenant_that_is_full_keeps_no_place_of_its_parent_behind_one_that_waits_for_that() {
    let limits = Limits::new()
        .bucket("slow", [Quota::concurrency(1)])
        .bucket("fast", [Quota::concurrency(100)])
        .bucket("all", [Quota::concurrency(2)]);
    let of = |tenant: &str| Demand::new(tenant, usage! {}).and("all");
    for is_other_session in [false, true] {
        let [one, other] = several(&limits);
        let slow = one.reserve(of("slow")).await.unwrap();
        let call = one.reserve(of("fast")).await.unwrap();
        let older = waiting(&one, Demand::new("all", usage! {}));
        quiet().await;
        let waits: Vec<_> = (0..10).map(|_| waiting(&one, of("slow"))).collect();
        tokio::time::sleep(secs(1)).await;
        drop(call);
        drop(older.await.unwrap().unwrap());
        tokio::time::sleep(secs(1)).await;
        let fast = if is_other_session { &other } else { &one };
        for _ in 0..20 {
            let call = timeout(secs(2), fast.reserve(of("fast"))).await;
            let call = call.unwrap_or_else(|_| panic!("there is room: {is_other_session}"));
            tokio::time::sleep(ms(20)).await;
            drop(call.unwrap());
        }
        drop(slow);
        waits.iter().for_each(JoinHandle::abort);
    }
}
