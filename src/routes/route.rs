//! What becomes of the requests of one route.

use std::{borrow::Cow, fmt, sync::Arc, time::Duration};

use matchit::Params;
use percent_encoding::percent_decode_str;
use smallvec::SmallVec;

use super::{
    error::RouteError,
    pattern::{Piece, pieces},
};
use crate::{
    demand::Demand,
    extract::{ExtractError, Extractor},
    usage::Usage,
};

/// The names of a demand's buckets.
pub(super) type Names = SmallVec<[Cow<'static, str>; 2]>;

/// The longest value of a parameter in a bucket's name, in bytes.
const MAX_VALUE: usize = 256;

/// What becomes of the requests that a pattern of [`Routes`](super::Routes) matches.
///
/// ```
/// use std::time::Duration;
/// use tower_throttle::{routes::Route, usage};
///
/// let route = Route::to("tenant:{tenant}")
///     .and("all tenants")
///     .usage_of(|request: &http::Request<String>| Ok(usage! { tokens: request.body().len() as u64 / 4 }))
///     .class("batch")
///     .max_wait(Duration::from_secs(30));
/// ```
pub struct Route<R> {
    destination: Destination<R>,
    /// The usage of a route to a bucket.
    usage: Option<UsageRule<R>>,
    parents: Vec<Cow<'static, str>>,
    class: Option<Cow<'static, str>>,
    share: Option<Cow<'static, str>>,
    max_wait: Option<Duration>,
}

enum Destination<R> {
    Bucket(Cow<'static, str>),
    Extractor(Arc<dyn Extractor<R> + Send + Sync>),
    Unlimited,
    Refuse,
}

enum UsageRule<R> {
    Fixed(Usage),
    Of(Arc<UsageOf<R>>),
}

type UsageOf<R> = dyn Fn(&R) -> Result<Usage, ExtractError> + Send + Sync;

impl<R> Route<R> {
    /// Sends requests to a bucket, whose name may use the pattern's parameters: `tenant:{tenant}`.
    /// `{{` and `}}` stand for braces. Each is one request, and nothing else unless a usage is
    /// given.
    pub fn to(bucket: impl Into<Cow<'static, str>>) -> Self {
        Self::new(Destination::Bucket(bucket.into()))
    }

    /// Lets an extractor say what requests may use, and of which bucket.
    pub fn by(extractor: impl Extractor<R> + Send + Sync + 'static) -> Self {
        Self::new(Destination::Extractor(Arc::new(extractor)))
    }

    /// Lets requests pass at once, uncounted.
    pub fn unlimited() -> Self {
        Self::new(Destination::Unlimited)
    }

    /// Refuses requests with a [`RouteError`].
    pub fn refuse() -> Self {
        Self::new(Destination::Refuse)
    }

    fn new(destination: Destination<R>) -> Self {
        let (usage, parents, class, share, max_wait) = (None, Vec::new(), None, None, None);
        Self { destination, usage, parents, class, share, max_wait }
    }

    /// Asks another bucket for the same usage, too: see [`Demand::and`].
    #[must_use]
    pub fn and(mut self, bucket: impl Into<Cow<'static, str>>) -> Self {
        self.parents.push(bucket.into());
        self
    }

    /// Sets the most that each request may use.
    #[must_use]
    pub fn usage(mut self, usage: Usage) -> Self {
        self.usage = Some(UsageRule::Fixed(usage));
        self
    }

    /// Reads from each request the most that it may use. The closure may use `?` on any error.
    #[must_use]
    pub fn usage_of<F>(mut self, usage_of: F) -> Self
    where
        F: Fn(&R) -> Result<Usage, ExtractError> + Send + Sync + 'static,
    {
        self.usage = Some(UsageRule::Of(Arc::new(usage_of)));
        self
    }

    /// Sets the class of requests, which [`Limits::class`](crate::Limits::class) declares.
    #[must_use]
    pub fn class(mut self, class: impl Into<Cow<'static, str>>) -> Self {
        self.class = Some(class.into());
        self
    }

    /// Sets the share that requests belong to, such as a tenant's: see [`Demand::share`]. It may
    /// use the pattern's parameters.
    ///
    /// ```
    /// use tower_throttle::{Demand, Extractor, routes::{Route, Routes}, usage};
    ///
    /// # fn main() -> Result<(), tower_throttle::BoxError> {
    /// let route = Route::to("gpt-4o").share("tenant:{tenant}");
    /// let routes = Routes::builder().route("/tenants/{tenant}/{*rest}", route).build()?;
    /// let mut request = http::Request::get("http://gateway/tenants/acme/orders").body(())?;
    /// let demand = routes.extract(&mut request).expect("a route matches");
    /// assert_eq!(demand, Demand::new("gpt-4o", usage! {}).share("tenant:acme"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn share(mut self, share: impl Into<Cow<'static, str>>) -> Self {
        self.share = Some(share.into());
        self
    }

    /// Sets the longest wait of each request.
    #[must_use]
    pub fn max_wait(mut self, max_wait: Duration) -> Self {
        self.max_wait = Some(max_wait);
        self
    }
}

impl<R> Clone for Route<R> {
    fn clone(&self) -> Self {
        let destination = match &self.destination {
            Destination::Bucket(name) => Destination::Bucket(name.clone()),
            Destination::Extractor(extractor) => Destination::Extractor(extractor.clone()),
            Destination::Unlimited => Destination::Unlimited,
            Destination::Refuse => Destination::Refuse,
        };
        let usage = self.usage.as_ref().map(|usage| match usage {
            UsageRule::Fixed(usage) => UsageRule::Fixed(usage.clone()),
            UsageRule::Of(usage_of) => UsageRule::Of(usage_of.clone()),
        });
        let (parents, class) = (self.parents.clone(), self.class.clone());
        let share = self.share.clone();
        Self { destination, usage, parents, class, share, max_wait: self.max_wait }
    }
}

impl<R> fmt::Debug for Route<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Route");
        match &self.destination {
            Destination::Bucket(name) => debug.field("bucket", name),
            Destination::Extractor(_) => debug.field("bucket", &"by an extractor"),
            Destination::Unlimited => debug.field("bucket", &"unlimited"),
            Destination::Refuse => debug.field("bucket", &"refused"),
        };
        let Self { parents, class, share, max_wait, .. } = self;
        debug.field("parents", parents).field("class", class).field("share", share);
        debug.field("max_wait", max_wait);
        debug.finish_non_exhaustive()
    }
}

/// A [`Route`] that makes sense.
pub(super) struct CompiledRoute<R> {
    pub(super) route: Route<R>,
    /// Of the bucket, if it is the route's own, of its parents, and of its share.
    names: Vec<BucketName>,
}

enum BucketName {
    Fixed(Cow<'static, str>),
    Composed(Vec<Piece>),
}

impl<R> CompiledRoute<R> {
    pub(super) fn compile(route: Route<R>, parameters: &[String]) -> Result<Self, String> {
        let Route { destination, usage, parents, class, share, max_wait } = &route;
        match destination {
            Destination::Bucket(_) => {}
            Destination::Extractor(_) if usage.is_some() => {
                return Err("its extractor tells the usage itself".into());
            }
            Destination::Extractor(_) => {}
            Destination::Unlimited | Destination::Refuse => {
                let has_terms = class.is_some() || share.is_some() || max_wait.is_some();
                if usage.is_some() || !parents.is_empty() || has_terms {
                    let reason =
                        "a bucket, a usage, a class, a share or a wait means nothing to it";
                    return Err(reason.into());
                }
            }
        }
        let own = if let Destination::Bucket(name) = destination { Some(name) } else { None };
        let names = own.into_iter().chain(parents).chain(share);
        let names = names
            .map(|name| BucketName::compile(name.clone(), parameters))
            .collect::<Result<_, _>>()?;
        Ok(Self { names, route })
    }

    pub(super) fn refuses(&self) -> bool {
        matches!(self.route.destination, Destination::Refuse)
    }

    /// The buckets, and the share, of a request with these parameters.
    pub(super) fn names(&self, parameters: &Params<'_, '_>) -> Result<Names, RouteError> {
        self.names.iter().map(|name| name.fill_in(parameters)).collect()
    }

    pub(super) fn demand(&self, request: &mut R, names: Names) -> Result<Demand, ExtractError> {
        let mut names = names.into_iter();
        let mut demand = match &self.route.destination {
            Destination::Unlimited => return Ok(Demand::unlimited()),
            Destination::Refuse => return Err(RouteError::Refused.into()),
            Destination::Extractor(extractor) => extractor.extract(request)?,
            Destination::Bucket(_) => {
                let usage = match &self.route.usage {
                    Some(UsageRule::Fixed(usage)) => usage.clone(),
                    Some(UsageRule::Of(usage_of)) => usage_of(request)?,
                    None => Usage::new(),
                };
                Demand::new(names.next().unwrap_or_default(), usage)
            }
        };
        demand = names.by_ref().take(self.route.parents.len()).fold(demand, Demand::and);
        if let Some(share) = names.next() {
            demand = demand.share(share);
        }
        if let Some(class) = &self.route.class {
            demand = demand.class(class.clone());
        }
        Ok(match self.route.max_wait {
            Some(max_wait) => demand.max_wait(max_wait),
            None => demand,
        })
    }
}

impl BucketName {
    fn compile(text: Cow<'static, str>, parameters: &[String]) -> Result<Self, String> {
        let pieces = pieces(&text)?;
        for piece in &pieces {
            if let Piece::Parameter(name) = piece
                && !parameters.contains(name)
            {
                return Err(format!(
                    "its bucket `{text}` uses `{name}`, which is no parameter of its path"
                ));
            }
        }
        match pieces.is_empty() {
            true => Err("its bucket has no name".into()),
            false if text.contains(['{', '}']) => Ok(Self::Composed(pieces)),
            false => Ok(Self::Fixed(text)),
        }
    }

    fn fill_in(&self, parameters: &Params<'_, '_>) -> Result<Cow<'static, str>, RouteError> {
        let pieces = match self {
            Self::Fixed(name) => return Ok(name.clone()),
            Self::Composed(pieces) => pieces,
        };
        let mut name = String::new();
        for piece in pieces {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Parameter(parameter) => {
                    let bad = |reason| RouteError::BadParameter { name: parameter.clone(), reason };
                    let value = percent_decode_str(parameters.get(parameter).unwrap_or_default());
                    let value = value.decode_utf8().map_err(|_| bad("is not UTF-8"))?;
                    match value.len() {
                        0 => return Err(bad("is empty")),
                        1..=MAX_VALUE => name.push_str(&value),
                        _ => return Err(bad("is longer than 256 bytes")),
                    }
                }
            }
        }
        Ok(Cow::Owned(name))
    }
}
