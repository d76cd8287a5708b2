//! What is wrong with routes, and with requests.

use std::fmt;

use http::Method;

use super::target::Target;

/// A route that makes no sense: which one, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct RoutesError {
    route: String,
    reason: String,
}

impl RoutesError {
    pub(super) fn new(route: impl Into<String>, reason: String) -> Self {
        Self { route: route.into(), reason }
    }

    /// Returns the pattern of the route; `otherwise` for what no route matches.
    pub fn route(&self) -> &str {
        &self.route
    }
}

impl fmt::Display for RoutesError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "route `{}`: {}", self.route, self.reason)
    }
}

impl std::error::Error for RoutesError {}

/// Why a request has no demand.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum RouteError {
    /// No route matches the request.
    #[non_exhaustive]
    NoRoute {
        /// The request's method.
        method: Method,
        /// The host, where the request names one.
        host: Option<String>,
        /// The port, or the usual one of the scheme, where there is one.
        port: Option<u16>,
        /// The path.
        path: String,
    },
    /// The route of the request refuses it.
    Refused,
    /// A parameter in the path cannot be part of a bucket's name.
    #[non_exhaustive]
    BadParameter {
        /// The parameter.
        name: String,
        /// What is wrong with the parameter.
        reason: &'static str,
    },
}

/// As much of a stranger's path as is worth telling.
const TOLD: usize = 200;

impl RouteError {
    pub(super) fn no_route(target: &Target<'_>) -> Self {
        let short = |text: &str| text.chars().take(TOLD).collect();
        Self::NoRoute {
            method: target.method.clone(),
            host: target.host.map(short),
            port: target.port,
            path: short(target.path),
        }
    }
}

impl fmt::Display for RouteError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // Escaped, since it comes from a stranger.
            Self::NoRoute { method, host, port, path } => {
                let host = host.as_deref().unwrap_or_default();
                write!(f, "no route matches {method} {}", host.escape_debug())?;
                port.map_or(Ok(()), |port| write!(f, ":{port}"))?;
                write!(f, "{}", path.escape_debug())
            }
            Self::Refused => f.write_str("requests of this route are refused"),
            Self::BadParameter { name, reason } => {
                write!(f, "parameter `{name}` of the path {reason}")
            }
        }
    }
}

impl std::error::Error for RouteError {}
