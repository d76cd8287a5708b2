//! Numbers stay exact in a double, which is what the same engine in Lua computes with, and nothing
//! overflows.

use proptest::prelude::*;

use super::{super::rule::MAX_TAKEN, *};

const LARGEST_LIMIT: u64 = 900_000_000_000;

/// Every number in the debug form, which leaves no field out. Those with a point are tags of flows:
/// doubles in Lua too.
fn assert_in_range(what: &impl std::fmt::Debug) {
    let text = format!("{what:?}");
    let start = || &text[..text.len().min(800)];
    for word in text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.') {
        assert!(!["NaN", "inf"].contains(&word), "{word} in {}", start());
    }
    for number in
        text.split(|c: char| !c.is_ascii_digit() && c != '.').filter(|number| !number.is_empty())
    {
        let exact = match number.contains('.') {
            true => number.parse::<f64>().is_ok(),
            false => number.parse::<u64>().is_ok_and(|number| number <= MAX_AMOUNT),
        };
        assert!(exact, "{number} in {}", start());
    }
}

impl World {
    /// Sends a batch and looks at every number that comes of it.
    fn exact(&mut self, ops: &[Op]) -> Verdicts {
        let sent = self.send(SESSION, ops);
        assert_in_range(&self.states);
        assert_in_range(&sent);
        assert_in_range(&self.status(0));
        sent.verdicts
    }
}

#[test]
fn the_time_to_drain_ages_is_cut_and_does_not_overflow() {
    let shape = TokenBucket::new(SECOND, 30 * DAY, 100_000_000, 400_000_000, 120 * DAY, 96);
    let rule = Rule { id: 1, limit: 1, held: false, window: Window::TokenBucket(shape) };
    let mut world = World::new([rule]);
    assert!(is_granted(&world.exact(&[reserve(&[100_000_000])])[0]));
    world.exact(&[reserve(&[100_000_000])]);
    assert_in_range(&world.seen(0).expires);
}

fn bogus_actuals(rule: Rule, capacity: u64) {
    let mut world = World::new([rule]);
    world.exact(&[reserve(&[0])]);
    let nothing = world.take(&[0]);
    let ops = vec![settle(&nothing, &[9 * capacity]); 20_000];
    world.exact(&ops);
    world.exact(&[reserve(&[capacity])]);

    let ops = vec![adjust(&nothing, &[9 * capacity]); 20_000];
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
    let queue = |cost: u64, headroom| {
        Op::Reserve(Reserve { headroom, mode: Mode::Wait, ..demand(&[cost]) })
    };
    for rule in [sliding(1, LARGEST_LIMIT, 400 * DAY, 60), fixed(1, LARGEST_LIMIT, 400 * DAY, 0)] {
        let mut world = World::new([rule]);
        world.exact(&[reserve(&[LARGEST_LIMIT])]);
        let mut ops = vec![queue(LARGEST_LIMIT, 0); 6];
        ops.extend([queue(1, 9_999), queue(1, 10_000)]);
        let verdicts = world.exact(&ops);
        assert!(verdicts.iter().all(is_refused));
    }
}

#[test]
fn an_endless_pause() {
    let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
    world.exact(&[Op::Pause { bucket: 0, lasts: MAX_AMOUNT }]);
    world.exact(&[reserve(&[1])]);
    for (asked, lasts) in [(u64::MAX, MINUTE), (MINUTE, u64::MAX), (u64::MAX, u64::MAX)] {
        for quota in [None, Some(1)] {
            let mut world = World::new([sliding(1, 10, MINUTE, 60)]);
            world.exact(&[Op::Refused {
                bucket: 0,
                quota,
                at: 0,
                asked,
                lasts,
                longest: u64::MAX,
            }]);
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
        let on: On = [0].as_slice().into();
        let settle = |claim, close| {
            let (on, at) = (on.clone(), [at].as_slice().into());
            Op::Settle(Settle { on, at, reserved: amount(1), actual: amount(5), close, claim })
        };
        let quota = round as u64 % 6;
        let ask = |costs: Costs, headroom, mode| {
            let flow =
                Flow { id: [0, 1, MAX_AMOUNT][round % 3], weight: [1, 7, u32::MAX][round / 2 % 3] };
            let age = [0, MS, MAX_AMOUNT][round / 5 % 3];
            let waiter = amounts[round / 2 % 5];
            Op::Reserve(Reserve { costs, headroom, mode, flow, age, waiter, ..demand(&[]) })
        };
        let refused = |quota| Op::Refused {
            bucket: 0,
            quota,
            at,
            asked: amounts[round % 5],
            lasts: round as u64,
            longest: amounts[round / 3 % 5],
        };
        let line = Line {
            rule: round as u16 % 6,
            headroom,
            flow: Flow { id: amounts[round / 6 % 5], weight: 1 },
            space: World::id(0),
            waiter: amounts[round % 5],
            age: amounts[round / 2 % 5],
            cost: amounts[round / 3 % 5],
            part: 0.5,
            count: amounts[round / 4 % 5],
            sum: amounts[round / 5 % 5],
            last: amounts[round / 6 % 5],
        };
        world.exact(&[
            ask(amount(2), headroom, mode),
            ask(amount(3), 0, Mode::Wait),
            Op::Waiting { bucket: 0, lines: [line, line].into() },
            settle(None, round % 4 == 0),
            Op::Detach { on: on.clone(), claim: 7, reserved: amount(4), lease: MAX_AMOUNT },
            settle(Some(7), round % 5 == 0),
            Op::Cap { bucket: 0, quota, left: amounts[round % 5], at, lasts: MAX_AMOUNT },
            ask(amount(1), headroom, Mode::Try),
            Op::Status { bucket: 0 },
            refused(Some(quota)),
            refused([None, Some(1)][round / 8 % 2]),
            Op::Answered { bucket: 0, at },
            ask(amount(2), headroom, Mode::Try),
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
    Refused { quota: Option<u64>, age: Micros, asked: Micros, lasts: Micros, longest: Micros },
    Answered(Micros),
    Cap { quota: u64, left: u64, age: Micros, lasts: Micros },
}

/// The year 2200. Every step back makes time run further ahead of the clock, so the tests begin
/// before it.
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
        4 => (time(), parts(), parts(), any::<bool>(), claim()).prop_map(
            |(age, reserved, actual, close, claim)| {
                Act::Settle { age, reserved, actual, close, claim }
            }
        ),
        1 => (1_000..1_003u64, parts(), 0..500 * DAY)
            .prop_map(|(claim, reserved, lease)| Act::Detach { claim, reserved, lease }),
        1 => time().prop_map(Act::Pause),
        1 => (
            proptest::option::of(1..5u64),
            time(),
            prop_oneof![time(), Just(u64::MAX)],
            time(),
            time(),
        )
            .prop_map(|(quota, age, asked, lasts, longest)| {
                Act::Refused { quota, age, asked, lasts, longest }
            }),
        1 => time().prop_map(Act::Answered),
        2 => (
            1..5u64,
            prop_oneof![0..1_000u64, Just(LARGEST_LIMIT), Just(u64::MAX)],
            time(),
            time(),
        )
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
                let rules = world.rules[0].iter().zip(parts);
                rules.map(|(rule, parts)| of(rule) / 1_000 * parts).collect()
            };
            let on: On = [0].as_slice().into();
            let status = Op::Status { bucket: 0 };
            let op = match act {
                Act::Clock(time) => { world.wall = start + time; status }
                Act::Rules(set) => { world.rules = vec![sets[set].clone()]; status }
                Act::Reserve { parts, headroom, mode } => {
                    let mode = [Mode::Try, Mode::Wait, Mode::Dry][usize::from(mode)];
                    let costs = amounts(&world, parts, 1);
                    let flow = Flow { id: parts[1] % 3, weight: 1 + parts[2] as u32 };
                    let (waiter, age) = (parts[0], parts[3]);
                    let rest = demand(&[]);
                    Op::Reserve(Reserve { costs, headroom, mode, waiter, flow, age, ..rest })
                }
                Act::Settle { age, reserved, actual, close, claim } => {
                    let at = [world.wall.saturating_sub(age)].as_slice().into();
                    let reserved = amounts(&world, reserved, 1);
                    let actual = amounts(&world, actual, 9);
                    Op::Settle(Settle { on, at, reserved, actual, close, claim })
                }
                Act::Detach { claim, reserved, lease } => {
                    Op::Detach { on, claim, reserved: amounts(&world, reserved, 1), lease }
                }
                Act::Pause(lasts) => Op::Pause { bucket: 0, lasts },
                Act::Refused { quota, age, asked, lasts, longest } => {
                    let at = world.wall.saturating_sub(age);
                    Op::Refused { bucket: 0, quota, at, asked, lasts, longest }
                }
                Act::Answered(age) => {
                    Op::Answered { bucket: 0, at: world.wall.saturating_sub(age) }
                }
                Act::Cap { quota, left, age, lasts } => {
                    Op::Cap { bucket: 0, quota, left, at: world.wall.saturating_sub(age), lasts }
                }
            };
            let waiting = Op::Waiting { bucket: 0, lines: Box::default() };
            world.exact(&[op.clone(), waiting, op]);
        }
    }
}
