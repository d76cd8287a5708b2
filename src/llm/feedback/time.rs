//! Times as headers and bodies tell them: durations, numbers and dates.

use std::time::Duration;

use http::HeaderMap;
use jiff::Timestamp;

use crate::inspect::retry_after::{ServerClock, http_date};

/// A number of seconds from here on is no duration but a time since 1970, and from the second on
/// one in milliseconds.
const EPOCH_SECONDS: f64 = 1e9;
const EPOCH_MILLIS: f64 = 1e11;

/// A time that a text tells.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Time {
    /// A number without a unit: seconds, if nothing speaks for milliseconds.
    Number(f64),
    /// From now on.
    In(Duration),
    /// At a time that has passed.
    Passed,
}

impl Time {
    /// The time from now on, if it is in the future. A number counts as seconds.
    pub(super) fn ahead(self) -> Option<Duration> {
        let time = match self {
            Self::Number(seconds) => Duration::try_from_secs_f64(seconds).ok()?,
            Self::In(time) => time,
            Self::Passed => return None,
        };
        Some(time).filter(|time| !time.is_zero())
    }
}

/// The provider's clock: by its own response, if that tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Clock(ServerClock);

impl Clock {
    pub(super) fn of(headers: &HeaderMap) -> Self {
        Self(ServerClock::of(headers))
    }

    /// Reads a duration (`6m0s`, `12ms`, `2 seconds`), a number (`8.64`) or a time
    /// (`2026-01-05T07:00:00Z`, `Mon, 05 Jan 2026 07:00:00 GMT`, seconds or milliseconds since
    /// 1970). `None` for anything else, such as a negative number.
    pub(super) fn read(self, text: &str) -> Option<Time> {
        let text = text.trim();
        if let Ok(number) = text.parse::<f64>() {
            let is_number = text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
            return is_number.then(|| self.of_number(number)).flatten();
        }
        if let Some(duration) = duration(text) {
            return Some(Time::In(duration));
        }
        timestamp(text).or_else(|| http_date(text)).map(|then| self.until(then))
    }

    fn of_number(self, number: f64) -> Option<Time> {
        let seconds = match number {
            number if number >= EPOCH_MILLIS => number / 1_000.0,
            number if number >= EPOCH_SECONDS => number,
            number => return Some(Time::Number(number)),
        };
        Some(self.until(Duration::try_from_secs_f64(seconds).ok()?))
    }

    fn until(self, then: Duration) -> Time {
        match self.0.until(then) {
            Duration::ZERO => Time::Passed,
            time => Time::In(time),
        }
    }
}

/// A time as of RFC 3339, since 1970.
fn timestamp(text: &str) -> Option<Duration> {
    text.parse::<Timestamp>().ok()?.as_duration().try_into().ok()
}

/// Numbers with units, and nothing else.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (duration, rest) = leading_duration(text.trim())?;
    rest.trim().is_empty().then_some(duration)
}

/// The numbers with units at the beginning of a text (`15m55.6s`, `1 minute and 5 seconds`), and
/// the rest of it.
pub(super) fn leading_duration(text: &str) -> Option<(Duration, &str)> {
    let (mut sum, mut rest) = leading_part(text)?;
    loop {
        let next = rest.trim_start_matches([' ', ',']);
        let next = next.strip_prefix("and ").unwrap_or(next);
        let Some((part, after)) = leading_part(next) else { return Some((sum, rest)) };
        (sum, rest) = (sum.saturating_add(part), after);
    }
}

/// One number with a unit.
fn leading_part(text: &str) -> Option<(Duration, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, rest) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let rest = rest.trim_start();
    let letters = rest.find(|c: char| !c.is_alphabetic()).unwrap_or(rest.len());
    let (unit, rest) = rest.split_at(letters);
    let part = Duration::try_from_secs_f64(number * seconds_of(unit)?).ok()?;
    Some((part, rest))
}

fn seconds_of(unit: &str) -> Option<f64> {
    Some(match unit.to_ascii_lowercase().as_str() {
        "ns" => 1e-9,
        "us" | "µs" | "μs" => 1e-6,
        "ms" | "msec" | "millis" | "millisecond" | "milliseconds" => 1e-3,
        "s" | "sec" | "secs" | "second" | "seconds" => 1.0,
        "m" | "min" | "mins" | "minute" | "minutes" => 60.0,
        "h" | "hr" | "hrs" | "hour" | "hours" => 3_600.0,
        "d" | "day" | "days" => 86_400.0,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, header::DATE};

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
            ("34.4s", 34.4),
            ("2 seconds", 2.0),
            ("1 minute and 5 seconds", 65.0),
            ("1 hour, 2 minutes", 3_720.0),
        ] {
            assert_eq!(duration(text), Some(Duration::from_secs_f64(expected)), "{text}");
        }
        for text in
            ["", "s", "-1", "-1s", "1x", "6m0", "NaN", "inf", "1e5", "1..2s", "٣s", "1s2", "20"]
        {
            assert_eq!(duration(text), None, "{text}");
        }
    }

    #[test]
    fn times_are_held_against_the_response_s_own_clock() {
        let mut headers = HeaderMap::new();
        // In another year than the system's, by any clock.
        headers.insert(DATE, HeaderValue::from_static("Mon, 05 Jan 2015 07:00:00 GMT"));
        let until = |text| {
            Clock::of(&headers).read(text).and_then(Time::ahead).map(|time| time.as_secs_f64())
        };
        assert_eq!(until("2015-01-05T07:00:12.5Z"), Some(12.5));
        assert_eq!(until("2015-01-05T08:01:00+01:00"), Some(60.0));
        assert_eq!(until("Mon, 05 Jan 2015 07:02:00 GMT"), Some(120.0));
        assert_eq!(until("Monday, 05-Jan-15 07:02:00 GMT"), Some(120.0));
        assert_eq!(until("Mon Jan  5 07:02:00 2015"), Some(120.0));
        assert_eq!(until("1420441203"), Some(3.0));
        assert_eq!(until("1420441203500"), Some(3.5));
        assert_eq!(until(" 7 "), Some(7.0));
        for text in ["soon", "0001-01-01T00:00:00Z", "-5", "nan", "inf", "1e300", "", "0", "0s"] {
            assert_eq!(until(text), None, "{text}");
        }
        assert_eq!(Clock::of(&headers).read("2015-01-05T06:00:00Z"), Some(Time::Passed));

        headers.remove(DATE);
        assert_eq!(Clock::of(&headers).read("2015-01-05T07:00:12Z"), Some(Time::Passed));
        let far = Clock::of(&headers).read("9999-12-30T00:00:00Z").and_then(Time::ahead);
        assert!(far > Some(Duration::from_secs(86_400)));
    }
}
