//! Limits from a TOML or JSON file.
//!
//! [`LimitsFile`] reads all that can be declared: buckets with their quotas, families, classes,
//! routes, and the treatment of names that none of these cover. An unknown member is an error that
//! names its place.
//!
//! ```
//! use tower_throttle::{Limits, Quota, file::LimitsFile};
//!
//! let file = LimitsFile::from_toml(r#"
//!     on_unavailable = { local = 0.25 }
//!
//!     [buckets.gpt-4o]
//!     quotas = [
//!         { metric = "requests", limit = 500, per = "1 m" },
//!         { metric = "tokens", limit = 30_000, per = "1 m", kind = "token_bucket" },
//!     ]
//! "#)?;
//! let limiter = file.limiter().build()?;
//!
//! let error = LimitsFile::from_toml("[buckets.gpt-4o]\nquota = []").unwrap_err();
//! let reason = "unknown field `quota`, expected `quotas` or `partition`";
//! assert_eq!(error.to_string(), format!("line 2, column 1: {reason}"));
//! # Ok::<_, tower_throttle::LimitsError>(())
//! ```
//!
//! # The whole format
//!
//! In TOML; JSON has the same members. Everything may be left out, except what is marked *needed*.
//!
//! At the top:
//!
//! * `buckets`: a table of buckets by name
//! * `families`: a list of `{ pattern = "gpt-4o-20*", bucket = "gpt-4o" }`, in order: see
//!   [`Limits::family`]
//! * `classes`: a table of `{ head_start = "30 s", headroom = 0.1 }` by name: see [`Limits::class`]
//! * `weights`: a table of whole numbers by the name of a share: see [`Limits::weight`]
//! * `undeclared`: `"refuse"` (default), `"unlimited"` or `{ bucket = "others" }`: see
//!   [`Undeclared`]
//! * `partition`: of buckets that do not name one: see [`Limits::partition`]
//! * `on_unavailable`: `"fail"` (default), `"allow"` or `{ local = 0.25 }`: see [`OnUnavailable`]
//! * `routes`: a list of routes (feature `routes`)
//! * `price`: a table of prices by model or bucket (feature `llm`): `[price."gpt-4o"]` with `input`
//!   and `output`, both *needed*, `cached` and `cache_write`, each for a million tokens: see
//!   [`LimitsFile::prices`]
//! * `upstreams`: a table of upstreams by name: see [`LimitsFile::upstreams`]
//!
//! | a bucket | |
//! |---|---|
//! | `quotas` | a list of quotas, *needed* |
//! | `partition` | as above |
//!
//! A quota, with the kinds that a field is for in brackets:
//!
//! * `kind`: `"sliding_window"` (default), `"token_bucket"`, `"paced"`, `"fixed_window"` or
//!   `"concurrency"`
//! * `limit`: (all) *needed*
//! * `metric`: (all but `concurrency`) *needed*
//! * `per`: (all but `concurrency`) the window, *needed*; `"1 day in
//!   America/Los_Angeles"` is a `fixed` one (feature `timezone`), as are `"1 week in .."` and `"1
//!   month in .."`
//! * `weights`: (all but `concurrency`) `{ output_tokens = 5 }`: see
//!   [`Quota::weight`](crate::Quota::weight)
//! * `charge_at`: (all but `concurrency`) `"start"` (default) or `"end"`: see
//!   [`ChargeAt`](crate::quota::ChargeAt)
//! * `on_unavailable`: (all) as at the top, which is the default: see
//!   [`Quota::on_unavailable`](crate::Quota::on_unavailable)
//! * `max_debt`: (all but `concurrency`) see
//!   [`Quota::max_debt`](crate::Quota::max_debt)
//! * `guard`: (`sliding`) the jitter guard: see [`Quota::guard`](crate::Quota::guard)
//! * `burst`, `burst_times`: (`token_bucket`) an amount, or a multiple of the limit:
//!   see [`Quota::burst`](crate::Quota::burst)
//! * `over`: (`paced`) see [`Quota::paced_over`](crate::Quota::paced_over)
//! * `longest_call`: (`token_bucket`, `paced`) see
//!   [`Quota::longest_call`](crate::Quota::longest_call)
//! * `anchor`: (`fixed`) how long after the Unix epoch a window starts: see
//!   [`Quota::anchored`](crate::Quota::anchored)
//! * `slots`: (`sliding`, `token_bucket`, `paced`) see
//!   [`Quota::slots`](crate::Quota::slots)
//! * `name`: (all) see [`Quota::named`](crate::Quota::named)
//!
//! A route:
//!
//! * `match`: the pattern, *needed*: see [`Routes`](crate::routes::Routes)
//! * `bucket`: the bucket, whose name may use the pattern's parameters; or `unlimited = true`, or
//!   `refuse = true`
//! * `and`: a list of buckets to take the same from
//! * `usage`: `{ tokens = 1_500 }`: the most that each request may use
//! * `class`, `share` (which may use parameters of the path), `max_wait`: see
//!   [`Demand`](crate::Demand)
//!
//! An upstream, for `tower-throttle serve`, in the table `upstreams` by name
//! (`[upstreams.openai]`):
//!
//! * `url`: where calls go, *needed*: `"https://api.openai.com"`
//! * `rules`: by whose rules calls are counted, needed unless the upstream's name is one of them:
//!   `"openai"`, `"anthropic"`, `"azure"`, `"gemini"`, `"vertex-gemini"`, `"vertex-claude"`,
//!   `"compatible"` or a provider of [`llm::compatible`](crate::llm::compatible)
//! * `when_full`: `"wait"` (default) or `"refuse"`
//! * `max_wait`: the longest wait (default: `"60 s"`)
//! * `timeout`: the longest time until a response begins (default: `"10 m"`)
//! * `unreadable`: of requests that name no model: as `undeclared`
//! * `include_usage`: true to ask for the usage in streams: see
//!   [`Rules::include_usage`](crate::llm::Rules::include_usage)
//!
//! A length of time is a number, with decimals if need be, and a unit: `300 ms`, `1.5 s`, `1 m`,
//! `12 h`, `30 d`, or `second`, `minute`, `hour`, `day` in full.

mod named;
#[cfg(feature = "llm")]
mod price;
mod quota;
#[cfg(feature = "routes")]
mod routes;
#[cfg(test)]
mod tests;
mod text;
mod upstreams;

use std::{path::Path, time::Duration};

use serde::Deserialize;

pub use self::upstreams::Upstream;
use self::{named::NamedTable, text::Length, upstreams::UpstreamText};
#[cfg(feature = "routes")]
use crate::routes::RoutesBuilder;
use crate::{
    limiter::{Limiter, LimiterBuilder, builder::OnUnavailable},
    limits::{Class, Limits, LimitsError, Undeclared},
};

/// The contents of a limits file: limits, routes and the fallback. See [the format](self).
#[derive(Clone, Debug)]
pub struct LimitsFile {
    limits: Limits,
    on_unavailable: Option<OnUnavailable>,
    #[cfg(feature = "routes")]
    routes: Vec<routes::DeclaredRoute>,
    #[cfg(feature = "llm")]
    prices: Vec<(String, crate::llm::Price)>,
    upstreams: Vec<Upstream>,
}

impl LimitsFile {
    /// Reads a file whose name ends in `.toml` or `.json`.
    ///
    /// # Errors
    /// If the file cannot be read, or something in it is unknown or makes no sense. The error tells
    /// where it stands, and why.
    pub fn read(path: impl AsRef<Path>) -> Result<Self, LimitsError> {
        let path = path.as_ref();
        let parse = match path.extension().and_then(|extension| extension.to_str()) {
            Some("toml") => Self::from_toml,
            Some("json") => Self::from_json,
            _ => {
                let reason = "its name ends neither in `.toml` nor in `.json`";
                return Err(LimitsError::at(path.display().to_string(), reason));
            }
        };
        let text = std::fs::read_to_string(path)
            .map_err(|error| LimitsError::at(path.display().to_string(), error.to_string()))?;
        parse(&text).map_err(|error| error.in_file(path))
    }

    /// Reads TOML.
    ///
    /// # Errors
    /// If something is unknown or makes no sense. The error tells where it stands, and why.
    pub fn from_toml(text: &str) -> Result<Self, LimitsError> {
        let contents: Contents = toml::from_str(text).map_err(|error| {
            let start = error.span().map_or(0, |span| span.start);
            let before = text.get(..start).unwrap_or_default();
            let line = before.rsplit('\n').next().unwrap_or_default();
            let name = line.trim_start().strip_prefix("[buckets.").unwrap_or_default();
            let is_bare = name.contains('.') && !name.starts_with(['"', '\'']);
            let hint =
                if is_bare { "; a name with dots is quoted: `[buckets.\"gpt-4.1\"]`" } else { "" };
            let reason = format!("{}{hint}", error.message());
            at_line(before.matches('\n').count() + 1, line.chars().count() + 1, &reason)
        })?;
        contents.check()
    }

    /// Reads JSON.
    ///
    /// # Errors
    /// If something is unknown or makes no sense. The error tells where it stands, and why.
    pub fn from_json(text: &str) -> Result<Self, LimitsError> {
        let contents: Contents = serde_json::from_str(text).map_err(|error| {
            let (line, column, reason) = (error.line(), error.column(), error.to_string());
            let place = format!(" at line {line} column {column}");
            at_line(line, column, reason.strip_suffix(&place).unwrap_or(&reason))
        })?;
        contents.check()
    }

    /// Returns the limits alone, for [`Limiter::update`] when the file has changed.
    pub fn limits(&self) -> Limits {
        self.limits.clone()
    }

    /// Begins a limiter with these limits, by default in this process.
    pub fn limiter(&self) -> LimiterBuilder {
        Limiter::builder(self.limits()).on_unavailable(self.on_unavailable.unwrap_or_default())
    }

    /// Returns the routes. Others can be added, such as those that
    /// [extract](crate::routes::Route::by) demands.
    #[cfg(feature = "routes")]
    pub fn routes<R>(&self) -> RoutesBuilder<R> {
        routes::builder(&self.routes)
    }

    /// Returns the prices of models, for [`Rules::prices`](crate::llm::Rules::prices). Quotas on
    /// `cost` count them, in millionths.
    ///
    /// ```
    /// use tower_throttle::{file::LimitsFile, llm::openai};
    ///
    /// let file = LimitsFile::from_toml(r#"
    ///     [buckets.gpt-4o]
    ///     quotas = [{ metric = "cost", limit = 40_000_000, per = "1 d" }]
    ///
    ///     [price."gpt-4o"]
    ///     input = 2.5
    ///     cached = 1.25
    ///     output = 10
    /// "#)?;
    /// let rules = openai::rules().prices(file.prices());
    /// # Ok::<_, tower_throttle::LimitsError>(())
    /// ```
    #[cfg(feature = "llm")]
    pub fn prices(&self) -> Vec<(String, crate::llm::Price)> {
        self.prices.clone()
    }

    /// Returns the providers that `tower-throttle serve` stands before, in the order of the file.
    pub fn upstreams(&self) -> &[Upstream] {
        &self.upstreams
    }

    /// Returns the name of a member that is no limit, if there is one.
    fn beyond_limits(&self) -> Option<&'static str> {
        #[cfg(feature = "routes")]
        if !self.routes.is_empty() {
            return Some("routes");
        }
        #[cfg(feature = "llm")]
        if !self.prices.is_empty() {
            return Some("price");
        }
        self.on_unavailable.map(|_| "on_unavailable")
    }
}

impl Limits {
    /// Reads limits from a TOML or JSON file: see [`file`](crate::file).
    ///
    /// # Errors
    /// If the file cannot be read, or something in it is unknown, makes no sense or is no limit.
    /// The error tells where it stands, and why. A file with routes is read with
    /// [`LimitsFile::read`]. Upstreams limit nothing, and are left out.
    pub fn from_file(path: impl AsRef<Path>) -> Result<Self, LimitsError> {
        let path = path.as_ref();
        let file = LimitsFile::read(path)?;
        match file.beyond_limits() {
            Some(more) => {
                let reason =
                    "it is more than limits can hold: read the file with `LimitsFile::read`";
                Err(LimitsError::at(more, reason).in_file(path))
            }
            None => Ok(file.limits),
        }
    }
}

fn at_line(line: usize, column: usize, reason: &str) -> LimitsError {
    LimitsError::at(format!("line {line}, column {column}"), reason)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    partition: Option<String>,
    #[serde(default)]
    buckets: NamedTable<BucketText>,
    #[serde(default)]
    families: Vec<Family>,
    #[serde(default)]
    classes: NamedTable<ClassText>,
    #[serde(default)]
    weights: NamedTable<u32>,
    #[serde(default)]
    undeclared: UndeclaredText,
    on_unavailable: Option<OnUnavailableText>,
    #[cfg(feature = "routes")]
    #[serde(default)]
    routes: Vec<routes::RouteText>,
    #[cfg(not(feature = "routes"))]
    #[serde(default, rename = "routes")]
    _routes: NoRoutes,
    #[cfg(feature = "llm")]
    #[serde(default)]
    price: NamedTable<price::PriceText>,
    #[cfg(not(feature = "llm"))]
    #[serde(default, rename = "price")]
    _price: NoPrices,
    #[serde(default)]
    upstreams: NamedTable<UpstreamText>,
}

/// Stands for routes without the feature that reads them.
#[cfg(not(feature = "routes"))]
#[derive(Default)]
struct NoRoutes;

#[cfg(not(feature = "routes"))]
impl<'de> Deserialize<'de> for NoRoutes {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("routes need the feature `routes` of tower-throttle"))
    }
}

/// Stands for prices without the feature that counts costs.
#[cfg(not(feature = "llm"))]
#[derive(Default)]
struct NoPrices;

#[cfg(not(feature = "llm"))]
impl<'de> Deserialize<'de> for NoPrices {
    fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
        Err(serde::de::Error::custom("prices need the feature `llm` of tower-throttle"))
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BucketText {
    quotas: Vec<quota::QuotaText>,
    partition: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Family {
    pattern: String,
    bucket: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassText {
    head_start: Option<Length>,
    #[serde(default)]
    headroom: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "snake_case")]
enum UndeclaredText {
    #[default]
    Refuse,
    Unlimited,
    Bucket(String),
}

impl UndeclaredText {
    fn meant(&self) -> Undeclared {
        match self {
            Self::Refuse => Undeclared::Refuse,
            Self::Unlimited => Undeclared::Unlimited,
            Self::Bucket(bucket) => Undeclared::Bucket(bucket.clone()),
        }
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum OnUnavailableText {
    Fail,
    Allow,
    Local(f64),
}

impl OnUnavailableText {
    fn meant(&self) -> OnUnavailable {
        match self {
            Self::Fail => OnUnavailable::Fail,
            Self::Allow => OnUnavailable::Allow,
            Self::Local(share) => OnUnavailable::local(*share),
        }
    }
}

impl Contents {
    fn check(self) -> Result<LimitsFile, LimitsError> {
        let on_unavailable = self.on_unavailable.as_ref().map(OnUnavailableText::meant);
        let checked = on_unavailable.unwrap_or_default().check();
        checked.map_err(|reason| LimitsError::option("on_unavailable", reason))?;
        let is_bucket = |name: &str| self.buckets.0.iter().any(|(bucket, _)| bucket == name);
        let upstreams = upstreams::upstreams(&self.upstreams, is_bucket)?;
        let file = LimitsFile {
            limits: self.limits()?,
            on_unavailable,
            #[cfg(feature = "routes")]
            routes: each(self.routes, "routes", routes::RouteText::declared)?,
            #[cfg(feature = "llm")]
            prices: prices(&self.price)?,
            upstreams,
        };
        file.limits.compile()?;
        #[cfg(feature = "routes")]
        file.routes::<()>()
            .build()
            .map_err(|error| LimitsError::at("routes", error.to_string()))?;
        Ok(file)
    }

    fn limits(&self) -> Result<Limits, LimitsError> {
        let mut limits = Limits::new();
        for (name, BucketText { quotas, partition }) in &self.buckets.0 {
            let quotas = each(quotas, &format!("buckets.{name}.quotas"), quota::QuotaText::quota)?;
            limits = match partition {
                Some(partition) => limits.bucket_in(partition, name, quotas),
                None => limits.bucket(name, quotas),
            };
        }
        for Family { pattern, bucket } in &self.families {
            limits = limits.family(pattern, bucket);
        }
        for (name, ClassText { head_start, headroom }) in &self.classes.0 {
            let head_start = head_start.map_or(Duration::ZERO, |length| length.0);
            limits = limits.class(name, Class::new().head_start(head_start).headroom(*headroom));
        }
        for (share, weight) in &self.weights.0 {
            limits = limits.weight(share, *weight);
        }
        let limits = limits.undeclared(self.undeclared.meant());
        Ok(match &self.partition {
            Some(partition) => limits.partition(partition),
            None => limits,
        })
    }
}

/// Reads the prices. The error names the model whose prices make no sense.
#[cfg(feature = "llm")]
fn prices(
    texts: &NamedTable<price::PriceText>,
) -> Result<Vec<(String, crate::llm::Price)>, LimitsError> {
    let prices = texts.0.iter().map(|(name, text)| match text.price() {
        Ok(price) => Ok((name.clone(), price)),
        Err(reason) => Err(LimitsError::at(format!("price.{name}"), reason)),
    });
    prices.collect()
}

/// Reads each item of a list. The error names the item that makes no sense.
fn each<T, M>(
    list: impl IntoIterator<Item = T>,
    name: &str,
    meant: impl Fn(T) -> Result<M, String>,
) -> Result<Vec<M>, LimitsError> {
    let items = list.into_iter().enumerate();
    let meant = items.map(|(index, item)| {
        meant(item).map_err(|reason| LimitsError::at(format!("{name}[{index}]"), reason))
    });
    meant.collect()
}
