//! The main job of `tower-throttle`, at a provider of its own: a few hundred calls of a language
//! model that exceed what the provider's limits admit, first with plain retries and then through
//! the throttle.
//!
//! The numbers come from the provider, which shares no code with the crate and forgives nothing:
//! what it admitted, what it refused, and so how much of the limits was put to use.

mod admission;
mod args;
mod driver;
mod load;
mod provider;
mod report;
mod throttled;
mod trace;
mod work;

use std::time::Duration;

use tower_throttle::BoxError;

use self::throttled::Meter;
pub use self::{
    admission::{Admission, Counts, ProviderLimits, Refusal},
    args::{ArgsError, Command, HELP, Options, parse},
    load::{Call, Load},
    provider::Provider,
    report::{Phase, Report},
    throttled::Shared,
    trace::{Row, TraceError},
    work::{Work, work},
};

/// What the provider enforces. A real one's window is a minute; this one's is short, so that
/// several of them pass while you look on.
pub const LIMITS: ProviderLimits = ProviderLimits {
    window: Duration::from_millis(2_500),
    requests: 80,
    tokens: 24_000,
    burst: 12_000,
};

/// Runs both phases, each at a fresh provider. With a `redis` URL the limits of the second are kept
/// there, else in memory. `progress` goes to stderr.
///
/// # Errors
/// When no provider can be started on loopback, or the throttle cannot: a malformed URL, a server
/// that is not there.
pub async fn run(load: &Load, redis: Option<&str>, progress: bool) -> Result<Report, BoxError> {
    let say = |what: &str| {
        if progress {
            eprintln!("{what} ...");
        }
    };
    // First, so that a Redis that is not there is told at once.
    let meter = Meter::default();
    let shared = redis.map(Shared::for_one_run);
    let limiter = throttled::limiter(shared.as_ref(), &meter).await?;

    say(&format!("{} calls with plain retries", load.calls().len()));
    let provider = Provider::start(LIMITS)?;
    let client = reqwest::Client::new();
    let driven = driver::drive(client, provider.url(), load).await;
    let unthrottled = Phase::new(&driven, &provider.counts(), None);
    drop(provider);

    let place = if redis.is_some() { "Redis" } else { "memory" };
    say(&format!("the same calls through the throttle, its limits in {place}"));
    let provider = Provider::start(LIMITS)?;
    let driven = driver::drive(throttled::client(limiter.clone()), provider.url(), load).await;
    limiter.close().await;
    let throttled = Phase::new(&driven, &provider.counts(), Some(meter.read()));
    Ok(Report { unthrottled, throttled })
}
