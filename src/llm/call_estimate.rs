//! The estimate of a call, which its demand carries to the end of the call.

use std::borrow::Cow;

use super::{
    learned::{CallShape, Expected, Observed, OpenCall},
    policy::{Output, Tokens},
    price::{COST, Price},
};
use crate::{demand::Reestimate, usage, usage::Usage};

/// What is known of a call before it is made, and what its estimate comes to.
#[derive(Debug)]
pub(super) struct CallEstimate {
    /// Its input is the estimate before anything learned came in.
    pub(super) shape: CallShape,
    /// At least 1.
    pub(super) choices: u64,
    /// No answer has more tokens.
    pub(super) longest: u64,
    /// Tokens of an answer without a bound of which nothing is known.
    pub(super) unbounded: u64,
    /// How its output is reserved, and what `tokens` are then.
    pub(super) output: Output,
    pub(super) tokens: Tokens,
    /// The metric that counts texts to embed, and how many there are.
    pub(super) inputs: Option<(Cow<'static, str>, u64)>,
    /// How much an output token weighs in `tokens` at the end.
    pub(super) output_weight: u64,
    /// What its tokens cost, if that is counted.
    pub(super) price: Option<Price>,
    /// The call, if something is learned from it.
    pub(super) open: Option<OpenCall>,
}

impl CallEstimate {
    /// The usage to reserve.
    pub(super) fn usage(&self, expected: Expected) -> Usage {
        let learns = self.output == Output::Learned;
        let of_tokens = if learns { expected } else { Expected::UNKNOWN };
        let input = of_tokens.input(self.shape.input);
        let output = self.output_of(self.output, expected);
        let mut usage = usage! { requests: 1, input_tokens: input, output_tokens: output };
        if self.tokens == Tokens::Larger {
            usage.set("tokens", input.max(output));
        }
        if let Some((metric, inputs)) = &self.inputs {
            usage.set(metric.clone(), *inputs);
        }
        // A cost is reserved by what was learned, whatever tokens are.
        if let Some(price) = self.price {
            let output = self.output_of(Output::Learned, expected);
            usage.set(COST, price.expected(expected.input(self.shape.input), output));
        }
        usage
    }

    fn output_of(&self, output: Output, expected: Expected) -> u64 {
        let tokens = match output {
            Output::Bound => None,
            Output::Expected(tokens) => Some(tokens),
            Output::Learned => expected.output,
        };
        let tokens = tokens.or(self.shape.bound).unwrap_or(self.unbounded);
        tokens.min(self.longest).saturating_mul(self.choices)
    }

    /// Learns from a call that has ended well.
    pub(super) fn learn(&self, used: &Usage, is_cut: bool) {
        let Some(open) = &self.open else { return };
        let output = used.get("output_tokens").map(|output| output.div_ceil(self.choices));
        let input = used.get("input_tokens");
        open.observe(Observed { shape: self.shape, input, output, is_cut });
    }

    /// Learns that the provider refused the call.
    pub(super) fn refused(&self) {
        if let Some(open) = &self.open {
            open.refused();
        }
    }
}

impl Reestimate for CallEstimate {
    fn reestimate(&self, changes: &mut u64) -> Option<Usage> {
        let expected = self.open.as_ref()?.expected_anew(&self.shape, changes)?;
        Some(self.usage(expected))
    }
}
