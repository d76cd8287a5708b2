//! A route as it is written.

use serde::Deserialize;

use super::{named::Named, text::Length};
use crate::{
    routes::{Route, Routes, RoutesBuilder},
    usage::Usage,
};

/// A route with one aim.
#[derive(Clone, Debug)]
pub(super) struct Declared {
    aim: Aim,
    text: RouteText,
}

#[derive(Clone, Debug)]
enum Aim {
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
    usage: Named<u64>,
    class: Option<String>,
    max_wait: Option<Length>,
}

impl RouteText {
    pub(super) fn declared(self) -> Result<Declared, String> {
        let aim = match (&self.bucket, self.unlimited, self.refuse) {
            (Some(bucket), false, false) => Aim::Bucket(bucket.clone()),
            (None, true, false) => Aim::Unlimited,
            (None, false, true) => Aim::Refuse,
            _ => {
                return Err(
                    "a route has a `bucket`, or `unlimited = true`, or `refuse = true`".into()
                );
            }
        };
        Ok(Declared { aim, text: self })
    }
}

impl Declared {
    fn route<R>(&self) -> Route<R> {
        let RouteText { and, usage, class, max_wait, .. } = &self.text;
        let route = match &self.aim {
            Aim::Bucket(bucket) => Route::to(bucket.clone()),
            Aim::Unlimited => Route::unlimited(),
            Aim::Refuse => Route::refuse(),
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
        match max_wait {
            Some(Length(max_wait)) => route.max_wait(*max_wait),
            None => route,
        }
    }
}

pub(super) fn builder<R>(routes: &[Declared]) -> RoutesBuilder<R> {
    let route = |builder: RoutesBuilder<R>, declared: &Declared| {
        builder.route(declared.text.r#match.clone(), declared.route())
    };
    routes.iter().fold(Routes::builder(), route)
}
