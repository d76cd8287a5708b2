//! Who only looks sees what a limiter is told, and needs no more than to read.

use std::{sync::Arc, time::Duration};

use super::{
    RedisServer, RedisStore, STEPPED, apply_leased, bucket,
    differential::{Engine, name},
    random::{BUCKETS, Sending, World},
};
use crate::{
    Demand, Feedback, Limiter, Limits, Named, Quota,
    engine::{self, Batch, BucketLevel, BucketState, Op, Outcome, Rule, Verdict, Window},
    limits::Class,
    store::{Bucket, BucketKey, BucketView, QuotaKind, RedisView, StoreError},
    usage,
};

const MINUTE: Duration = Duration::from_secs(60);

/// What the limits of a process say of a rule, as far as it matters when its window begins.
fn note(rule: &Rule) -> String {
    match rule.window {
        Window::Fixed { length, anchor } => format!("fixed\t{length}\t{anchor}"),
        _ => format!("rule {}\t1", rule.id),
    }
}

/// How the engine says that a bucket stands.
fn level(state: &BucketState, key: &Arc<BucketKey>, rules: &[Rule], wall: u64) -> BucketLevel {
    let buckets = [Bucket::new(key.clone(), rules.into())];
    let ops = [Op::Status { bucket: 0 }];
    let batch = Batch::new(0, 0, 0, &buckets, &ops);
    let mut state = state.clone();
    for _ in 0..20 {
        engine::apply(&mut [&mut state], &Batch { ops: &[], ..batch }, wall);
    }
    match engine::apply(&mut [&mut state], &batch, wall).0.outcome {
        Outcome::Applied { mut verdicts, .. } => match verdicts.remove(0) {
            Verdict::Status(level) => *level,
            verdict => panic!("{verdict:?}"),
        },
        outcome => panic!("{outcome:?}"),
    }
}

fn assert_alike(view: &BucketView, level: &BucketLevel, rules: &[Rule], place: &str) {
    let told = (view.waiting, view.granted, view.looks_refused, view.paused_until.is_some());
    let expected = (level.waiting, level.granted, level.refused, level.paused_until > 0);
    assert_eq!(told, expected, "{place}");
    assert_eq!(view.quotas.len(), rules.len(), "{place}");
    for ((quota, level), rule) in view.quotas.iter().zip(&level.quotas).zip(rules) {
        let units = match &rule.window {
            Window::TokenBucket(bucket) => bucket.units as f64,
            _ => 1.0,
        };
        let told =
            (quota.charged, quota.withheld, quota.in_flight, quota.withheld_for, quota.asked);
        let micros = Duration::from_micros;
        let (charged, withheld) = (level.charged as f64 / units, level.withheld as f64 / units);
        let expected = (
            charged,
            withheld,
            level.in_flight,
            micros(level.withheld_for),
            level.asked.map(micros),
        );
        assert_eq!(told, expected, "{place}, {rule:?}");
        // When a calendar's next window ends is not told without its zone.
        if !matches!(rule.window, Window::Calendar { .. }) {
            assert_eq!(quota.reset, micros(level.reset), "{place}, {rule:?}");
        }
    }
}

#[tokio::test]
async fn after_any_batch_it_sees_what_the_engine_says() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let server = RedisServer::start();
    let mut side = server.connection();
    let store = RedisStore::connect(&server.url()).await.expect("a server").with_clock(STEPPED);
    let mut view = store.view();
    let keys: Vec<_> = (0..BUCKETS).map(|index| bucket(&name(index), &[]).key).collect();
    let ids = keys.iter().map(|key| key.id()).collect::<Vec<_>>();
    let mut world = World::new(seed, ids.try_into().expect("as many"), false);
    let mut engine = Engine(vec![BucketState::unused(); BUCKETS]);
    let mut rules: Vec<Vec<Rule>> = vec![Vec::new(); BUCKETS];
    for batch in 0..4_000 {
        let sending = world.next(4);
        redis::cmd("SET").arg("test:clock").arg(world.wall).exec(&mut side).expect("it is set");
        let buckets: Vec<Bucket> = sending
            .buckets
            .iter()
            .zip(&sending.rules)
            .map(|(&index, rules)| {
                let notes = rules.iter().map(note).collect::<Vec<_>>().join("\n");
                Bucket::new(keys[index].clone(), Arc::from(&**rules)).with_notes(notes.into())
            })
            .collect();
        let Sending { session, seq, lease, ref ops, .. } = sending;
        let answer = apply_leased(&store, session, seq, lease, &buckets, ops).await;
        let answer = answer.unwrap_or_else(|error| panic!("batch {batch}: {error}"));
        let before = engine.0.clone();
        let (expected, _) = engine.apply(&sending, &buckets, answer.wall);
        assert_eq!(answer, expected, "batch {batch}");
        world.learn(&sending, &answer);
        for (&index, obeyed) in sending.buckets.iter().zip(&sending.rules) {
            // A repeated batch changes nothing.
            if engine.0[index] != before[index] {
                rules[index].clone_from(obeyed);
            }
        }
        // Some time later, as of the server's clock.
        let later = world.wall + world.rng.u64(0..3) * world.rng.u64(0..30_000_000);
        view.stepped = Some(later);
        let views = view.look(&keys).await.expect("the server answers");
        for (index, told) in views.iter().enumerate() {
            let place = format!("seed {seed}, batch {batch}, bucket {index}");
            let known = !engine.0[index].is_unused();
            assert!(known || told.is_none(), "{place}");
            let is_charted =
                !rules[index].iter().any(|rule| matches!(rule.window, Window::Calendar { .. }));
            if let (Some(told), true) = (told, is_charted) {
                let expected = level(&engine.0[index], &keys[index], &rules[index], later);
                assert_alike(told, &expected, &rules[index], &place);
            }
        }
    }
}

/// A server with a bucket that is used, a store on it and the limiter that uses it.
async fn used() -> (RedisServer, RedisStore, Limiter) {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let day = Duration::from_secs(86_400);
    let quotas = [
        Quota::per_minute("requests", 50),
        Quota::per_minute("input_tokens", 10_000).weight("output_tokens", 5.0),
        Quota::token_bucket("tokens", 10, day).burst(5_000).named("slow tokens"),
        Quota::fixed_window("requests", 99, day),
        #[cfg(feature = "timezone")]
        Quota::per_day("requests", 200).in_time_zone("Europe/Berlin").named("Berlin's day"),
        Quota::concurrency(4),
    ];
    let limits = Limits::new().bucket("gpt-4o", quotas).class("batch", Class::new().headroom(0.1));
    let limiter = Limiter::with_store(limits, store.clone()).expect("limits that make sense");
    for _ in 0..3 {
        let reservation = limiter.reserve(demand()).await.expect("it fits");
        let usage = usage! { input_tokens: 10, output_tokens: 3 };
        reservation.settle(usage).await.expect("it is settled");
    }
    (server, store, limiter)
}

fn demand() -> Demand {
    Demand::new("gpt-4o", usage! { requests: 1, input_tokens: 20, output_tokens: 30 })
}

/// The only bucket of a store.
async fn only(view: &mut RedisView) -> BucketView {
    let keys = view.buckets().await.expect("the server answers");
    let mut views = view.look(&keys).await.expect("the server answers");
    assert_eq!(views.len(), 1);
    views.remove(0).expect("a state")
}

#[tokio::test]
async fn it_says_of_a_bucket_what_its_limiter_says() {
    let (_server, store, limiter) = used().await;
    let _open = limiter.reserve(demand()).await.expect("it fits");
    limiter.pause("gpt-4o", MINUTE).await.expect("it is paused");
    let mut view = store.view();
    // The first look reads all of a bucket, the second what has changed.
    for _ in 0..2 {
        let told = only(&mut view).await;
        let status = limiter.status("gpt-4o").await.expect("a status");
        assert_eq!(told.key.name(), "gpt-4o");
        assert_eq!(told.quotas.len(), status.quotas.len());
        for (told, quota) in told.quotas.iter().zip(&status.quotas) {
            assert_eq!(
                (&told.name, told.window, told.limit, told.held, told.in_flight),
                (&quota.quota, quota.window, quota.limit, quota.held, quota.in_flight)
            );
            assert!((told.charged - quota.charged).abs() < 0.01, "{told:?} and {quota:?}");
            assert!(told.reset.abs_diff(quota.reset) < MINUTE / 60, "{told:?} and {quota:?}");
        }
        assert_eq!((told.granted, told.looks_refused), (4, 0));
        assert_eq!((status.granted, status.looks_refused), (4, 0));
        assert_eq!(told.paused_until, status.paused_until);
        let wait = told.predicted.expect("a pause ends");
        assert!(wait.abs_diff(status.predicted.expect("a pause ends")) < MINUTE / 60);
        assert_eq!(told.quota("slow tokens"), told.quotas.get(2));
        assert_eq!(
            told.quotas[1].metrics,
            [("input_tokens".into(), 1.0), ("output_tokens".into(), 5.0)]
        );
        assert_eq!(
            (told.quotas[1].kind, told.quotas[1].charged),
            (QuotaKind::SlidingWindow, 245.0)
        );
        assert_eq!((told.quotas[2].kind, told.quotas[2].per_window), (QuotaKind::TokenBucket, 10));
    }
}

#[tokio::test]
async fn closely_it_shows_the_queue_and_the_sessions() {
    let (_server, store, limiter) = used().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(limiter.reserve(demand()).await.expect("it fits"));
    }
    let waiting =
        [0, 1].map(|_| tokio::spawn(limiter.reserve(demand().class("batch").share("acme"))));
    let mut view = store.view();
    let key = view.find("gpt-4o").await.expect("the server answers").remove(0);
    let detail = loop {
        let detail = view.look_closely(&key).await.expect("the server answers").expect("a state");
        if detail.bucket.waiting == 2 {
            break detail;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert_eq!(detail.bucket.predicted, None, "it depends on calls in flight");
    let [queued] = &detail.queue[..] else { panic!("{detail:?}") };
    assert_eq!((&*queued.quota, queued.count, queued.sum), ("calls in flight", 2, 2));
    assert_eq!((queued.headroom, queued.share.is_some(), queued.is_late), (0.1, true, false));
    let [session] = &detail.sessions[..] else { panic!("{detail:?}") };
    assert!(session.lease.is_some() && !session.is_detached);
    assert!(session.in_flight.contains(&("calls in flight".into(), 4)));
    assert!(detail.bucket.looks_refused > 0);
    waiting.iter().for_each(tokio::task::JoinHandle::abort);
}

#[tokio::test]
async fn the_end_of_a_lease_is_seen_before_a_batch_comes() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let limits = Limits::new().bucket("b", [Quota::concurrency(4)]);
    let lease = Duration::from_millis(100);
    let limiter = Limiter::builder(limits).store(store.clone()).lease(lease).build();
    let limiter = limiter.expect("limits that make sense");
    let demand = Demand::new("b", usage! { requests: 1 });
    let open = limiter.reserve(demand).await.expect("it fits");
    let mut view = store.view();
    assert_eq!(only(&mut view).await.quotas[0].held, 1);
    view.stepped = Some(crate::quota::micros(
        (std::time::SystemTime::now() + MINUTE)
            .duration_since(std::time::UNIX_EPOCH)
            .expect("a time"),
    ));
    assert_eq!(only(&mut view).await.quotas[0].held, 0);
    drop(open);
}

#[tokio::test]
async fn who_may_only_read_can_look() {
    let (server, store, limiter) = used().await;
    limiter
        .feedback(
            "gpt-4o",
            &Feedback::new().with_left(Named::metric("requests").window(MINUTE), 3, Some(MINUTE)),
        )
        .await
        .expect("it is told");
    let expected = only(&mut store.view()).await;
    for (rules, has_time) in [
        ("+hmget +hgetall +scan +time", true),
        ("+hmget +hgetall +scan +pttl", false),
        ("+@read", false),
    ] {
        server.command::<()>(&["ACL", "SETUSER", "look", "reset"]);
        let begin = ["ACL", "SETUSER", "look", "on", ">word", "%R~throttle:*"];
        // Redis 6.2 knows no permission that is for reading only.
        let begin = match redis::cmd("ACL").arg(&begin[1..]).exec(&mut server.connection()) {
            Ok(()) => begin,
            Err(_) => ["ACL", "SETUSER", "look", "on", ">word", "~throttle:*"],
        };
        server.command::<()>(&[&begin[..], &rules.split(' ').collect::<Vec<_>>()].concat());
        let url = server.url().replace("redis://", "redis://look:word@");
        let mut view = RedisStore::connect(&url).await.expect("a user who may read").view();
        for _ in 0..2 {
            let told = only(&mut view).await;
            assert_eq!(told.quotas[0].withheld, expected.quotas[0].withheld);
            assert!(told.quotas[0].withheld > 0.0 && told.quotas[0].charged == 3.0);
            let since = told.at.duration_since(expected.at).expect("time goes on");
            assert!(since < MINUTE, "{since:?} by the server's clock, {rules}");
        }
        assert_eq!(view.is_time_denied, !has_time);
        assert!(view.look_closely(&expected.key).await.expect("it may read").is_some());
    }
    server.command::<()>(&["ACL", "SETUSER", "look", "reset", "on", ">word", "~other:*", "+@read"]);
    let url = server.url().replace("redis://", "redis://look:word@");
    let mut view = RedisStore::connect(&url).await.expect("a user").view();
    let error = view.look(&[expected.key]).await.expect_err("another user's keys");
    assert!(matches!(error, StoreError::Rejected(_)), "{error}");
    assert!(error.to_string().contains("the user needs HMGET, HGETALL, SCAN"), "{error}");
}

#[tokio::test]
async fn a_bucket_is_paused_resumed_and_reset_without_its_limits() {
    let (_server, store, limiter) = used().await;
    let mut view = store.view();
    let before = only(&mut view).await;
    assert!(store.pause(&before.key, MINUTE).await.expect("the server answers"));
    assert!(limiter.status("gpt-4o").await.expect("a status").paused_until.is_some());
    let paused = only(&mut view).await;
    assert!(paused.paused_until > Some(paused.at + MINUTE - Duration::from_secs(5)));
    let charged = |view: &BucketView| {
        view.quotas.iter().map(|quota| quota.charged.round()).collect::<Vec<_>>()
    };
    assert_eq!(charged(&paused), charged(&before), "the quotas stay as they are");
    assert!(store.resume(&before.key).await.expect("the server answers"));
    assert_eq!(only(&mut view).await.paused_until, None);

    assert!(store.reset(&before.key).await.expect("the server answers"));
    assert!(!store.reset(&before.key).await.expect("the server answers"));
    assert!(view.buckets().await.expect("the server answers").is_empty());
    assert_eq!(view.look(std::slice::from_ref(&before.key)).await.expect("an answer"), [None]);
    assert!(!store.pause(&before.key, MINUTE).await.expect("the server answers"));
    limiter.reserve(demand()).await.expect("all of the limit").keep().await.expect("it is kept");
}

#[tokio::test]
async fn names_follow_the_rules_that_are_in_use() {
    let server = RedisServer::start();
    let store = RedisStore::connect(&server.url()).await.expect("a server");
    let limiter = |quotas: Vec<Quota>| {
        Limiter::with_store(Limits::new().bucket("b", quotas), store.clone()).expect("limits")
    };
    let requests = || Quota::per_minute("requests", 10);
    let (rows, bytes) = (Quota::per_second("rows", 5), Quota::per_hour("bytes", 5));
    let mut view = store.view();
    let names = |view: BucketView| {
        view.quotas.iter().map(|quota| quota.name.to_string()).collect::<Vec<_>>().join(", ")
    };
    let all = "rows per second, bytes per hour, requests per minute";
    for (quotas, usage, expected) in [
        (
            vec![requests(), rows.clone()],
            usage! { requests: 1, rows: 1 },
            "requests per minute, rows per second",
        ),
        (
            vec![bytes.clone(), requests()],
            usage! { requests: 1, bytes: 1 },
            "bytes per hour, requests per minute",
        ),
        (vec![rows, bytes, requests()], usage! { requests: 1, rows: 1, bytes: 1 }, all),
    ] {
        let reservation = limiter(quotas).try_reserve(Demand::new("b", usage)).await;
        reservation.expect("it fits").keep().await.expect("it is kept");
        assert_eq!(names(only(&mut view).await), expected);
    }
    // A state that has no names, as another program could leave it.
    let fields: Vec<Vec<u8>> = server.command(&["HKEYS", "throttle:{default}:b"]);
    for field in fields.iter().filter(|field| field.starts_with(b"n")) {
        let mut delete = redis::cmd("HDEL");
        delete
            .arg("throttle:{default}:b")
            .arg(field)
            .exec(&mut server.connection())
            .expect("deleted");
    }
    let told = only(&mut store.view()).await;
    assert!(told.quotas.iter().all(|quota| quota.name.starts_with("quota ")), "{told:?}");
    assert_eq!(told.quotas[0].window, Some(Duration::from_micros(1_050_000)), "with its guard");
}

#[tokio::test]
async fn what_is_no_state_is_not_shown_and_not_touched() {
    let (server, store, _limiter) = used().await;
    let key = "throttle:{default}:gpt-4o";
    let set = |field: &str, bytes: &[u8]| {
        let mut set = redis::cmd("HSET");
        set.arg(key).arg(field).arg(bytes).exec(&mut server.connection()).expect("it is set");
    };
    let state: Vec<u8> = server.command(&["HGET", key, "s"]);
    let shapes: Vec<u8> = server.command(&["HGET", key, "d"]);
    let mut view = store.view();
    let keys = view.buckets().await.expect("the server answers");
    let mut random = fastrand::Rng::new();
    for _ in 0..300 {
        let mut damaged = [state.clone(), shapes.clone()];
        let of = random.usize(..2);
        let at = random.usize(..damaged[of].len());
        damaged[of][at] ^= 1 << random.u8(..8);
        if random.bool() {
            damaged[of].truncate(at);
        }
        set("s", &damaged[0]);
        set("d", &damaged[1]);
        // Nothing but no panic.
        for view in [&mut view, &mut store.view()] {
            view.look(&keys).await.expect("the server answers");
            view.look_closely(&keys[0]).await.expect("the server answers");
        }
    }
    set("s", b"mine");
    assert_eq!(store.view().look(&keys).await.expect("the server answers"), [None]);
    let error = store.pause(&keys[0], MINUTE).await.expect_err("another program's");
    assert!(error.to_string().contains("another version"), "{error}");
}

/// Numbers at the ends of what a state may hold, and beyond.
const EXTREMES: [f64; 12] = [
    0.0,
    1.0,
    -1.0,
    0.5,
    65_536.0,
    4_294_967_296.0,
    1_000_000_000_000.0,
    2_251_799_813_685_248.0,
    9_007_199_254_740_991.0,
    9_007_199_254_740_992.0,
    f64::INFINITY,
    f64::NAN,
];

#[tokio::test]
async fn no_number_below_the_prefix_makes_a_look_panic_or_take_for_ever() {
    let (server, store, limiter) = used().await;
    let mut open = Vec::new();
    for _ in 0..4 {
        open.push(limiter.reserve(demand()).await.expect("it fits"));
    }
    let waiting = tokio::spawn(limiter.reserve(demand().class("batch").share("acme")));
    limiter.pause("gpt-4o", MINUTE).await.expect("it is paused");
    let keys = store.view().buckets().await.expect("the server answers");
    while store.view().look(&keys).await.expect("the server answers")[0]
        .as_ref()
        .is_none_or(|bucket| bucket.waiting == 0)
    {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let key = "throttle:{default}:gpt-4o";
    let fields: Vec<(Vec<u8>, Vec<u8>)> = server.command(&["HGETALL", key]);
    waiting.abort();
    limiter.close().await;
    drop(open);
    let numbers = |name: &[u8]| !name.starts_with(b"n");
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let mut view = store.view();
    for _ in 0..1_000 {
        let mut set = redis::cmd("HSET");
        set.arg(key);
        for (name, packed) in &fields {
            set.arg(name).arg(packed);
        }
        let damaged: Vec<_> = fields.iter().filter(|(name, _)| numbers(name)).collect();
        for _ in 0..random.usize(1..4) {
            let (name, packed) = damaged[random.usize(..damaged.len())];
            let mut packed = packed.clone();
            let doubles = packed.as_chunks_mut::<8>().0;
            if let Some(at) = (!doubles.is_empty()).then(|| random.usize(..doubles.len())) {
                doubles[at] = EXTREMES[random.usize(..EXTREMES.len())].to_le_bytes();
            }
            set.arg(name).arg(packed);
        }
        set.exec(&mut server.connection()).expect("it is set");
        for view in [&mut view, &mut store.view()] {
            view.look(&keys).await.expect("the server answers");
            view.look_closely(&keys[0]).await.expect("the server answers");
        }
    }
}
