//! Of a cluster, every master is seen and steered, whichever node the URL names.

use tower_throttle::{Limiter, Limits, Quota, store::RedisStore};

use crate::{
    program::{charge, run_on},
    support::RedisServer,
    top::Screen,
    watch::Watch,
};

/// Of two shards, the partition "a" is on the second one and the partition "b" on the first one.
async fn on_shards(servers: &[RedisServer]) -> [Limiter; 2] {
    let on = async |server: &RedisServer, partition, bucket| {
        let store = RedisStore::connect(&server.url()).await.expect("a server");
        let quotas = [Quota::per_minute("tokens", 30_000)];
        let limits = Limits::new().bucket_in(partition, bucket, quotas);
        let limiter = Limiter::with_store(limits, store).expect("limits that make sense");
        charge(&limiter, bucket, 1_500).await;
        limiter
    };
    [on(&servers[0], "b", "first").await, on(&servers[1], "a", "second").await]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_of_any_master_is_told_and_steered() {
    let servers = RedisServer::start_cluster(2);
    let limiters = on_shards(&servers).await;
    for named in &servers {
        for (bucket, limiter) in ["first", "second"].into_iter().zip(&limiters) {
            let ended = run_on(named, &["status", bucket]);
            assert!(ended.code == 0 && ended.out.contains("1,500 charged"), "{ended:?}");
            let ended = run_on(named, &["pause", bucket, "1m"]);
            assert!(ended.out.contains("is paused until"), "{ended:?}");
            let paused = limiter.status(bucket).await.expect("a status").paused_until;
            assert!(paused.is_some());
            let ended = run_on(named, &["resume", bucket]);
            assert_eq!((ended.code, ended.err.as_str()), (0, ""));
        }
    }
    let ended = run_on(&servers[0], &["reset", "second", "--yes"]);
    assert_eq!((ended.code, ended.err.as_str()), (0, ""));
    assert_eq!(run_on(&servers[1], &["status", "second"]).code, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn all_masters_are_shown_live() {
    let servers = RedisServer::start_cluster(2);
    let limiters = on_shards(&servers).await;
    let mut watch = Watch::start(&servers[0], &[]);
    limiters[1].pause("second", std::time::Duration::from_secs(60)).await.expect("it pauses");
    watch.says("second");
    let Some(screen) = Screen::start(&servers[1].url(), &["top"]) else { return };
    screen.is("both buckets", |text| text.contains("first") && text.contains("second")).await;
}
