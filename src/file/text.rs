//! Lengths of time as text.

use std::{fmt, time::Duration};

use serde::{Deserialize, Deserializer, de::Visitor};

use crate::calendar::{MONTH, WEEK};

const NANOS: u128 = 1_000_000_000;
/// Digits after the decimal point: nanoseconds.
const DIGITS: usize = 9;

/// A length of time: a number and a unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ConfigText")]
pub(super) struct Length(pub(super) Duration);

/// A window: its length, and the time zone at whose midnights it begins.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "ConfigText")]
pub(super) struct WindowText {
    pub(super) length: Duration,
    pub(super) zone: Option<String>,
}

/// Text whose error says what it should have been.
struct ConfigText(String);

impl<'de> Deserialize<'de> for ConfigText {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(LengthAsText)
    }
}

struct LengthAsText;

impl Visitor<'_> for LengthAsText {
    type Value = ConfigText;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a length of time with its unit, such as `90 s` or `1 day`")
    }

    fn visit_str<E>(self, text: &str) -> Result<ConfigText, E> {
        Ok(ConfigText(text.to_owned()))
    }
}

impl TryFrom<ConfigText> for Length {
    type Error = String;

    fn try_from(ConfigText(text): ConfigText) -> Result<Self, String> {
        length(&text).map(Self)
    }
}

impl TryFrom<ConfigText> for WindowText {
    type Error = String;

    fn try_from(ConfigText(text): ConfigText) -> Result<Self, String> {
        let (text, zone) = match text.split_once(" in ") {
            Some((length, zone)) => (length, Some(zone.trim().to_owned())),
            None => (&*text, None),
        };
        if zone.as_deref() == Some("") {
            return Err(format!(
                "`{text}` is in no time zone: write `1 day in America/Los_Angeles`"
            ));
        }
        // Of a calendar: as long as it says.
        let length = match (text.trim(), &zone) {
            ("1 week" | "week", Some(_)) => WEEK,
            ("1 month" | "month", Some(_)) => MONTH,
            _ => length(text)?,
        };
        Ok(Self { length, zone })
    }
}

fn length(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let nanos_each = nanos_of(unit.trim()).ok_or_else(|| {
        format!("`{text}` does not end in ms, s, m, h or d: write `90 s` or `1 day`")
    })?;
    let nanos = scaled(number, nanos_each)
        .ok_or_else(|| format!("`{text}` does not begin with a number of nine decimals at most"))?;
    let seconds = u64::try_from(nanos / NANOS).map_err(|_| format!("`{text}` is too long"))?;
    // Less than a second of nanoseconds.
    Ok(Duration::new(seconds, (nanos % NANOS) as u32))
}

fn nanos_of(unit: &str) -> Option<u128> {
    Some(match unit {
        "ms" => NANOS / 1_000,
        "s" | "second" | "seconds" => NANOS,
        "m" | "min" | "minute" | "minutes" => 60 * NANOS,
        "h" | "hour" | "hours" => 3_600 * NANOS,
        "d" | "day" | "days" => 86_400 * NANOS,
        _ => return None,
    })
}

/// Multiplies a decimal number by a unit, exactly.
fn scaled(number: &str, unit: u128) -> Option<u128> {
    let (whole, decimals) = number.split_once('.').unwrap_or((number, "0"));
    if decimals.len() > DIGITS {
        return None;
    }
    let whole: u128 = whole.parse().ok()?;
    let decimals = decimals.parse::<u128>().ok()? * unit / 10_u128.pow(decimals.len() as u32);
    whole.checked_mul(unit)?.checked_add(decimals)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_are_read() {
        for (text, millis) in [
            ("300 ms", 300),
            ("90 s", 90_000),
            ("1 m", 60_000),
            ("1.5 s", 1_500),
            (" 0.3 seconds ", 300),
            ("2 min", 120_000),
            ("12h", 43_200_000),
            ("30 d", 2_592_000_000),
            ("1 day", 86_400_000),
            ("0 s", 0),
        ] {
            assert_eq!(length(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        let longest = format!("{} s", u64::MAX);
        assert_eq!(length(&longest), Ok(Duration::from_secs(u64::MAX)));
    }

    #[test]
    fn what_is_no_length_is_refused() {
        for (text, reason) in [
            ("", "does not end in"),
            ("5", "does not end in"),
            ("1 month", "does not end in"),
            ("1 M", "does not end in"),
            ("1 m 30 s", "does not end in"),
            ("-1 s", "does not end in"),
            ("nan s", "does not end in"),
            ("1e3 s", "does not end in"),
            ("s", "does not begin with"),
            (". s", "does not begin with"),
            ("1. s", "does not begin with"),
            ("1.2.3 s", "does not begin with"),
            ("0.0000000001 s", "does not begin with"),
            ("18446744073709551615 m", "is too long"),
            ("340282366920938463463374607431768211455 d", "does not begin with"),
        ] {
            let refused = length(text).unwrap_err();
            assert!(refused.contains(reason), "{text}: {refused}");
        }
    }

    #[test]
    fn windows_may_be_in_a_time_zone() {
        let window = |text: &str| WindowText::try_from(ConfigText(text.to_owned()));
        let day = Duration::from_secs(86_400);
        let zone = Some("America/Los_Angeles".to_owned());
        assert_eq!(
            window("1 day in America/Los_Angeles"),
            Ok(WindowText { length: day, zone: zone.clone() })
        );
        let calendar = |days| Ok(WindowText { length: day * days, zone: zone.clone() });
        assert_eq!(window("1 week in America/Los_Angeles"), calendar(7));
        assert_eq!(window(" 1 month  in America/Los_Angeles"), calendar(31));
        assert!(window("1 month").is_err() && window("2 months in UTC").is_err());
        assert_eq!(window("24 h"), Ok(WindowText { length: day, zone: None }));
        assert!(window("1 day in ").unwrap_err().contains("no time zone"));
        assert!(window("tomorrow in Rome").is_err());
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(
            text in "\\PC{0,30}",
            number in "[0-9.]{0,50}",
            unit in "(ms|s|m|h|d| in | )",
        ) {
            let _ = WindowText::try_from(ConfigText(text));
            let _ = WindowText::try_from(ConfigText(number + &unit));
        }
    }
}
