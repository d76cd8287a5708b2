//! Demands by host, method and path: which requests go to which bucket.
//!
//! It knows nothing of quotas: those stay in [`Limits`](crate::Limits). It never lets a stranger's
//! path become a name: what no route matches has no name of its own, and what a path puts into a
//! bucket's name has to be declared.

mod error;
mod pattern;
mod route;
mod target;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use http::Method;
use matchit::{InsertError, Params};

pub use self::{
    error::{RouteError, RoutesError},
    route::Route,
};
use self::{
    pattern::RoutePattern,
    route::{CompiledRoute, Names},
    target::{Target, canonical},
};
use crate::{
    demand::Demand,
    extract::{ExtractError, Extractor},
};

/// Reads a demand from a request's host, method and path. One client may so call several providers.
///
/// A pattern is `METHOD host:port/path`, of which all but the host or the path may be left out:
///
/// | pattern | matches |
/// |---|---|
/// | `POST api.openai.com/v1/chat/completions` | just that |
/// | `api.anthropic.com` | everything on that host |
/// | `GET 127.0.0.1:8080/{*rest}` | what is got from that port |
/// | `/v1/models/{model}:generateContent` | one segment for `model`, on any host |
/// | `/tenants/{tenant}/{*rest}` | one segment for `tenant`, and whatever follows |
///
/// A route with a host comes before those without, then one with a port, then one with a method;
/// among those that are left, fixed text comes before parameters (where one route has `{name}`, no
/// other may have `{*rest}`). Hosts are compared without their case, paths with it; slashes at the
/// end of a path make no difference, nor does percent-encoding of what needs none. `GET` does not
/// stand for `HEAD`. Queries are not looked at. `{{` and `}}` stand for braces.
///
/// # What becomes a bucket
/// A bucket's name may use the path's parameters. Their values are percent-decoded, and must be
/// UTF-8 of 1 to 256 bytes. Such a name means nothing yet: it has to be declared in
/// [`Limits`](crate::Limits), as a bucket, by a family (`tenant:*`) or by a resolver, which decides
/// whether there is such a tenant at all. So no request can make up a key. Begin such names with
/// text of their own, so that no value can name another bucket.
///
/// What no route matches is refused, unless [`otherwise`](RoutesBuilder::otherwise) says something
/// else.
///
/// ```
/// use tower_throttle::{Demand, Extractor, routes::{Route, Routes}, usage};
///
/// # fn main() -> Result<(), tower_throttle::BoxError> {
/// let routes = Routes::builder()
///     .route(
///         "POST api.openai.com/v1/chat/completions",
///         Route::to("gpt-4o").usage(usage! { tokens: 1_500 }),
///     )
///     .route("api.anthropic.com", Route::to("claude").class("batch"))
///     .route("/tenants/{tenant}/{*rest}", Route::to("tenant:{tenant}").and("all tenants"))
///     .route("GET /health", Route::unlimited())
///     .build()?;
///
/// let mut request = http::Request::get("http://gateway/tenants/acme/orders").body(())?;
/// let demand = routes.extract(&mut request).expect("a route matches");
/// assert_eq!(demand, Demand::new("tenant:acme", usage! {}).and("all tenants"));
///
/// let mut request = http::Request::get("http://gateway/favicon.ico").body(())?;
/// assert!(routes.extract(&mut request).is_err());
/// # Ok(())
/// # }
/// ```
pub struct Routes<R> {
    inner: Arc<RouteTable<R>>,
}

struct RouteTable<R> {
    /// The most specific first.
    scopes: Vec<Scope>,
    rules: Vec<CompiledRoute<R>>,
    otherwise: CompiledRoute<R>,
}

/// The paths of one host, port and method.
struct Scope {
    host: Option<String>,
    port: Option<u16>,
    method: Option<Method>,
    paths: matchit::Router<usize>,
}

impl<R> Routes<R> {
    /// Returns a builder without routes. What none of them matches is refused.
    pub fn builder() -> RoutesBuilder<R> {
        RoutesBuilder { routes: Vec::new(), otherwise: Route::refuse() }
    }

    fn demand(
        &self,
        request: &mut R,
        target: fn(&R) -> Target<'_>,
    ) -> Result<Demand, ExtractError> {
        let (rule, names) = self.inner.look_up(&target(request))?;
        rule.demand(request, names)
    }
}

impl<R> RouteTable<R> {
    /// Returns the route of a request, and the names of its buckets.
    fn look_up(&self, target: &Target<'_>) -> Result<(&CompiledRoute<R>, Names), RouteError> {
        let path = canonical(target.path);
        for scope in self.scopes.iter().filter(|scope| scope.covers(target)) {
            let Ok(found) = scope.paths.at(&path) else { continue };
            let Some(rule) = self.rules.get(*found.value) else { continue };
            return Ok((rule, rule.names(&found.params)?));
        }
        if self.otherwise.refuses() {
            return Err(RouteError::no_route(target));
        }
        Ok((&self.otherwise, self.otherwise.names(&Params::default())?))
    }
}

impl Scope {
    fn covers(&self, target: &Target<'_>) -> bool {
        let same_host =
            |host: &str| target.host.is_some_and(|other| other.eq_ignore_ascii_case(host));
        self.host.as_deref().is_none_or(same_host)
            && self.port.is_none_or(|port| target.port == Some(port))
            && self.method.as_ref().is_none_or(|method| target.method == method)
    }

    fn is_of(&self, pattern: &RoutePattern) -> bool {
        (&self.host, self.port, &self.method) == (&pattern.host, pattern.port, &pattern.method)
    }

    fn rank(&self) -> (bool, bool, bool) {
        (self.host.is_none(), self.port.is_none(), self.method.is_none())
    }
}

impl<B> Extractor<http::Request<B>> for Routes<http::Request<B>> {
    fn extract(&self, request: &mut http::Request<B>) -> Result<Demand, ExtractError> {
        self.demand(request, |request| Target::of_http(request))
    }
}

#[cfg(feature = "reqwest")]
impl Extractor<reqwest::Request> for Routes<reqwest::Request> {
    fn extract(&self, request: &mut reqwest::Request) -> Result<Demand, ExtractError> {
        self.demand(request, |request| Target::of_reqwest(request))
    }
}

impl<R> Clone for Routes<R> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<R> fmt::Debug for Routes<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let RouteTable { rules, otherwise, .. } = &*self.inner;
        let routes: Vec<_> = rules.iter().map(|rule| &rule.route).collect();
        f.debug_struct("Routes")
            .field("routes", &routes)
            .field("otherwise", &otherwise.route)
            .finish()
    }
}

/// Collects routes: see [`Routes`].
///
/// ```
/// use tower_throttle::routes::{Route, Routes};
///
/// let builder = Routes::<http::Request<()>>::builder()
///     .route("GET /health", Route::unlimited())
///     .otherwise(Route::to("others"));
/// let routes = builder.build()?;
/// # Ok::<(), tower_throttle::routes::RoutesError>(())
/// ```
pub struct RoutesBuilder<R> {
    routes: Vec<(String, Route<R>)>,
    otherwise: Route<R>,
}

impl<R> RoutesBuilder<R> {
    /// Adds a route for the requests that match `pattern`. The order of routes makes no difference.
    #[must_use]
    pub fn route(mut self, pattern: impl Into<String>, route: Route<R>) -> Self {
        self.routes.push((pattern.into(), route));
        self
    }

    /// Decides what becomes of the requests that no route matches (default: they are refused).
    #[must_use]
    pub fn otherwise(mut self, route: Route<R>) -> Self {
        self.otherwise = route;
        self
    }

    /// Checks the routes.
    ///
    /// # Errors
    /// A route that makes no sense, or that matches what another one does: which one, and why.
    pub fn build(self) -> Result<Routes<R>, RoutesError> {
        let mut scopes: Vec<Scope> = Vec::new();
        let mut rules = Vec::new();
        for (index, (text, route)) in self.routes.into_iter().enumerate() {
            let error = |reason: String| RoutesError::new(text.clone(), reason);
            let pattern = RoutePattern::parse(&text).map_err(error)?;
            let position = scopes.iter().position(|scope| scope.is_of(&pattern));
            let position = position.unwrap_or_else(|| {
                let RoutePattern { host, port, method, .. } = pattern.clone();
                scopes.push(Scope { host, port, method, paths: matchit::Router::new() });
                scopes.len() - 1
            });
            for path in &pattern.paths {
                let inserted = scopes[position].paths.insert(path.as_str(), index);
                inserted.map_err(|why| error(explain(&why)))?;
            }
            rules.push(CompiledRoute::compile(route, &pattern.parameters()).map_err(error)?);
        }
        // Stable, though no two can be alike.
        scopes.sort_by_key(Scope::rank);
        let otherwise = CompiledRoute::compile(self.otherwise, &[]);
        let otherwise = otherwise.map_err(|reason| RoutesError::new("otherwise", reason))?;
        Ok(Routes { inner: Arc::new(RouteTable { scopes, rules, otherwise }) })
    }
}

impl<R> fmt::Debug for RoutesBuilder<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RoutesBuilder")
            .field("routes", &self.routes)
            .field("otherwise", &self.otherwise)
            .finish()
    }
}

fn explain(why: &InsertError) -> String {
    match why {
        InsertError::Conflict { with } => format!("it matches what `{with}` does"),
        InsertError::InvalidParamSegment => "a segment has more than one parameter".into(),
        InsertError::InvalidCatchAll => "`{*rest}` is not at its end, on its own".into(),
        _ => "a parameter has no name, or its braces do not match".into(),
    }
}
