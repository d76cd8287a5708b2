//! What is in flight: concurrency, holds, leases and claims.

use super::*;

#[test]
fn a_settle_after_the_lease_does_not_free_later_reserves() {
    let mut world = World::new([concurrency(1, 1)]);
    let abandoned = world.take(&[1]);
    world.pass(11 * SECOND);
    world.take(&[1]);

    world.settle(&abandoned, &[1]);
    assert_eq!(world.level(0).in_flight, 1);
    world.refused(&[1]);
}

#[test]
fn a_settle_from_before_a_loss_of_state_does_not_free_later_reserves() {
    let mut world = World::new([concurrency(1, 1)]);
    let lost = world.take(&[1]);
    world.pass(SECOND);
    world.states[0] = BucketState::unused();
    world.take(&[1]);

    world.settle(&lost, &[1]);
    world.refused(&[1]);
}

#[test]
fn a_hold_becomes_a_charge_though_the_sweeper_does_not_know_its_quota() {
    for rule in [sliding(1, 100, MINUTE, 60), token_bucket(1, 100, MINUTE, 100)] {
        let mut world = World::new([held(rule.clone())]);
        world.take(&[100]);
        world.pass(50 * SECOND);
        world.rules = vec![vec![concurrency(2, 1)]];
        world.beat(2);
        world.pass(10 * SECOND - 1);
        world.rules = vec![vec![held(rule)]];
        assert_eq!(world.level(0).in_flight, 0);
        assert!(world.available(0) <= 17, "{}", world.available(0));
        world.refused(&[20]);
    }
}

#[test]
fn a_claim_settled_by_a_process_that_knows_fewer_quotas_leaves_nothing_in_flight() {
    let all = vec![concurrency(1, 1), concurrency(2, 1), held(sliding(3, 10, MINUTE, 60))];
    let mut world = World::new(all.clone());
    let grant = world.take(&[1, 1, 5]);
    world.one(SESSION, detach(&grant, 77, HOUR));

    world.rules = vec![vec![concurrency(1, 1)]];
    let settle = |claim| {
        let reserved = [1].as_slice().into();
        Op::Settle(Settle { reserved, claim: Some(claim), ..amendment(&grant, &[1]) })
    };
    assert_eq!(world.one(2, settle(77)), Verdict::Done);
    assert_eq!(world.one(2, settle(77)), Verdict::NoClaim);

    world.rules = vec![all];
    assert_eq!([0, 1, 2].map(|index| world.level(index).in_flight), [0, 0, 0]);
    assert_eq!([0, 1, 2].map(|index| world.available(index)), [1, 1, 5]);
}

#[test]
fn a_state_lives_as_long_as_what_becomes_of_its_holds() {
    let daily = [
        token_bucket(1, 100, DAY, 100),
        sliding(1, 100, DAY, 60),
        fixed(1, 100, DAY, (START + SECOND) % DAY),
    ];
    for rule in daily {
        let mut world = World::new([held(rule)]);
        let grant = world.take(&[100]);
        assert!(world.seen(0).expires >= START + world.lease + DAY);
        world.one(SESSION, detach(&grant, 77, HOUR));
        assert!(world.seen(0).expires >= START + HOUR + DAY);
    }
}
