//! Hints: what frees capacity hints exactly the heads at the front that fit now, once.

use super::{
    fleet::{Fleet, batch_class, on, shared},
    *,
};

#[test]
fn what_is_freed_hints_the_front_heads_that_fit() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)]]);
    let running: Vec<_> = (0..5).map(|_| fleet.ask(9, demand(&[2])).unwrap()).collect();
    for (session, cost) in [(1, 3), (2, 2), (3, 4), (4, 1)] {
        fleet.pass(MS);
        fleet.ask(session, demand(&[cost])).unwrap_err();
    }
    // Room for 2, 4, 6, 8, 10 of 3, 2, 4, 1.
    assert_eq!(fleet.end_all(&running[0]), [0; 0]);
    assert_eq!(fleet.end_all(&running[1]), [1]);
    assert_eq!(fleet.end_all(&running[2]), [2]);
    assert_eq!(fleet.end_all(&running[3]), [0; 0]);
    assert_eq!(fleet.end_all(&running[4]), [3, 4]);
}

#[test]
fn a_refund_hints_as_well_as_an_end_and_a_debit_does_not() {
    for rule in [sliding(1, 10, MINUTE, 60), token_bucket(1, 10, MINUTE, 10), fixed(1, 10, DAY, 0)]
    {
        let mut fleet = Fleet::new(vec![vec![rule]]);
        let running = fleet.ask(9, demand(&[6])).unwrap();
        fleet.ask(1, demand(&[7])).unwrap_err();
        assert_eq!(fleet.clone().end(&running, &[6]), [0; 0]);
        assert_eq!(fleet.clone().end(&running, &[9]), [0; 0]);
        assert_eq!(fleet.end(&running, &[3]), [1]);
    }
}

#[test]
fn a_session_that_frees_capacity_is_not_hinted_itself() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 2)]]);
    let running = fleet.ask(1, demand(&[2])).unwrap();
    fleet.ask(1, demand(&[1])).unwrap_err();
    fleet.ask(2, demand(&[1])).unwrap_err();
    assert_eq!(fleet.end_all(&running), [2]);
}

#[test]
fn a_head_that_leaves_hints_the_next() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)]]);
    fleet.ask(9, demand(&[5])).unwrap();
    let (large, _) = fleet.ask(1, demand(&[9])).unwrap_err();
    fleet.pass(MS);
    fleet.ask(2, demand(&[4])).unwrap_err();
    fleet.cancel(1, large);
    assert_eq!(fleet.look(1).woken, [2]);
}

#[test]
fn the_end_of_a_lease_hints() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)]]);
    fleet.world.lease = 10 * SECOND;
    fleet.ask(9, demand(&[1])).unwrap();
    fleet.pass(9 * SECOND);
    fleet.ask(1, demand(&[1])).unwrap_err();
    fleet.pass(SECOND - 1);
    assert_eq!(fleet.look(3).woken, [0; 0]);
    fleet.pass(1);
    assert_eq!(fleet.look(3).woken, [1]);
}

/// A head of a class that may use less does not fit, and blocks no head of one that may use more.
#[test]
fn a_class_that_may_use_more_is_hinted_behind_one_that_does_not_fit() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 10)]]);
    let running: Vec<_> = (0..10).map(|_| fleet.ask(9, demand(&[1])).unwrap()).collect();
    fleet.ask(1, batch_class(&[1])).unwrap_err();
    fleet.pass(MS);
    fleet.ask(2, demand(&[1])).unwrap_err();
    assert_eq!(fleet.end_all(&running[0]), [2]);
}

#[test]
fn the_flow_that_is_next_is_hinted() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 1)]]);
    let mut running = fleet.ask(9, demand(&[1])).unwrap();
    for _ in 0..3 {
        fleet.ask(1, shared(1, 1, 1)).unwrap_err();
    }
    fleet.pass(MS);
    for _ in 0..3 {
        fleet.ask(2, shared(1, 2, 1)).unwrap_err();
    }
    for session in [1, 2, 1, 2] {
        let hinted = fleet.end_all(&running);
        assert!(hinted == [session] || running.grant.session == session, "{hinted:?}");
        running = fleet.look(session).granted.remove(0);
    }
}

/// How much goes before a head is estimated: what it was told may be too long.
#[test]
fn a_head_that_comes_to_be_the_first_is_hinted_if_it_fits_earlier_than_it_was_told() {
    let mut fleet = Fleet::new(vec![vec![sliding(1, 10, MINUTE, 60)]]);
    fleet.ask(9, demand(&[6])).unwrap();
    fleet.pass(30 * SECOND);
    fleet.ask(9, demand(&[4])).unwrap();
    let (large, _) = fleet.ask(1, demand(&[9])).unwrap_err();
    fleet.pass(MS);
    let (_, refused) = fleet.ask(2, demand(&[5])).unwrap_err();
    let told = refused.violations[0].wait.unwrap();
    assert!(told > 60 * SECOND, "after what goes before it: {told}");
    fleet.cancel(1, large);
    assert_eq!(fleet.look(1).woken, [2], "six leave in half a minute");
    let look = fleet.look(2);
    let wait = look.refused[0].1.violations[0].wait.unwrap();
    assert!(wait < 32 * SECOND, "{wait}");
    // It knows now.
    assert_eq!(fleet.look(1).woken, [0; 0]);
}

/// Every look is a batch, and every batch may hint others.
fn looks_until_quiet(fleet: &mut Fleet, hinted: Vec<u64>) -> usize {
    let (mut hinted, mut looks) = (std::collections::VecDeque::from(hinted), 0);
    while let Some(session) = hinted.pop_front() {
        hinted.extend(fleet.look(session).woken);
        fleet.pass(100);
        looks += 1;
        if looks > 1_000 {
            break;
        }
    }
    looks
}

/// Each keeps its place on a bucket where it would fit, and waits for another one.
#[test]
fn heads_that_wait_for_something_else_do_not_hint_each_other_for_ever() {
    let mut fleet =
        Fleet::new(vec![vec![concurrency(1, 3)], vec![concurrency(2, 1)], vec![concurrency(3, 1)]]);
    let shared = fleet.ask(9, on(&[0], &[3])).unwrap();
    fleet.ask(8, on(&[1], &[1])).unwrap();
    fleet.ask(8, on(&[2], &[1])).unwrap();
    fleet.ask(1, on(&[0, 1], &[1, 1])).unwrap_err();
    fleet.ask(2, on(&[0, 2], &[1, 1])).unwrap_err();
    let hinted = fleet.end_all(&shared);
    assert_eq!(hinted, [1, 2]);
    let looks = looks_until_quiet(&mut fleet, hinted);
    assert!(looks <= 4, "{looks} looks");
}

/// What waits behind a head of another session is not known one by one.
#[test]
fn a_wrong_guess_about_what_waits_behind_a_head_ends() {
    let mut fleet = Fleet::new(vec![vec![concurrency(1, 4)]]);
    let running = fleet.ask(9, demand(&[4])).unwrap();
    for session in [1, 1, 1, 1, 1, 1, 2, 3, 2, 3] {
        fleet.pass(MS);
        fleet.ask(session, demand(&[1])).unwrap_err();
    }
    let hinted = fleet.end(&running, &[2]);
    // The first does not come.
    let hinted: Vec<_> = hinted.into_iter().filter(|session| *session != 1).collect();
    let looks = looks_until_quiet(&mut fleet, hinted);
    assert!(looks <= 6, "{looks} looks");
}
