//! Windows between boundaries of a clock or a calendar.

use proptest::prelude::*;

use super::{
    moves::{Move, Open, cases, choose, moves},
    *,
};

#[test]
fn a_clock_that_was_far_ahead_does_not_block_until_it_is_caught_up() {
    let mut world = World::new([fixed(1, 10, DAY, 0)]);
    world.wall = START + 400 * DAY;
    world.take(&[10]);

    world.wall = START;
    let refusal = world.refused(&[1])[0];
    let wait = refusal.wait.unwrap();
    assert!(wait <= DAY, "{refusal:?}");
    world.pass(wait - 1);
    world.refused(&[1]);
    world.pass(1);
    world.take(&[10]);
    world.refused(&[1]);
}

/// A deliberate change: the window in use ends at the latest one window after the step. It ended at
/// its own end, which a clock that was ahead by less than a window set: 65 s from here.
#[test]
fn after_a_step_back_over_a_boundary_the_window_in_use_goes_on_for_one_window() {
    let mut world = World::new([fixed(1, 10, MINUTE, 0)]);
    let boundary = START / MINUTE * MINUTE + MINUTE;
    world.wall = boundary + SECOND;
    world.take(&[10]);
    world.wall = boundary - 5 * SECOND;
    let refusal = world.refused(&[1])[0];
    assert_eq!(refusal.wait, Some(MINUTE));
    world.wall = boundary;
    assert_eq!(world.refused(&[1])[0].wait, Some(55 * SECOND));
    world.wall = boundary + 55 * SECOND - 1;
    world.refused(&[1]);
    world.pass(1);
    world.take(&[10]);
    world.refused(&[1]);
}

#[test]
fn a_refund_never_crosses_into_a_later_window() {
    let mut world = World::new([fixed(1, 10, MINUTE, 0)]);
    world.wall = START / MINUTE * MINUTE + 59 * SECOND;
    let early = world.take(&[10]);
    let within = [world.clone(), world.clone()];
    world.pass(SECOND);
    let late = world.take(&[8]);
    for actual in [0, 5, 30] {
        world.settle(&early, &[actual]);
        assert_eq!(world.available(0), 2);
    }
    world.settle(&late, &[3]);
    assert_eq!(world.available(0), 7);

    for (mut world, actual) in within.into_iter().zip([4, 14]) {
        world.pass(SECOND - 1);
        world.settle(&early, &[actual]);
        assert_eq!(world.available(0), 10 - actual as i64);
    }
}

#[test]
fn windows_begin_at_their_anchor() {
    for anchor in [0, 1, 8 * HOUR, DAY - 1] {
        let mut world = World::new([fixed(1, 10, DAY, anchor)]);
        world.wall = START / DAY * DAY + anchor;
        world.take(&[10]);
        assert_eq!(world.refused(&[1])[0].wait, Some(DAY));
        world.pass(DAY - 1);
        assert_eq!(world.refused(&[1])[0].wait, Some(1));
        world.pass(1);
        world.take(&[10]);
    }
}

fn calendar(limit: u64, boundaries: &[Micros]) -> Rule {
    Rule { id: 1, limit, held: false, window: Window::Calendar { boundaries: boundaries.into() } }
}

#[test]
fn a_calendar_has_days_of_its_own_length() {
    let days = [START, START + 23 * HOUR, START + 48 * HOUR, START + 72 * HOUR];
    let mut world = World::new([calendar(10, &days)]);
    for day in days.windows(2) {
        world.wall = day[0];
        world.take(&[10]);
        assert_eq!(world.refused(&[1])[0].wait, Some(day[1] - day[0]));
        world.wall = day[1] - 1;
        assert_eq!(world.refused(&[1])[0].wait, Some(1));
    }
}

#[test]
fn a_calendar_that_does_not_reach_to_the_present_changes_nothing() {
    let charted = calendar(10, &[START, START + DAY]);
    let mut world = World::new([charted, sliding(2, 10, MINUTE, 60)]);
    let grant = world.take(&[4, 4]);
    let ops = [settle(&grant, &[0, 0]), reserve(&[1, 1])];
    for (boundaries, pass) in
        [(vec![START, START + DAY], DAY), (vec![START + 2 * DAY], 0), (vec![], 0)]
    {
        world.rules[0][0] = calendar(10, &boundaries);
        world.pass(pass);
        let before = world.states.clone();
        let answer = world.send_as(SESSION, 2, &ops);
        assert_eq!(answer, Answer { wall: world.wall, outcome: Outcome::Uncharted });
        assert_eq!(world.states, before);
    }

    // Charted further, the same batch is applied as if it came for the first time.
    world.rules[0][0] = calendar(10, &[START, START + DAY, START + 2 * DAY]);
    let answer = world.send_as(SESSION, 2, &ops);
    assert!(
        matches!(answer.outcome, Outcome::Applied { verdicts, .. } if is_granted(&verdicts[1]))
    );
    assert_eq!(world.level(0).charged, 1);
}

/// How a quota stands in a plain list of what was charged in which window.
#[derive(Default)]
struct Windows {
    entries: Vec<(Micros, u64)>,
}

impl Windows {
    fn charged(&self, window: Micros) -> u64 {
        self.entries.iter().filter(|(begin, _)| *begin == window).map(|(_, amount)| amount).sum()
    }
}

proptest! {
    #![proptest_config(cases(64))]

    #[test]
    fn every_window_holds_what_was_granted_in_it(
        anchor in 0..MINUTE,
        moves in moves(2 * MINUTE),
    ) {
        let mut world = World::new([fixed(1, 100, MINUTE, anchor)]);
        let (mut list, mut open) = (Windows::default(), Vec::new());
        for step in &moves {
            let window = (world.wall - anchor) / MINUTE;
            match *step {
                Move::Pass(time) => world.pass(time),
                Move::Reserve(cost) => match world.reserve(&[cost]) {
                    Ok(grant) => {
                        list.entries.push((window, cost));
                        prop_assert!(list.charged(window) <= 100);
                        open.push(Open { grant, number: list.entries.len() - 1 });
                    }
                    Err(_) => prop_assert!(list.charged(window) + cost > 100),
                },
                Move::Settle(which, actual) | Move::Adjust(which, actual) => {
                    if let Some(open) = choose(&mut open, which) {
                        world.settle(&open.grant, &[actual]);
                        list.entries[open.number].1 = actual;
                    }
                }
            }
            let window = (world.wall - anchor) / MINUTE;
            prop_assert_eq!(world.level(0).charged, list.charged(window));
        }
    }
}
