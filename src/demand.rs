//! What one request asks for.

use std::{any::Any, borrow::Cow, fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::usage::{REQUESTS, Standard, Usage};

/// What one request asks for: the most it may use, of one bucket or of several at once.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{Demand, usage};
///
/// let demand = Demand::new("gpt-4o", usage! { requests: 1, tokens: 1_500 })
///     .and("the whole company")
///     .class("batch")
///     .max_wait(Duration::from_secs(30));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    pub(crate) buckets: SmallVec<[Cow<'static, str>; 1]>,
    pub(crate) usage: Usage,
    pub(crate) class: Option<Cow<'static, str>>,
    pub(crate) max_wait: Option<Duration>,
    pub(crate) note: Note,
}

/// Whatever an extractor leaves for the inspector of the same call. It makes no difference to what is asked.
///
/// Boxed twice, since a short demand is moved faster, and most have none.
#[derive(Clone, Default)]
pub(crate) struct Note(Option<Arc<Box<dyn Any + Send + Sync>>>);

impl Note {
    #[inline]
    pub(crate) fn is_some(&self) -> bool {
        self.0.is_some()
    }

    pub(crate) fn get<T: Any>(&self) -> Option<&T> {
        self.0.as_deref()?.as_ref().downcast_ref()
    }
}

impl fmt::Debug for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.is_some() { "Note" } else { "None" })
    }
}

impl PartialEq for Note {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Note {}

impl Demand {
    /// Asks a bucket for the most that a call may use. A usage that does not name `requests` is one request.
    #[inline]
    pub fn new(bucket: impl Into<Cow<'static, str>>, usage: Usage) -> Self {
        let mut buckets = SmallVec::new();
        buckets.push(bucket.into());
        let usage = match usage.given(Standard::Requests) {
            Some(_) => usage,
            None => usage.with(REQUESTS, 1),
        };
        Self { buckets, usage, class: None, max_wait: None, note: Note::default() }
    }

    /// Asks no bucket for anything: it is granted at once, and charged nowhere.
    pub fn unlimited() -> Self {
        Self {
            buckets: SmallVec::new(),
            usage: Usage::new(),
            class: None,
            max_wait: None,
            note: Note::default(),
        }
    }

    /// Asks another bucket for the same, such as a tenant's parent. It is granted by all or by none.
    #[must_use]
    pub fn and(mut self, bucket: impl Into<Cow<'static, str>>) -> Self {
        self.buckets.push(bucket.into());
        self
    }

    /// The class it belongs to, which [`Limits::class`](crate::Limits::class) declares.
    #[must_use]
    pub fn class(mut self, class: impl Into<Cow<'static, str>>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// The longest it may wait. A demand that could not make it even if all calls in flight were refunded is refused at once,
    /// any other when this is over.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = Some(max_wait);
        self
    }

    /// Leaves something for the inspector of the call, which finds it with
    /// [`Reservation::note`](crate::Reservation::note). A later note replaces an earlier one.
    ///
    /// ```
    /// # use tower_throttle::{BoxError, Demand, Limiter, Limits, Quota, usage};
    /// # async fn example(limiter: Limiter) -> Result<(), BoxError> {
    /// struct Words(usize);
    ///
    /// let demand = Demand::new("api", usage! { tokens: 1_500 }).note(Words(412));
    /// let reservation = limiter.reserve(demand).await?;
    /// assert_eq!(reservation.note::<Words>().map(|words| words.0), Some(412));
    /// # Ok(())
    /// # }
    /// # let limiter = Limiter::new(Limits::new().bucket("api", [Quota::concurrency(1)]))?;
    /// # tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(example(limiter))?;
    /// # Ok::<_, BoxError>(())
    /// ```
    #[must_use]
    pub fn note(mut self, note: impl Any + Send + Sync) -> Self {
        self.note = Note(Some(Arc::new(Box::new(note))));
        self
    }

    /// The first of its buckets, as observers are told.
    pub(crate) fn name(&self) -> &str {
        self.buckets.first().map_or("", AsRef::as_ref)
    }

    /// The buckets it asks.
    pub fn buckets(&self) -> impl Iterator<Item = &str> {
        self.buckets.iter().map(AsRef::as_ref)
    }

    /// The most that the call may use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}
