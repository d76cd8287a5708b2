//! What a refusal says about when to come back.

use proptest::prelude::*;

use super::{
    moves::{Move, cases, choose, moves},
    *,
};

#[test]
fn at_best_what_is_held_is_settled_at_nothing() {
    for rule in
        [token_bucket(1, 100, MINUTE, 100), sliding(1, 100, MINUTE, 60), fixed(1, 100, MINUTE, 0)]
    {
        let mut world = World::new([held(rule)]);
        let first = world.take(&[50]);
        world.settle(&first, &[50]);
        let second = world.take(&[30]);
        let refusal = world.refused(&[30])[0];
        assert_eq!(refusal.at_best, 0, "{refusal:?}");
        assert!(refusal.wait > Some(0), "{refusal:?}");

        world.settle(&second, &[0]);
        world.take(&[30]);
    }
}

/// Nothing is said about leases here: they outlast every wait.
pub(super) fn lasting(rule: Rule) -> World {
    World { lease: 10_000 * DAY, ..World::new([rule]) }
}

pub(super) fn any_rule() -> impl Strategy<Value = Rule> {
    let sliding = (1..20u64).prop_map(|slots| sliding(1, 100, MINUTE, slots));
    let draining =
        (1..200u64, 1..200u64).prop_map(|(limit, burst)| token_bucket(1, limit, MINUTE, burst));
    let coarse = (1..200u64, 1..200u64).prop_map(|(limit, burst)| {
        let shape = TokenBucket::new(777, 100_000, burst, burst, 400_000, 8);
        Rule { id: 1, limit, held: false, window: Window::TokenBucket(shape) }
    });
    let fixed = (0..MINUTE).prop_map(|anchor| fixed(1, 100, MINUTE, anchor));
    (prop_oneof![sliding, draining, coarse, fixed], any::<bool>())
        .prop_map(|(rule, held)| Rule { held, ..rule })
}

/// A refused demand fits after the promised wait if nothing else happens, and not a microsecond
/// earlier.
pub(super) fn is_honest(world: &World, cost: u64) -> Result<(), TestCaseError> {
    let Err(refusal) = world.clone().reserve(&[cost]) else { return Ok(()) };
    prop_assert_eq!(refusal.len(), 1);
    let Violation { wait, at_best, .. } = refusal[0];
    let Some(wait) = wait else {
        prop_assert!(world.level(0).in_flight > 0);
        return Ok(());
    };
    prop_assert!(0 < wait && at_best <= wait, "{wait}, at best {at_best}");
    let (mut before, mut then) = (world.clone(), world.clone());
    before.pass(wait - 1);
    prop_assert!(before.reserve(&[cost]).is_err(), "fits before {wait}");
    then.pass(wait);
    prop_assert!(then.reserve(&[cost]).is_ok(), "does not fit after {wait}");
    Ok(())
}

/// Settled at nothing, what is in flight comes back no earlier than promised at best.
fn best_is_best(world: &World, open: &[Grant], cost: u64) -> Result<(), TestCaseError> {
    let Err(refusal) = world.clone().reserve(&[cost]) else { return Ok(()) };
    let at_best = refusal[0].at_best;
    if at_best > 0 {
        let mut world = world.clone();
        open.iter().for_each(|grant| world.settle(grant, &[0]));
        world.pass(at_best - 1);
        prop_assert!(world.reserve(&[cost]).is_err(), "fits before {at_best}");
    }
    Ok(())
}

proptest! {
    #![proptest_config(cases(192))]

    #[test]
    fn a_refusal_says_when_to_come_back(
        rule in any_rule(),
        phase in 0..MINUTE,
        moves in moves(MINUTE),
    ) {
        let capacity = rule.capacity(0);
        let mut world = lasting(rule);
        world.pass(phase);
        let mut open = Vec::new();
        for step in &moves {
            match *step {
                Move::Pass(time) => world.pass(time),
                Move::Reserve(parts) => {
                    let cost = parts * capacity / 100;
                    is_honest(&world, cost)?;
                    best_is_best(&world, &open, cost)?;
                    open.extend(world.reserve(&[cost]));
                }
                Move::Settle(which, parts) | Move::Adjust(which, parts) => {
                    if let Some(grant) = choose(&mut open, which) {
                        world.settle(&grant, &[parts * capacity / 100]);
                    }
                }
            }
            is_honest(&world, 0)?;
        }
    }
}
