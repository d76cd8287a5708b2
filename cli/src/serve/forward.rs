//! Requests and responses as they pass: where they go, and the headers that go along.

use hyper::{
    HeaderMap, Response, StatusCode, Uri, Version,
    header::{
        ACCEPT_ENCODING, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, HeaderName, HeaderValue,
        PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE,
    },
    http::{request::Parts, uri::PathAndQuery},
};

use super::errors::ServeError;

/// Headers that are about one connection. Trailers and their names are passed on.
static OF_CONNECTION: [HeaderName; 8] = [
    CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    PROXY_AUTHENTICATE,
    PROXY_AUTHORIZATION,
    TE,
    TRANSFER_ENCODING,
    UPGRADE,
];

/// The first segment of a path, and the rest of it with the query.
pub(super) fn split(uri: &Uri) -> (&str, &str) {
    let whole = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let path = whole.strip_prefix('/').unwrap_or(whole);
    let end = path.find(['/', '?']).unwrap_or(path.len());
    path.split_at(end)
}

/// Aims a request at an upstream. `rest` is what stands after the upstream's name.
pub(super) fn aim(head: &mut Parts, upstream: &Uri, rest: &str) -> Result<(), ServeError> {
    let base = upstream.path().trim_end_matches('/');
    let slash = if rest.starts_with('/') { "" } else { "/" };
    let mut parts = upstream.clone().into_parts();
    let path = format!("{base}{slash}{rest}");
    parts.path_and_query = PathAndQuery::try_from(path).ok();
    head.uri = Uri::from_parts(parts).map_err(|_| {
        let message = "the path makes no sense after the upstream's name";
        ServeError::new(StatusCode::BAD_REQUEST, "bad_path", message)
    })?;
    // The connection to the upstream decides.
    head.version = Version::HTTP_11;
    end_to_end(&mut head.headers);
    // The client sets these by the address and the body.
    for name in [HOST, CONTENT_LENGTH, EXPECT] {
        head.headers.remove(name);
    }
    // What is compressed tells no usage. Clients take what is not compressed as well.
    head.headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    Ok(())
}

/// Makes a response fit for the connection to the client.
pub(super) fn hand_on<B>(mut response: Response<B>) -> Response<B> {
    *response.version_mut() = Version::HTTP_11;
    end_to_end(response.headers_mut());
    response
}

/// Removes what is about one connection, and what `connection` names.
fn end_to_end(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .flat_map(|value| value.as_bytes().split(|byte| *byte == b','))
        .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
        // They decide where a body ends.
        .filter(|name| *name != CONTENT_LENGTH)
        .collect();
    let is_left_out = |name: &&HeaderName| OF_CONNECTION.contains(name) || named.contains(name);
    // Few are there. To compare names is faster than to look for each.
    let left_out: Vec<HeaderName> = headers.keys().filter(is_left_out).cloned().collect();
    for name in left_out {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use hyper::Request;

    use super::*;

    fn aimed(upstream: &str, rest: &str) -> Parts {
        let upstream = Uri::try_from(upstream).expect("a URL");
        let request = Request::builder()
            .header("connection", "close, X-Private")
            .header("x-private", "1")
            .header("te", "trailers")
            .header("host", "127.0.0.1:4700")
            .header("content-length", "5")
            .header("accept-encoding", "gzip")
            .header("authorization", "Bearer key")
            .body(());
        let (mut head, ()) = request.expect("a request").into_parts();
        aim(&mut head, &upstream, rest).expect("an address");
        head
    }

    #[test]
    fn paths_are_split_after_the_name() {
        for (uri, name, rest) in [
            ("/openai/v1/chat", "openai", "/v1/chat"),
            ("/openai", "openai", ""),
            ("/openai?a=b", "openai", "?a=b"),
            ("/", "", ""),
            ("http://host/openai/%2e%2E/x?y", "openai", "/%2e%2E/x?y"),
            ("//v1", "", "/v1"),
            ("*", "*", ""),
        ] {
            assert_eq!(split(&Uri::try_from(uri).expect("a URI")), (name, rest), "{uri}");
        }
    }

    #[test]
    fn requests_go_where_the_upstream_is() {
        for (upstream, rest, uri) in [
            ("https://a.b", "/v1/chat?x=1", "https://a.b/v1/chat?x=1"),
            ("https://a.b/", "/v1", "https://a.b/v1"),
            ("https://a.b/base/", "/v1", "https://a.b/base/v1"),
            ("https://a.b", "", "https://a.b/"),
            ("https://a.b/base", "?x", "https://a.b/base/?x"),
        ] {
            assert_eq!(aimed(upstream, rest).uri, uri);
        }
    }

    #[test]
    fn headers_of_the_connection_stay_behind() {
        let head = aimed("https://a.b", "/");
        let mut names: Vec<_> = head.headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept-encoding", "authorization"]);
        assert_eq!(head.headers[ACCEPT_ENCODING], "identity");
    }
}
