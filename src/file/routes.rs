//! A route as it is written.

use serde::Deserialize;

use super::{named::NamedTable, text::Length};
use crate::{
    routes::{Route, Routes, RoutesBuilder},
    usage::Usage,
};

/// A route with one target.
#[derive(Clone, Debug)]
pub(super) struct DeclaredRoute {
    aim: RouteTarget,
    text: RouteText,
}

#[derive(Clone, Debug)]
enum RouteTarget {
    Bucket(String),
    Unlimited,
    Refuse,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RouteText {
    r#match: String,
    bucket: Option<String>,
    #[serde(default)]
    and: Vec<String>,
    #[serde(default)]
    unlimited: bool,
    #[serde(default)]
    refuse: bool,
    #[serde(default)]
    usage: NamedTable<u64>,
    class: Option<String>,
    share: Option<String>,
    max_wait: Option<Length>,
}

impl RouteText {
    pub(super) fn declared(self) -> Result<DeclaredRoute, String> {
        let aim = match (&self.bucket, self.unlimited, self.refuse) {
            (Some(bucket), false, false) => RouteTarget::Bucket(bucket.clone()),
            (None, true, false) => RouteTarget::Unlimited,
            (None, false, true) => RouteTarget::Refuse,
            _ => {
                return Err(
                    "a route has a `bucket`, or `unlimited = true`, or `refuse = true`".into()
                );
            }
        };
        Ok(DeclaredRoute { aim, text: self })
    }
}

impl DeclaredRoute {
    fn route<R>(&self) -> Route<R> {
        let RouteText { and, usage, class, share, max_wait, .. } = &self.text;
        let route = match &self.aim {
            RouteTarget::Bucket(bucket) => Route::to(bucket.clone()),
            RouteTarget::Unlimited => Route::unlimited(),
            RouteTarget::Refuse => Route::refuse(),
        };
        let mut route = and.iter().fold(route, |route, bucket| route.and(bucket.clone()));
        if !usage.0.is_empty() {
            let amounts = usage.0.iter().cloned();
            route = route.usage(
                amounts.fold(Usage::new(), |usage, (metric, amount)| usage.with(metric, amount)),
            );
        }
        if let Some(class) = class {
            route = route.class(class.clone());
        }
        if let Some(share) = share {
            route = route.share(share.clone());
        }
        match max_wait {
            Some(Length(max_wait)) => route.max_wait(*max_wait),
            None => route,
        }
    }
}

pub(super) fn builder<R>(routes: &[DeclaredRoute]) -> RoutesBuilder<R> {
    let route = |builder: RoutesBuilder<R>, declared: &DeclaredRoute| {
        builder.route(declared.text.r#match.clone(), declared.route())
    };
    routes.iter().fold(Routes::builder(), route)
}
