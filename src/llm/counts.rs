//! The numbers that providers tell of a call, whatever they call them.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};

/// Tokens of one call, as far as they are known. Numbers only grow: what comes later in a stream is the running total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// All input but what was read from a cache.
    pub(crate) fresh: Option<u64>,
    /// Input that was read from a cache.
    pub(crate) cached: Option<u64>,
    pub(crate) output: Option<u64>,
    /// Where the parts are not told.
    pub(crate) total: Option<u64>,
}

impl Counts {
    /// From a `usage` member. What is not understood tells nothing.
    pub(crate) fn read(json: &[u8]) -> Option<Self> {
        let wire: Option<Wire> = serde_json::from_slice(json).ok()?;
        Some(wire?.counts()).filter(|counts| *counts != Self::default())
    }

    /// With what was told later, or in another place. What that does not tell keeps its value.
    pub(crate) fn merge(&mut self, later: Self) {
        // `None` is less than any number.
        self.fresh = self.fresh.max(later.fresh);
        self.cached = self.cached.max(later.cached);
        self.output = self.output.max(later.output);
        self.total = self.total.max(later.total);
    }
}

/// A usage as it is written by whichever provider.
///
/// | written by | input | of it cached | output |
/// |---|---|---|---|
/// | OpenAI chat, embeddings; Groq, Mistral, OpenRouter | `prompt_tokens` | `prompt_tokens_details.cached_tokens` | `completion_tokens` |
/// | DeepSeek | `prompt_tokens` | `prompt_cache_hit_tokens` | `completion_tokens` |
/// | OpenAI responses | `input_tokens` | `input_tokens_details.cached_tokens` | `output_tokens` |
/// | Anthropic | `input_tokens` + `cache_creation_input_tokens` | `cache_read_input_tokens`, beside it | `output_tokens` |
/// | Cohere | `tokens.input_tokens` | | `tokens.output_tokens` |
#[derive(Deserialize)]
struct Wire {
    #[serde(default)]
    prompt_tokens: Amount,
    #[serde(default)]
    completion_tokens: Amount,
    #[serde(default)]
    total_tokens: Amount,
    #[serde(default)]
    input_tokens: Amount,
    #[serde(default)]
    output_tokens: Amount,
    #[serde(default)]
    cache_creation_input_tokens: Amount,
    #[serde(default)]
    cache_read_input_tokens: Amount,
    #[serde(default)]
    prompt_cache_hit_tokens: Amount,
    prompt_tokens_details: Option<Details>,
    input_tokens_details: Option<Details>,
    tokens: Option<Box<Wire>>,
    /// Of a call that the provider made in several steps, each with a usage of its own.
    iterations: Option<Vec<Wire>>,
}

#[derive(Deserialize)]
struct Details {
    #[serde(default)]
    cached_tokens: Amount,
}

impl Wire {
    fn counts(self) -> Counts {
        let steps = self.iterations.into_iter().flatten().map(Self::counts);
        let steps = steps.reduce(|sum, step| Counts {
            fresh: plus(sum.fresh, step.fresh),
            cached: plus(sum.cached, step.cached),
            output: plus(sum.output, step.output),
            total: plus(sum.total, step.total),
        });
        let inside = |details: Option<Details>| details.and_then(|details| details.cached_tokens.0);
        let mut counts = if let Some(prompt) = self.prompt_tokens.0 {
            let cached = inside(self.prompt_tokens_details).or(self.prompt_cache_hit_tokens.0);
            // Embeddings have no output, and tell none.
            let rest = self.total_tokens.0.map(|total| total.saturating_sub(prompt));
            let output = self.completion_tokens.0.or(rest);
            Counts {
                fresh: Some(prompt.saturating_sub(cached.unwrap_or(0))),
                cached,
                output,
                total: None,
            }
        } else {
            let within = inside(self.input_tokens_details);
            let input = self.input_tokens.0.map(|input| input.saturating_sub(within.unwrap_or(0)));
            let output = self.output_tokens.0.or(self.completion_tokens.0);
            let fresh = plus(input, self.cache_creation_input_tokens.0);
            let total =
                if fresh.is_none() && output.is_none() { self.total_tokens.0 } else { None };
            Counts { fresh, cached: within.or(self.cache_read_input_tokens.0), output, total }
        };
        // The sum of the steps where the whole leaves some out.
        counts.merge(steps.unwrap_or_default());
        counts.merge(self.tokens.map(|tokens| tokens.counts()).unwrap_or_default());
        counts
    }
}

fn plus(one: Option<u64>, other: Option<u64>) -> Option<u64> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.saturating_add(other)),
        (one, other) => one.or(other),
    }
}

/// A whole amount, or nothing where something else stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Amount(pub(crate) Option<u64>);

impl<'de> Deserialize<'de> for Amount {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AmountVisitor)
    }
}

struct AmountVisitor;

impl<'de> Visitor<'de> for AmountVisitor {
    type Value = Amount;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_u64<E>(self, amount: u64) -> Result<Amount, E> {
        Ok(Amount(Some(amount)))
    }

    fn visit_i64<E>(self, _: i64) -> Result<Amount, E> {
        Ok(Amount(None))
    }

    fn visit_f64<E>(self, amount: f64) -> Result<Amount, E> {
        let is_amount = amount.is_finite() && amount >= 0.0;
        // The cast saturates.
        Ok(Amount(is_amount.then_some(amount.ceil() as u64)))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Amount, E> {
        Ok(Amount(None))
    }

    fn visit_str<E>(self, _: &str) -> Result<Amount, E> {
        Ok(Amount(None))
    }

    fn visit_unit<E>(self) -> Result<Amount, E> {
        Ok(Amount(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Amount, A::Error> {
        while sequence.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Amount(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Amount, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Amount(None))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(json: &str) -> (Option<u64>, Option<u64>, Option<u64>, Option<u64>) {
        let counts = Counts::read(json.as_bytes()).unwrap_or_default();
        (counts.fresh, counts.cached, counts.output, counts.total)
    }

    #[test]
    fn every_shape_is_read() {
        let shapes = [
            // OpenAI chat, and embeddings.
            (
                r#"{"prompt_tokens":319,"completion_tokens":81,"total_tokens":400,
                    "prompt_tokens_details":{"cached_tokens":256,"audio_tokens":0},
                    "completion_tokens_details":{"reasoning_tokens":64}}"#,
                (Some(63), Some(256), Some(81), None),
            ),
            (r#"{"prompt_tokens":17,"total_tokens":17}"#, (Some(17), None, Some(0), None)),
            // OpenAI responses.
            (
                r#"{"input_tokens":90,"input_tokens_details":{"cached_tokens":40},"output_tokens":33,
                    "output_tokens_details":{"reasoning_tokens":20},"total_tokens":123}"#,
                (Some(50), Some(40), Some(33), None),
            ),
            // Anthropic.
            (
                r#"{"input_tokens":21,"cache_creation_input_tokens":188,"cache_read_input_tokens":1000,
                    "output_tokens":393,"service_tier":"standard"}"#,
                (Some(209), Some(1000), Some(393), None),
            ),
            (r#"{"output_tokens":15}"#, (None, None, Some(15), None)),
            // Anthropic with compaction: the whole tells the last step only.
            (
                r#"{"input_tokens":23000,"output_tokens":1000,"iterations":[
                    {"type":"compaction","input_tokens":180000,"output_tokens":3500},
                    {"type":"message","input_tokens":23000,"output_tokens":1000}]}"#,
                (Some(203_000), None, Some(4_500), None),
            ),
            // DeepSeek.
            (
                r#"{"prompt_tokens":50,"completion_tokens":8,"total_tokens":58,
                    "prompt_cache_hit_tokens":30,"prompt_cache_miss_tokens":20}"#,
                (Some(20), Some(30), Some(8), None),
            ),
            // Cohere.
            (
                r#"{"billed_units":{"input_tokens":4,"output_tokens":7},"tokens":{"input_tokens":71,"output_tokens":9}}"#,
                (Some(71), None, Some(9), None),
            ),
            (r#"{"total_tokens":412}"#, (None, None, None, Some(412))),
        ];
        for (json, expected) in shapes {
            assert_eq!(read(json), expected, "{json}");
        }
    }

    #[test]
    fn what_is_no_amount_tells_nothing() {
        for json in [
            "null",
            "7",
            "\"x\"",
            "[]",
            "{}",
            "{",
            "",
            r#"{"prompt_tokens":-1}"#,
            r#"{"prompt_tokens":{"a":[1]}}"#,
            r#"{"input_tokens":null,"output_tokens":[2],"total_tokens":"9"}"#,
        ] {
            assert_eq!(Counts::read(json.as_bytes()), None, "{json}");
        }
        assert_eq!(
            read(r#"{"prompt_tokens":3.0,"completion_tokens":1e99}"#),
            (Some(3), None, Some(u64::MAX), None)
        );
        assert_eq!(
            read(r#"{"prompt_tokens":3,"prompt_tokens_details":{"cached_tokens":9}}"#).0,
            Some(0),
            "never negative"
        );
        assert_eq!(
            read(r#"{"input_tokens":18446744073709551615,"cache_creation_input_tokens":1}"#).0,
            Some(u64::MAX)
        );
    }

    #[test]
    fn later_numbers_replace_earlier_ones_and_missing_ones_do_not() {
        let mut counts =
            Counts::read(br#"{"input_tokens":25,"cache_read_input_tokens":7,"output_tokens":1}"#)
                .unwrap();
        counts.merge(Counts::read(br#"{"output_tokens":15}"#).unwrap());
        counts.merge(Counts::read(br#"{"input_tokens":30,"output_tokens":40}"#).unwrap());
        // A duplicate of what came first.
        counts.merge(Counts::read(br#"{"input_tokens":25,"output_tokens":1}"#).unwrap());
        assert_eq!((counts.fresh, counts.cached, counts.output), (Some(30), Some(7), Some(40)));
    }

    proptest! {
        #[test]
        fn no_bytes_are_too_odd(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Counts::read(&bytes);
        }
    }
}
