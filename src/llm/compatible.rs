//! Providers and servers that speak OpenAI's protocol, or nearly so.
//!
//! * [`rules`]: limits: yours; `tokens` when admitted: estimated input and the output's bound; at
//!   the end: those used
//! * [`groq`]: limits: requests and tokens, per minute and day, refilled linearly; `tokens` when
//!   admitted: input and bound; at the end: those used, without cached ones; source:
//!   <https://console.groq.com/docs/rate-limits>
//! * [`mistral`]: limits: requests per second; tokens per minute and month; audio seconds apart;
//!   `tokens` when admitted: input and bound; at the end: those used, without cached ones; source:
//!   <https://docs.mistral.ai/deployment/laplateforme/tier/>
//! * [`deepseek`]: limits: calls in flight; source:
//!   <https://api-docs.deepseek.com/quick_start/rate_limit>
//! * [`openrouter`]: limits: requests per minute, and per day in UTC, of all free models; source:
//!   <https://openrouter.ai/docs/api-reference/limits>
//! * [`cohere`]: limits: requests per minute, of trial keys also per month; texts to embed per
//!   minute; source: <https://docs.cohere.com/docs/rate-limits>
//! * [`xai`]: limits: requests and tokens per minute; `tokens` when admitted: input and bound; at
//!   the end: those used, with reasoning; source:
//!   <https://docs.x.ai/docs/key-information/consumption-and-rate-limits>
//! * [`together`]: limits: requests and tokens per minute or second; `tokens` when admitted: input
//!   and bound; at the end: those used; source: <https://docs.together.ai/docs/rate-limits>
//! * [`fireworks`]: limits: requests, input and output tokens per minute; `tokens` when admitted:
//!   input and bound; at the end: those used; source:
//!   <https://docs.fireworks.ai/guides/quotas_usage/rate-limits>
//! * [`perplexity`]: limits: requests per minute; source:
//!   <https://docs.perplexity.ai/guides/usage-tiers>
//! * [`vllm`], [`ollama`]: limits: calls in flight, of a server of your own; source:
//!   <https://docs.vllm.ai>, <https://docs.ollama.com>
//!
//! What is left is read from the headers that each provider sends; [`rules`] reads all of these
//! names. OpenRouter's come with refusals only, some of them inside the body. DeepSeek, vLLM and
//! Ollama tell nothing.
//!
//! Providers change their rules, and yours may differ: check your own limits.

use super::{Quotas, Rules, presets};

/// The rules of a provider that counts all that is used, whatever it is.
///
/// ```
/// use tower_throttle::{Limiter, Limits, Quota, ThrottleLayer};
/// use tower_throttle::llm::{Charge, compatible};
///
/// let limits = Limits::new().bucket("llama-3.3-70b", [Quota::per_minute("tokens", 100_000)]);
/// let rules = compatible::rules().unbounded_output(4_096).on_status(429..=429, Charge::Request);
/// let layer = ThrottleLayer::openai_compatible(Limiter::new(limits)?, rules);
/// # let _ = tower::ServiceBuilder::new().layer(layer);
/// # Ok::<_, tower_throttle::BoxError>(())
/// ```
#[must_use]
pub fn rules() -> Rules {
    Rules::new(presets::COMPATIBLE)
}

/// Limits of any window.
pub fn quotas() -> Quotas {
    Quotas::sliding()
}

/// Groq's rules.
#[must_use]
pub fn groq() -> Rules {
    Rules::new(presets::GROQ)
}

/// Groq's limits, which refill linearly.
pub fn groq_quotas() -> Quotas {
    Quotas::refilling()
}

/// Mistral's rules.
#[must_use]
pub fn mistral() -> Rules {
    Rules::new(presets::MISTRAL_AI)
}

/// Mistral's limits. They seem to reset on the minute, which a sliding window satisfies at any
/// phase of its clock.
pub fn mistral_quotas() -> Quotas {
    Quotas::sliding()
}

/// DeepSeek's rules.
#[must_use]
pub fn deepseek() -> Rules {
    Rules::new(presets::DEEPSEEK)
}

/// DeepSeek's limits: `deepseek_quotas().concurrency(50)`.
pub fn deepseek_quotas() -> Quotas {
    Quotas::sliding()
}

/// OpenRouter's rules. Models whose names end in `:free` share the bucket `free`.
#[must_use]
pub fn openrouter() -> Rules {
    Rules::new(presets::OPENROUTER)
}

/// OpenRouter's limits, whose days begin at midnight UTC.
pub fn openrouter_quotas() -> Quotas {
    Quotas::daily_in_utc()
}

/// Cohere's rules. For embeddings, count texts with [`Rules::inputs`]`("inputs")` and
/// [`Quotas::inputs_per_minute`].
#[must_use]
pub fn cohere() -> Rules {
    Rules::new(presets::COHERE_AI)
}

/// Cohere's limits.
pub fn cohere_quotas() -> Quotas {
    Quotas::sliding()
}

/// xAI's rules. Reasoning that is told beside the answer is output.
#[must_use]
pub fn xai() -> Rules {
    Rules::new(presets::XAI)
}

/// xAI's limits: `xai_quotas().rpm(480).tpm(2_000_000)`.
pub fn xai_quotas() -> Quotas {
    Quotas::sliding()
}

/// Together's rules.
#[must_use]
pub fn together() -> Rules {
    Rules::new(presets::TOGETHER)
}

/// Together's limits, which adapt to use.
pub fn together_quotas() -> Quotas {
    Quotas::sliding()
}

/// Fireworks' rules.
#[must_use]
pub fn fireworks() -> Rules {
    Rules::new(presets::FIREWORKS_AI)
}

/// Fireworks' limits: `fireworks_quotas().rpm(600).itpm(60_000).otpm(6_000)`.
pub fn fireworks_quotas() -> Quotas {
    Quotas::sliding()
}

/// Perplexity's rules.
#[must_use]
pub fn perplexity() -> Rules {
    Rules::new(presets::PERPLEXITY)
}

/// Perplexity's limits: `perplexity_quotas().rpm(50)`.
pub fn perplexity_quotas() -> Quotas {
    Quotas::sliding()
}

/// The rules of a server of vLLM, which limits nothing itself.
#[must_use]
pub fn vllm() -> Rules {
    Rules::new(presets::VLLM)
}

/// Limits for a server of vLLM: `vllm_quotas().concurrency(64)`.
pub fn vllm_quotas() -> Quotas {
    Quotas::sliding()
}

/// The rules of a server of Ollama, by its own API or OpenAI's. It queues calls beyond those it
/// serves at once.
#[must_use]
pub fn ollama() -> Rules {
    Rules::new(presets::OLLAMA)
}

/// Limits for a server of Ollama: `ollama_quotas().concurrency(4)`.
pub fn ollama_quotas() -> Quotas {
    Quotas::sliding()
}
