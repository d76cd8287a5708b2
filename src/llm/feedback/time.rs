//! Times as headers and bodies tell them: durations, numbers and dates.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use http::{HeaderMap, header::DATE};
use jiff::Timestamp;

/// A number of seconds from here on is no duration but a time since 1970, and from the second on one in milliseconds.
const EPOCH_SECONDS: f64 = 1e9;
const EPOCH_MILLIS: f64 = 1e11;

/// The provider's clock, by its own response where that tells.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock<'h>(pub(super) &'h HeaderMap);

impl Clock<'_> {
    /// The time until what `text` tells, which may be a duration: `6m0s`, `12ms`, `8.64`; or a time: `2026-01-05T07:00:00Z`,
    /// `Mon, 05 Jan 2026 07:00:00 GMT`, seconds or milliseconds since 1970. None at all if it has passed.
    pub(super) fn until(self, text: &str) -> Option<Duration> {
        let then = match duration(text) {
            Some(since_1970) if since_1970.as_secs_f64() >= EPOCH_MILLIS => since_1970 / 1_000,
            Some(since_1970) if since_1970.as_secs_f64() >= EPOCH_SECONDS => since_1970,
            Some(duration) => return Some(duration),
            None => timestamp(text).or_else(|| date(text))?,
        };
        Some(then.saturating_sub(self.now()))
    }

    /// Since 1970.
    fn now(self) -> Duration {
        let told = self.0.get(DATE).and_then(|date| date.to_str().ok()).and_then(date);
        let system = || SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        told.unwrap_or_else(system)
    }
}

/// The date of an HTTP header, in any of its three forms, since 1970.
fn date(text: &str) -> Option<Duration> {
    httpdate::parse_http_date(text.trim()).ok()?.duration_since(UNIX_EPOCH).ok()
}

/// A time as of RFC 3339, since 1970.
fn timestamp(text: &str) -> Option<Duration> {
    text.trim().parse::<Timestamp>().ok()?.as_duration().try_into().ok()
}

/// A number of seconds, or numbers with units.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut sum = Duration::ZERO;
    loop {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        let letters = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(letters);
        let seconds = match unit {
            "" if number.len() == text.trim().len() => 1.0,
            "us" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        let part = Duration::try_from_secs_f64(number.parse::<f64>().ok()? * seconds).ok()?;
        sum = sum.saturating_add(part);
        rest = after;
        if rest.is_empty() {
            return Some(sum);
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn durations_of_every_form_are_read() {
        for (text, expected) in [
            ("6m0s", 360.0),
            ("12ms", 0.012),
            ("8.64s", 8.64),
            ("2m59.56s", 179.56),
            ("1h30m", 5_400.0),
            ("1d", 86_400.0),
            ("20", 20.0),
            ("0.5", 0.5),
            (" 7 ", 7.0),
            ("34.4s", 34.4),
            ("0", 0.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(expected)), "{text}");
        }
        for text in
            ["", "s", "-1", "-1s", "1x", "6m0", "1 s", "NaN", "inf", "1e5", "1..2", "٣s", "1s2"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_held_against_the_response_s_own_clock() {
        let mut headers = HeaderMap::new();
        // In another year than the system's, by any clock.
        headers.insert(DATE, HeaderValue::from_static("Mon, 05 Jan 2015 07:00:00 GMT"));
        let until = |text| Clock(&headers).until(text).map(|time| time.as_secs_f64());
        assert_eq!(until("2015-01-05T07:00:12.5Z"), Some(12.5));
        assert_eq!(until("2015-01-05T08:01:00+01:00"), Some(60.0));
        assert_eq!(until("Mon, 05 Jan 2015 07:02:00 GMT"), Some(120.0));
        assert_eq!(until("Monday, 05-Jan-15 07:02:00 GMT"), Some(120.0));
        assert_eq!(until("Mon Jan  5 07:02:00 2015"), Some(120.0));
        assert_eq!(until("1420441203"), Some(3.0));
        assert_eq!(until("1420441203500"), Some(3.5));
        assert_eq!(until("2015-01-05T06:00:00Z"), Some(0.0), "it has passed");
        assert_eq!(until("soon"), None);
        assert_eq!(until("0001-01-01T00:00:00Z"), None);

        headers.remove(DATE);
        assert_eq!(Clock(&headers).until("2015-01-05T07:00:12Z"), Some(Duration::ZERO));
        let far = Clock(&headers).until("9999-12-31T23:59:59Z");
        assert!(far.is_none_or(|far| far > Duration::from_secs(86_400)));
    }
}
