//! How a quota stands, and what kind it is.

use std::{sync::Arc, time::Duration};

use crate::{
    engine::{Level, QuotaAmounts, Rule, Window},
    quota::QuotaNote,
};

/// How a quota stands.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct QuotaView {
    /// What it is called.
    pub name: Arc<str>,
    /// How what is charged comes back.
    pub kind: QuotaKind,
    /// Its window; nothing for calls in flight.
    pub window: Option<Duration>,
    /// The metrics that it counts, with their weights.
    pub metrics: Vec<(String, f64)>,
    /// What it admits per window; for a token bucket, at once.
    pub limit: u64,
    /// What a token bucket refills per window; otherwise the limit.
    pub per_window: u64,
    /// Charged in the window.
    pub charged: f64,
    /// Held by reservations, to be charged when they are settled.
    pub held: u64,
    /// Reserved and not settled yet, held or charged.
    pub in_flight: u64,
    /// Withheld, since the provider said that no more is left.
    pub withheld: f64,
    /// For how long at most.
    pub withheld_for: Duration,
    /// What is left of a wait for this quota that a provider asked for and that is not waited out.
    pub asked: Option<Duration>,
    /// What it has left; negative in debt.
    pub available: f64,
    /// Time until everything charged has come back, or until the next fixed window.
    pub reset: Duration,
}

/// How what is charged to a quota comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum QuotaKind {
    /// A window's length after it was charged.
    SlidingWindow,
    /// Steadily.
    TokenBucket,
    /// All of it, when the next window begins.
    FixedWindow,
    /// When its call ends.
    Concurrency,
}

impl QuotaView {
    pub(super) fn new(rule: &Rule, note: &QuotaNote, level: &Level) -> Self {
        let QuotaAmounts { limit, charged, held, withheld, available } =
            QuotaAmounts::of(rule, level);
        let metrics = note.weights.iter();
        Self {
            name: note.name.as_str().into(),
            kind: QuotaKind::of(&rule.window),
            window: note.window.map(Duration::from_micros),
            metrics: metrics.map(|(metric, parts)| (metric.clone(), *parts as f64 / 1e6)).collect(),
            limit,
            per_window: rule.limit,
            charged,
            held,
            in_flight: level.in_flight,
            withheld,
            withheld_for: Duration::from_micros(level.withheld_for),
            asked: level.asked.map(Duration::from_micros),
            available,
            reset: Duration::from_micros(level.reset),
        }
    }
}

impl QuotaKind {
    fn of(window: &Window) -> Self {
        match window {
            Window::Sliding { .. } => Self::SlidingWindow,
            Window::TokenBucket(_) => Self::TokenBucket,
            Window::Fixed { .. } | Window::Calendar { .. } => Self::FixedWindow,
            Window::InFlight => Self::Concurrency,
        }
    }
}
