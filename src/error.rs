//! Why a demand was not granted.

use std::{error::Error, fmt, sync::Arc, time::Duration};

use crate::{limits::LimitsError, store::StoreError};

/// Why a demand was not granted. What to do about it differs by variant, so each says what it is about.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Throttled {
    /// It does not fit now, and it was not to wait.
    NotNow(Box<Refusal>),
    /// It cannot be granted, or was not, within its longest wait.
    Deadline(Box<Refusal>),
    /// The provider asked for a wait that is longer than [`longest_pause`](crate::LimiterBuilder::longest_pause), which
    /// nobody waits out: what it holds back is refused at once. [`retry_after`](Self::retry_after) is what is left of the
    /// wait that was asked for, or more if a quota is short for longer.
    Paused(Box<Refusal>),
    /// It asks for more than some quota could ever admit: do not try again, ask for less or raise the limit.
    ExceedsCapacity(Box<Refusal>),
    /// It has to wait, and as many demands wait for the bucket as may.
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
    /// The limiter was closed.
    Closed,
}

impl Throttled {
    /// The throttle's refusal inside an error that came through other layers and clients, however they wrapped it:
    /// reqwest, reqwest-middleware and its retries, hyper, tower's layers, `io::Error`, boxes.
    /// A throttled service's error has the refusal as its source, so that downcasting it would not do.
    ///
    /// ```
    /// use tower_throttle::{BoxError, Throttled};
    ///
    /// fn is_ours(error: &BoxError) -> bool {
    ///     Throttled::find(error.as_ref()).is_some()
    /// }
    /// # assert!(is_ours(&BoxError::from(Throttled::Closed)));
    /// ```
    pub fn find<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e Self> {
        let mut next = Some(error);
        while let Some(error) = next {
            let shared = || error.downcast_ref::<Arc<Self>>().map(AsRef::as_ref);
            let inner = error.downcast_ref::<Self>().or_else(shared);
            if let Some(inner) = inner.or_else(|| boxed(error).and_then(Self::find)) {
                return Some(inner);
            }
            next = error.source();
        }
        None
    }

    /// After how long it may be worth trying again: nothing where that is unknown, or never.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::NotNow(refusal) | Self::Deadline(refusal) | Self::Paused(refusal) => {
                refusal.retry_after()
            }
            _ => None,
        }
    }

    /// Whether the same demand can never be granted as things are declared.
    pub fn is_permanent(&self) -> bool {
        matches!(self, Self::ExceedsCapacity(_) | Self::BadDemand(_) | Self::Closed)
    }

    /// What refused, if quotas did.
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

/// A refusal on its way out through other layers and clients.
///
/// Some of them give an error out as if it were their own, with its sources but without itself
/// (`#[error(transparent)]`): what is to be found in there has to be a source.
pub(crate) struct Carried(pub(crate) Throttled);

/// What a program prints whose `main` answers it.
impl fmt::Debug for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Carried {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.0)
    }
}

/// The error in an [`io::Error`](std::io::Error), which is not its own content's source.
fn boxed<'e>(error: &'e (dyn Error + 'static)) -> Option<&'e (dyn Error + 'static)> {
    let inner = error.downcast_ref::<std::io::Error>()?.get_ref()?;
    Some(inner)
}

impl fmt::Display for Throttled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotNow(refusal) => write!(f, "throttled: {refusal}"),
            Self::Deadline(refusal) => write!(f, "throttled beyond the longest wait: {refusal}"),
            Self::Paused(refusal) => {
                write!(
                    f,
                    "the provider asked for a wait longer than `longest_pause`, come back after it: {refusal}"
                )
            }
            Self::ExceedsCapacity(refusal) => {
                write!(
                    f,
                    "more than could ever be admitted, ask for less or raise the limit: {refusal}"
                )
            }
            Self::QueueFull { bucket, max_waiting: 0 } => {
                write!(f, "nobody may wait for bucket `{bucket}`: `max_waiting` is 0")
            }
            Self::QueueFull { bucket, max_waiting } => {
                write!(
                    f,
                    "{max_waiting} demands wait for bucket `{bucket}` already, and no more may"
                )
            }
            Self::Store(error) => error.fmt(f),
            Self::BadDemand(error) => error.fmt(f),
            Self::Closed => f.write_str("the limiter was closed"),
        }
    }
}

impl Error for Throttled {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Store(error) => error.source(),
            Self::BadDemand(error) => Some(error),
            _ => None,
        }
    }
}

/// What a demand was refused by.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Refusal {
    pub(crate) shortages: Vec<Shortage>,
    pub(crate) retry_after: Option<Duration>,
}

impl Refusal {
    /// Everything that refused it.
    pub fn shortages(&self) -> &[Shortage] {
        &self.shortages
    }

    /// What it has to wait for longest.
    pub fn binding(&self) -> Option<&Shortage> {
        // What nobody can tell the end of is longer than anything known.
        self.shortages.iter().max_by_key(|shortage| shortage.retry_after.unwrap_or(Duration::MAX))
    }

    /// Time until it fits if nothing is refunded; nothing where that depends on calls in flight, or is never. No less than
    /// what is left of a wait that the provider asked for.
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
            Some(wait) => write!(f, "; retry after {wait:?}"),
            None => Ok(()),
        }
    }
}

/// One quota that cannot give what is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Shortage {
    /// The bucket.
    pub bucket: Arc<str>,
    /// The quota; `paused` if the whole bucket is.
    pub quota: Arc<str>,
    /// What the quota admits at most, to the demand's class; 0 for a pause.
    pub limit: u64,
    /// What it has left for the demand's class; negative in debt. Where a demand exceeds the capacity: the capacity.
    pub available: i64,
    /// What the demand asks of it.
    pub requested: u64,
    /// Time until it can give that if nothing is refunded; nothing where that depends on calls in flight, or is never. No
    /// less than what is left of a wait that the provider asked for.
    pub retry_after: Option<Duration>,
}

impl fmt::Display for Shortage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { bucket, quota, limit, available, requested, .. } = self;
        match limit {
            0 => write!(f, "bucket `{bucket}` is {quota}"),
            _ => {
                write!(
                    f,
                    "bucket `{bucket}`: {requested} asked of {available} left, and `{quota}` admits {limit} at most"
                )
            }
        }
    }
}

/// What is wrong with a demand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum BadDemand {
    /// Nobody declared this bucket.
    UnknownBucket(Arc<str>),
    /// Nobody declared this class.
    UnknownClass(Arc<str>),
    /// No quota counts this metric, and it is no standard one: a typo?
    UnknownMetric(Arc<str>),
    /// It names this bucket twice.
    SameBucketTwice(Arc<str>),
    /// It names buckets of two partitions, which cannot be charged as one.
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
                    "bucket `{name}` is not declared: add it to the limits, or say what becomes of others"
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
