//! Numbers stay exact in a double, which is what the same engine in Lua computes with, and nothing overflows.

use proptest::prelude::*;

use super::{super::rule::MAX_TAKEN, *};

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
        ops.extend([queue(1, 9_999), queue(1, 10_000)]);
        let verdicts = world.exact(&ops);
        assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Refused(_))));
    }
}

#[test]
fn an_endless_pause() {
    let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
    world.exact(&[Op::Pause(MAX_AMOUNT)]);
    world.exact(&[reserve(&[1])]);
    for (asked, lasts) in [(u64::MAX, MINUTE), (MINUTE, u64::MAX), (u64::MAX, u64::MAX)] {
        for quota in [None, Some(1)] {
            let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
            world.exact(&[Op::Surface { quota, asked, lasts }]);
            world.exact(&[reserve(&[1])]);
        }
    }
}

#[test]
fn amounts_that_no_caller_sends_do_no_harm() {
    let shape = |tick, burst, debt| TokenBucket::new(tick, MINUTE, burst, debt, 4 * MINUTE, 3);
    let draining =
        |limit, shape| Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) };
    let most = [
        draining(MAX_AMOUNT, shape(1, MAX_AMOUNT, MAX_AMOUNT)),
        sliding(2, MAX_AMOUNT, MINUTE, 2),
        held(fixed(3, MAX_AMOUNT, MINUTE, 0)),
        concurrency(4, MAX_AMOUNT),
        held(sliding(5, MAX_AMOUNT, MINUTE, 2)),
    ];
    let with_first = |first| [&[first], &most[1..]].concat();
    let sets = [
        most.to_vec(),
        with_first(draining(1, shape(1_000, 1, MAX_AMOUNT))),
        with_first(draining(MAX_AMOUNT, shape(1, 1, 0))),
        with_first(held(draining(0, shape(1_000, MAX_AMOUNT, 0)))),
        with_first(held(draining(1, shape(1, 0, MAX_AMOUNT)))),
    ];
    let amounts = [0, 1, MAX_TAKEN, MAX_AMOUNT - 1, MAX_AMOUNT];
    let mut world = World::new(sets[0].clone());
    for round in 0..2_000 {
        let amount =
            |nth: usize| -> Costs { (0..5).map(|k| amounts[(round / nth + k) % 5]).collect() };
        world.rules = vec![sets[round / 7 % 5].clone()];
        world.lease = [SECOND, MAX_AMOUNT][round / 50 % 2];
        world.pass([0, MS, 3 * MINUTE][round % 3]);
        let headroom = [0, 1, HEADROOM_PARTS, MAX_AMOUNT][round / 3 % 4];
        let mode = [Mode::Wait, Mode::Try, Mode::Dry][round / 2 % 3];
        let at = [0, world.wall, MAX_AMOUNT][round / 4 % 3];
        let settle =
            |claim, close| Op::Settle { at, reserved: amount(1), actual: amount(5), close, claim };
        world.exact(&[
            Op::Reserve { costs: amount(2), headroom, explain: true, mode },
            Op::Reserve { costs: amount(3), headroom: 0, explain: true, mode: Mode::Wait },
            settle(None, round % 4 == 0),
            Op::Detach { claim: 7, reserved: amount(4), lease: MAX_AMOUNT },
            settle(Some(7), round % 5 == 0),
            Op::Cap {
                quota: round as u64 % 6,
                left: Some(amounts[round % 5]),
                at,
                lasts: MAX_AMOUNT,
            },
            Op::Reserve { costs: amount(1), headroom, explain: true, mode: Mode::Try },
            Op::Status,
            Op::Cap { quota: round as u64 % 6, left: None, at, lasts: round as u64 },
            Op::Reserve { costs: amount(2), headroom, explain: true, mode: Mode::Try },
        ]);
    }
}

/// Anything that a caller may send: amounts up to what it clamps them to, and clocks that step.
#[derive(Clone, Debug)]
enum Act {
    Clock(Micros),
    Rules(usize),
    Reserve { parts: [u64; 4], headroom: u64, mode: u8 },
    Settle { age: Micros, reserved: [u64; 4], actual: [u64; 4], close: bool, claim: Option<u64> },
    Detach { claim: u64, reserved: [u64; 4], lease: Micros },
    Pause(Micros),
    Surface { quota: Option<u64>, asked: Micros, lasts: Micros },
    Cap { quota: u64, left: Option<u64>, age: Micros, lasts: Micros },
}

/// The year 2200. Every step back makes time run further ahead of the clock, so the tests begin before it.
const LAST_YEAR: Micros = 7_258_118_400_000_000;

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let parts = || proptest::array::uniform4(prop_oneof![Just(0u64), 0..=1_000u64, Just(1_000)]);
    let time = || prop_oneof![0..MINUTE, 0..500 * DAY, 0..LAST_YEAR];
    let claim = || proptest::option::of(1_000..1_003u64);
    let one = prop_oneof![
        2 => prop_oneof![0..HOUR, 0..400 * DAY].prop_map(Act::Clock),
        1 => (0..3usize).prop_map(Act::Rules),
        4 => (parts(), prop_oneof![Just(0), 0..=HEADROOM_PARTS], 0..3u8)
            .prop_map(|(parts, headroom, mode)| Act::Reserve { parts, headroom, mode }),
        4 => (time(), parts(), parts(), any::<bool>(), claim()).prop_map(|(age, reserved, actual, close, claim)| {
            Act::Settle { age, reserved, actual, close, claim }
        }),
        1 => (1_000..1_003u64, parts(), 0..500 * DAY)
            .prop_map(|(claim, reserved, lease)| Act::Detach { claim, reserved, lease }),
        1 => time().prop_map(Act::Pause),
        1 => (proptest::option::of(1..5u64), prop_oneof![time(), Just(u64::MAX)], time())
            .prop_map(|(quota, asked, lasts)| Act::Surface { quota, asked, lasts }),
        2 => (1..5u64, proptest::option::of(prop_oneof![0..1_000u64, Just(LARGEST_LIMIT), Just(u64::MAX)]), time(), time())
            .prop_map(|(quota, left, age, lasts)| Act::Cap { quota, left, age, lasts }),
    ];
    proptest::collection::vec(one, 1..60)
}

/// As large as each of them may be.
fn extremes() -> [Vec<Rule>; 3] {
    let draining = |limit, burst, debt, tick, window| {
        let shape = TokenBucket::new(tick, window, burst, debt, 4 * window, 16);
        assert!((8 * burst + debt) * shape.units <= MAX_AMOUNT);
        Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) }
    };
    let others = |limit| {
        [sliding(2, limit, 400 * DAY, 10), held(fixed(3, limit, DAY, 5)), concurrency(4, limit)]
    };
    let set = |first: Rule, limit| [vec![first], others(limit).to_vec()].concat();
    [
        set(draining(LARGEST_LIMIT, 7_000_000, 56_000_000, 1, MINUTE), LARGEST_LIMIT),
        set(draining(1, 250, 0, SECOND, 400 * DAY), 1),
        set(held(draining(LARGEST_LIMIT, 1, 100_000_000, 1, MINUTE)), LARGEST_LIMIT),
    ]
}

proptest! {
    #![proptest_config(super::moves::cases(64))]

    #[test]
    fn whatever_happens_numbers_stay_exact(
        acts in acts(),
        start in prop_oneof![Just(START), Just(LAST_YEAR - 66 * 366 * DAY)],
    ) {
        let sets = extremes();
        let mut world = World::new(sets[0].clone());
        world.wall = start;
        for act in acts {
            // Up to a capacity is asked for, up to the largest debt more is used.
            let amounts = |world: &World, parts: [u64; 4], times: u64| -> Costs {
                let of = |rule: &Rule| match &rule.window {
                    Window::TokenBucket(shape) if times > 1 => shape.burst + shape.max_debt,
                    _ => times * rule.capacity(0),
                };
                world.rules[0].iter().zip(parts).map(|(rule, parts)| of(rule) / 1_000 * parts).collect()
            };
            let op = match act {
                Act::Clock(time) => { world.wall = start + time; Op::Status }
                Act::Rules(set) => { world.rules = vec![sets[set].clone()]; Op::Status }
                Act::Reserve { parts, headroom, mode } => {
                    let mode = [Mode::Try, Mode::Wait, Mode::Dry][usize::from(mode)];
                    Op::Reserve { costs: amounts(&world, parts, 1), headroom, explain: true, mode }
                }
                Act::Settle { age, reserved, actual, close, claim } => Op::Settle {
                    at: world.wall.saturating_sub(age),
                    reserved: amounts(&world, reserved, 1),
                    actual: amounts(&world, actual, 9),
                    close,
                    claim,
                },
                Act::Detach { claim, reserved, lease } => {
                    Op::Detach { claim, reserved: amounts(&world, reserved, 1), lease }
                }
                Act::Pause(duration) => Op::Pause(duration),
                Act::Surface { quota, asked, lasts } => Op::Surface { quota, asked, lasts },
                Act::Cap { quota, left, age, lasts } => {
                    Op::Cap { quota, left, at: world.wall.saturating_sub(age), lasts }
                }
            };
            world.exact(&[op.clone(), op]);
        }
    }
}
