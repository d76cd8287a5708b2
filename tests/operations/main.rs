//! What the operators of a fleet are shown: spans, metrics, and what the documents say of them.

#[cfg(feature = "metrics")]
mod documented;
#[cfg(feature = "metrics")]
mod metrics;
mod shadow;
#[cfg(feature = "tracing")]
mod spans;
