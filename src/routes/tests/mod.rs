//! Which requests go where, by example and by property.

mod building;
mod properties;

use std::time::Duration;

use http::{HeaderValue, Method, Request};

use super::*;
use crate::usage;

type Plain = Request<()>;

/// A request as a client makes it, if `to` has a scheme, and as a server sees it otherwise.
fn request(method: &str, to: &str) -> Plain {
    Request::builder().method(method).uri(to).body(()).expect("a valid request")
}

fn served(method: &str, path: &str, host: &str) -> Plain {
    let mut request = request(method, path);
    request
        .headers_mut()
        .insert(http::header::HOST, HeaderValue::try_from(host).expect("a valid header"));
    request
}

/// The buckets of a request, or why there are none.
fn buckets(routes: &Routes<Plain>, mut request: Plain) -> Result<Vec<String>, String> {
    let demand = routes.extract(&mut request).map_err(|error| error.to_string())?;
    Ok(demand.buckets().map(str::to_owned).collect())
}

fn bucket(routes: &Routes<Plain>, request: Plain) -> String {
    buckets(routes, request).map_or_else(|error| error, |names| names.join(" and "))
}

fn two_providers() -> Routes<Plain> {
    let routes = Routes::builder()
        .route("POST api.openai.com/v1/chat/completions", Route::to("chat"))
        .route("api.openai.com/v1/{*rest}", Route::to("openai"))
        .route("api.anthropic.com", Route::to("claude"))
        .route("api.anthropic.com:8443/v1/{*rest}", Route::to("claude beta"))
        .route("/v1beta/models/{model}:generateContent", Route::to("gemini:{model}"))
        .route("/tenants/{tenant}/{*rest}", Route::to("tenant:{tenant}").and("all tenants"))
        .route("GET /health", Route::unlimited())
        .route("[::1]/", Route::to("local"));
    routes.build().expect("valid routes")
}

#[test]
fn one_client_for_two_providers() {
    let routes = two_providers();
    let to = |method, url| bucket(&routes, request(method, url));
    assert_eq!(to("POST", "https://api.openai.com/v1/chat/completions"), "chat");
    assert_eq!(to("GET", "https://api.openai.com/v1/chat/completions"), "openai");
    assert_eq!(to("POST", "https://api.openai.com/v1/embeddings?x=/v1/chat/completions"), "openai");
    assert_eq!(to("POST", "https://api.anthropic.com/v1/messages"), "claude");
    assert_eq!(to("GET", "https://api.anthropic.com"), "claude");
    assert_eq!(to("GET", "http://[::1]/"), "local");
    assert_eq!(
        to("POST", "https://a.b/v1beta/models/gemini-2.5-pro:generateContent"),
        "gemini:gemini-2.5-pro"
    );
}

#[test]
fn hosts_are_compared_without_case_and_ports_where_they_are_named() {
    let routes = two_providers();
    for url in [
        "https://API.OpenAI.com/v1/x",
        "https://api.openai.com./v1/x",
        "https://api.openai.com:443/v1/x",
        "https://user:secret@api.openai.com/v1/x",
    ] {
        assert_eq!(bucket(&routes, request("GET", url)), "openai", "{url}");
    }
    assert_eq!(
        bucket(&routes, request("GET", "https://api.anthropic.com:8443/v1/x")),
        "claude beta"
    );
    assert_eq!(bucket(&routes, request("GET", "https://api.anthropic.com:8444/v1/x")), "claude");
    assert_eq!(bucket(&routes, served("GET", "/v1/x", "Api.Anthropic.com:8443")), "claude beta");
    assert_eq!(bucket(&routes, served("GET", "/v1/x", "api.anthropic.com")), "claude");
    assert_eq!(bucket(&routes, served("GET", "/", "[::1]:8080")), "local");

    let usual = Routes::builder().route("a.b:443", Route::to("tls")).build().expect("valid");
    assert_eq!(bucket(&usual, request("GET", "https://a.b/x")), "tls");
    assert!(buckets(&usual, request("GET", "http://a.b/x")).is_err());
    assert!(buckets(&usual, served("GET", "/x", "a.b")).is_err(), "its port is unknown");
}

#[test]
fn a_host_that_is_none_matches_no_route_with_a_host() {
    let routes = two_providers();
    for host in [
        "",
        ":",
        "api.openai.com:",
        "api.openai.com:+1",
        "api.openai.com:70000",
        "a@api.openai.com",
        "[::1",
    ] {
        assert!(buckets(&routes, served("GET", "/v1/x", host)).is_err(), "{host}");
    }
    let mut binary = request("GET", "/v1/x");
    let host = HeaderValue::from_bytes(b"\xff").expect("a valid header");
    binary.headers_mut().insert(http::header::HOST, host);
    assert!(buckets(&routes, binary).is_err());
}

#[test]
fn slashes_at_the_end_and_needless_encoding_make_no_difference() {
    let routes = two_providers();
    for path in ["/v1/chat/completions/", "/v1/chat/completions///", "/v1/ch%61t/completion%73"] {
        assert_eq!(
            bucket(&routes, request("POST", &format!("https://api.openai.com{path}"))),
            "chat",
            "{path}"
        );
    }
    // A slash that is encoded parts nothing, and case matters.
    assert_eq!(
        bucket(&routes, request("POST", "https://api.openai.com/v1/chat%2Fcompletions")),
        "openai"
    );
    assert_eq!(
        bucket(&routes, request("POST", "https://api.openai.com/v1/Chat/completions")),
        "openai"
    );
}

#[test]
fn a_tenant_may_be_called_anything() {
    let routes = two_providers();
    for (written, name) in [
        ("acme", "acme"),
        ("%61cme", "acme"),
        ("%7Ba%7D%7D%0A%7Btenant%7D", "{a}}\n{tenant}"),
        ("%7bx%7d%0d%0a", "{x}\r\n"),
        ("{tenant}", "{tenant}"),
        ("a%2Fb", "a/b"),
        ("%C3%BC", "ü"),
        ("%25", "%"),
        ("50%", "50%"),
    ] {
        let expected = format!("tenant:{name} and all tenants");
        assert_eq!(
            bucket(&routes, served("GET", &format!("/tenants/{written}/x"), "h")),
            expected,
            "{written}"
        );
    }
    let refused = |path: &str| buckets(&routes, served("GET", path, "h")).expect_err("refused");
    assert_eq!(refused("/tenants/%FF/x"), "parameter `tenant` of the path is not UTF-8");
    let long = "x".repeat(257);
    assert_eq!(
        refused(&format!("/tenants/{long}/x")),
        "parameter `tenant` of the path is longer than 256 bytes"
    );
    assert!(refused("/tenants//x").starts_with("no route matches"));
}

#[test]
fn what_no_route_matches_is_refused_unless_something_else_is_said() {
    let routes = two_providers();
    let error = routes
        .extract(&mut request("PUT", "https://elsewhere.com/a?key=secret"))
        .expect_err("refused");
    assert_eq!(error.to_string(), "no route matches PUT elsewhere.com:443/a");
    let expected = RouteError::NoRoute {
        method: Method::PUT,
        host: Some("elsewhere.com".into()),
        port: Some(443),
        path: "/a".into(),
    };
    assert_eq!(error.downcast_ref(), Some(&expected));

    let rest = |route| {
        Routes::builder().route("/a", Route::refuse()).otherwise(route).build().expect("valid")
    };
    assert_eq!(bucket(&rest(Route::to("rest")), request("GET", "/b")), "rest");
    assert_eq!(
        bucket(&rest(Route::to("rest")), request("GET", "/a")),
        "requests of this route are refused"
    );
    assert_eq!(buckets(&rest(Route::unlimited()), request("GET", "/b")), Ok(vec![]));
}

#[test]
fn what_a_stranger_sends_is_told_escaped_and_in_part() {
    let routes = two_providers();
    let told = bucket(&routes, served("GET", &format!("/{}", "x".repeat(5_000)), "h\u{9}\"x"));
    assert!(told.len() < 300 && !told.contains('\u{9}'), "{told}");
}

#[test]
fn a_route_says_usage_class_and_wait() {
    let wait = Duration::from_secs(9);
    let tokens = |text: &Request<String>| match text.body().len() {
        0 => Err("an empty request".into()),
        length => Ok(usage! { tokens: length as u64 }),
    };
    let own = |_: &mut Request<String>| Ok(Demand::new("own", usage! {}));
    let routes = Routes::builder()
        .route("/fixed", Route::to("a").usage(usage! { tokens: 5 }).class("batch").max_wait(wait))
        .route("/read", Route::to("a").usage_of(tokens))
        .route("/own", Route::by(own).and("all").class("c").share("s"))
        .build()
        .expect("valid routes");
    let demand = |path: &str, body: &str| {
        routes.extract(&mut Request::get(path).body(body.to_owned()).expect("a valid request"))
    };
    let expected = Demand::new("a", usage! { tokens: 5 }).class("batch").max_wait(wait);
    assert_eq!(demand("/fixed", "").expect("a demand"), expected);
    assert_eq!(demand("/read", "1234").expect("a demand"), Demand::new("a", usage! { tokens: 4 }));
    assert_eq!(demand("/read", "").expect_err("refused").to_string(), "an empty request");
    assert_eq!(
        demand("/own", "").expect("a demand"),
        Demand::new("own", usage! {}).and("all").class("c").share("s")
    );
}

#[cfg(feature = "reqwest")]
#[test]
fn a_request_of_reqwest_goes_the_same_way() {
    let routes = Routes::builder()
        .route("POST api.openai.com:443/v1/{*rest}", Route::to("openai:{rest}"))
        .route("[::1]:8080", Route::to("local"))
        .build()
        .expect("valid routes");
    let bucket = |method: Method, url: &str| {
        let mut request = reqwest::Request::new(method, url.parse().expect("a URL"));
        routes.extract(&mut request).map(|demand| demand.buckets().collect::<String>())
    };
    let posted = bucket(Method::POST, "https://API.openai.com/v1/chat/a%20b/");
    assert_eq!(posted.expect("a demand"), "openai:chat/a b");
    assert_eq!(bucket(Method::GET, "http://[::1]:8080").expect("a demand"), "local");
    assert!(bucket(Method::GET, "https://api.openai.com/v1/chat").is_err());
}
