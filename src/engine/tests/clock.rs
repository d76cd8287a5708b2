//! A clock that steps, and a state that is lost.

use super::*;

fn windows() -> [Rule; 3] {
    [token_bucket(1, 60, MINUTE, 60), sliding(1, 60, MINUTE, 60), held(sliding(1, 60, MINUTE, 60))]
}

#[test]
fn after_a_small_step_back_time_stands_still() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let grant = world.take(&[60]);
        world.settle(&grant, &[60]);
        world.pass(10 * SECOND);
        let (before, _) = world.send(LANE, &[]);
        let left = world.left(0);

        world.wall -= SECOND;
        for _ in 0..10 {
            assert_eq!(world.send(LANE, &[]).0, before);
            assert_eq!(world.left(0), left);
            world.pass(100 * MS);
        }
        assert_eq!(world.send(LANE, &[]).0, before);
        world.pass(1);
        assert_eq!(world.send(LANE, &[]).0, before + 1);
        assert_eq!(world.states[0].offset, 0);
    }
}

#[test]
fn after_a_large_step_back_time_goes_on() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let grant = world.take(&[60]);
        world.settle(&grant, &[60]);
        world.pass(30 * SECOND);
        let (before, _) = world.send(LANE, &[]);

        world.wall -= HOUR;
        assert_eq!(world.send(LANE, &[]).0, before);
        world.pass(31 * SECOND);
        assert_eq!(world.send(LANE, &[]).0, before + 31 * SECOND);
        world.take(&[60]);
    }
}

#[test]
fn a_step_forward_and_back_gives_one_limit_more_and_no_second_one() {
    for rule in windows() {
        let mut world = World::new([rule]);
        let mut admitted = 0;
        for step in [0, HOUR as i64, -(HOUR as i64), 0, 0, 0] {
            world.wall = world.wall.checked_add_signed(step).unwrap();
            while let Ok(grant) = world.reserve(&[1]) {
                world.settle(&grant, &[1]);
                admitted += 1;
            }
            world.pass(SECOND);
        }
        assert!((120..=126).contains(&admitted), "{admitted}");
    }
}

#[test]
fn buckets_whose_clocks_differ_agree_on_the_later_one() {
    let rules = vec![vec![sliding(1, 10, MINUTE, 60)], vec![sliding(2, 10, MINUTE, 60)]];
    let mut world = World::with_buckets(rules);
    world.states[1].now = START + HOUR;
    let (now, _) = world.send(LANE, &[reserve(&[10, 10])]);
    assert_eq!(now, START + HOUR);
    assert!(world.states.iter().all(|state| state.now == now && state.offset == HOUR));
    world.pass(60 * SECOND);
    world.refused(&[1, 0]);
    world.pass(SECOND);
    world.take(&[10, 10]);
}

#[test]
fn a_settle_from_before_a_loss_of_state_refunds_nothing() {
    let rules = [token_bucket(1, 60, MINUTE, 60), sliding(1, 60, MINUTE, 60), fixed(1, 60, DAY, 0)];
    for rule in rules {
        let mut world = World::new([rule]);
        let lost = world.take(&[60]);
        world.pass(1);
        world.states[0] = BucketState::unused();
        world.beat(LANE);
        world.settle(&lost, &[0]);
        assert_eq!(world.available(0), 60);

        world.take(&[40]);
        for actual in [0, 59] {
            world.settle(&lost, &[actual]);
            assert_eq!((world.available(0), world.level(0).in_flight), (20, 40));
        }
        world.settle(&lost, &[60 + 10]);
        assert!(world.available(0) <= 20);
    }
}

#[test]
fn a_state_that_was_lost_shows_in_its_birth() {
    let mut world = World::new([sliding(1, 60, MINUTE, 60)]);
    world.take(&[1]);
    let born = world.states[0].born;
    world.pass(SECOND);
    world.take(&[1]);
    assert_eq!(world.states[0].born, born);
    world.states[0] = BucketState::unused();
    world.take(&[1]);
    assert_eq!(world.states[0].born, world.wall);
}
