//! Values of the command line.

use std::{str::FromStr, time::Duration};

use clap::ValueEnum;
use tower_throttle::simulate::{Counting, Enforcement, Strategy};

use crate::{failure::Failure, words};

/// How the provider looks at a window.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(super) enum ProviderKind {
    /// As the limits file declares it
    Declared,
    /// At most the limit in any window
    Sliding,
    /// Linear refill, with the limit as its burst
    Bucket,
    /// At most the limit between two resets, at a phase that clients do not know
    Fixed,
    /// Of requests, a part of the limit in any second
    #[value(name = "parts-1s")]
    PartsOf1s,
    /// Of requests, a part of the limit in any 10 seconds
    #[value(name = "parts-10s")]
    PartsOf10s,
}

impl ProviderKind {
    pub(super) fn enforcement(self) -> Option<Enforcement> {
        Some(match self {
            Self::Declared => return None,
            Self::Sliding => Enforcement::SlidingWindow,
            Self::Bucket => Enforcement::TokenBucket,
            Self::Fixed => Enforcement::FixedWindow(Duration::from_millis(17_300)),
            Self::PartsOf1s => Enforcement::SubWindows(Duration::from_secs(1)),
            Self::PartsOf10s => Enforcement::SubWindows(Duration::from_secs(10)),
        })
    }
}

/// When the provider counts tokens.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(super) enum When {
    /// All that a call will use, when it arrives
    Start,
    /// All that a call used, when it ends
    End,
    /// Input when a call arrives, output while it is written
    AsProduced,
}

impl When {
    pub(super) fn counting(self) -> Counting {
        match self {
            Self::Start => Counting::AtStart,
            Self::End => Counting::AtEnd,
            Self::AsProduced => Counting::AsProduced,
        }
    }
}

/// How calls are made.
#[derive(Clone, Copy, Debug, PartialEq, ValueEnum)]
pub(super) enum Way {
    /// Nothing is held back; refused calls are made again
    Retries,
    /// Count in minutes of a clock
    FixedWindow,
    /// A token bucket, in which unused tokens are put back
    NaiveRefund,
    /// This crate, never settled
    WithoutSettle,
    /// This crate: max_tokens are reserved
    Bound,
    /// This crate: what calls like it used is reserved
    Learned,
    /// This crate, told what each call will use
    Exact,
}

impl Way {
    pub(super) fn strategy(self) -> Strategy {
        match self {
            Self::Retries => Strategy::RetriesOnly,
            Self::FixedWindow => Strategy::FixedWindowCount,
            Self::NaiveRefund => Strategy::NaiveRefund,
            Self::WithoutSettle => Strategy::WithoutSettle,
            Self::Bound => Strategy::Bound,
            Self::Learned => Strategy::Learned,
            Self::Exact => Strategy::Exact,
        }
    }
}

/// Reads `300ms`, `1.5s` or `0`.
pub(super) fn latency(text: &str) -> Result<Duration, String> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    match words::parse_duration(text)? {
        length if length <= Duration::from_secs(86_400) => Ok(length),
        _ => Err("it is longer than a day".into()),
    }
}

/// Reads a number from 0 to 1.
pub(super) fn part(text: &str) -> Result<f64, String> {
    let part = text.parse::<f64>().ok().filter(|part| (0.0..=1.0).contains(part));
    part.ok_or_else(|| "must be from 0 to 1".into())
}

/// `batch=0.3`.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Part {
    name: String,
    part: f64,
}

impl FromStr for Part {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text
            .rsplit_once('=')
            .and_then(|(name, text)| Some(Self { name: name.to_owned(), part: part(text).ok()? }));
        let parsed = parsed.filter(|part| !part.name.is_empty());
        parsed.ok_or_else(|| "must be like batch=0.3, with a part from 0 to 1".into())
    }
}

/// The parts, which are one whole at most.
pub(super) fn parts(parts: &[Part]) -> Result<Vec<(&str, f64)>, Failure> {
    let sum: f64 = parts.iter().map(|part| part.part).sum();
    if sum > 1.0 + 1e-9 {
        return Err(Failure::Usage(format!(
            "parts of the calls add up to {sum}, which is above 1"
        )));
    }
    Ok(parts.iter().map(|part| (part.name.as_str(), part.part)).collect())
}
