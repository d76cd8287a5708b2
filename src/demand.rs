//! What one request asks for.

use std::{any::Any, fmt, sync::Arc, time::Duration};

use smallvec::SmallVec;

use crate::{
    fingerprint::secret,
    name::Name,
    observe::Buckets,
    usage::{REQUESTS, Standard, Usage},
};

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
    pub(crate) buckets: SmallVec<[Name; 1]>,
    pub(crate) usage: Usage,
    pub(crate) class: Option<Name>,
    pub(crate) max_wait: Option<Duration>,
    /// Boxed, since a short demand is moved faster and most have none of it.
    more: Option<Box<More>>,
}

/// The rare parts of a demand.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct More {
    share: Option<Name>,
    account: Option<Name>,
    /// Usages of buckets that are not asked for [`Demand::usage`], by the bucket's index.
    usages: Vec<(u16, Usage)>,
    note: Note,
    estimate: Estimate,
}

/// A value that an extractor leaves for the inspector of the same call. It makes no difference to
/// what is asked.
///
/// Boxed twice, so that a reservation carries a thin pointer.
#[derive(Clone, Default)]
pub(crate) struct Note(Option<Arc<Box<dyn Any + Send + Sync>>>);

impl Note {
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

/// Estimates the usage of a demand again while it waits. It is asked under a lock, so it may wait
/// for nothing and ask no limiter.
pub(crate) trait Reestimate: Send + Sync {
    /// Returns what to ask for from now on, if the estimate no longer holds. `changes` is how many
    /// changes since the demand was made are part of what is asked for.
    fn reestimate(&self, changes: &mut u64) -> Option<Usage>;
}

/// The estimate that a usage is. It makes no difference to what is asked.
#[derive(Clone, Default)]
pub(crate) struct Estimate {
    by: Option<Arc<dyn Reestimate>>,
    /// Of its own: a demand may be cloned, or asked for again as it was made.
    changes: u64,
}

impl Estimate {
    pub(crate) fn is_some(&self) -> bool {
        self.by.is_some()
    }

    /// Returns what to ask for instead of a usage, if that is another one.
    pub(crate) fn instead_of(&mut self, asked: &Usage) -> Option<Usage> {
        self.by.as_ref()?.reestimate(&mut self.changes).filter(|usage| usage != asked)
    }
}

impl fmt::Debug for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.by.is_some() { "Estimate" } else { "None" })
    }
}

impl PartialEq for Estimate {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Estimate {}

impl Demand {
    /// Asks a bucket for the most that a call may use. A usage that does not name `requests` is one
    /// request.
    ///
    /// ```
    /// use tower_throttle::{Demand, usage};
    ///
    /// let demand = Demand::new("gpt-4o", usage! { tokens: 1_500 });
    /// assert_eq!(demand.usage().get("requests"), Some(1));
    /// ```
    #[inline]
    pub fn new(bucket: impl AsRef<str>, usage: Usage) -> Self {
        let mut buckets = SmallVec::new();
        buckets.push(Name::new(bucket.as_ref()));
        Self { buckets, usage: with_a_request(usage), class: None, max_wait: None, more: None }
    }

    /// Asks the bucket of a secret, such as a caller's API key: by a hash of it, so that the secret
    /// itself gets into no key of a store, log, event or error.
    ///
    /// The bucket is named `prefix:` and 32 hexadecimal digits of a hash, so a family (`key:*`) or
    /// a resolver declares it. The same secret has the same name in every process.
    /// [`secret_name`](Self::secret_name) tells it, for [`Limiter::status`](crate::Limiter::status)
    /// or to declare a single bucket.
    ///
    /// The hash is SHA-256 without a salt: it hides keys that cannot be guessed, and neither
    /// passwords nor telephone numbers.
    ///
    /// ```
    /// use tower_throttle::{Demand, Limits, Quota, usage};
    ///
    /// let limits = Limits::new()
    ///     .resolver(|name| {
    ///         name.starts_with("key:").then(|| vec![Quota::per_minute("requests", 60)])
    ///     });
    /// let demand = Demand::secret("key", "sk-live-51Hx", usage! { requests: 1 });
    /// assert!(!format!("{demand:?}").contains("51Hx"));
    /// assert_eq!(demand.buckets().next(), Some(&*Demand::secret_name("key", "sk-live-51Hx")));
    /// ```
    pub fn secret(prefix: &str, secret: &str, usage: Usage) -> Self {
        Self::new(Self::secret_name(prefix, secret), usage)
    }

    /// Returns the name of the bucket of a secret: see [`secret`](Self::secret).
    pub fn secret_name(prefix: &str, secret: &str) -> String {
        format!("{prefix}:{}", self::secret(secret))
    }

    /// Asks no bucket for anything: it is granted at once, and charged nowhere.
    pub fn unlimited() -> Self {
        Self {
            buckets: SmallVec::new(),
            usage: Usage::new(),
            class: None,
            max_wait: None,
            more: None,
        }
    }

    /// Asks another bucket for the same, such as a tenant's parent. It is granted by all or by
    /// none.
    ///
    /// Buckets are named from narrow to wide: a tenant's, then the model's. The last one is where
    /// [shares](Self::share) take turns, and what a provider's `Retry-After` holds back unless
    /// [`account`](Self::account) says otherwise.
    ///
    /// ```
    /// use tower_throttle::{Demand, usage};
    ///
    /// let demand = Demand::new("tenant:acme", usage! { tokens: 1_500 }).and("gpt-4o");
    /// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["tenant:acme", "gpt-4o"]);
    /// ```
    #[must_use]
    pub fn and(mut self, bucket: impl AsRef<str>) -> Self {
        self.buckets.push(Name::new(bucket.as_ref()));
        self
    }

    /// Asks another bucket for the same, a narrower one than those it has: a tenant's, where an
    /// extractor has named the model's.
    ///
    /// ```
    /// use tower_throttle::{Demand, usage};
    ///
    /// let demand = Demand::new("gpt-4o", usage! { tokens: 1_500 }).and_first("tenant:acme");
    /// assert_eq!(demand.buckets().collect::<Vec<_>>(), ["tenant:acme", "gpt-4o"]);
    /// ```
    #[must_use]
    pub fn and_first(mut self, bucket: impl AsRef<str>) -> Self {
        self.buckets.insert(0, Name::new(bucket.as_ref()));
        if let Some(more) = &mut self.more {
            more.usages.iter_mut().for_each(|(index, _)| *index = index.saturating_add(1));
        }
        self
    }

    /// Asks another bucket, which is asked for another usage: a company's budget in cents beside a
    /// model's tokens, say. It is granted by all buckets or by none.
    ///
    /// ```
    /// use tower_throttle::{Demand, usage};
    ///
    /// let demand = Demand::new("gpt-4o", usage! { tokens: 1_500 });
    /// let demand = demand.and_with("budget", usage! { cents: 3 });
    /// ```
    ///
    /// A settle gives both buckets the same actual usage; metrics that it does not name keep what
    /// the bucket was asked for.
    #[must_use]
    pub fn and_with(mut self, bucket: impl AsRef<str>, usage: Usage) -> Self {
        // More buckets than this are refused when the demand is looked up.
        let index = u16::try_from(self.buckets.len()).unwrap_or(u16::MAX);
        self.more_mut().usages.push((index, with_a_request(usage)));
        self.and(bucket)
    }

    /// The flow it belongs to, such as a tenant. Inside a class, flows that wait for the same
    /// bucket are served in turns, by their [weights](crate::Limits::weight) where it is the last
    /// one that they name; inside a flow the oldest demand goes first. Demands without a share are
    /// one flow.
    #[must_use]
    pub fn share(mut self, share: impl AsRef<str>) -> Self {
        self.more_mut().share = Some(Name::new(share.as_ref()));
        self
    }

    /// Which of its buckets stands for the provider's account: the one that
    /// [`Reservation::feedback`](crate::Reservation::feedback) is about (default: the last one).
    ///
    /// ```
    /// use tower_throttle::{Demand, usage};
    ///
    /// // A refusal of the provider holds back all tenants, and not the team's budget.
    /// let demand = Demand::new("tenant:acme", usage! { tokens: 1_500 })
    ///     .and("gpt-4o")
    ///     .and("team budget")
    ///     .account("gpt-4o");
    /// ```
    #[must_use]
    pub fn account(mut self, bucket: impl AsRef<str>) -> Self {
        self.more_mut().account = Some(Name::new(bucket.as_ref()));
        self
    }

    /// The class it belongs to, which [`Limits::class`](crate::Limits::class) declares.
    #[must_use]
    pub fn class(mut self, class: impl AsRef<str>) -> Self {
        self.class = Some(Name::new(class.as_ref()));
        self
    }

    /// The longest it may wait. A demand that could not make it even if all calls in flight were
    /// refunded is refused at once, any other when this is over. Those that wait before it may use
    /// less than they ask, so they count for four windows of a quota at most, and only the first
    /// ones of a queue are judged.
    ///
    /// ```
    /// use std::time::Duration;
    /// use tower_throttle::{Demand, usage};
    ///
    /// let demand = Demand::new("api", usage! { requests: 1 }).max_wait(Duration::from_secs(30));
    /// ```
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
    /// # let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    /// # runtime.block_on(example(limiter))?;
    /// # Ok::<_, BoxError>(())
    /// ```
    #[must_use]
    pub fn note(mut self, note: impl Any + Send + Sync) -> Self {
        self.more_mut().note = Note(Some(Arc::new(Box::new(note))));
        self
    }

    /// Has its usage estimated again while it waits.
    #[cfg(feature = "llm")]
    pub(crate) fn estimated_by(mut self, estimate: Arc<dyn Reestimate>) -> Self {
        self.more_mut().estimate = Estimate { by: Some(estimate), changes: 0 };
        self
    }

    fn more_mut(&mut self) -> &mut More {
        self.more.get_or_insert_default()
    }

    /// The flow it belongs to, if it names one.
    pub(crate) fn share_asked(&self) -> Option<&Name> {
        self.more.as_ref()?.share.as_ref()
    }

    /// The name of that.
    pub(crate) fn share_name(&self) -> Option<&str> {
        self.share_asked().map(Name::as_str)
    }

    /// The index of the bucket that stands for the provider's account, if the demand names one of
    /// its own.
    pub(crate) fn account_index(&self) -> Option<usize> {
        let account = self.more.as_ref()?.account.as_ref()?;
        self.buckets.iter().position(|bucket| bucket == account)
    }

    /// Usages of buckets that are not asked for [`usage`](Self::usage), by the bucket's index.
    #[inline]
    pub(crate) fn other_usages(&self) -> &[(u16, Usage)] {
        self.more.as_ref().map_or(&[], |more| &more.usages)
    }

    /// What it leaves for the inspector.
    #[inline]
    pub(crate) fn left_note(&self) -> Note {
        self.more.as_ref().map_or_else(Note::default, |more| more.note.clone())
    }

    /// The estimate that its usage is, if it is one.
    pub(crate) fn estimate(&self) -> Estimate {
        self.more.as_ref().map_or_else(Estimate::default, |more| more.estimate.clone())
    }

    /// True if there is nothing to it that a reservation has to remember besides its usage.
    #[inline]
    pub(crate) fn is_short(&self) -> bool {
        self.more.is_none() && self.class.is_none()
    }

    /// True if only its buckets can be unknown, as for most demands: no class, no share, standard
    /// metrics.
    #[inline]
    pub(crate) fn is_plain(&self) -> bool {
        let is_plain = |more: &More| more.share.is_none() && more.usages.is_empty();
        self.class.is_none()
            && self.usage.is_standard()
            && self.more.as_deref().is_none_or(is_plain)
    }

    /// Its buckets, as observers are told.
    pub(crate) fn names(&self) -> Buckets<'_> {
        Buckets::new(self.buckets())
    }

    /// The class it belongs to, if it names one.
    #[inline]
    pub(crate) fn class_name(&self) -> Option<&str> {
        self.class.as_ref().map(Name::as_str)
    }

    /// The buckets it asks.
    pub fn buckets(&self) -> impl Iterator<Item = &str> {
        self.buckets.iter().map(Name::as_str)
    }

    /// The most that the call may use.
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}

/// A usage that does not name `requests` is one request.
#[inline]
fn with_a_request(usage: Usage) -> Usage {
    match usage.given(Standard::Requests) {
        Some(_) => usage,
        None => usage.with(REQUESTS, 1),
    }
}
