//! Demands and limits in the words of an order.

use std::time::Duration;

use tower_throttle::{Demand, Limits, Quota, Usage, limits::Class};

use super::{api, message::Message, micros_of};

/// What a worker is told to ask for.
#[derive(Clone, Debug)]
pub struct Ask(Message);

impl Ask {
    pub fn of(bucket: &str) -> Self {
        Self(Message::new(0, "").with("buckets", bucket))
    }

    #[must_use]
    pub fn and(self, bucket: &str) -> Self {
        let buckets = format!("{},{bucket}", self.0.get("buckets").unwrap_or_default());
        Self(self.0.with("buckets", buckets))
    }

    #[must_use]
    pub fn tokens(self, amount: u64) -> Self {
        Self(self.0.with("tokens", amount))
    }

    #[must_use]
    pub fn class(self, class: &str) -> Self {
        Self(self.0.with("class", class))
    }

    #[must_use]
    pub fn share(self, flow: &str) -> Self {
        Self(self.0.with("share", flow))
    }

    #[must_use]
    pub fn max_wait(self, max_wait: Duration) -> Self {
        Self(self.0.with("max_wait", micros_of(max_wait)))
    }

    /// The first of its buckets.
    pub(super) fn bucket(&self) -> &str {
        self.0.get("buckets").and_then(|buckets| buckets.split(',').next()).unwrap_or_default()
    }

    /// The order to do something with this demand.
    pub fn order(&self, id: u64, verb: &str) -> Message {
        let mut order = self.0.clone();
        (order.id, order.verb) = (id, verb.into());
        order
    }

    /// The demand of an order.
    pub(super) fn demand(order: &Message) -> Demand {
        let usage = usage(order);
        let mut buckets = order.list::<String>("buckets").into_iter();
        let mut demand = Demand::new(buckets.next().expect("a bucket"), usage);
        demand = buckets.fold(demand, Demand::and);
        if let Some(class) = order.get("class") {
            demand = demand.class(class);
        }
        if let Some(flow) = order.get("share") {
            demand = api::share(demand, flow);
        }
        if order.get("max_wait").is_some() {
            demand = demand.max_wait(Duration::from_micros(order.value("max_wait")));
        }
        demand
    }
}

/// The usage that an order names: its tokens, if any, and one request.
pub(super) fn usage(order: &Message) -> Usage {
    let usage = Usage::new().with("requests", 1);
    if order.get("tokens").is_some() { usage.with("tokens", order.value("tokens")) } else { usage }
}

/// Limits from a text whose parts end with `;`. A bucket named again gets one more quota.
///
/// ```text
/// bucket a per_hour tokens 10; bucket a concurrency 1; bucket b token_bucket tokens 100 1000;
/// class batch 0 10; weight three 3; resolve tenant- per_minute tokens 1000
/// ```
/// Times are in milliseconds and headroom is in percent. `resolve` gives the quota to every name
/// that begins so.
pub fn limits(text: &str) -> Limits {
    let mut buckets: Vec<(&str, Vec<Quota>)> = Vec::new();
    let mut limits = Limits::new();
    for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
        let words: Vec<&str> = part.split_whitespace().collect();
        match words[..] {
            ["bucket", name, ref words @ ..] => {
                match buckets.iter_mut().find(|(other, _)| *other == name) {
                    Some((_, quotas)) => quotas.push(quota(words)),
                    None => buckets.push((name, vec![quota(words)])),
                }
            }
            ["class", name, head_start, headroom] => {
                let headroom = number(headroom) as f64 / 100.0;
                limits = limits.class(
                    name,
                    Class::new()
                        .head_start(Duration::from_millis(number(head_start)))
                        .headroom(headroom),
                );
            }
            ["weight", flow, weight] => limits = api::weight(limits, flow, number(weight) as u32),
            ["resolve", start, ref words @ ..] => {
                let (start, quota) = (start.to_owned(), quota(words));
                let resolver =
                    move |name: &str| name.starts_with(&start).then(|| vec![quota.clone()]);
                limits = limits.resolver(resolver);
            }
            _ => panic!("no limits: {part}"),
        }
    }
    buckets.into_iter().fold(limits, |limits, (name, quotas)| limits.bucket(name, quotas))
}

fn quota(words: &[&str]) -> Quota {
    match *words {
        ["concurrency", limit] => Quota::concurrency(number(limit)),
        ["per_hour", metric, limit] => Quota::per_hour(metric, number(limit)),
        ["per_minute", metric, limit] => Quota::per_minute(metric, number(limit)),
        ["sliding", metric, limit, window] => {
            Quota::sliding_window(metric, number(limit), Duration::from_millis(number(window)))
        }
        ["token_bucket", metric, limit, period] => {
            Quota::token_bucket(metric, number(limit), Duration::from_millis(number(period)))
        }
        ["paced", metric, limit, period] => {
            Quota::sliding_window(metric, number(limit), Duration::from_millis(number(period)))
                .paced()
        }
        _ => panic!("no quota: {words:?}"),
    }
}

fn number(word: &str) -> u64 {
    word.parse().unwrap_or_else(|_| panic!("no number: {word}"))
}
