//! The estimate of a call, which its demand carries to the end of the call.

use std::sync::Arc;

use super::{
    learned::{CallShape, Observed, OpenCall},
    price::Price,
};
use crate::usage::Usage;

/// The estimate of a call before anything learned came in, kept for the end of the call.
#[derive(Clone, Debug)]
pub(super) struct CallEstimate {
    pub(super) shape: CallShape,
    /// At least 1.
    pub(super) choices: u64,
    /// How much an output token weighs in `tokens` at the end.
    pub(super) output_weight: u64,
    /// What its tokens cost, if that is counted.
    pub(super) price: Option<Price>,
    /// The call, if something is learned from it.
    pub(super) open: Option<Arc<OpenCall>>,
}

impl CallEstimate {
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
