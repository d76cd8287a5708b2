//! The words in which a provider's rules are said. It knows no provider, and imports nothing of
//! this folder.

/// What `tokens` is when a call is admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Tokens {
    /// Input and output together.
    Sum,
    /// The larger of input and output.
    Larger,
}

/// How much output is reserved.
///
/// ```
/// use tower_throttle::llm::{Output, compatible};
///
/// // Calls whose bound is far above what they use.
/// let rules = compatible::rules().output(Output::Learned);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Output {
    /// The most that the request allows (`max_tokens` and its kin).
    Bound,
    /// This many tokens, or what the request allows if that is less. Tokens beyond it become a
    /// debt.
    Expected(u64),
    /// The mean output of calls like this one, and a margin, or what the request allows if that is
    /// less. The bound is reserved while too few answers were seen. The estimate of the input is
    /// corrected too, by how far earlier estimates were off.
    ///
    /// Alike are calls to the same bucket with about as much input and the same use of tools and
    /// formats; the latest 256 are kept. Calls in flight share one margin, since the sum of many
    /// strays less than each of them. Each keeps a part of its own, for the long ones that are left
    /// of a burst, and more of it the more `max_tokens` leaves above the mean: a tight one is
    /// cheaper. When answers become longer or shorter, or calls are refused, what was learned is
    /// forgotten and the bound is reserved for a while: also by demands that wait, unless answers
    /// have become shorter.
    ///
    /// An answer that was cut off by its bound counts for as much as the longer ones. Extractor and
    /// inspector learn together if both are of the same [`Rules`](super::Rules) or of clones of
    /// them, as those of a layer are. At most 1,000 buckets are learned of. A process learns by
    /// itself and knows its own calls in flight: several processes reserve more than one.
    ///
    /// On a public trace of a chat service with a `max_tokens` of 1,000, against a provider that
    /// charges in advance what a call will use, it used 93 % of a limit of 45,000 in 6 s and was
    /// refused once in 19,200 calls; the bound used 89 %.
    ///
    /// In a simulation of 300 callers with answers of 330 tokens and a `max_tokens` of 8,192 it
    /// used over 90 % of a limit of 100,000 a minute, where the bound used less than 50 %.
    Learned,
}

/// What becomes of the metric `tokens` when a call ends. `input_tokens` and `output_tokens` are
/// always those used.
///
/// ```
/// use tower_throttle::llm::{AtEnd, openai};
///
/// // An account whose limits are corrected by what was used.
/// let rules = openai::rules().tokens_at_end(AtEnd::Actual);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum AtEnd {
    /// It is what was used.
    Actual,
    /// It stays as it was reserved, as it does at the provider.
    Reserved,
}

/// The charge of a call that did not end well.
///
/// ```
/// use tower_throttle::llm::{Charge, compatible};
///
/// // A provider whose server errors are free.
/// let rules = compatible::rules().on_status(500..=599, Charge::Nothing);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Charge {
    /// What the call reserved.
    Reserved,
    /// What the call reserved, or more if more was seen.
    Seen,
    /// A request and no tokens.
    Request,
    /// Nothing.
    Nothing,
}

/// A charge for the statuses from the first to the last.
#[derive(Clone, Copy, Debug)]
pub(crate) struct OnStatus(pub(crate) u16, pub(crate) u16, pub(crate) Charge);

/// What the part of `total_tokens` is that neither the prompt's nor the answer's tokens explain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Excess {
    /// Used tokens: audio that stands beside the prompt is input, everything else is output.
    Counts,
    /// Nothing that the provider's limits count.
    Ignored,
}

/// Input tokens that a provider adds to a request beyond its text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Overhead {
    pub(crate) always: u64,
    /// With tools; `always` is not added to it.
    pub(crate) with_tools: u64,
}

impl Overhead {
    pub(crate) const NONE: Self = Self { always: 0, with_tools: 0 };

    pub(crate) fn tokens(self, has_tools: bool) -> u64 {
        if has_tools { self.with_tools.max(self.always) } else { self.always }
    }
}

/// Where the name of the model stands that a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ModelPlace {
    /// In the body; in the path if the body does not tell.
    Body,
    /// In the path; in the body if the path does not tell.
    Path,
}
