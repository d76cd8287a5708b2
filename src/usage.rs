//! What a call uses: an amount per metric.

use std::borrow::Cow;

/// Calls made: counted as 1 per call unless a usage says otherwise.
pub(crate) const REQUESTS: &str = "requests";
/// Tokens sent.
pub(crate) const INPUT_TOKENS: &str = "input_tokens";
/// Tokens received.
pub(crate) const OUTPUT_TOKENS: &str = "output_tokens";
/// Tokens sent and received, where they count alike.
pub(crate) const TOKENS: &str = "tokens";

/// A metric that is known even where no quota counts it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standard {
    Requests,
    Input,
    Output,
    Tokens,
}

impl Standard {
    const NAMES: [&str; 4] = [REQUESTS, INPUT_TOKENS, OUTPUT_TOKENS, TOKENS];

    pub(crate) fn named(name: &str) -> Option<Self> {
        match name {
            REQUESTS => Some(Self::Requests),
            INPUT_TOKENS => Some(Self::Input),
            OUTPUT_TOKENS => Some(Self::Output),
            TOKENS => Some(Self::Tokens),
            _ => None,
        }
    }
}

/// What one call uses, estimated or actual: whole amounts per metric.
///
/// Any name is a metric. Four are known without a quota: `requests`, `input_tokens`, `output_tokens` and `tokens`.
/// `tokens` stands for input and output together where only those are given, and a usage that gives only
/// `tokens` counts as that many on a quota over input or output.
///
/// ```
/// use tower_throttle::{Usage, usage};
///
/// let usage = usage! { requests: 1, input_tokens: 300, output_tokens: 112 };
/// assert_eq!(usage.get("tokens"), Some(412));
/// assert_eq!(usage, Usage::new().with("requests", 1).with("input_tokens", 300).with("output_tokens", 112));
/// ```
#[derive(Clone, Debug, Default)]
pub struct Usage {
    /// Of each [`Standard`] metric.
    standard: [Option<u64>; 4],
    others: Vec<(Cow<'static, str>, u64)>,
}

impl Usage {
    /// Nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the amount of one metric.
    #[must_use]
    pub fn with(mut self, metric: impl Into<Cow<'static, str>>, amount: u64) -> Self {
        self.set(metric, amount);
        self
    }

    /// Sets the amount of one metric.
    pub fn set(&mut self, metric: impl Into<Cow<'static, str>>, amount: u64) {
        let metric = metric.into();
        if let Some(standard) = Standard::named(&metric) {
            self.standard[standard as usize] = Some(amount);
            return;
        }
        match self.others.iter_mut().find(|(name, _)| *name == metric) {
            Some((_, present)) => *present = amount,
            None => self.others.push((metric, amount)),
        }
    }

    /// The amount of one metric, if it is given or follows from `tokens`, `input_tokens` and `output_tokens`.
    pub fn get(&self, metric: &str) -> Option<u64> {
        match Standard::named(metric) {
            Some(standard) => self.standard(standard),
            None => self.other(metric),
        }
    }

    /// The amount of a standard metric, if it is given or follows from others.
    pub(crate) fn standard(&self, metric: Standard) -> Option<u64> {
        let [_, input, output, tokens] = self.standard;
        self.standard[metric as usize].or_else(|| match metric {
            Standard::Requests => None,
            Standard::Input => Some(tokens?.saturating_sub(output?)),
            Standard::Output => Some(tokens?.saturating_sub(input?)),
            Standard::Tokens => Some(input?.saturating_add(output?)),
        })
    }

    fn other(&self, metric: &str) -> Option<u64> {
        self.others.iter().find(|(name, _)| name == metric).map(|(_, amount)| *amount)
    }

    /// The amounts that were given.
    pub fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        let standard = Standard::NAMES.into_iter().zip(self.standard);
        standard.filter_map(|(metric, amount)| Some((metric, amount?))).chain(self.iter_others())
    }

    /// Those of metrics that somebody has to know.
    pub(crate) fn iter_others(&self) -> impl Iterator<Item = (&str, u64)> {
        self.others.iter().map(|(metric, amount)| (metric.as_ref(), *amount))
    }

    /// Whether it gives `tokens` and says nothing of input and output.
    pub(crate) fn only_tokens(&self) -> Option<u64> {
        let [_, input, output, tokens] = self.standard;
        if input.or(output).is_some() { None } else { tokens }
    }

    /// This estimate, corrected by what is known of the actual usage: what `actual` does not name keeps its amount.
    pub(crate) fn corrected(&self, actual: &Self) -> Self {
        let [requests, input, output, tokens] = self.standard;
        let mut corrected = actual.clone();
        let [actual_requests, actual_input, actual_output, actual_tokens] = &mut corrected.standard;
        // What is left of a part follows from the whole, and the whole from its parts.
        let parts_follow = actual_tokens.is_some();
        let names_part = actual_input.or(*actual_output).is_some();
        let whole_follows =
            names_part && actual_input.or(input).is_some() && actual_output.or(output).is_some();
        *actual_requests = actual_requests.or(requests);
        if !parts_follow {
            (*actual_input, *actual_output) = (actual_input.or(input), actual_output.or(output));
        }
        if !whole_follows {
            *actual_tokens = actual_tokens.or(tokens);
        }
        for (metric, amount) in &self.others {
            if actual.other(metric).is_none() {
                corrected.others.push((metric.clone(), *amount));
            }
        }
        corrected
    }

    /// The larger of both amounts, metric by metric.
    pub(crate) fn at_least(&self, seen: &Self) -> Self {
        let mut larger = self.corrected(seen);
        larger.for_each(|metric, amount| *amount = (*amount).max(self.get(metric).unwrap_or(0)));
        if self.only_tokens() > larger.get(TOKENS) {
            larger.standard = [larger.standard[0], None, None, self.only_tokens()];
        }
        larger
    }

    /// The same metrics, nothing of each.
    pub(crate) fn zeroed(&self) -> Self {
        let mut zeroed = self.clone();
        zeroed.for_each(|_, amount| *amount = 0);
        zeroed
    }

    fn for_each(&mut self, mut change: impl FnMut(&str, &mut u64)) {
        let standard = Standard::NAMES.into_iter().zip(&mut self.standard);
        standard.for_each(|(metric, amount)| amount.iter_mut().for_each(|amount| change(metric, amount)));
        self.others.iter_mut().for_each(|(metric, amount)| change(metric, amount));
    }
}

/// Two usages are equal when they give the same amounts, in whatever order.
impl PartialEq for Usage {
    fn eq(&self, other: &Self) -> bool {
        self.standard == other.standard
            && self.others.len() == other.others.len()
            && self.iter_others().all(|(metric, amount)| other.other(metric) == Some(amount))
    }
}

impl Eq for Usage {}

/// A [`Usage`] from `metric: amount` pairs.
///
/// ```
/// let tokens = 1_500;
/// let usage = tower_throttle::usage! { requests: 1, tokens: tokens };
/// assert_eq!(usage.get("tokens"), Some(1_500));
/// ```
#[macro_export]
macro_rules! usage {
    ($($metric:ident : $amount:expr),* $(,)?) => {
        $crate::Usage::new()$(.with(stringify!($metric), $amount))*
    };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_settle_does_not_name_keeps_its_amount() {
        let reserved = usage! { requests: 1, tokens: 1_500 };
        assert_eq!(reserved.corrected(&usage! { tokens: 412 }), usage! { requests: 1, tokens: 412 });
        assert_eq!(reserved.corrected(&usage! {}), reserved);
    }

    #[test]
    fn tokens_follow_input_and_output() {
        let reserved = usage! { tokens: 1_500 };
        assert_eq!(reserved.corrected(&usage! { input_tokens: 3, output_tokens: 4 }).get(TOKENS), Some(7));

        let split = usage! { input_tokens: 1_000, output_tokens: 500 };
        assert_eq!(split.corrected(&usage! { output_tokens: 20 }).get(TOKENS), Some(1_020));
        assert_eq!(split.corrected(&usage! { tokens: 20 }).only_tokens(), Some(20));
        assert_eq!(usage! { tokens: 9, output_tokens: 4 }.get(INPUT_TOKENS), Some(5));
    }

    #[test]
    fn what_was_seen_is_a_lower_bound() {
        let reserved = usage! { requests: 1, tokens: 1_500 };
        assert_eq!(reserved.at_least(&usage! { tokens: 10 }), reserved);
        assert_eq!(reserved.at_least(&usage! { tokens: 2_000 }).get(TOKENS), Some(2_000));
        assert_eq!(reserved.at_least(&usage! { input_tokens: 3, output_tokens: 5 }), reserved);
        let seen = usage! { input_tokens: 3, output_tokens: 5_000 };
        assert_eq!(reserved.at_least(&seen).get(TOKENS), Some(5_003));
    }
}
