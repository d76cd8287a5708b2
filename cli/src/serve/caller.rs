//! What a caller says of its demand, in headers that go no further than here.

use hyper::{
    HeaderMap, StatusCode,
    header::{HeaderName, HeaderValue},
};
use tower_throttle::Demand;

use super::errors::ServeError;

const PREFIX: &str = "x-throttle-";
const CLASS: HeaderName = HeaderName::from_static("x-throttle-class");
const SHARE: HeaderName = HeaderName::from_static("x-throttle-share");
/// Nothing has a longer name.
const LONGEST_NAME: usize = 200;

/// The class and the share of a call, where its caller names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Caller {
    class: Option<String>,
    share: Option<String>,
}

impl Caller {
    /// Takes its headers out of those of a request.
    pub(super) fn take(headers: &mut HeaderMap) -> Result<Self, ServeError> {
        let caller = Self { class: taken(headers, &CLASS)?, share: taken(headers, &SHARE)? };
        match headers.keys().any(|name| name.as_str().starts_with(PREFIX)) {
            true => {
                Err(nonsense(format!("of `{PREFIX}..` there are only `{CLASS}` and `{SHARE}`")))
            }
            false => Ok(caller),
        }
    }

    /// The demand, with what the caller says of it.
    pub(super) fn applied(self, mut demand: Demand) -> Demand {
        if let Some(class) = self.class {
            demand = demand.class(class);
        }
        if let Some(share) = self.share {
            demand = demand.share(share);
        }
        demand
    }
}

fn taken(headers: &mut HeaderMap, name: &HeaderName) -> Result<Option<String>, ServeError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(nonsense(format!("`{name}` is given more than once")));
    }
    let value = name_in(value).ok_or_else(|| {
        let what = "is a name of up to 200 bytes, in UTF-8 and without control characters";
        nonsense(format!("`{name}` {what}"))
    })?;
    headers.remove(name);
    Ok(Some(value))
}

fn name_in(value: &HeaderValue) -> Option<String> {
    let text = str::from_utf8(value.as_bytes()).ok()?.trim();
    let is_name = (1..=LONGEST_NAME).contains(&text.len()) && !text.chars().any(char::is_control);
    is_name.then(|| text.to_owned())
}

fn nonsense(message: String) -> ServeError {
    ServeError::new(StatusCode::BAD_REQUEST, "bad_header", message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(headers: &[(&'static str, &[u8])]) -> Result<Caller, ServeError> {
        let mut map: HeaderMap = headers
            .iter()
            .map(|(name, value)| {
                (HeaderName::from_static(name), HeaderValue::from_bytes(value).expect("a value"))
            })
            .collect();
        let caller = Caller::take(&mut map);
        if caller.is_ok() {
            assert!(map.keys().all(|name| !name.as_str().starts_with(PREFIX)), "{map:?}");
        }
        caller
    }

    #[test]
    fn class_and_share_are_taken_out() {
        let expected = Caller { class: Some("batch".into()), share: Some("müller".into()) };
        let headers: [(_, &[u8]); 3] = [
            ("x-throttle-class", b" batch "),
            ("authorization", b"Bearer x"),
            ("x-throttle-share", "müller".as_bytes()),
        ];
        assert_eq!(take(&headers), Ok(expected));
        assert_eq!(take(&[("x-request-id", b"1")]), Ok(Caller::default()));
    }

    #[test]
    fn nonsense_is_refused() {
        let long = [b'a'; LONGEST_NAME + 1];
        for headers in [
            &[("x-throttle-class", &b""[..])][..],
            &[("x-throttle-class", b"\t ")],
            &[("x-throttle-share", &long)],
            &[("x-throttle-share", b"\xff\xfe")],
            &[("x-throttle-share", b"a\tb")],
            &[("x-throttle-share", b"a"), ("x-throttle-share", b"b")],
            &[("x-throttle-clas", b"batch")],
        ] {
            assert!(take(headers).is_err(), "{headers:?}");
        }
    }
}
