//! What the words of an error message say: how long to wait, for which quota, and whether credit is
//! used up.

use std::time::Duration;

use super::time::leading_duration;
use crate::feedback::Named;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3_600);
const DAY: Duration = Duration::from_secs(86_400);
pub(super) const MONTH: Duration = Duration::from_secs(30 * 86_400);

/// A message in lower case.
#[derive(Debug)]
pub(super) struct Message(String);

/// Words before a time to wait.
const BEFORE_TIME: &[&str] = &[
    "try again in",
    "try again after",
    "retry after",
    "retry-after",
    "retry_after",
    "retry in",
    "retrying in",
    "retry your request in",
    "retry your request after",
    "retry the request after",
    "wait",
    "available in",
    "available again in",
    "reset in",
    "resets in",
    "reset after",
    "resets after",
];
/// Words that may stand between.
const FILLERS: &[&str] = &["for", "at least", "about", "approximately", "another", "\"", ":", "="];

/// Words for a window, and the window.
const WINDOWS: &[(&str, Duration)] = &[
    ("second", SECOND),
    ("sec", SECOND),
    ("minute", MINUTE),
    ("min", MINUTE),
    ("hour", HOUR),
    ("day", DAY),
    ("month", MONTH),
];
/// Words before that of a window.
const PER: &[&str] = &["per ", "per-", "per_", "/ ", "/"];
/// The short names of limits.
const SHORT: &[(&str, &str, Duration)] = &[
    ("itpm", "input_tokens", MINUTE),
    ("otpm", "output_tokens", MINUTE),
    ("tpm", "tokens", MINUTE),
    ("tpd", "tokens", DAY),
    ("rpm", "requests", MINUTE),
    ("rpd", "requests", DAY),
    ("rph", "requests", HOUR),
    ("rps", "requests", SECOND),
];
/// Words for a metric.
const METRICS: &[(&str, &str)] = &[
    ("input tokens", "input_tokens"),
    ("input-tokens", "input_tokens"),
    ("input_tokens", "input_tokens"),
    ("prompt tokens", "input_tokens"),
    ("output tokens", "output_tokens"),
    ("output-tokens", "output_tokens"),
    ("output_tokens", "output_tokens"),
    ("completion tokens", "output_tokens"),
    ("token", "tokens"),
    ("request", "requests"),
    ("call", "requests"),
    ("quer", "requests"),
    ("free-models", "requests"),
];

/// Phrases that tell of used up credit by themselves.
const BROKE: &[&str] = &[
    "insufficient_quota",
    "insufficient quota",
    "insufficient balance",
    "insufficient credit",
    "insufficient fund",
    "out of credit",
    "payment required",
    "billing_not_active",
    "billing hard limit",
    "account is not active",
    "requires more credits",
    "arrearage",
    "no credits",
    "api usage limits",
    "key limit exceeded",
    "余额不足", // insufficient balance
    "欠费",     // in arrears
];
/// Words for money, and words for its end: one of each tells the same.
const MONEY: &[&str] = &[
    "credit",
    "balance",
    "billing",
    "spend",
    "prepaid",
    "prepayment",
    "payment",
    "funds",
    "budget",
    "wallet",
];
const SPENT: &[&str] = &[
    "insufficient",
    "not enough",
    "used all",
    "used up",
    "all available",
    "run out",
    "ran out",
    "out of",
    "exhaust",
    "deplet",
    "exceed",
    "reached",
    "too low",
    "negative",
    "overdue",
    "not active",
    "inactive",
    "disabled",
    "zero",
    "top up",
    "recharge",
];

impl Message {
    pub(super) fn new(text: &str) -> Self {
        Self(text.to_ascii_lowercase())
    }

    /// The longest time to wait that is told.
    pub(super) fn delay(&self) -> Option<Duration> {
        let told = |words: &&str| {
            let after = self.0.match_indices(*words).map(|(at, found)| &self.0[at + found.len()..]);
            after.filter_map(time_at_start).max()
        };
        BEFORE_TIME.iter().filter_map(told).max().filter(|delay| !delay.is_zero())
    }

    /// The quota that is named, if its window is.
    pub(super) fn quota(&self) -> Option<Named> {
        let named = self.short_name().or_else(|| self.long_name())?;
        Some(Named { limit: self.limit(), ..named })
    }

    fn short_name(&self) -> Option<Named> {
        let mut words = self.0.split(|c: char| !c.is_ascii_alphanumeric());
        let short = words.find_map(|word| SHORT.iter().find(|(name, ..)| *name == word));
        short.map(|(_, metric, window)| Named::metric(*metric).window(*window))
    }

    /// A window (`per minute`), and the metric whose name stands last before it.
    fn long_name(&self) -> Option<Named> {
        let (at, window) = self.window()?;
        let before = &self.0[..at];
        let last = METRICS.iter().filter_map(|(words, metric)| {
            // The longer of two names that end alike is the more exact one.
            before.rfind(words).map(|start| (start + words.len(), words.len(), *metric))
        });
        let metric = last.max().map_or("requests", |(.., metric)| metric);
        Some(Named::metric(metric).window(window))
    }

    fn window(&self) -> Option<(usize, Duration)> {
        let found = PER.iter().flat_map(|per| {
            self.0.match_indices(per).filter_map(|(at, per)| {
                let word =
                    self.0[at + per.len()..].split(|c: char| !c.is_ascii_alphabetic()).next()?;
                let window = WINDOWS.iter().find(|(name, _)| *name == word)?;
                Some((at, window.1))
            })
        });
        found.min_by_key(|(at, _)| *at)
    }

    /// The limit that is told: `Limit 30000`, `limited to 1000`, `rate limit of 30,000`.
    fn limit(&self) -> Option<u64> {
        let limits =
            ["limit of", "limited to", "limit:", "limit"].map(|words| self.number_after(words));
        limits.into_iter().flatten().find(|limit| *limit > 0)
    }

    fn number_after(&self, words: &str) -> Option<u64> {
        let numbers = self.0.match_indices(words).filter_map(|(at, found)| {
            let text = self.0[at + found.len()..].trim_start_matches([' ', ':', '=']);
            let end = text.find(|c: char| !c.is_ascii_digit() && c != ',').unwrap_or(text.len());
            text[..end].replace(',', "").parse().ok()
        });
        numbers.into_iter().next()
    }

    /// True for a request that is larger than its limit, or whose limit is nothing.
    pub(super) fn is_beyond_limit(&self) -> bool {
        let of = |words| self.number_after(words);
        let beyond =
            of("limit").zip(of("requested")).is_some_and(|(limit, requested)| requested > limit);
        beyond || self.0.contains("request too large") || of("limit:") == Some(0)
    }

    /// True if credit is used up, in whatever words.
    pub(super) fn is_broke(&self) -> bool {
        let contains = |words: &[&str]| words.iter().any(|word| self.0.contains(word));
        // Refusals of a rate may point to a page on payments, and tell when to try again.
        let is_of_rate = self.0.contains("rate limit") || self.0.contains("rate_limit");
        let money = contains(MONEY) && contains(SPENT);
        contains(BROKE)
            || !is_of_rate && (money || self.0.contains("current quota, please check your plan"))
    }

    /// True if waiting helps, by its words.
    pub(super) fn is_of_rate(&self) -> bool {
        let words = [
            "rate limit",
            "rate_limit",
            "rate-limit",
            "too many requests",
            "too many tokens",
            "overloaded",
        ];
        words.iter().any(|words| self.0.contains(words))
    }
}

/// A time at the beginning of a text, after words that may stand before it. A number alone counts
/// as seconds.
fn time_at_start(text: &str) -> Option<Duration> {
    let mut text = text.trim_start();
    while let Some(rest) = FILLERS.iter().find_map(|filler| text.strip_prefix(filler)) {
        text = rest.trim_start();
    }
    if let Some((duration, _)) = leading_duration(text) {
        return Some(duration);
    }
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    Duration::try_from_secs_f64(text[..digits].trim_end_matches('.').parse().ok()?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_are_read_from_words() {
        for (text, expected) in [
            ("Please try again in 11.054s. Visit https://example.org/billing", 11.054),
            ("try again in 28ms.", 0.028),
            ("Please try again in 15m55.6s.", 955.6),
            ("Retry after 2 seconds", 2.0),
            ("Please retry after 55 seconds.", 55.0),
            ("You must wait for at least 1 minute and 5 seconds", 65.0),
            ("\"retry_after\": 7", 7.0),
            ("Please retry in 34.4s, or try again in 2 h", 7_200.0),
        ] {
            assert_eq!(
                Message::new(text).delay(),
                Some(Duration::from_secs_f64(expected)),
                "{text}"
            );
        }
        for text in [
            "",
            "try again later",
            "wait",
            "try again in -5s",
            "retry after nan",
            "in 5 s",
            "try again in 0s",
        ] {
            assert_eq!(Message::new(text).delay(), None, "{text}");
        }
    }

    #[test]
    fn quotas_are_read_from_words() {
        let quota = |text: &str| Message::new(text).quota();
        let named = |metric: &'static str, window| Named::metric(metric).window(window);
        for (text, expected) in [
            (
                "Rate limit reached on tokens per min (TPM): Limit 30000, Used 22999, Requested 9.",
                named("tokens", MINUTE).limit(30_000),
            ),
            ("Limit 3 / min on requests per min. Requested 1", named("requests", MINUTE).limit(3)),
            (
                "your organization's rate limit of 30,000 input tokens per minute",
                named("input_tokens", MINUTE).limit(30_000),
            ),
            (
                "rate limit of 8,000 output tokens per minute",
                named("output_tokens", MINUTE).limit(8_000),
            ),
            ("Rate limit exceeded: free-models-per-day.", named("requests", DAY)),
            ("limited to 1000 API calls / month", named("requests", MONTH).limit(1_000)),
            ("Rate limit reached on requests per day (RPD)", named("requests", DAY)),
        ] {
            assert_eq!(quota(text), Some(expected), "{text}");
        }
        assert_eq!(quota("Too many requests"), None);
    }

    #[test]
    fn credit_that_is_used_up_is_told_in_many_words() {
        for text in [
            "Your team has either used all available credits or reached its monthly spending limit",
            "Your credit balance is too low to access the Anthropic API.",
            "Insufficient Balance",
            "You have run out of prepaid credits",
            "Your account is not active, please check your billing details",
            "You exceeded your current quota, please check your plan and billing details.",
            "This request requires more credits, or fewer max_tokens",
        ] {
            assert!(Message::new(text).is_broke(), "{text}");
        }
        for text in [
            "Rate limit reached for m. You can increase your rate limit by adding a payment method",
            "Too many requests",
            "The server is overloaded",
        ] {
            assert!(!Message::new(text).is_broke(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn no_text_is_too_odd(
            text in "(try again in|limit|per |min|[0-9.,]{0,4}|requested|\\PC){0,20}",
        ) {
            let message = Message::new(&text);
            let _ = (message.delay(), message.quota());
            let _ = (message.is_beyond_limit(), message.is_broke());
        }
    }
}
