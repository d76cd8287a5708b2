//! Numbers, times, lengths of time and addresses, as people read and write them.

use std::time::{Duration, SystemTime};

use jiff::Timestamp;

const UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// Reads `90 s`, `1.5h` or `250ms`.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = (&text[..end], text[end..].trim());
    let number: f64 = number.parse().map_err(|_| NO_DURATION.to_owned())?;
    let known = UNITS.iter().find(|(name, _)| *name == unit);
    let (_, millis) = known.ok_or_else(|| NO_DURATION.to_owned())?;
    let duration = Duration::try_from_secs_f64(number * *millis as f64 / 1e3);
    let duration = duration.map_err(|_| "it is too long".to_owned())?;
    if duration.is_zero() { Err("it is zero".to_owned()) } else { Ok(duration) }
}

const NO_DURATION: &str = "write a number and a unit: 250ms, 30s, 5m, 2h or 1d";

/// A length of time, with its two largest units: `850ms`, `4.2s`, `3m 20s`, `2d 5h`.
pub(crate) fn duration(length: Duration) -> String {
    let millis = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
    if millis < 1_000 {
        return format!("{millis}ms");
    }
    if millis < 10_000 {
        return format!("{:.1}s", (millis / 100) as f64 / 10.0);
    }
    let seconds = millis / 1_000;
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    let both = |one: u64, of: &str, other: u64, of_other: &str| match other {
        0 => format!("{one}{of}"),
        _ => format!("{one}{of} {other}{of_other}"),
    };
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => both(minutes, "m", seconds % 60, "s"),
        (0, ..) => both(hours, "h", minutes, "m"),
        _ => both(days, "d", hours, "h"),
    }
}

/// An amount in at most five characters: `950`, `12.5k`, `450k`, `1.2M`.
pub(crate) fn short(amount: f64) -> String {
    let size = amount.abs();
    let scaled = |unit: f64, name: &str| {
        let scaled = amount / unit;
        let is_whole = scaled.abs() >= 100.0 || (scaled * 10.0).round() % 10.0 == 0.0;
        if is_whole { format!("{scaled:.0}{name}") } else { format!("{scaled:.1}{name}") }
    };
    match size {
        ..999.5 if size.fract() == 0.0 || size >= 99.95 => format!("{amount:.0}"),
        ..999.5 => format!("{amount:.1}"),
        ..999_500.0 => scaled(1e3, "k"),
        ..999_500_000.0 => scaled(1e6, "M"),
        _ => scaled(1e9, "G"),
    }
}

/// A whole amount with its thousands apart: `1,234,567`.
pub(crate) fn grouped(amount: u64) -> String {
    let digits = amount.to_string();
    let mut text = String::with_capacity(digits.len() * 4 / 3);
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// An amount that need not be whole, with its thousands apart.
pub(crate) fn amount(amount: f64) -> String {
    let (sign, size) = if amount < 0.0 { ("-", -amount) } else { ("", amount) };
    match size.fract() {
        0.0 => format!("{sign}{}", grouped(size as u64)),
        _ if size < 100.0 => format!("{sign}{size:.1}"),
        _ => format!("{sign}{}", grouped(size.round() as u64)),
    }
}

/// A time, in UTC and to the second.
pub(crate) fn time(at: SystemTime) -> String {
    match Timestamp::try_from(at) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
        Err(_) => "?".to_owned(),
    }
}

/// How long it is from one time to another, none if that is over.
pub(crate) fn until(at: SystemTime, now: SystemTime) -> Duration {
    at.duration_since(now).unwrap_or_default()
}

/// A text of others that is safe to print: what a terminal would obey is left out.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if is_obeyed(c) { '\u{fffd}' } else { c }).collect()
}

/// Whether a terminal does something else than to show it: controls, line separators, and what
/// changes the direction of a text.
fn is_obeyed(c: char) -> bool {
    let directs =
        matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || directs
}

/// A text of several lines that is safe to print.
pub(crate) fn plain_lines(text: &str) -> String {
    text.split('\n').map(plain).collect::<Vec<_>>().join("\n")
}

/// JSON that is safe to print: in it, what a terminal would obey is written as JSON has it.
pub(crate) fn plain_json(json: &str) -> String {
    let mut plain = String::with_capacity(json.len());
    for c in json.chars() {
        match c {
            // Between the values.
            '\n' => plain.push(c),
            c if is_obeyed(c) => plain.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => plain.push(c),
        }
    }
    plain
}

/// `1 demand`, `2 demands`.
pub(crate) fn count(number: u64, one: &str) -> String {
    if number == 1 { format!("1 {one}") } else { format!("{} {one}s", grouped(number)) }
}

/// A URL without scheme, user, password and options.
pub(crate) fn place(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split_once('?').map_or(rest, |(place, _)| place);
    rest.rsplit_once('@').map_or(rest, |(_, place)| place).trim_end_matches('/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_are_read_and_written() {
        for (text, millis, again) in [
            ("250ms", 250, "250ms"),
            ("1.5 s", 1_500, "1.5s"),
            ("90s", 90_000, "1m 30s"),
            ("5m", 300_000, "5m"),
            (" 2h ", 7_200_000, "2h"),
            ("1d", 86_400_000, "1d"),
        ] {
            let read = parse_duration(text).expect(text);
            assert_eq!((read, duration(read).as_str()), (Duration::from_millis(millis), again));
        }
        assert_eq!(duration(Duration::from_secs(86_400 * 3 + 3_700)), "3d 1h");
        for wrong in
            ["", "5", "s", "-5s", "1.2.3s", "5 weeks", "0s", "1e9s", "99999999999999999999d"]
        {
            assert!(parse_duration(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_a_terminal_would_obey_is_not_printed() {
        let hostile = "a\x1b[2J\u{9b}31m\n\u{202e}b\u{7f}\u{2066}\u{e4}";
        let shown = "a\u{fffd}[2J\u{fffd}31m\u{fffd}\u{fffd}b\u{fffd}\u{fffd}\u{e4}";
        assert_eq!(plain(hostile), shown);
        assert_eq!(plain_lines("a\r\nb"), "a\u{fffd}\nb");
        let json = serde_json::json!({ "name": hostile });
        let text = plain_json(&format!("{json:#}"));
        assert!(!text.chars().any(|c| is_obeyed(c) && c != '\n'), "{text:?}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&text).expect("JSON"), json);
    }

    #[test]
    fn amounts_are_short() {
        for (number, text) in [
            (0.0, "0"),
            (7.25, "7.2"),
            (950.0, "950"),
            (999.9, "1k"),
            (12_540.0, "12.5k"),
            (450_000.0, "450k"),
            (1_200_000.0, "1.2M"),
            (-3_000.0, "-3k"),
        ] {
            assert_eq!(short(number), text);
        }
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!((amount(-1234.0), amount(0.25)), ("-1,234".into(), "0.2".into()));
    }

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("redis://127.0.0.1:6379/", "127.0.0.1:6379"),
            ("rediss://user:p@ss@host:7/1", "host:7/1"),
            ("redis+unix:///tmp/socket?user=a&pass=b", "/tmp/socket"),
            ("redis://:secret@", ""),
        ] {
            assert_eq!(place(url), shown);
        }
    }
}
