//! One call of a trace, and what can be wrong where it is written.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use crate::{usage, usage::Usage};

/// One call of a trace.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct TraceCall {
    /// When it comes.
    pub arrival: Duration,
    /// Tokens of its prompt.
    pub input: u64,
    /// Tokens of its answer.
    pub output: u64,
    /// The most that its answer may take; nothing for the simulation's
    /// [`max_tokens`](super::Simulation::max_tokens).
    pub max_tokens: Option<u64>,
    /// Its [class](crate::Demand::class).
    pub class: Option<Arc<str>>,
    /// Its [share](crate::Demand::share).
    pub share: Option<Arc<str>>,
}

impl TraceCall {
    /// A call without a class and a share.
    pub fn new(arrival: Duration, input: u64, output: u64) -> Self {
        Self { arrival, input, output, max_tokens: None, class: None, share: None }
    }

    /// What it really uses.
    pub(super) fn used(&self) -> Usage {
        usage! { requests: 1, input_tokens: self.input, output_tokens: self.output }
    }
}

/// A trace that cannot be read.
#[derive(Debug)]
#[non_exhaustive]
pub struct TraceError {
    place: String,
    reason: String,
    source: Option<std::io::Error>,
}

impl TraceError {
    pub(super) fn at(line: usize, reason: impl Into<String>) -> Self {
        Self { place: format!("line {line}"), reason: reason.into(), source: None }
    }

    pub(super) fn io(path: &Path, error: std::io::Error) -> Self {
        let (place, reason) = (path.display().to_string(), "cannot be read".to_owned());
        Self { place, reason, source: Some(error) }
    }

    pub(super) fn in_file(self, path: &Path) -> Self {
        Self { place: format!("{}: {}", path.display(), self.place), ..self }
    }
}

impl fmt::Display for TraceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.place, self.reason)
    }
}

impl std::error::Error for TraceError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|error| error as _)
    }
}
