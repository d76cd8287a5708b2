//! One process of several that share a provider's limits.

use serde_json::{Value, json};
use tower_throttle::BoxError;

use crate::{
    LIMITS, Load, Shared, driver,
    throttled::{self, Meter},
};

/// What became of the calls of one process, or of several together.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Work {
    /// Calls made.
    pub calls: u64,
    /// Calls answered.
    pub ok: u64,
    /// Tokens reserved.
    pub reserved: u64,
    /// Tokens used, as the answers tell.
    pub used: u64,
    /// Tokens that were reserved and came back.
    pub refunded: u64,
    /// From the first call to the end of the last answer.
    pub seconds: f64,
}

/// Makes the calls of `load` at the provider, within limits that are shared.
///
/// # Errors
/// When the server cannot be reached, or a call has failed for another reason than a limit.
pub async fn work(load: &Load, provider: String, shared: &Shared) -> Result<Work, BoxError> {
    let meter = Meter::default();
    let limiter = throttled::limiter(Some(shared), &meter).await?;
    let driven = driver::drive(throttled::client(limiter.clone()), provider, load).await;
    limiter.close().await;
    if let Some(error) = driven.error {
        return Err(error);
    }
    let metered = meter.read();
    Ok(Work {
        calls: driven.calls,
        ok: driven.ok,
        reserved: metered.reserved,
        used: driven.used,
        refunded: metered.refunded,
        seconds: driven.elapsed.as_secs_f64(),
    })
}

impl Work {
    /// As one line.
    #[must_use]
    pub fn json(&self) -> Value {
        let Self { calls, ok, reserved, used, refunded, seconds } = self;
        json!({ "calls": calls, "ok": ok, "reserved": reserved, "used": used, "refunded": refunded, "seconds": seconds })
    }

    /// From what [`json`](Self::json) made.
    #[must_use]
    pub fn from_json(json: &Value) -> Option<Self> {
        let number = |key: &str| json[key].as_u64();
        Some(Self {
            calls: number("calls")?,
            ok: number("ok")?,
            reserved: number("reserved")?,
            used: number("used")?,
            refunded: number("refunded")?,
            seconds: json["seconds"].as_f64()?,
        })
    }

    /// As a row of a table.
    #[must_use]
    pub fn row(&self) -> String {
        let Self { calls, ok, reserved, used, refunded, seconds } = self;
        format!("{calls:>6} {ok:>6} {reserved:>10} {used:>8} {refunded:>10} {seconds:>8.1}")
    }

    /// Adds what another process did in the same time.
    pub fn add(&mut self, other: &Self) {
        self.calls += other.calls;
        self.ok += other.ok;
        self.reserved += other.reserved;
        self.used += other.used;
        self.refunded += other.refunded;
        self.seconds = self.seconds.max(other.seconds);
    }

    /// The tokens that the provider admitted, as a share of what it would have.
    #[expect(clippy::cast_precision_loss, reason = "tokens, far below 2^52")]
    #[must_use]
    pub fn utilisation(&self, admitted: u64) -> f64 {
        admitted as f64 / (LIMITS.tokens as f64 * self.seconds / LIMITS.window.as_secs_f64())
    }
}
