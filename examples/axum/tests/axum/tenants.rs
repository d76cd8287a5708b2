//! Whose request it is.

use std::{collections::HashMap, sync::Arc};

use axum_examples::{
    Server,
    gateway::{TENANT, Tenant, Upstream, limits, router_with_keys},
};
use examples_common::{
    openai::completion,
    provider::{Provider, json},
};
use http::StatusCode;
use tower_throttle::Limiter;

use crate::stand::{Noting, chat, stand};

#[tokio::test]
async fn a_stranger_is_refused_and_leaves_no_key_behind() {
    let stand = stand(|_| json(&completion(50))).await;
    let client = reqwest::Client::new();
    let ask = async |tenant: &str| {
        let request = client.post(stand.url()).header(TENANT, tenant).body(chat());
        request.send().await.unwrap().status()
    };
    for stranger in
        ["nobody", "", "everyone", "tenant acme", "Acme", "{acme}", "*", "/v1/chat/completions"]
    {
        assert_eq!(ask(stranger).await, StatusCode::BAD_REQUEST, "{stranger}");
    }
    let nameless = client.post(stand.url()).body(chat()).send().await.unwrap();
    assert_eq!(nameless.status(), StatusCode::BAD_REQUEST);
    assert!(stand.names.lock().unwrap().is_empty());

    assert_eq!(ask("acme").await, StatusCode::OK);
    assert_eq!(stand.provider.calls(), 1);
    let names: Vec<_> = stand.names.lock().unwrap().iter().cloned().collect();
    assert_eq!(names, ["everyone", "tenant acme"]);
    stand.end(1).await;
}

#[tokio::test]
async fn a_path_nobody_serves_is_not_metered() {
    let stand = stand(|_| json(&completion(50))).await;
    let request = reqwest::Client::new().get(stand.server.url("/elsewhere")).header(TENANT, "acme");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::NOT_FOUND);
    assert!(stand.names.lock().unwrap().is_empty());
}

/// A gateway with keys, its limiter, and the names its store has seen.
async fn gateway(
    tenants: &[(&str, &str, u64)],
    everyone: u64,
) -> (Provider, Server, Limiter, crate::stand::Names) {
    let provider = Provider::start(|_| json(&completion(50))).await.unwrap();
    let store = Noting::default();
    let names = store.names.clone();
    let plans: HashMap<_, _> =
        tenants.iter().map(|(_, name, plan)| ((*name).to_owned(), *plan)).collect();
    let limiter = Limiter::with_store(limits(plans, everyone), store).unwrap();
    let keys = tenants.iter().map(|(key, name, _)| ((*key).to_owned(), Tenant(Arc::from(*name))));
    let router =
        router_with_keys(limiter.clone(), Upstream::new(&provider.url()), Arc::new(keys.collect()));
    (provider, Server::start(router).await.unwrap(), limiter, names)
}

async fn ask(server: &Server, key: &str) -> reqwest::Response {
    let request = reqwest::Client::new().post(server.url("/v1/chat/completions")).body(chat());
    request.header("authorization", format!("Bearer {key}")).send().await.unwrap()
}

#[tokio::test]
async fn a_tenant_may_be_called_anything() {
    let name = "{tag}}{\r\nSET a \"b\" % : * ?\0 ü";
    let (_provider, server, limiter, names) = gateway(&[("key", name, 1_000)], 10_000).await;
    ask(&server, "key").await.bytes().await.unwrap();

    let bucket = format!("tenant {name}");
    let names: Vec<_> = names.lock().unwrap().iter().cloned().collect();
    assert_eq!(names, ["everyone", &bucket]);
    let status = limiter.status(&bucket).await.unwrap();
    assert_eq!((status.quotas[0].charged, status.quotas[0].in_flight), (50.0, 0));
}

#[tokio::test]
async fn nobody_without_a_key_is_let_in_whatever_tenant_they_say_they_are() {
    let (provider, server, _, names) =
        gateway(&[("key", "acme", 1_000), ("other", "globex", 1_000)], 10_000).await;
    assert_eq!(ask(&server, "guess").await.status(), StatusCode::UNAUTHORIZED);
    assert!(names.lock().unwrap().is_empty());

    // The key counts, not the header.
    let request = reqwest::Client::new().post(server.url("/v1/chat/completions")).body(chat());
    let request = request.header("authorization", "Bearer key").header(TENANT, "globex");
    assert_eq!(request.send().await.unwrap().status(), StatusCode::OK);
    let names: Vec<_> = names.lock().unwrap().iter().cloned().collect();
    assert_eq!(
        (names, provider.calls()),
        (vec!["everyone".to_owned(), "tenant acme".to_owned()], 1)
    );
}

#[tokio::test]
async fn tenants_have_limits_of_their_own_under_one_that_they_share() {
    let tenants = [("a", "acme", 310), ("g", "globex", 1_000), ("i", "initech", 1_000)];
    let (_provider, server, limiter, _) = gateway(&tenants, 390).await;
    let left = async |bucket: &str| limiter.status(bucket).await.unwrap().quotas[0].available;
    assert_eq!(ask(&server, "a").await.status(), StatusCode::OK);
    assert_eq!((left("tenant acme").await, left("everyone").await), (260.0, 340.0));

    // Its own limit is short of 300, and the others' is not.
    assert_eq!(ask(&server, "a").await.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(
        (left("tenant acme").await, left("everyone").await),
        (260.0, 340.0),
        "all or nothing"
    );
    assert_eq!(ask(&server, "g").await.status(), StatusCode::OK);

    // What they share is short, and its own limit is not.
    let refused = ask(&server, "i").await;
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(refused.headers()["ratelimit-policy"], r#""tokens per minute";q=390;w=60"#);
    assert_eq!((left("tenant initech").await, left("everyone").await), (1_000.0, 290.0));
}
