//! A layer for a provider in one line.

use super::{Extract, Inspect, Rules, anthropic, openai};
use crate::{layer::ThrottleLayer, limiter::Limiter};

impl ThrottleLayer<Extract, Inspect> {
    /// Throttles calls of OpenAI's API by its rules: see [`llm::openai`](crate::llm::openai).
    ///
    /// ```
    /// use tower::ServiceBuilder;
    /// use tower_throttle::{Limiter, Limits, ThrottleLayer, llm::openai};
    ///
    /// let limits = Limits::new()
    ///     .bucket("gpt-4o", openai::quotas().rpm(500).tpm(30_000))
    ///     .bucket("gpt-4o-mini", openai::quotas().rpm(500).tpm(200_000));
    /// let layers = ServiceBuilder::new().layer(ThrottleLayer::openai(Limiter::new(limits)?));
    /// # Ok::<_, tower_throttle::BoxError>(())
    /// ```
    #[must_use]
    pub fn openai(limiter: Limiter) -> Self {
        Self::openai_compatible(limiter, openai::rules())
    }

    /// Throttles calls of Anthropic's API by its rules: see [`llm::anthropic`](crate::llm::anthropic).
    #[must_use]
    pub fn anthropic(limiter: Limiter) -> Self {
        Self::openai_compatible(limiter, anthropic::rules())
    }

    /// Throttles calls of an API by rules: those of [`llm::compatible`](crate::llm::compatible), or any changed to fit.
    #[must_use]
    pub fn openai_compatible(limiter: Limiter, rules: Rules) -> Self {
        ThrottleLayer::new(limiter, rules.extractor()).inspector(rules.inspector())
    }
}
