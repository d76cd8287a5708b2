//! A layer, and a limiter on Redis, for a provider in one line.

use super::{Extract, Inspect, Rules, anthropic, openai};
#[cfg(feature = "redis")]
use crate::{box_error::BoxError, limits::Limits, quota::Quota, store::RedisStore};
use crate::{layer::throttle_layer::ThrottleLayer, limiter::Limiter};

impl ThrottleLayer<Extract, Inspect> {
    /// Throttles calls of OpenAI's API by its rules: see [`llm::openai`](crate::llm::openai).
    ///
    /// As at OpenAI, a call is charged the larger of `max_tokens` and its input, and a shorter
    /// answer gives nothing back: keep `max_tokens` tight. If your limits are corrected by what was
    /// used, say `openai::rules().tokens_at_end(AtEnd::Actual)` to
    /// [`openai_compatible`](Self::openai_compatible).
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

    /// Throttles calls of Anthropic's API by its rules: see
    /// [`llm::anthropic`](crate::llm::anthropic).
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, ThrottleLayer, llm::anthropic};
    ///
    /// let quotas = anthropic::quotas().rpm(50).itpm(30_000).otpm(8_000);
    /// let limiter = Limiter::new(Limits::new().bucket("claude-sonnet-4-5", quotas))?;
    /// let layer = ThrottleLayer::anthropic(limiter);
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    #[must_use]
    pub fn anthropic(limiter: Limiter) -> Self {
        Self::openai_compatible(limiter, anthropic::rules())
    }

    /// Throttles calls of an API by rules: those of any provider in [`llm`](crate::llm), as they
    /// are or changed.
    ///
    /// ```
    /// use tower_throttle::{Limiter, Limits, ThrottleLayer, llm::gemini};
    ///
    /// let quotas = gemini::quotas().rpm(150).itpm(2_000_000).rpd(1_000);
    /// let limiter = Limiter::new(Limits::new().bucket("gemini-2.5-pro", quotas))?;
    /// let layer = ThrottleLayer::openai_compatible(limiter, gemini::rules());
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    #[must_use]
    pub fn openai_compatible(limiter: Limiter, rules: Rules) -> Self {
        let rules = rules.declared_in(&limiter);
        ThrottleLayer::new(limiter, rules.extractor()).inspector(rules.inspector())
    }
}

#[cfg(feature = "redis")]
impl Rules {
    /// Connects to Redis at `url` and limits models there, together with every other process that
    /// does so.
    ///
    /// A model stands for all models that share its bucket. Models without a bucket are refused.
    /// For anything else, build [`Limits`] and a [`Limiter`] yourself.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), tower_throttle::BoxError> {
    /// use tower::ServiceBuilder;
    /// use tower_throttle::{ThrottleLayer, llm::openai};
    ///
    /// let limiter = openai::limiter("redis://127.0.0.1", [
    ///     ("gpt-4o", openai::quotas().rpm(500).tpm(30_000)),
    ///     ("gpt-4o-mini", openai::quotas().rpm(500).tpm(200_000)),
    /// ])
    /// .await?;
    /// let layers = ServiceBuilder::new().layer(ThrottleLayer::openai(limiter));
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    /// [`StoreError`](crate::store::StoreError) if Redis cannot be reached, as
    /// [`RedisStore::connect`] says; [`LimitsError`](crate::LimitsError) if the limits make no
    /// sense.
    ///
    /// # Cancel safety
    /// Dropping the future leaves nothing behind.
    pub async fn limiter<M, Q>(
        &self,
        url: &str,
        models: impl IntoIterator<Item = (M, Q)>,
    ) -> Result<Limiter, BoxError>
    where
        M: AsRef<str>,
        Q: IntoIterator<Item = Quota>,
    {
        let limits = models.into_iter().fold(Limits::new(), |limits, (model, quotas)| {
            limits.bucket(self.bucket_of(model.as_ref()), quotas)
        });
        let store = RedisStore::connect(url).await?;
        Ok(Limiter::with_store(limits, store)?)
    }
}
