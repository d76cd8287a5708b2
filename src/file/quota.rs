//! A quota as it is written.

use serde::Deserialize;

use super::{
    OnUnavailableText,
    named::NamedTable,
    text::{Length, WindowText},
};
use crate::quota::{ChargeAt, Quota};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct QuotaText {
    kind: Option<KindText>,
    metric: Option<String>,
    limit: u64,
    per: Option<WindowText>,
    #[serde(default)]
    weights: NamedTable<f64>,
    guard: Option<Length>,
    burst: Option<u64>,
    burst_times: Option<f64>,
    over: Option<Length>,
    longest_call: Option<Length>,
    anchor: Option<Length>,
    slots: Option<u32>,
    charge_at: Option<ChargeAtText>,
    max_debt: Option<u64>,
    name: Option<String>,
    on_unavailable: Option<OnUnavailableText>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
enum KindText {
    #[serde(rename = "sliding_window")]
    Sliding,
    TokenBucket,
    Paced,
    #[serde(rename = "fixed_window")]
    Fixed,
    Concurrency,
}

use KindText::{Concurrency, Fixed, Paced, Sliding, TokenBucket};

impl KindText {
    /// Returns the name that the file has for it.
    fn name(self) -> &'static str {
        match self {
            Sliding => "sliding_window",
            TokenBucket => "token_bucket",
            Paced => "paced",
            Fixed => "fixed_window",
            Concurrency => "concurrency",
        }
    }
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum ChargeAtText {
    Start,
    End,
}

const WINDOWED: &[KindText] = &[Sliding, TokenBucket, Paced, Fixed];

impl QuotaText {
    /// Returns the quota, if it makes sense.
    pub(super) fn quota(&self) -> Result<Quota, String> {
        let kind = self.kind();
        self.means_something(kind)?;
        let quota = match kind {
            Concurrency => Quota::concurrency(self.limit),
            _ => self.windowed(kind)?,
        };
        let quota = with(quota, self.name.as_deref(), Quota::named);
        let on_unavailable = self.on_unavailable.as_ref().map(OnUnavailableText::meant);
        let quota = with(quota, on_unavailable, Quota::on_unavailable);
        quota.compile()?;
        Ok(quota)
    }

    fn kind(&self) -> KindText {
        let of_days = self.per.as_ref().is_some_and(|per| per.zone.is_some());
        self.kind.unwrap_or(if of_days { Fixed } else { Sliding })
    }

    /// Fails if a field is given that means nothing to a quota of this kind.
    fn means_something(&self, kind: KindText) -> Result<(), String> {
        let in_zone = self.per.as_ref().is_some_and(|per| per.zone.is_some());
        let fields = [
            ("metric", self.metric.is_some(), WINDOWED),
            ("per", self.per.is_some(), WINDOWED),
            ("weights", !self.weights.0.is_empty(), WINDOWED),
            ("charge_at", self.charge_at.is_some(), WINDOWED),
            ("max_debt", self.max_debt.is_some(), WINDOWED),
            ("slots", self.slots.is_some(), &[Sliding, TokenBucket, Paced]),
            ("guard", self.guard.is_some(), &[Sliding]),
            ("burst", self.burst.is_some(), &[TokenBucket]),
            ("burst_times", self.burst_times.is_some(), &[TokenBucket]),
            ("over", self.over.is_some(), &[Paced]),
            ("longest_call", self.longest_call.is_some(), &[TokenBucket, Paced]),
            ("anchor", self.anchor.is_some(), &[Fixed]),
            ("a time zone", in_zone, &[Fixed]),
        ];
        match fields.iter().find(|(_, is_given, kinds)| *is_given && !kinds.contains(&kind)) {
            Some((field, _, kinds)) => {
                let kinds: Vec<_> = kinds.iter().map(|kind| format!("`{}`", kind.name())).collect();
                Err(format!(
                    "{field} means nothing to a quota of kind `{}`: it is for {}",
                    kind.name(),
                    kinds.join(", ")
                ))
            }
            None if self.burst.is_some() && self.burst_times.is_some() => {
                Err("burst and burst_times say the same: leave one out".into())
            }
            None if in_zone && self.anchor.is_some() => {
                Err("an anchor and a time zone say the same: leave one out".into())
            }
            None => Ok(()),
        }
    }

    fn windowed(&self, kind: KindText) -> Result<Quota, String> {
        let metric =
            self.metric.as_deref().ok_or("it names no metric: write `metric = \"tokens\"`")?;
        let per = self.per.as_ref().ok_or("it has no window: write `per = \"1 m\"`")?;
        let (limit, window) = (self.limit, per.length);
        let quota = match kind {
            Fixed => Quota::fixed_window(metric, limit, window),
            TokenBucket => Quota::token_bucket(metric, limit, window),
            Paced if self.over.is_some() => Quota::token_bucket(metric, limit, window),
            Paced => Quota::token_bucket(metric, limit, window).paced(),
            Sliding | Concurrency => Quota::sliding_window(metric, limit, window),
        };
        let quota = self
            .weights
            .0
            .iter()
            .fold(quota, |quota, (metric, weight)| quota.weight(metric, *weight));
        let quota = with(quota, self.guard, |quota, guard| quota.guard(guard.0));
        let quota = with(quota, self.burst, Quota::burst);
        let quota = with(quota, self.burst_times, Quota::burst_times);
        let quota = with(quota, self.over, |quota, over| quota.paced_over(over.0));
        let quota = with(quota, self.longest_call, |quota, longest| quota.longest_call(longest.0));
        let quota = with(quota, self.anchor, |quota, anchor| quota.anchored(anchor.0));
        let quota = with(quota, self.slots, Quota::slots);
        let quota = with(quota, self.max_debt, Quota::max_debt);
        let quota = with(quota, self.charge_at, |quota, charge_at| match charge_at {
            ChargeAtText::Start => quota.charge_at(ChargeAt::Start),
            ChargeAtText::End => quota.charge_at(ChargeAt::End),
        });
        in_zone(quota, per.zone.as_deref())
    }
}

/// Returns the quota with a setting, if that is given.
fn with<T>(quota: Quota, given: Option<T>, set: impl FnOnce(Quota, T) -> Quota) -> Quota {
    match given {
        Some(given) => set(quota, given),
        None => quota,
    }
}

#[cfg(feature = "timezone")]
fn in_zone(quota: Quota, zone: Option<&str>) -> Result<Quota, String> {
    Ok(with(quota, zone, Quota::in_time_zone))
}

#[cfg(not(feature = "timezone"))]
fn in_zone(quota: Quota, zone: Option<&str>) -> Result<Quota, String> {
    match zone {
        Some(_) => Err("time zones need the feature `timezone` of tower-throttle".into()),
        None => Ok(quota),
    }
}
