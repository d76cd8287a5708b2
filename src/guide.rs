//! The guide: what to declare, what to put around the layer and inside, and what happens then.
//!
//! * [`concepts`]: the words, and what happens to a call
//! * [`quotas`]: which numbers to enter, which kind of quota for which provider
//! * [`composing`]: the order of layers, each client, and what to do when it does not compile
//! * [`planning`]: what limits make of your calls, before anything runs
//! * [`running`]: why a call waits, traces, changes, what providers say, Redis, runtimes
//! * [`testing`]: a fake clock, a scripted store, and assertions for your own tests
//! * [`coming_from`]: what the words and calls of other limiters are called here
//! * [`metrics`]: every metric, its labels, and how fresh it is
//!
//! The pages are those of `docs/`, with their examples compiled and run.

#[doc = include_str!("../docs/concepts.md")]
pub mod concepts {}

#[doc = include_str!("../docs/quotas.md")]
pub mod quotas {}

#[doc = include_str!("../docs/coming-from.md")]
pub mod coming_from {}

#[cfg(any(not(doctest), all(feature = "llm", feature = "reqwest-middleware", feature = "routes")))]
#[doc = include_str!("../docs/composing.md")]
pub mod composing {}

#[cfg(any(not(doctest), feature = "metrics"))]
#[doc = include_str!("../docs/metrics.md")]
pub mod metrics {}

#[doc = include_str!("../docs/planning.md")]
pub mod planning {}

#[doc = include_str!("../docs/running.md")]
pub mod running {}

#[cfg(any(not(doctest), feature = "test-util"))]
#[doc = include_str!("../docs/testing.md")]
pub mod testing {}
