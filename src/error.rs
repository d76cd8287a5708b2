//! Why a demand was not granted. It knows limits and stores, and neither limiter nor layer.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use ref_cast::RefCast;

use crate::{limits::LimitsError, store::StoreError};

/// Why a demand was not granted. What to do about it differs by variant.
///
/// | variant | what to do |
/// |---|---|
/// | `NotNow`, `Deadline`, `Paused` | come again after [`retry_after`](Self::retry_after) |
/// | `ExceedsCapacity`, `BadDemand` | ask for something else, or change the limits |
/// | `QueueFull` | shed load |
/// | `Store` | repair the store; until then [`OnUnavailable`](crate::OnUnavailable) decides |
/// | `NoRuntime`, `NotInProcess`, `Closed` | repair the program |
///
/// A throttled service boxes it: `error.downcast_ref::<Throttled>()` finds it there, and
/// [`Throttled::find`] below the errors of other layers and clients.
///
/// # In tests
/// All variants can be made, to test what a program does about them:
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{Throttled, limiter::{Refusal, Shortage}};
///
/// let shortage = Shortage::new("gpt-4o", "tokens per minute")
///     .with_limit(30_000)
///     .with_requested(1_500)
///     .with_available(200)
///     .with_retry_after(Duration::from_secs(3));
/// let error = Throttled::Deadline(Refusal::new([shortage]).into());
/// assert_eq!((error.kind(), error.retry_after()), ("deadline", Some(Duration::from_secs(3))));
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub enum Throttled {
    /// The demand does not fit now, and it was not to wait.
    NotNow(Box<Refusal>),
    /// The demand cannot be granted, or was not, within its longest wait.
    Deadline(Box<Refusal>),
    /// The provider asked for a wait that is longer than
    /// [`longest_pause`](crate::limiter::LimiterBuilder::longest_pause). Demands that it holds back
    /// are refused at once instead of waiting. [`retry_after`](Self::retry_after) is what is left
    /// of the wait that was asked for, or more if a quota is short for longer.
    Paused(Box<Refusal>),
    /// The demand asks for more than some quota could ever admit: do not try again, ask for less or
    /// raise the limit.
    ExceedsCapacity(Box<Refusal>),
    /// The demand would have to wait, and as many demands wait for the bucket as may.
    #[non_exhaustive]
    QueueFull {
        /// The bucket.
        bucket: Arc<str>,
        /// How many may wait.
        max_waiting: usize,
    },
    /// The store cannot be reached, or refuses.
    Store(Arc<StoreError>),
    /// The demand itself is wrong.
    BadDemand(BadDemand),
    /// The demand would have to wait, or to ask a store that is elsewhere, and there is no tokio
    /// runtime here.
    NoRuntime,
    /// The demand was to be granted at once, and the store is not in this process: see
    /// [`Limiter::try_reserve_now`](crate::Limiter::try_reserve_now).
    NotInProcess,
    /// The limiter was closed.
    Closed,
}

impl Throttled {
    /// A full queue: [`QueueFull`](Self::QueueFull), for tests.
    pub fn queue_full(bucket: impl Into<Arc<str>>, max_waiting: usize) -> Self {
        Self::QueueFull { bucket: bucket.into(), max_waiting }
    }

    /// Returns the limiter's error inside an error that came through other layers and clients,
    /// however they wrapped it: reqwest, reqwest-middleware and its retries, hyper, tower's layers,
    /// `io::Error`, boxes.
    ///
    /// Where nothing wraps it, `error.downcast_ref::<Throttled>()` does the same.
    ///
    /// ```
    /// use tower_throttle::{BoxError, Throttled};
    ///
    /// fn is_ours(error: &BoxError) -> bool {
    ///     Throttled::find(error.as_ref()).is_some()
    /// }
    /// assert!(is_ours(&std::io::Error::other(Throttled::Closed).into()));
    /// assert!(!is_ours(&"the line is dead".into()));
    /// ```
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let reported = || error.downcast_ref::<Reported>().map(|reported| &reported.0);
            let this = error.downcast_ref::<Self>().or_else(reported);
            if let Some(this) = this.or_else(|| in_io_error(error).and_then(Self::find)) {
                return Some(this);
            }
            next = error.source();
        }
        None
    }

    /// A short name that never changes, for metrics and logs: `not_now`, `deadline`, `paused`,
    /// `exceeds_capacity`, `queue_full`, `store_unavailable`, `store_rejected`, `bad_demand`,
    /// `no_runtime`, `not_in_process` or `closed`.
    ///
    /// ```
    /// assert_eq!(tower_throttle::Throttled::Closed.kind(), "closed");
    /// ```
    pub fn kind(&self) -> &'static str {
        match self {
            Self::NotNow(_) => "not_now",
            Self::Deadline(_) => "deadline",
            Self::Paused(_) => "paused",
            Self::ExceedsCapacity(_) => "exceeds_capacity",
            Self::QueueFull { .. } => "queue_full",
            Self::Store(error) if error.is_unavailable() => "store_unavailable",
            Self::Store(_) => "store_rejected",
            Self::BadDemand(_) => "bad_demand",
            Self::NoRuntime => "no_runtime",
            Self::NotInProcess => "not_in_process",
            Self::Closed => "closed",
        }
    }

    /// Returns the time after which another attempt is worthwhile; nothing where that is unknown,
    /// or never.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotNow(refusal) | Self::Deadline(refusal) | Self::Paused(refusal) => {
                refusal.retry_after()
            }
            _ => None,
        }
    }

    /// True if the same demand can never be granted as things are declared: it asks for more than a
    /// limit admits or makes no sense, or the limiter is closed.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::ExceedsCapacity(_) | Self::BadDemand(_) | Self::Closed)
    }

    /// Returns what refused the demand, if quotas did.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NotNow(refusal)
            | Self::Deadline(refusal)
            | Self::Paused(refusal)
            | Self::ExceedsCapacity(refusal) => Some(refusal),
            _ => None,
        }
    }
}

/// A [`Throttled`] as its own source, under another type and with another text.
///
/// Some clients give an error out as if it were their own, with its sources but without itself
/// (`#[error(transparent)]`). [`Throttled::find`] can then only reach what is a source, and the
/// text must not be printed twice. A chain that is printed has it after the text of the error:
/// `throttled: ..: refused by tower-throttle (not_now)`.
#[derive(RefCast)]
#[repr(transparent)]
struct Reported(Throttled);

impl fmt::Debug for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Reported {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "refused by tower-throttle ({})", self.0.kind())
    }
}

impl Error for Reported {
    /// What the text of the error itself does not tell.
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match &self.0 {
            Throttled::Store(error) => error.source(),
            Throttled::BadDemand(error) => error.source(),
            _ => None,
        }
    }
}

/// Returns the error in an [`io::Error`](std::io::Error), which is not its own content's source.
fn in_io_error<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    Some(inner)
}

/// The text, after the variant: a program prints it whose `main` returns the error.
impl fmt::Debug for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let variant = match self {
            Self::NotNow(_) => "NotNow",
            Self::Deadline(_) => "Deadline",
            Self::Paused(_) => "Paused",
            Self::ExceedsCapacity(_) => "ExceedsCapacity",
            Self::QueueFull { .. } => "QueueFull",
            Self::Store(_) => "Store",
            Self::BadDemand(_) => "BadDemand",
            Self::NoRuntime => "NoRuntime",
            Self::NotInProcess => "NotInProcess",
            Self::Closed => "Closed",
        };
        write!(f, "{variant}({self})")
    }
}

impl fmt::Display for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow(refusal) => write!(f, "throttled: {refusal}"),
            Self::Deadline(refusal) => write!(f, "throttled beyond the longest wait: {refusal}"),
            Self::Paused(refusal) => write!(
                f,
                "the provider asked for a wait longer than `longest_pause`, \
                 come back after it: {refusal}"
            ),
            Self::ExceedsCapacity(refusal) => write!(
                f,
                "more than could ever be admitted, ask for less or raise the limit: {refusal}"
            ),
            Self::QueueFull { bucket, max_waiting: 0 } => {
                write!(f, "no demand may wait for bucket `{bucket}`: `max_waiting` is 0")
            }
            Self::QueueFull { bucket, max_waiting } => {
                write!(
                    f,
                    "{max_waiting} demands wait for bucket `{bucket}` already, and no more may"
                )
            }
            Self::Store(error) => error.fmt(f),
            Self::BadDemand(error) => error.fmt(f),
            Self::NoRuntime => {
                f.write_str("what has to wait needs a tokio runtime: call it inside of one")
            }
            Self::NotInProcess => f.write_str(
                "the store is not in this process, so that its answer has to be awaited",
            ),
            Self::Closed => f.write_str("the limiter was closed"),
        }
    }
}

impl Error for Throttled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(Reported::ref_cast(self))
    }
}

impl From<StoreError> for Throttled {
    fn from(error: StoreError) -> Self {
        Self::Store(error.into())
    }
}

impl From<BadDemand> for Throttled {
    fn from(error: BadDemand) -> Self {
        Self::BadDemand(error)
    }
}

/// What a demand was refused by.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::limiter::{Refusal, Shortage};
///
/// let minute = Shortage::new("api", "tokens per minute").with_retry_after(Duration::from_secs(9));
/// let day = Shortage::new("api", "requests per day").with_retry_after(Duration::from_secs(7_200));
/// let refusal = Refusal::new([minute, day]);
/// assert_eq!(refusal.binding().map(|shortage| &*shortage.quota), Some("requests per day"));
/// assert_eq!(refusal.retry_after(), Some(Duration::from_secs(7_200)));
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    pub(crate) shortages: Vec<Shortage>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal by these quotas. Another attempt is worthwhile when all of them can give what is
    /// asked, if that is known.
    pub fn new(shortages: impl IntoIterator<Item = Shortage>) -> Self {
        let shortages: Vec<_> = shortages.into_iter().collect();
        let retry_after = shortages
            .iter()
            .map(|shortage| shortage.retry_after)
            .try_fold(Duration::ZERO, |longest, wait| Some(longest.max(wait?)));
        let retry_after = retry_after.filter(|_| !shortages.is_empty());
        Self { shortages, retry_after }
    }

    /// Returns every quota that refused the demand.
    pub fn shortages(&self) -> &[Shortage] {
        &self.shortages
    }

    /// Returns the quota with the longest wait.
    pub fn binding(&self) -> Option<&Shortage> {
        // An unknown end is taken for later than any known one.
        self.shortages.iter().max_by_key(|shortage| shortage.retry_after.unwrap_or(Duration::MAX))
    }

    /// Returns the time until the demand fits if nothing is refunded; nothing where that depends on
    /// calls in flight, or is never. No less than what is left of a wait that the provider asked
    /// for.
    pub fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.shortages.is_empty() {
            return f.write_str("the store has not said why yet");
        }
        for (index, shortage) in self.shortages.iter().enumerate() {
            write!(f, "{}{shortage}", if index > 0 { "; " } else { "" })?;
        }
        match self.retry_after {
            Some(Duration::ZERO) => f.write_str("; retry at once"),
            Some(wait) => write!(f, "; retry after {wait:?}"),
            None => Ok(()),
        }
    }
}

/// One quota that cannot give what is asked.
///
/// ```
/// use tower_throttle::{Throttled, limiter::{Refusal, Shortage}};
///
/// // What a test of one's own error handling needs.
/// let shortage = Shortage::new("gpt-4o", "tokens per minute").with_requested(1_500);
/// let error = Throttled::NotNow(Box::new(Refusal::new([shortage])));
/// assert!(error.to_string().contains("tokens per minute"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// The bucket.
    pub bucket: Arc<str>,
    /// The quota; `paused` if the whole bucket is.
    pub quota: Arc<str>,
    /// What the quota admits at most, to the demand's class; 0 for a pause.
    pub limit: u64,
    /// What the quota has left for the demand's class; negative in debt. Where a demand exceeds the
    /// capacity: the capacity.
    pub available: i64,
    /// What the demand asks of the quota.
    pub requested: u64,
    /// Time until the quota can give that if nothing is refunded; nothing where that depends on
    /// calls in flight, or is never. No less than what is left of a wait that the provider asked
    /// for.
    pub retry_after: Option<Duration>,
    /// The quota's window; nothing for calls in flight and for a pause.
    pub window: Option<Duration>,
}

impl Shortage {
    /// A shortage of one quota, for tests: nothing is asked, nothing is left and no time is known.
    pub fn new(bucket: impl Into<Arc<str>>, quota: impl Into<Arc<str>>) -> Self {
        let (bucket, quota) = (bucket.into(), quota.into());
        let (retry_after, window) = (None, None);
        Self { bucket, quota, limit: 0, available: 0, requested: 0, retry_after, window }
    }

    /// Sets what the quota admits at most.
    #[must_use]
    pub fn with_limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// Sets what the quota has left.
    #[must_use]
    pub fn with_available(mut self, available: i64) -> Self {
        self.available = available;
        self
    }

    /// Sets what the demand asks of the quota.
    #[must_use]
    pub fn with_requested(mut self, requested: u64) -> Self {
        self.requested = requested;
        self
    }

    /// Sets the quota's window.
    #[must_use]
    pub fn with_window(mut self, window: Duration) -> Self {
        self.window = Some(window);
        self
    }

    /// Sets the time until the quota can give that.
    #[must_use]
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, quota, limit, available, requested, .. } = self;
        match limit {
            0 => write!(f, "bucket `{bucket}` is {quota}"),
            // Whatever it has left.
            limit if requested > limit => write!(
                f,
                "bucket `{bucket}`: {requested} asked, and `{quota}` admits {limit} at most"
            ),
            _ => {
                write!(
                    f,
                    "bucket `{bucket}`: {requested} asked of {available} left, \
                     and `{quota}` admits {limit} at most"
                )
            }
        }
    }
}

/// What is wrong with a demand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadDemand {
    /// This bucket is not declared.
    UnknownBucket(Arc<str>),
    /// This class is not declared.
    UnknownClass(Arc<str>),
    /// No quota counts this metric, and it is no standard one: a typo?
    UnknownMetric(Arc<str>),
    /// The demand names this bucket twice.
    SameBucketTwice(Arc<str>),
    /// The demand names buckets of two partitions, which cannot be charged as one.
    TwoPartitions(Arc<str>, Arc<str>),
    /// The resolver's quotas for the bucket make no sense.
    InvalidLimits(LimitsError),
    /// The reservation's id is not one of a detached reservation.
    InvalidId,
}

impl fmt::Display for BadDemand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownBucket(name) => {
                write!(
                    f,
                    "bucket `{name}` is not declared: \
                     add it to the limits, or say what becomes of others (`Limits::undeclared`)"
                )
            }
            Self::UnknownClass(name) => {
                write!(f, "class `{name}` is not declared: add it to the limits")
            }
            Self::UnknownMetric(name) => {
                write!(f, "no quota counts metric `{name}`: is it misspelt?")
            }
            Self::SameBucketTwice(name) => write!(f, "bucket `{name}` is named twice"),
            Self::TwoPartitions(one, other) => {
                write!(f, "buckets of partitions `{one}` and `{other}` cannot be charged as one")
            }
            Self::InvalidLimits(error) => error.fmt(f),
            Self::InvalidId => f.write_str("this is not the id of a detached reservation"),
        }
    }
}

impl Error for BadDemand {}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_kind() -> Vec<Throttled> {
        let refusal = || Box::new(Refusal::new([Shortage::new("api", "tokens").with_limit(9)]));
        vec![
            Throttled::NotNow(refusal()),
            Throttled::Deadline(refusal()),
            Throttled::Paused(refusal()),
            Throttled::ExceedsCapacity(refusal()),
            Throttled::queue_full("api", 3),
            StoreError::Unavailable(std::io::Error::other("hung up").into()).into(),
            StoreError::Rejected("wrong password".into()).into(),
            BadDemand::UnknownBucket("api".into()).into(),
            Throttled::NoRuntime,
            Throttled::NotInProcess,
            Throttled::Closed,
        ]
    }

    /// As `#[error(transparent)]` makes an error: its text and source are those of the error
    /// inside.
    #[derive(Debug)]
    struct Transparent(Box<dyn Error + Send + Sync>);

    impl fmt::Display for Transparent {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            self.0.fmt(f)
        }
    }

    impl Error for Transparent {
        fn source(&self) -> Option<&(dyn Error + 'static)> {
            self.0.source()
        }
    }

    #[test]
    fn every_kind_downcasts_is_found_and_prints_its_chain_once() {
        let mut kinds = std::collections::HashSet::new();
        for error in every_kind() {
            assert!(kinds.insert(error.kind()), "{error:?}");
            let text = error.to_string();
            let error: Box<dyn Error + Send + Sync> = error.into();
            assert!(error.downcast_ref::<Throttled>().is_some(), "{text}");

            let mut links = vec![text.clone()];
            let mut next = error.source();
            while let Some(link) = next {
                links.push(link.to_string());
                next = link.source();
            }
            for (index, link) in links.iter().enumerate() {
                let others = links.iter().take(index);
                assert!(others.clone().all(|other| !other.contains(link)), "{links:?}");
            }

            let wrapped = Transparent(Transparent(error).into());
            let found = Throttled::find(&wrapped).expect("it is found");
            assert_eq!((found.to_string(), wrapped.to_string()), (text.clone(), text));
        }
    }

    #[test]
    fn a_chain_says_after_the_reason_what_refused() {
        fn chain(error: &dyn Error) -> String {
            match error.source() {
                Some(source) => format!("{error}: {}", chain(source)),
                None => error.to_string(),
            }
        }
        assert_eq!(
            chain(&Throttled::Closed),
            "the limiter was closed: refused by tower-throttle (closed)"
        );
        let unavailable: Throttled =
            StoreError::Unavailable(std::io::Error::other("hung up").into()).into();
        assert_eq!(
            chain(&unavailable),
            "the store is unavailable: hung up: refused by tower-throttle (store_unavailable)"
        );
    }

    #[test]
    fn a_refusal_knows_when_to_come_again_only_if_all_of_it_does() {
        let known = || Shortage::new("a", "b").with_retry_after(Duration::from_secs(2));
        assert_eq!(Refusal::new([known()]).retry_after(), Some(Duration::from_secs(2)));
        assert_eq!(Refusal::new([known(), Shortage::new("a", "c")]).retry_after(), None);
        assert_eq!(Refusal::new([]).retry_after(), None);
    }
}
