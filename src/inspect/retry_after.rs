//! How long a response asks to wait, by the clock of the server that sent it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{
    HeaderMap, HeaderValue,
    header::{DATE, RETRY_AFTER},
};

/// The clock of a server: by its own response, if that tells the time.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct ServerClock {
    since_1970: Option<Duration>,
}

impl ServerClock {
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        Self { since_1970: headers.get(DATE).and_then(text).and_then(http_date) }
    }

    /// The time until a date (since 1970); zero if it has passed.
    pub(crate) fn until(self, date: Duration) -> Duration {
        let system = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        date.saturating_sub(self.since_1970.unwrap_or_else(system))
    }
}

/// The date of an HTTP header, in any of its three forms, since 1970.
pub(crate) fn http_date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text).ok()?.duration_since(UNIX_EPOCH).ok()
}

/// Reads `Retry-After`: a number of seconds, or a date. `None` for anything else, and for no wait
/// at all.
pub(crate) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let told = headers.get(RETRY_AFTER).and_then(text)?.trim();
    let is_number = !told.is_empty() && told.bytes().all(|byte| byte.is_ascii_digit());
    let wait = match is_number {
        true => Duration::from_secs(told.parse().ok()?),
        false => ServerClock::of(headers).until(http_date(told)?),
    };
    (!wait.is_zero()).then_some(wait)
}

fn text(value: &HeaderValue) -> Option<&str> {
    value.to_str().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_dates_are_read_and_nothing_else() {
        let told = |told: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, told.parse().unwrap());
            // In another year than the system's, by any clock.
            headers.insert(DATE, HeaderValue::from_static("Mon, 05 Jan 2015 07:00:00 GMT"));
            retry_after(&headers).map(|wait| wait.as_secs())
        };
        assert_eq!(told("20"), Some(20));
        assert_eq!(told(" 7 "), Some(7));
        assert_eq!(told("Mon, 05 Jan 2015 07:02:00 GMT"), Some(120));
        assert_eq!(told("Monday, 05-Jan-15 07:02:00 GMT"), Some(120));
        for nothing in [
            "",
            "0",
            "-5",
            "soon",
            "1e9",
            "Mon, 05 Jan 2015 06:00:00 GMT",
            "99999999999999999999999",
        ] {
            assert_eq!(told(nothing), None, "{nothing}");
        }
        assert_eq!(retry_after(&HeaderMap::new()), None);
    }
}
