//! Windows between boundaries of a clock or a calendar.

use super::*;

#[test]
fn a_clock_that_was_far_ahead_does_not_block_until_it_is_caught_up() {
    let mut world = World::new([fixed(1, 10, DAY, 0)]);
    world.wall = START + 400 * DAY;
    world.take(&[10]);

    world.wall = START;
    let refusal = world.refused(&[1])[0];
    let wait = refusal.wait.unwrap();
    assert!(wait <= 2 * DAY, "{refusal:?}");
    world.pass(wait - 1);
    world.refused(&[1]);
    world.pass(1);
    world.take(&[10]);
    world.refused(&[1]);
}

#[test]
fn a_clock_that_steps_back_over_a_boundary_does_not_open_a_window_twice() {
    let mut world = World::new([fixed(1, 10, MINUTE, 0)]);
    let boundary = START / MINUTE * MINUTE + MINUTE;
    world.wall = boundary + SECOND;
    world.take(&[10]);
    world.wall = boundary - 5 * SECOND;
    let refusal = world.refused(&[1])[0];
    assert_eq!(refusal.wait, Some(5 * SECOND + MINUTE));
    world.wall = boundary;
    world.refused(&[1]);
    world.wall = boundary + MINUTE;
    world.take(&[10]);
}
