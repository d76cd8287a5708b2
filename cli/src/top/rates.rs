//! How many grants a second there are, and looks that found no room, by what buckets have counted.

use std::{
    collections::{HashMap, VecDeque},
    time::{Duration, SystemTime},
};

use tower_throttle::store::BucketView;

/// Rates are those of this long.
const SPAN: Duration = Duration::from_secs(4);

/// Grants a second, and looks that found no room; nothing before the second look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Rate {
    pub(super) granted: f64,
    pub(super) looks_refused: f64,
}

#[derive(Clone, Copy, Debug)]
struct Count {
    at: SystemTime,
    since: SystemTime,
    granted: u64,
    looks_refused: u64,
}

/// The latest counts of each bucket.
#[derive(Debug, Default)]
pub(super) struct Rates(HashMap<u64, VecDeque<Count>>);

impl Rates {
    /// Takes in a look. What is not in it is forgotten.
    pub(super) fn see(&mut self, buckets: &[BucketView]) {
        let mut before = std::mem::take(&mut self.0);
        for bucket in buckets {
            let id = bucket.key.id();
            let mut counts = before.remove(&id).unwrap_or_default();
            let BucketView { at, since, granted, looks_refused, .. } = *bucket;
            push(&mut counts, Count { at, since, granted, looks_refused });
            self.0.insert(id, counts);
        }
    }

    pub(super) fn of(&self, id: u64) -> Option<Rate> {
        rate(self.0.get(&id)?)
    }
}

fn push(counts: &mut VecDeque<Count>, now: Count) {
    // A state that was lost counts from 0.
    if counts.back().is_some_and(|last| last.since != now.since || last.at > now.at) {
        counts.clear();
    }
    counts.push_back(now);
    while counts.get(1).is_some_and(|second| second.at + SPAN <= now.at) {
        counts.pop_front();
    }
}

fn rate(counts: &VecDeque<Count>) -> Option<Rate> {
    let (first, last) = (counts.front()?, counts.back()?);
    let seconds = last.at.duration_since(first.at).ok()?.as_secs_f64();
    let per_second = |now: u64, before: u64| now.saturating_sub(before) as f64 / seconds;
    (seconds > 0.0).then(|| Rate {
        granted: per_second(last.granted, first.granted),
        looks_refused: per_second(last.looks_refused, first.looks_refused),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(millis: u64, since: u64, granted: u64, looks_refused: u64) -> Count {
        let time = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        Count { at: time(1_000_000 + millis), since: time(since), granted, looks_refused }
    }

    #[test]
    fn rates_are_those_of_the_last_seconds() {
        let mut counts = VecDeque::new();
        push(&mut counts, count(0, 0, 100, 0));
        assert_eq!(rate(&counts), None, "of one look there is none");
        push(&mut counts, count(500, 0, 110, 2));
        assert_eq!(rate(&counts), Some(Rate { granted: 20.0, looks_refused: 4.0 }));
        for look in 2..40 {
            push(&mut counts, count(500 * look, 0, 110, 2));
        }
        assert_eq!(rate(&counts), Some(Rate::default()));
        assert!(counts.len() < 12);
        push(&mut counts, count(20_000, 7, 3, 0));
        assert_eq!(rate(&counts), None, "the state began anew");
    }
}
