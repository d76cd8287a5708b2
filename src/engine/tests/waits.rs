//! What a refusal says about when to come back.

use super::*;

#[test]
fn at_best_what_is_held_is_settled_at_nothing() {
    for rule in [token_bucket(1, 100, MINUTE, 100), sliding(1, 100, MINUTE, 60), fixed(1, 100, MINUTE, 0)] {
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
