//! The stacks that README.md and docs/composing.md show, word for word.

pub(crate) mod any_service;
pub(crate) mod hyper_client;
pub(crate) mod in_a_struct;
pub(crate) mod never_made;
pub(crate) mod order;
pub(crate) mod provider_rules;
pub(crate) mod reqwest_client;
pub(crate) mod reqwest_jobs;
pub(crate) mod reqwest_middleware;
pub(crate) mod reqwest_retries;
pub(crate) mod retries;

use tower_throttle::{Limiter, Limits, Quota};

/// A limiter with every bucket that the stacks name, all of them wide.
pub(crate) fn limiter() -> Limiter {
    let quotas = || {
        ["requests", "tokens", "rows", "bytes"].map(|metric| Quota::per_minute(metric, 10_000_000))
    };
    let names = ["api", "db", "files", "gpt-4o", "claude", "the whole company", "tenant:acme"];
    let limits =
        names.into_iter().fold(Limits::new(), |limits, name| limits.bucket(name, quotas()));
    Limiter::new(limits.class("batch", tower_throttle::limits::Class::new().headroom(0.1)))
        .expect("the limits are valid")
}

/// A request to OpenAI's API that goes to `url`.
pub(crate) fn chat(url: &str) -> reqwest::Request {
    let body =
        r#"{"model":"gpt-4o","max_tokens":50,"messages":[{"role":"user","content":"Why?"}]}"#;
    let request = reqwest::Client::new().post(url).body(body);
    request.build().expect("a valid request")
}

/// Such a request with what comes with the call.
pub(crate) fn job(url: &str) -> reqwest_jobs::Job {
    let max_wait = std::time::Duration::from_secs(10);
    reqwest_jobs::Job { tenant: "tenant:acme".into(), max_wait, http: chat(url) }
}
