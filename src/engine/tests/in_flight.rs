//! What is in flight: concurrency, holds, leases and claims.

use super::*;

#[test]
fn a_settle_after_the_lease_does_not_free_what_the_lane_reserved_since() {
    let mut world = World::new([concurrency(1, 1)]);
    let abandoned = world.take(&[1]);
    world.pass(11 * SECOND);
    world.take(&[1]);

    world.settle(&abandoned, &[1]);
    assert_eq!(world.level(0).in_flight, 1);
    world.refused(&[1]);
}

#[test]
fn a_settle_from_before_a_loss_of_state_does_not_free_what_the_lane_reserved_since() {
    let mut world = World::new([concurrency(1, 1)]);
    let lost = world.take(&[1]);
    world.pass(SECOND);
    world.states[0] = BucketState::unused();
    world.take(&[1]);

    world.settle(&lost, &[1]);
    world.refused(&[1]);
}
