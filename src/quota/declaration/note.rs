//! What is kept beside the state of a quota for those who look at it without its declaration: its
//! name, its window and its metrics. A store may keep such a line; nothing is decided by it.

use super::Meter;
use crate::engine::{Micros, Window};

/// What a line says.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct QuotaNote {
    pub(crate) name: String,
    /// Nothing for calls in flight.
    pub(crate) window: Option<Micros>,
    pub(crate) resets: Resets,
    /// Each metric with its weight in millionths.
    pub(crate) weights: Vec<(String, u64)>,
}

/// When a fixed window begins anew.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Resets {
    /// It is no fixed window.
    Never,
    /// So long after the Unix epoch, and then each window.
    At(Micros),
    /// At the midnights of a time zone.
    In(String),
}

impl QuotaNote {
    /// What there is to say of a quota.
    pub(super) fn of(meter: &Meter) -> Self {
        let resets = match (&meter.rule.window, meter.zone()) {
            (Window::Fixed { anchor, .. }, _) => Resets::At(*anchor),
            (_, Some(zone)) => Resets::In(zone.to_owned()),
            _ => Resets::Never,
        };
        let weights = meter.weights().map(|(metric, parts)| (plain(metric), parts)).collect();
        let window = meter.window.map(super::micros);
        Self { name: plain(&meter.label), window, resets, weights }
    }

    /// The line: name, window in microseconds, when it resets, and the metrics, with tabs between.
    pub(super) fn line(&self) -> String {
        let resets = match &self.resets {
            Resets::Never => String::new(),
            Resets::At(anchor) => anchor.to_string(),
            Resets::In(zone) => plain(zone),
        };
        let window = self.window.map_or_else(String::new, |window| window.to_string());
        let weights = self.weights.iter().map(|(metric, parts)| format!("{parts}*{metric}"));
        [self.name.clone(), window, resets]
            .into_iter()
            .chain(weights)
            .collect::<Vec<_>>()
            .join("\t")
    }

    /// Reads a line. What is not as it should be is left out: another version may have written it.
    #[cfg(feature = "redis")]
    pub(crate) fn read(line: &str) -> Self {
        let mut parts = line.split('\t');
        let mut next = || parts.next().unwrap_or_default();
        let (name, window, resets) = (next().to_owned(), next().parse().ok(), next());
        let resets = match (resets, resets.parse()) {
            ("", _) => Resets::Never,
            (_, Ok(anchor)) => Resets::At(anchor),
            (zone, Err(_)) => Resets::In(zone.to_owned()),
        };
        let weights = parts.filter_map(|part| {
            let (parts, metric) = part.split_once('*')?;
            Some((metric.to_owned(), parts.parse().ok()?))
        });
        Self { name, window, resets, weights: weights.collect() }
    }
}

/// A text without what would end a part of a line, or a line on a terminal.
fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(all(test, feature = "redis"))]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::Quota;

    fn note(quota: Quota) -> QuotaNote {
        QuotaNote::of(&quota.compile().expect("a quota that makes sense"))
    }

    #[test]
    fn a_line_is_read_back() {
        let day = Duration::from_secs(86_400);
        for quota in [
            Quota::per_minute("input_tokens", 100).weight("output_tokens", 5.0),
            Quota::token_bucket("tokens", 100, day).named("a\tname\nof two lines"),
            Quota::fixed_window("requests", 5, day).anchored(Duration::from_secs(7)),
            Quota::concurrency(4),
            #[cfg(feature = "timezone")]
            Quota::per_day("requests", 9).in_time_zone("Europe/Berlin"),
        ] {
            let note = note(quota);
            assert!(!note.line().contains('\n'));
            assert_eq!(QuotaNote::read(&note.line()), note);
        }
    }

    #[test]
    fn a_line_says_name_window_and_metrics() {
        let quota = Quota::per_minute("input_tokens", 100).weight("output_tokens", 5.0);
        let parts = [
            "input_tokens + output_tokens per minute",
            "60000000",
            "",
            "1000000*input_tokens",
            "5000000*output_tokens",
        ];
        assert_eq!(note(quota).line(), parts.join("\t"));
    }

    #[test]
    fn what_another_version_wrote_is_read_as_far_as_it_goes() {
        let nothing =
            QuotaNote { name: String::new(), window: None, resets: Resets::Never, weights: vec![] };
        assert_eq!(QuotaNote::read(""), nothing);
        let strange = QuotaNote::read("name\tlong\tsoon\tmany*\t7\t*");
        assert_eq!(
            (strange.name.as_str(), strange.window, strange.weights.len()),
            ("name", None, 0)
        );
    }
}
