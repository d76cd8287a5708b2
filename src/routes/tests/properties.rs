//! Whatever is asked for, no name comes up that was not thought of.

use proptest::prelude::*;

use super::*;

/// The path of a URI, with much that matters to routes.
fn paths() -> impl Strategy<Value = String> {
    let pieces = [
        "/",
        "//",
        "tenants",
        "a",
        "{",
        "}",
        "{tenant}",
        "{{",
        "%",
        "%2",
        "%2F",
        "%7B",
        "%0A",
        "%0d",
        "%61",
        "%FF",
        "*",
        ":generateContent",
        "v1",
        "v1beta",
        "models",
        "..",
        ".",
        "health",
        "+",
        "~",
        ";",
        "=",
    ];
    let piece = prop_oneof![
        proptest::sample::select(pieces.to_vec()).prop_map(str::to_owned),
        "[!-~&&[^?#\"<>\\\\^`|]]{0,9}"
    ];
    proptest::collection::vec(piece, 0..12).prop_map(|pieces| format!("/{}", pieces.concat()))
}

/// Encodes all bytes of a text, or only those that have to be.
fn encoded(text: &str, all: bool) -> String {
    let plain = |byte: u8| !all && (byte.is_ascii_alphanumeric() || b"-._~".contains(&byte));
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02x}") })
        .collect()
}

proptest! {
    #[test]
    fn any_path_goes_to_a_name_with_a_declared_beginning_or_nowhere(path in paths(), host in "[!-~]{0,20}") {
        let routes = two_providers();
        let Ok(uri) = path.parse::<http::Uri>() else { return Ok(()) };
        let mut request = Request::new(());
        *request.uri_mut() = uri;
        if let Ok(host) = HeaderValue::try_from(host) {
            request.headers_mut().insert(http::header::HOST, host);
        }
        let Ok(names) = buckets(&routes, request) else { return Ok(()) };
        match &names.iter().map(String::as_str).collect::<Vec<_>>()[..] {
            [] | ["claude" | "openai" | "local"] => {}
            [name] => prop_assert!(name.starts_with("gemini:") && name.len() <= 7 + 256, "{}", name),
            [name, "all tenants"] => prop_assert!(name.starts_with("tenant:") && name.len() <= 7 + 256, "{}", name),
            names => prop_assert!(false, "{:?}", names),
        }
    }

    #[test]
    fn equal_paths_go_the_same_way(path in paths(), slashes in 0_usize..4) {
        let routes = two_providers();
        let Ok(plain) = Request::get(path.as_str()).body(()) else { return Ok(()) };
        let expected = buckets(&routes, plain);
        let mut other = path.trim_end_matches('/').to_owned();
        other.push_str(&"/".repeat(slashes));
        let other = other.replace('a', "%61").replace("%7B", "%7b");
        let other = if other.is_empty() { "/".into() } else { other };
        let Ok(other) = Request::get(other.as_str()).body(()) else { return Ok(()) };
        match (expected, buckets(&routes, other)) {
            (Ok(expected), other) => prop_assert_eq!(Ok(expected), other),
            (Err(_), other) => prop_assert!(other.is_err()),
        }
    }

    #[test]
    fn every_tenant_has_one_bucket_however_it_is_written(tenant in "\\PC{1,60}|[{}\n\r\t %/*?]{1,60}") {
        prop_assume!(tenant.len() <= 256);
        let routes = two_providers();
        let expected = format!("tenant:{tenant} and all tenants");
        for all in [false, true] {
            let path = format!("/tenants/{}/x", encoded(&tenant, all));
            prop_assert_eq!(bucket(&routes, served("GET", &path, "h")), expected.clone());
        }
    }

    #[test]
    fn a_host_is_the_same_in_any_case_and_at_any_port(
        upper in any::<u32>(),
        port in any::<Option<u16>>(),
        dot: bool,
    ) {
        let routes = two_providers();
        let letters = "api.openai.com".char_indices();
        let cased = |(i, c): (usize, char)| match upper >> i & 1 {
            1 => c.to_ascii_uppercase(),
            _ => c,
        };
        let mut host: String = letters.map(cased).collect();
        host.extend(dot.then_some('.'));
        let host = port.map_or(host.clone(), |port| format!("{host}:{port}"));
        prop_assert_eq!(bucket(&routes, served("GET", "/v1/x", &host)), "openai");
        prop_assert_eq!(bucket(&routes, request("GET", &format!("https://{host}/v1/x"))), "openai");
    }

    #[test]
    fn no_pattern_and_no_name_is_a_surprise(pattern in "[A-Z]{0,4} ?[a-z.:]{0,6}[/{}*a-b%]{0,12}", name in "[{}*a-b]{0,9}") {
        let routes = Routes::<Plain>::builder().route(pattern.as_str(), Route::to(name));
        if let Ok(routes) = routes.build() {
            let _ = buckets(&routes, served("GET", "/a/b", "a"));
        }
    }
}
