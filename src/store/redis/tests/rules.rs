//! Random rules, of all kinds and near all bounds.

use std::sync::Arc;

use fastrand::Rng;

use super::random::{DAY, SECOND};
use crate::engine::{MAX_AMOUNT, Micros, Rule, TokenBucket, Window};

/// The largest limit that can be declared.
const MAX_LIMIT: u64 = 900_000_000_000;

pub(super) fn limit(rng: &mut Rng) -> u64 {
    match rng.u8(..20) {
        0 => MAX_LIMIT - rng.u64(..3),
        1 => rng.u64(1..=MAX_LIMIT),
        2..6 => rng.u64(1..10),
        6..10 => rng.u64(1..1_000),
        _ => rng.u64(1_000..2_000_000),
    }
}

/// What is part of a quota's identity is taken from its id; the rest may change while it lives.
pub(super) fn token_bucket(rng: &mut Rng, id: u64, tick: Micros) -> TokenBucket {
    let window = [SECOND, 60 * SECOND, 1_500_000][id as usize % 3];
    let slots = [1, 3, 16, 96][id as usize / 3 % 4];
    let largest = MAX_AMOUNT / (window / tick) / 16;
    let burst = [1, 10, rng.u64(1..100_000), rng.u64(1..=largest)][rng.usize(..4)].min(largest);
    let max_debt = [0, burst, 8 * burst][rng.usize(..3)];
    TokenBucket::new(tick, window, burst, max_debt, 4 * window, slots)
}

pub(super) fn rule(rng: &mut Rng, id: u64, wall: Micros) -> Rule {
    let kinds =
        ["sliding", "sliding", "sliding", "token", "token", "fixed", "calendar", "in flight"];
    let kind = kinds[(id as usize - 1) % kinds.len()];
    let window = match kind {
        "sliding" => Window::Sliding {
            slot: [5_000, 25_000, 1_008_334, 60 * SECOND][rng.usize(..4)],
            slots: [1, 2, 60, 60, 100][rng.usize(..5)],
        },
        "token" => Window::TokenBucket(token_bucket(rng, id, 1)),
        "fixed" => {
            let length = [SECOND, 60 * SECOND, DAY][rng.usize(..3)];
            Window::Fixed { length, anchor: rng.u64(..length) }
        }
        "calendar" => Window::Calendar { boundaries: Arc::new([wall]) },
        _ => Window::InFlight,
    };
    let limit = match window {
        Window::InFlight => rng.u64(1..200),
        _ => limit(rng),
    };
    let held = window != Window::InFlight && rng.u8(..4) == 0;
    Rule { id, limit, held, window }
}

/// The rule with a calendar that usually reaches to the present.
pub(super) fn rechart(rng: &mut Rng, rule: &Rule, wall: Micros) -> Rule {
    let mut rule = rule.clone();
    if let Window::Calendar { boundaries } = &mut rule.window {
        let first = wall / DAY * DAY;
        *boundaries = match rng.u8(..50) {
            0 => Arc::new([]),
            1 => Arc::new([first + DAY, first + 2 * DAY]),
            2 => Arc::new([first - DAY, first]),
            _ => (0..rng.u64(2..6)).map(|day| first + day * DAY).collect(),
        };
    }
    rule
}
