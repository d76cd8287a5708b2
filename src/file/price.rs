//! Prices as they are written.

use serde::Deserialize;

use crate::llm::Price;

/// Prices of a model, each for a million tokens.
#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PriceText {
    input: f64,
    output: f64,
    cached: Option<f64>,
    cache_write: Option<f64>,
}

impl PriceText {
    /// Returns the prices, if they make sense.
    pub(super) fn price(&self) -> Result<Price, String> {
        let given = [Some(self.input), Some(self.output), self.cached, self.cache_write];
        if let Some(odd) = given.into_iter().flatten().find(|price| !(0.0..=1e9).contains(price)) {
            return Err(format!("a price is {odd:?}, and must be between 0 and 1000000000"));
        }
        let price = Price::new(self.input, self.output);
        let price = self.cached.map_or(price, |cached| price.cached(cached));
        Ok(self.cache_write.map_or(price, |written| price.cache_write(written)))
    }
}
