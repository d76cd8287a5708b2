//! The token bucket: what it gives back, and exact settling.

use super::*;

#[test]
fn a_reservation_as_old_as_the_span_is_still_refunded() {
    let (window, span) = (MINUTE, 10 * MINUTE);
    for slots in [1, 7, 96] {
        let shape = TokenBucket::new(1, window, 100, 400, span, slots);
        let rule = Rule { id: 1, limit: 1, held: false, window: Window::TokenBucket(shape) };
        for phase in [0, 1, shape.slot / 2, shape.slot - 1] {
            let mut world = World::new([rule.clone()]);
            world.wall = START / shape.slot * shape.slot + phase;
            let grant = world.take(&[100]);
            world.pass(span);
            world.settle(&grant, &[0]);
            assert_eq!(world.available(0), 100, "{slots} slots, phase {phase}");
        }
    }
}

#[test]
fn a_window_that_is_no_multiple_of_the_tick_drains_no_faster() {
    let shape = TokenBucket::new(1_000, 1_999, 10, 10, 8_000, 8);
    assert_eq!(shape.units, 2);
}
