//! What of a request is looked at: its method, host, port and path.

use std::borrow::Cow;

use http::{Method, Uri, header::HOST};

/// Where a request goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Target<'r> {
    pub(super) method: &'r Method,
    pub(super) host: Option<&'r str>,
    /// The one it names, or the usual one of its scheme.
    pub(super) port: Option<u16>,
    pub(super) path: &'r str,
}

impl<'r> Target<'r> {
    pub(super) fn of_http<B>(request: &'r http::Request<B>) -> Self {
        let uri = request.uri();
        let usual = usual_port(uri);
        let (host, port) = match uri.host() {
            Some(host) => (Some(host), uri.port_u16().or(usual)),
            // What a server is sent has its host in a header.
            None => match request.headers().get(HOST).and_then(|value| value.to_str().ok()) {
                Some(host) => {
                    let (host, port) = split_port(host);
                    (Some(host), port.or(usual))
                }
                None => (None, None),
            },
        };
        Self::new(request.method(), host, port, uri.path())
    }

    #[cfg(feature = "reqwest")]
    pub(super) fn of_reqwest(request: &'r reqwest::Request) -> Self {
        let url = request.url();
        Self::new(request.method(), url.host_str(), url.port_or_known_default(), url.path())
    }

    fn new(method: &'r Method, host: Option<&'r str>, port: Option<u16>, path: &'r str) -> Self {
        let host = host.map(|host| host.strip_suffix('.').unwrap_or(host));
        Self { method, host, port, path }
    }
}

fn usual_port(uri: &Uri) -> Option<u16> {
    match uri.scheme_str()? {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    }
}

/// A host and its port. A port that is none stays with the host, which then is none either.
pub(super) fn split_port(text: &str) -> (&str, Option<u16>) {
    let Some((host, port)) = text.rsplit_once(':') else { return (text, None) };
    match port.parse() {
        // The colons of an address are in brackets.
        Ok(number) if port.bytes().all(|byte| byte.is_ascii_digit()) && !host.is_empty() => {
            (host, Some(number))
        }
        _ => (text, None),
    }
}

/// Writes equal paths alike: without slashes at the end, and with nothing percent-encoded that need
/// not be (RFC 3986, section 6.2.2).
pub(super) fn canonical(path: &str) -> Cow<'_, str> {
    let path = path.trim_end_matches('/');
    if path.is_empty() {
        return Cow::Borrowed("/");
    }
    if !path.contains('%') {
        return Cow::Borrowed(path);
    }
    let mut written = String::with_capacity(path.len());
    let mut rest = path;
    while let Some((before, after)) = rest.split_once('%') {
        written.push_str(before);
        let code = after.get(..2).filter(|code| code.bytes().all(|byte| byte.is_ascii_hexdigit()));
        rest = match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(byte) => {
                if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
                    written.push(char::from(byte));
                } else {
                    written.push_str(&format!("%{byte:02X}"));
                }
                &after[2..]
            }
            None => {
                written.push('%');
                after
            }
        };
    }
    written.push_str(rest);
    Cow::Owned(written)
}
