//! Which calls come when.

use std::{fmt, path::Path, sync::Arc, time::Duration};

use super::{
    csv,
    enforced::LONGEST,
    trace_call::{TraceCall, TraceError},
};

/// Calls in the order in which they come, the first of them at the start.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::simulate::{Trace, TraceCall};
///
/// let text = "arrival,input,output,class\n0.0,374,44,batch\n4.3,396,109,\n";
/// let trace = Trace::from_csv(text)?;
/// assert_eq!(trace.calls()[1].arrival, Duration::from_millis(4_300));
/// assert_eq!(trace.calls()[0].class.as_deref(), Some("batch"));
/// # Ok::<_, tower_throttle::simulate::TraceError>(())
/// ```
#[derive(Clone, PartialEq)]
pub struct Trace {
    calls: Arc<[TraceCall]>,
}

impl Trace {
    /// These calls, in the order of their arrival. One that comes more than ten years after the
    /// first comes then.
    pub fn new(calls: impl IntoIterator<Item = TraceCall>) -> Self {
        let mut calls: Vec<_> = calls.into_iter().collect();
        calls.sort_by_key(|call| call.arrival);
        let first = calls.first().map_or(Duration::ZERO, |call| call.arrival);
        for call in &mut calls {
            call.arrival = (call.arrival - first).min(LONGEST);
        }
        Self { calls: calls.into() }
    }

    /// Reads calls from CSV, whose first line names its columns.
    ///
    /// | column | also called | |
    /// |---|---|---|
    /// | `arrival` | `TIMESTAMP` | seconds, or a date and time: `2023-11-16 18:15:46.68` |
    /// | `input` | `ContextTokens` | tokens of the prompt |
    /// | `output` | `GeneratedTokens` | tokens of the answer |
    /// | `max_tokens` | | may be left out, as the others below |
    /// | `class`, `share` | | empty for none |
    ///
    /// So the [Azure LLM inference traces](https://github.com/Azure/AzurePublicDataset) can be read
    /// as they are. Fields are not quoted. Other columns are passed over.
    ///
    /// # Errors
    /// A column is missing, or a field makes no sense: the error names its line.
    pub fn from_csv(text: &str) -> Result<Self, TraceError> {
        csv::calls(text).map(Self::new)
    }

    /// Reads calls from a file in the format of [`from_csv`](Self::from_csv).
    ///
    /// # Errors
    /// It cannot be read, or something in it makes no sense: the error names the line.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, TraceError> {
        let path = path.as_ref();
        let text = std::fs::read_to_string(path).map_err(|error| TraceError::io(path, error))?;
        Self::from_csv(&text).map_err(|error| error.in_file(path))
    }

    /// Makes all calls come at once: work that is at hand from the start.
    #[must_use]
    pub fn at_once(self) -> Self {
        let at_once = |call: &TraceCall| TraceCall { arrival: Duration::ZERO, ..call.clone() };
        Self { calls: self.calls.iter().map(at_once).collect() }
    }

    /// Gives calls that have no class one of these, each the part of calls beside it. The rest has
    /// none.
    #[must_use]
    pub fn with_classes(self, classes: &[(&str, f64)], seed: u64) -> Self {
        self.dealt(classes, seed ^ 0xC1A5, |call| &mut call.class)
    }

    /// Gives calls that have no share one of these, each the part of calls beside it. The rest has
    /// none.
    #[must_use]
    pub fn with_shares(self, shares: &[(&str, f64)], seed: u64) -> Self {
        self.dealt(shares, seed ^ 0x54A2, |call| &mut call.share)
    }

    fn dealt(
        self,
        names: &[(&str, f64)],
        seed: u64,
        field: impl Fn(&mut TraceCall) -> &mut Option<Arc<str>>,
    ) -> Self {
        let names: Vec<(Arc<str>, f64)> =
            names.iter().map(|(name, part)| (Arc::from(*name), *part)).collect();
        let mut random = fastrand::Rng::with_seed(seed);
        let mut calls = self.calls.to_vec();
        for call in &mut calls {
            let mut drawn = random.f64();
            let name = names.iter().find(|(_, part)| {
                drawn -= part;
                drawn < 0.0
            });
            let field = field(call);
            if field.is_none() {
                *field = name.map(|(name, _)| name.clone());
            }
        }
        Self { calls: calls.into() }
    }

    /// Returns the calls, in their order.
    pub fn calls(&self) -> &[TraceCall] {
        &self.calls
    }

    /// Returns when the last call comes.
    pub fn duration(&self) -> Duration {
        self.calls.last().map_or(Duration::ZERO, |call| call.arrival)
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("calls", &self.calls.len())
            .field("duration", &self.duration())
            .finish()
    }
}
