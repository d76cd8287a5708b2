//! What a provider says of a quota withholds a part of it, gives nothing, and ends.

use proptest::prelude::*;

use super::{
    moves::{Move, cases, choose, moves},
    waits::{any_rule, is_honest, lasting},
    *,
};

fn cap(left: u64, at: Micros, lasts: Micros) -> Op {
    Op::Cap { bucket: 0, quota: 1, left, at, lasts }
}

fn pause_of(quota: u64, lasts: Micros) -> Op {
    Op::Refused { bucket: 0, quota: Some(quota), at: 0, asked: lasts, lasts, longest: lasts }
}

fn pause(lasts: Micros) -> Op {
    pause_of(1, lasts)
}

/// The most that one demand gets now.
fn most(world: &World) -> u64 {
    let mut range = (0, world.rule(0).capacity(0));
    while range.0 < range.1 {
        let cost = (range.0 + range.1).div_ceil(2);
        range = if world.clone().reserve(&[cost]).is_ok() {
            (cost, range.1)
        } else {
            (range.0, cost - 1)
        };
    }
    range.0
}

#[test]
fn no_more_is_admitted_than_the_provider_said_until_it_ends() {
    for rule in
        [token_bucket(1, 100, MINUTE, 100), sliding(1, 100, MINUTE, 60), fixed(1, 100, DAY, 0)]
    {
        let mut world = World::new([rule]);
        world.take(&[20]);
        assert_eq!(world.one(SESSION, cap(30, world.wall, 10 * SECOND)), Verdict::Done);
        assert_eq!((most(&world), world.available(0)), (30, 80), "what was taken stays as it was");
        let Level { withheld, withheld_for, .. } = world.level(0);
        assert_eq!((withheld, withheld_for), (50 * world.units(0), 10 * SECOND));
        world.take(&[30]);
        assert_eq!(most(&world), 0);
        assert!(world.reserve(&[0]).is_ok(), "a demand for nothing is not held up");

        world.pass(10 * SECOND - 1);
        assert!(most(&world) < 20);
        world.pass(1);
        assert!(most(&world) >= 50);
        assert_eq!((world.level(0).withheld, world.level(0).withheld_for), (0, 0));
    }
}

#[test]
fn what_was_said_of_a_fixed_window_ends_with_it_or_soon_after() {
    let mut world = World::new([fixed(1, 600, MINUTE, START % MINUTE)]);
    world.pass(59 * SECOND);
    world.one(SESSION, cap(0, world.wall, MINUTE));
    assert_eq!(most(&world), 0);
    world.pass(SECOND);
    assert_eq!(most(&world), 0, "the provider's clock may be behind");
    world.pass(3 * SECOND);
    assert_eq!(most(&world), 600);

    world.one(SESSION, cap(0, world.wall, 10 * SECOND));
    world.pass(10 * SECOND);
    assert_eq!(most(&world), 600, "it said that it ends earlier");
}

#[test]
fn a_refund_is_left_besides() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60)]);
    let grant = world.take(&[60]);
    world.one(SESSION, cap(10, world.wall, MINUTE));
    world.settle(&grant, &[5]);
    assert_eq!(most(&world), 65, "10 and what the call did not use");
}

#[test]
fn what_a_call_used_beyond_its_estimate_is_not_counted_twice() {
    for rule in [
        token_bucket(1, 100, MINUTE, 100),
        sliding(1, 100, MINUTE, 60),
        held(fixed(1, 100, DAY, 0)),
    ] {
        let mut world = World::new([rule]);
        let grant = world.take(&[10]);
        // The provider has counted 25 for the call, and 5 for another user's call.
        world.one(SESSION, cap(70, grant.at[0], MINUTE));
        assert_eq!(most(&world), 70);
        world.settle(&grant, &[25]);
        assert_eq!((most(&world), world.level(0).withheld), (70, 5 * world.units(0)));
        let next = world.take(&[10]);
        world.settle(&next, &[50]);
        assert_eq!((most(&world), world.level(0).withheld), (25, 0), "no less than without it");
    }
}

#[test]
fn what_came_back_since_the_call_is_left_too() {
    for (rule, left) in [
        (token_bucket(1, 600, MINUTE, 600), 10 + 100),
        (sliding(1, 600, MINUTE, 60), 10 + 100),
        (fixed(1, 600, DAY, 0), 10),
    ] {
        let mut world = World::new([rule]);
        let grant = world.take(&[1]);
        world.pass(10 * SECOND);
        world.one(SESSION, cap(10, grant.at[0], MINUTE));
        assert_eq!(most(&world), left);
        world.one(SESSION, cap(10, MAX_AMOUNT, MINUTE));
        assert_eq!(most(&world), 10, "from no later than now");
    }
    let mut world = World::new([fixed(1, 600, MINUTE, START % MINUTE)]);
    let grant = world.take(&[1]);
    world.pass(MINUTE);
    world.one(SESSION, cap(10, grant.at[0], MINUTE));
    assert_eq!(most(&world), 600, "what was said of another window means nothing");
}

#[test]
fn what_is_withheld_of_a_bucket_drains_as_it_does_at_the_provider() {
    let mut world = World::new([token_bucket(1, 600, MINUTE, 600)]);
    world.take(&[100]);
    world.one(SESSION, cap(0, world.wall, DAY));
    for _ in 0..60 {
        assert_eq!(most(&world), 0);
        world.pass(SECOND);
        world.take(&[10]);
    }
    world.pass(30 * SECOND);
    assert_eq!(most(&world), 300);
    world.pass(30 * SECOND);
    assert_eq!((most(&world), world.level(0).withheld), (600, 0));
}

#[test]
fn a_pause_of_one_quota_ends_by_itself_and_is_not_shortened() {
    let mut world = World::new([sliding(1, 100, MINUTE, 60), sliding(2, 100, MINUTE, 60)]);
    world.one(SESSION, pause(20 * SECOND));
    world.one(SESSION, pause(SECOND));
    world.one(SESSION, cap(100, world.wall, SECOND));
    let refusal = world.refused(&[1, 1]);
    assert_eq!(refusal.len(), 1);
    assert_eq!((refusal[0].by, refusal[0].available), (RefusedBy::Rule(0), 0));
    assert_eq!((refusal[0].wait, refusal[0].at_best), (Some(20 * SECOND), 20 * SECOND));
    assert_eq!(world.level(0).withheld, 100);
    world.take(&[0, 1]);
    world.pass(20 * SECOND);
    world.take(&[100, 0]);
}

#[test]
fn calls_in_flight_and_unknown_quotas_are_not_capped() {
    let mut world =
        World::with_buckets(vec![vec![concurrency(1, 3)], vec![sliding(2, 10, MINUTE, 60)]]);
    world.one(SESSION, cap(0, world.wall, MINUTE));
    world.one(SESSION, pause(MINUTE));
    // Of another bucket, and of none.
    world.one(SESSION, pause_of(2, MINUTE));
    world.one(SESSION, Op::Cap { bucket: 0, quota: 77, left: 0, at: 0, lasts: MINUTE });
    world.take(&[1, 10]);
}

#[test]
fn a_cap_lives_as_long_as_it_lasts_and_survives_a_live_change() {
    let mut world = World::new([token_bucket(1, 600, MINUTE, 600)]);
    let answer = world.send_as(SESSION, 1, &[cap(0, world.wall, 3 * HOUR)]);
    let Outcome::Applied { buckets, .. } = answer.outcome else { panic!("{answer:?}") };
    assert!(buckets[0].expires >= buckets[0].now + 3 * HOUR);

    let coarse = TokenBucket::new(1_000, MINUTE, 500, 2_000, 4 * MINUTE, 96);
    world.rules = vec![vec![Rule { window: Window::TokenBucket(coarse), ..world.rule(0).clone() }]];
    world.seqs.insert(SESSION, 1);
    assert_eq!(most(&world), 0);
}

proptest! {
    #![proptest_config(cases(192))]

    /// Against the same world without the cap.
    #[test]
    fn a_cap_only_ever_takes_and_what_a_refusal_says_of_it_is_true(
        rule in any_rule(),
        phase in 0..MINUTE,
        steps in moves(MINUTE),
        caps in proptest::collection::vec((0..130u64, 0..2 * MINUTE, 0..2 * MINUTE, 0..5u8), 1..12),
    ) {
        let capacity = rule.capacity(0);
        let mut world = lasting(rule);
        world.pass(phase);
        let mut open = Vec::new();
        let mut caps = caps.iter().cycle();
        for step in &steps {
            match *step {
                Move::Pass(time) => world.pass(time),
                Move::Reserve(parts) => {
                    is_honest(&world, parts * capacity / 100)?;
                    open.extend(world.reserve(&[parts * capacity / 100]));
                }
                Move::Settle(which, parts) | Move::Adjust(which, parts) => {
                    if let Some(grant) = choose(&mut open, which) {
                        world.settle(&grant, &[parts * capacity / 100]);
                    }
                }
            }
            let &(parts, age, lasts, kind) = caps.next().unwrap();
            let (free, at) = (world.clone(), world.wall - age);
            let left = parts * capacity / 100;
            world.one(SESSION, if kind == 0 { pause(lasts) } else { cap(left, at, lasts) });
            let admitted = most(&world);
            prop_assert!(admitted <= most(&free));
            if kind == 0 {
                prop_assert!(lasts == 0 || admitted == 0);
            } else if age == 0 && lasts > 0 {
                prop_assert!(admitted <= left);
            }
            is_honest(&world, 1)?;
            is_honest(&world, 0)?;

            let (mut capped, mut free) = (world.clone(), free);
            capped.pass(2 * MINUTE);
            free.one(SESSION, Op::Status { bucket: 0 });
            free.pass(2 * MINUTE);
            let unknown = |world: &World| world.level(0).withheld;
            prop_assert_eq!((unknown(&capped), unknown(&free)), (0, 0), "it ends");
            prop_assert_eq!(most(&capped), most(&free));
        }
    }
}
