//! What tokens cost. No price is known here: prices are the user's.

use super::usage_json::TokenCounts;

/// The metric of costs, in millionths of the currency.
pub(super) const COST: &str = "cost";
/// The highest price of a million tokens.
const HIGHEST: f64 = 1e9;

/// Prices of a model, each for a million tokens, in any one currency: see
/// [`Rules::prices`](super::Rules::prices).
///
/// ```
/// use tower_throttle::llm::Price;
///
/// let price = Price::new(3.0, 15.0).cached(0.3).cache_write(3.75);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Price {
    input: f64,
    cached: f64,
    cache_write: f64,
    output: f64,
}

impl Price {
    /// Sets the prices of a million tokens of input and of output. Tokens that a cache holds cost
    /// as much as input unless set. What is no amount of money is 0.
    pub fn new(input: f64, output: f64) -> Self {
        let (input, output) = (sane(input), sane(output));
        Self { input, cached: input, cache_write: input, output }
    }

    /// Sets the price of a million tokens of input that are read from a cache.
    #[must_use]
    pub fn cached(self, price: f64) -> Self {
        Self { cached: sane(price), ..self }
    }

    /// Sets the price of a million tokens of input that are written to a cache.
    #[must_use]
    pub fn cache_write(self, price: f64) -> Self {
        Self { cache_write: sane(price), ..self }
    }

    /// The cost of a call before it is made, in millionths.
    pub(super) fn expected(&self, input: u64, output: u64) -> u64 {
        let amount = input as f64 * self.input + output as f64 * self.output;
        rounded(amount)
    }

    /// The cost of what was used, in millionths; `None` if the parts are not told.
    pub(super) fn of(&self, counts: &TokenCounts) -> Option<u64> {
        counts.fresh.or(counts.cached).or(counts.output)?;
        let fresh = counts.fresh.unwrap_or(0);
        let written = counts.written.unwrap_or(0).min(fresh);
        let parts = [
            (fresh - written, self.input),
            (written, self.cache_write),
            (counts.cached.unwrap_or(0), self.cached),
            (counts.output.unwrap_or(0), self.output),
        ];
        Some(rounded(parts.iter().map(|(tokens, price)| *tokens as f64 * price).sum()))
    }
}

fn sane(price: f64) -> f64 {
    if price.is_nan() { 0.0 } else { price.clamp(0.0, HIGHEST) }
}

/// Up to a whole. Sums of decimals may be off by a little; the cast saturates.
fn rounded(amount: f64) -> u64 {
    (amount - 1e-6).ceil() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    const COUNTS: TokenCounts = TokenCounts {
        fresh: Some(1_000),
        cached: Some(500),
        written: Some(200),
        output: Some(100),
        total: None,
    };

    #[test]
    fn each_kind_of_token_has_its_price() {
        let price = Price::new(3.0, 15.0).cached(0.3).cache_write(3.75);
        assert_eq!(price.of(&COUNTS), Some(800 * 3 + 750 + 150 + 1_500));
        assert_eq!(Price::new(3.0, 15.0).of(&COUNTS), Some(1_500 * 3 + 1_500));
        assert_eq!(price.expected(1_000, 100), 4_500);
        assert_eq!(Price::new(0.1, 0.0).expected(30, 7), 3, "no rounding of sums");
        assert_eq!(Price::new(0.1, 0.0).expected(31, 7), 4, "up");
    }

    #[test]
    fn what_is_not_told_costs_nothing_by_itself() {
        let price = Price::new(3.0, 15.0);
        assert_eq!(price.of(&TokenCounts { total: Some(9), ..TokenCounts::default() }), None);
        let input = TokenCounts { fresh: Some(9), ..TokenCounts::default() };
        assert_eq!(price.of(&input), Some(27));
    }

    #[test]
    fn odd_prices_do_no_harm() {
        for odd in [f64::NAN, -1.0, f64::NEG_INFINITY] {
            assert_eq!(Price::new(odd, odd), Price::new(0.0, 0.0));
        }
        assert_eq!(Price::new(f64::INFINITY, 0.0).expected(u64::MAX, 0), u64::MAX);
    }
}
