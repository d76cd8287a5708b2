//! Numbers stay exact in a double, which is what the same engine in Lua computes with, and nothing overflows.

use super::*;

const LARGEST_LIMIT: u64 = 900_000_000_000;

/// Every number in the debug form, which leaves no field out.
fn assert_in_range(what: &impl std::fmt::Debug) {
    let text = format!("{what:?}");
    for number in text.split(|c: char| !c.is_ascii_digit()).filter(|number| !number.is_empty()) {
        let exact = number.parse::<u64>().is_ok_and(|number| number <= MAX_AMOUNT);
        assert!(exact, "{number} in {}", &text[..text.len().min(800)]);
    }
}

impl World {
    /// Sends a batch and looks at every number that comes of it.
    fn exact(&mut self, ops: &[Op]) -> Verdicts {
        let (now, verdicts) = self.send(LANE, ops);
        assert_in_range(&self.states);
        assert_in_range(&(now, &verdicts));
        assert_in_range(&self.level(0));
        verdicts
    }
}

#[test]
fn the_time_to_drain_ages_is_cut_and_does_not_overflow() {
    let shape = TokenBucket::new(SECOND, 30 * DAY, 100_000_000, 400_000_000, 120 * DAY, 96);
    let rule = Rule { id: 1, limit: 1, held: false, window: Window::TokenBucket(shape) };
    let mut world = World::new([rule]);
    assert_eq!(world.exact(&[reserve(&[100_000_000])])[0], Verdict::Granted);
    world.exact(&[reserve(&[100_000_000])]);
    assert_in_range(&world.states[0].expires);
}

fn bogus_actuals(rule: Rule, capacity: u64) {
    let mut world = World::new([rule]);
    let grant = |world: &World| Grant { lane: LANE, at: world.wall, costs: [0].as_slice().into() };
    world.exact(&[reserve(&[0])]);
    let ops = vec![settle(&grant(&world), &[9 * capacity]); 20_000];
    world.exact(&ops);
    world.exact(&[reserve(&[capacity])]);

    let ops = vec![adjust(&grant(&world), &[9 * capacity]); 20_000];
    world.exact(&ops);
    world.exact(&[reserve(&[capacity])]);
    world.exact(&[reserve(&[0])]);

    world.pass(11 * SECOND);
    world.exact(&[reserve(&[capacity])]);
}

#[test]
fn however_many_bogus_actuals_there_are() {
    let limit = LARGEST_LIMIT;
    let burst = 7_000_000;
    let shape = TokenBucket::new(1, MINUTE, burst, 8 * burst, 4 * MINUTE, 96);
    let draining = Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) };
    for rule in [sliding(1, limit, MINUTE, 60), fixed(1, limit, DAY, 0), draining] {
        let capacity = rule.capacity(0);
        bogus_actuals(rule.clone(), capacity);
        bogus_actuals(held(rule), capacity);
    }
    bogus_actuals(concurrency(1, 10), 10);
}

#[test]
fn a_long_queue_of_a_class_that_may_use_little() {
    let queue = |costs: u64, headroom| Op::Reserve {
        costs: [costs].as_slice().into(),
        headroom,
        explain: true,
        mode: Mode::Wait,
    };
    for rule in [sliding(1, LARGEST_LIMIT, 400 * DAY, 60), fixed(1, LARGEST_LIMIT, 400 * DAY, 0)] {
        let mut world = World::new([rule]);
        world.exact(&[reserve(&[LARGEST_LIMIT])]);
        let mut ops = vec![queue(LARGEST_LIMIT, 0); 6];
        ops.extend([queue(1, 9_999), queue(0, 10_000)]);
        let verdicts = world.exact(&ops);
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Refused(_))));
    }
}

#[test]
fn an_endless_pause() {
    let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
    world.exact(&[Op::Pause(MAX_AMOUNT)]);
    world.exact(&[reserve(&[1])]);
}
