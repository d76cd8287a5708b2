//! Providers that speak OpenAI's protocol, or nearly so.
//!
//! | provider | limits | `tokens` when admitted | at the end | source |
//! |---|---|---|---|---|
//! | [`rules`] | yours | estimated input and the output's bound | those used | |
//! | [`groq`] | requests and tokens, per minute and day, refilled linearly | the same | those used, without cached ones | <https://console.groq.com/docs/rate-limits> |
//! | [`mistral`] | requests per second; tokens per minute and month | the same, with 32k of output where no bound is set | the same | <https://docs.mistral.ai/deployment/laplateforme/tier/> |
//! | [`deepseek`] | calls in flight | | | <https://api-docs.deepseek.com/quick_start/rate_limit> |
//! | [`openrouter`] | requests per minute, and per day in UTC, of all free models | | | <https://openrouter.ai/docs/api-reference/limits> |
//! | [`cohere`] | requests per minute; texts to embed per minute | | | <https://docs.cohere.com/docs/rate-limits> |
//!
//! What is left is read from OpenAI's headers, where Groq's requests are per day; from Mistral's `x-ratelimitbysize-*`; and from
//! OpenRouter's `X-RateLimit-*`, which come with refusals only. DeepSeek and Cohere tell nothing.
//!
//! Providers change their rules, and yours may differ: check your own limits.

use super::{Quotas, Rules, table};

/// The rules of a provider that counts what is used, all of it alike.
///
/// ```
/// use tower_throttle::{Limiter, Limits, Quota, ThrottleLayer, llm::compatible};
///
/// let limits = Limits::new().bucket("llama-3.3-70b", [Quota::per_minute("tokens", 100_000)]);
/// let rules = compatible::rules().unbounded_output(4_096).on_status(429..=429, tower_throttle::llm::Charge::Request);
/// let layer = ThrottleLayer::openai_compatible(Limiter::new(limits)?, rules);
/// # let _ = tower::ServiceBuilder::new().layer(layer);
/// # Ok::<_, tower_throttle::BoxError>(())
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(table::COMPATIBLE)
}

/// Limits of any window.
pub fn quotas() -> Quotas {
    Quotas::sliding()
}

/// Groq's rules.
#[must_use]
pub fn groq() -> Rules {
    Rules::new(table::GROQ)
}

/// Groq's limits, which refill linearly.
pub fn groq_quotas() -> Quotas {
    Quotas::refilling()
}

/// Mistral's rules.
#[must_use]
pub fn mistral() -> Rules {
    Rules::new(table::MISTRAL)
}

/// Mistral's limits. They seem to reset on the minute, which a sliding window satisfies at any phase of its clock.
pub fn mistral_quotas() -> Quotas {
    Quotas::sliding()
}

/// DeepSeek's rules.
#[must_use]
pub fn deepseek() -> Rules {
    Rules::new(table::DEEPSEEK)
}

/// DeepSeek's limits: `deepseek_quotas().concurrency(50)`.
pub fn deepseek_quotas() -> Quotas {
    Quotas::sliding()
}

/// OpenRouter's rules. Models whose names end in `:free` share the bucket `free`.
#[must_use]
pub fn openrouter() -> Rules {
    Rules::new(table::OPENROUTER)
}

/// OpenRouter's limits, whose days begin at midnight UTC.
pub fn openrouter_quotas() -> Quotas {
    Quotas::daily_in_utc()
}

/// Cohere's rules. For embeddings, count texts with [`Rules::inputs`]`("inputs")` and
/// [`Quotas::inputs_per_minute`].
#[must_use]
pub fn cohere() -> Rules {
    Rules::new(table::COHERE)
}

/// Cohere's limits.
pub fn cohere_quotas() -> Quotas {
    Quotas::sliding()
}
