//! Routes that make no sense.

use super::*;

fn reason(pattern: &str, route: Route<Plain>) -> String {
    let error = Routes::builder().route(pattern, route).build().expect_err(pattern);
    assert_eq!(error.route(), pattern);
    error.to_string()
}

#[test]
fn an_error_names_the_route_and_the_reason() {
    for (pattern, expected) in [
        ("", "route ``: it has neither host nor path"),
        ("GET ", "route `GET `: it has neither host nor path"),
        ("get /a", "route `get /a`: `get` is no method; they are written in capitals"),
        ("G(T /a", "route `G(T /a`: `G(T` is no method; they are written in capitals"),
        (
            "https://a.b/c",
            "route `https://a.b/c`: `https:` is no host; a pattern is `METHOD host:port/path`, without a scheme",
        ),
        ("/a b", "route `/a b`: `/a` is no method; they are written in capitals"),
        ("GET /a b", "route `GET /a b`: its path has a space, or a query"),
        ("/a?b", "route `/a?b`: its path has a space, or a query"),
        ("/{a", "route `/{a`: a brace is not closed in `/{a`; `{{` stands for one"),
        ("/a}", "route `/a}`: a brace was not opened in `/a}`; `}}` stands for one"),
        ("/{}", "route `/{}`: a parameter in `/{}` has no name"),
        ("/{*}", "route `/{*}`: a parameter in `/{*}` has no name"),
        ("/{*a}/b", "route `/{*a}/b`: `{*rest}` is not at its end, on its own"),
        ("/{a}{b}", "route `/{a}{b}`: a segment has more than one parameter"),
    ] {
        assert_eq!(reason(pattern, Route::to("bucket")), expected);
    }
    for host in [
        "a_b c/",
        "ü.de/",
        "*.a.b/",
        "[::1/",
        "[]/",
        ":80/",
        "a.b:x/",
        "a.b:/",
        "a.b:99999/",
        "u@a.b/",
    ] {
        assert!(
            Routes::<Plain>::builder().route(host, Route::to("bucket")).build().is_err(),
            "{host}"
        );
    }
}

#[test]
fn routes_that_match_the_same_are_an_error() {
    for (one, other) in [
        ("/a", "/a/"),
        ("/a", "/%61"),
        ("/{a}", "/{b}"),
        ("/{a}", "/{*b}"),
        ("A.b/x", "a.B./x"),
        ("GET a.b", "GET a.b/{*all}"),
        ("GET a.b:80/", "GET a.b:80"),
    ] {
        let routes =
            Routes::<Plain>::builder().route(one, Route::to("x")).route(other, Route::to("y"));
        let error = routes.build().expect_err(other);
        assert_eq!(error.route(), other);
        assert!(error.to_string().contains("it matches what `"), "{error}");
    }
    let different = ["/a", "GET /a", "a.b/a", "a.b:80/a", "GET a.b/a", "/{x}", "/{x}/{*y}"];
    let routes = different
        .iter()
        .fold(Routes::<Plain>::builder(), |routes, text| routes.route(*text, Route::to("x")));
    routes.build().expect("all differ");
}

#[test]
fn a_bucket_may_only_use_what_the_path_has() {
    let unknown = reason("/t/{tenant}", Route::to("t:{tenent}"));
    assert_eq!(
        unknown,
        "route `/t/{tenant}`: its bucket `t:{tenent}` uses `tenent`, which is no parameter of its path"
    );
    assert!(reason("/t", Route::to("a").and("t:{tenant}")).contains("no parameter of its path"));
    assert!(reason("/t", Route::to("")).contains("no name"));
    assert!(reason("/t", Route::to("a}")).contains("not opened"));

    let rest = Routes::<Plain>::builder()
        .otherwise(Route::to("all:{rest}"))
        .build()
        .expect_err("no parameters");
    assert_eq!(rest.route(), "otherwise");
    let braces =
        Routes::builder().route("/{{a}}/{b}", Route::to("{{b}}={b}")).build().expect("valid");
    assert_eq!(bucket(&braces, request("GET", "/{a}/c")), "{b}=c");
}

#[test]
fn what_would_mean_nothing_is_an_error() {
    assert!(reason("/a", Route::unlimited().usage(usage! {})).contains("means nothing"));
    assert!(reason("/a", Route::refuse().class("batch")).contains("means nothing"));
    assert!(reason("/a", Route::unlimited().share("t")).contains("means nothing"));
    assert!(reason("/a", Route::to("a").share("{tenant}")).contains("no parameter"));
    assert!(reason("/a", Route::refuse().and("b")).contains("means nothing"));
    let own = Route::by(|_: &mut Plain| Ok(Demand::unlimited()));
    assert!(reason("/a", own.usage(usage! {})).contains("tells the usage itself"));
}

#[test]
fn routes_can_be_printed_and_copied() {
    let route = Route::<Plain>::to("a{{").and("b").class("c");
    let routes =
        Routes::builder().route("/a", route.clone()).otherwise(route).build().expect("valid");
    let text = format!("{:?}", routes.clone());
    assert!(text.contains("a{{") && text.contains('c'), "{text}");
}
