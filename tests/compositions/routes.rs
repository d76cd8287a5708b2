//! Routes in front of a limiter: names come from the limits, and from nowhere else.

use std::sync::Arc;

use http::Request;
use tower::{Layer, service_fn};
use tower_throttle::{
    BoxError, Limiter, Limits, Quota, Settlement, ThrottleLayer, Throttled,
    limiter::BadDemand,
    limits::Undeclared,
    routes::{Route, RouteError, Routes},
    store::MemoryStore,
    usage,
};

type Plain = Request<()>;

fn quotas() -> [Quota; 2] {
    [Quota::per_minute("requests", 100), Quota::per_minute("tokens", 100)]
}

fn tenants() -> Routes<Plain> {
    Routes::builder()
        .route(
            "/tenants/{tenant}/{*rest}",
            Route::to("tenant:{tenant}").and("all").usage(usage! { tokens: 30 }),
        )
        .route("/health", Route::unlimited())
        .build()
        .expect("valid routes")
}

/// A limiter and the store that shows which buckets there are.
fn limiter(limits: Limits) -> (Limiter, Arc<MemoryStore>) {
    let store = Arc::new(MemoryStore::new());
    let limiter =
        Limiter::builder(limits).shared_store(store.clone()).build().expect("valid limits");
    (limiter, store)
}

async fn send(limiter: &Limiter, path: &str) -> Result<(), BoxError> {
    let layer = ThrottleLayer::new(limiter.clone(), tenants())
        .inspector(|_: &()| Settlement::Exact(usage! { tokens: 8 }))
        .reject();
    layer
        .layer(service_fn(async |_: Plain| Ok::<_, BoxError>(())))
        .oneshot(Request::get(path).body(())?)
        .await
}

async fn tokens(limiter: &Limiter, bucket: &str) -> f64 {
    limiter.status(bucket).await.expect("the bucket exists").quotas[1].charged
}

#[tokio::test(start_paused = true)]
async fn paths_without_a_route_leave_nothing_behind() {
    let (limiter, store) =
        limiter(Limits::new().bucket("all", quotas()).bucket("tenant:acme", quotas()));
    send(&limiter, "/tenants/acme/x").await.expect("declared");
    assert_eq!(store.len(), 2);
    for n in 0..1_000 {
        let error = send(&limiter, &format!("/{n}/wp-login.php")).await.expect_err("no route");
        assert!(matches!(error.downcast_ref(), Some(RouteError::NoRoute { .. })), "{error}");
        let error = send(&limiter, &format!("/tenants/{n}/x")).await.expect_err("no such tenant");
        let throttled = Throttled::find(error.as_ref()).expect("the throttle's");
        assert!(
            matches!(throttled, Throttled::BadDemand(BadDemand::UnknownBucket(_))),
            "{throttled}"
        );
        send(&limiter, "/health").await.expect("unlimited");
    }
    assert_eq!(store.len(), 2, "no request has made a key");
    assert_eq!((tokens(&limiter, "tenant:acme").await, tokens(&limiter, "all").await), (8.0, 8.0));
}

#[tokio::test(start_paused = true)]
async fn tenants_of_a_family_or_a_default_share_a_bucket() {
    let family =
        Limits::new().bucket("all", quotas()).bucket("small", quotas()).family("tenant:*", "small");
    let default = Limits::new()
        .bucket("all", quotas())
        .bucket("small", quotas())
        .undeclared(Undeclared::Bucket("small".into()));
    for limits in [family, default] {
        let (limiter, store) = limiter(limits);
        for path in ["/tenants/a/x", "/tenants/%7Bb%7D%0A*%3F/x", "/tenants/small/x"] {
            send(&limiter, path).await.expect(path);
        }
        assert_eq!((tokens(&limiter, "small").await, store.len()), (24.0, 2));
    }
}

/// Whatever a tenant is called, its calls are settled once and charged to it alone.
#[tokio::test(start_paused = true)]
async fn a_resolver_decides_which_tenants_there_are() {
    let known = ["acme", "{tenant}\r\n{{}}", "a/../b", "*", "ü b"];
    let all = [Quota::per_minute("requests", 1_000), Quota::per_minute("tokens", 1_000)];
    let limits = Limits::new().bucket("all", all).resolver(move |name: &str| {
        known.contains(&name.strip_prefix("tenant:")?).then(|| quotas().to_vec())
    });
    let (limiter, store) = limiter(limits);
    let written = ["acme", "%7Btenant%7D%0D%0A%7b%7b%7d%7d", "a%2F..%2fb", "%2A", "%C3%BC%20b"];
    for (index, (path, name)) in written.into_iter().zip(known).enumerate() {
        for again in 1..=2 {
            send(&limiter, &format!("/tenants/{path}/x")).await.expect(name);
            let of_tenant = tokens(&limiter, &format!("tenant:{name}")).await;
            assert_eq!(of_tenant, f64::from(8 * again), "{name}");
        }
        assert_eq!(store.len(), index + 2);
    }
    assert_eq!(tokens(&limiter, "all").await, 80.0);
    send(&limiter, "/tenants/Acme/x").await.expect_err("no such tenant");
    assert_eq!(store.len(), 6);
}

/// One client, two providers, each with limits of its own.
#[tokio::test(start_paused = true)]
async fn one_providers_limit_does_not_hold_up_another() {
    let limits = Limits::new().bucket("openai", quotas()).bucket("claude", quotas());
    let (limiter, _) = limiter(limits);
    let routes = Routes::builder()
        .route("api.openai.com", Route::to("openai").usage(usage! { tokens: 60 }))
        .route(
            "api.anthropic.com",
            Route::to("claude").usage_of(|_: &Plain| Ok(usage! { tokens: 60 })),
        )
        .build()
        .expect("valid routes");
    let layer = ThrottleLayer::new(limiter.clone(), routes).reject();
    let service = layer.layer(service_fn(async |_: Plain| Ok::<_, BoxError>(())));
    let get =
        |url: &str| service.clone().oneshot(Request::get(url).body(()).expect("a valid request"));
    get("https://api.openai.com/v1/x").await.expect("it fits");
    get("https://api.openai.com/v1/x").await.expect_err("60 of 40 left");
    get("https://api.anthropic.com/v1/x").await.expect("another bucket");
}
